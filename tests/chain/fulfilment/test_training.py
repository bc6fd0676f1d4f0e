"""A task on a chain that wants a model fine-tuned: a job that nobody here pays for, and an answer with its result."""

from datetime import timedelta
from typing import Any

import httpx2 as httpx
import orjson
import pytest
from django.utils import timezone

from chain import documents, interventions, pins
from chain.documents import NotFetched
from chain.fulfilment import checking, course, finding, paying, rows
from chain.models import Fulfilment, FulfilmentStatus, Service, Source, Task, Transaction
from clients import files, house, ledger, terms
from clients.models import AccountKind, Client, Hold, Transfer
from finetune import jobs, ordering
from finetune.jobs import WrongState
from finetune.models import Dataset, Face, Job, JobStatus
from gpus.models import Node
from inference.models import Model
from marketplace.money import TOKEN
from tests.chain import fulfilled
from tests.chain.fulfilled import NOW, only
from tests.finetune import asked, made
from tests.finetune.nodes import Caller, adapter, with_token

pytestmark = pytest.mark.django_db
Status = FulfilmentStatus
ROWS = [
    {"messages": [{"role": "user", "content": f"Hi {each}"}, {"role": "assistant", "content": "Blue"}]}
    for each in range(12)
]


@pytest.fixture(autouse=True)
def slots(keys: None, settings: Any) -> None:
    settings.TRAINING_SLOTS = 1


@pytest.fixture
def source(db: None, operator: Client) -> Source:
    asked.model("toy")
    asked.ask(operator)
    terms.change(by=operator, reason="A share.", fee_bps=1000)
    return fulfilled.source(fulfilled.network(), model="toy")


def wanted(**data: Any) -> dict[str, Any]:
    return {"function_name": "fine_tune", "data": {"training_data": ROWS, **data}}


def advance(*, after_s: float = 0) -> Fulfilment:
    now = NOW + timedelta(seconds=after_s)
    held = rows.claim(Fulfilment.objects.get().pk, now=now)
    assert held is not None
    course.advance(held, clock=lambda: now)
    return Fulfilment.objects.get()


def begun(source: Source, config: Any = None, **fields: Any) -> Fulfilment:
    """Its job has been started."""
    task = fulfilled.task(source, config or wanted(suffix="blue"), **fields)
    finding.discover(source.network, now=NOW)
    found = advance()
    assert found.status == Status.ATTEMPTING, found.reason
    fulfilled.attempted(task)
    finding.follow(source.network, now=NOW)
    found = advance()
    assert (found.status, found.code) == (Status.WORKING, "training"), found.reason
    return found


def finish(job: Job, node: Node) -> None:
    assert Caller(made.begin(job, node), with_token(node)).finish(adapter()).status_code == 200
    job.refresh_from_db()


def earned(client: Client) -> int:
    return ledger.balance(ledger.account(client.pk, AccountKind.EARNED))


def test_a_job_is_started_that_nobody_is_charged_for(source: Source) -> None:
    found = begun(source)
    job = Job.objects.get()
    assert (found.job, job.owner, job.face, job.suffix) == (job, house.account(), Face.CHAIN, "blue")
    assert job.price > 0
    assert not Hold.objects.exists()
    assert Dataset.objects.get().metadata == {"fulfilment": found.pk, "task": found.task_address}


def test_the_answer_names_the_model_and_links_its_files(source: Source, bob: Client, client: Any) -> None:
    found = begun(source)
    node = made.node(bob)
    job = Job.objects.get()
    finish(job, node)
    assert (job.status, job.charged, job.fee, job.provider) == (JobStatus.SUCCEEDED, 0, 0, bob)
    assert not Transfer.objects.exists()
    found = advance(after_s=10)
    assert (found.status, found.node, found.provider) == (Status.ANSWERING, node, bob)
    said = orjson.loads(pins.read(pins.cid_in(found.answer_url) or ""))
    assert job.result is not None
    assert (said["object"], said["model"], said["base"]) == ("fine_tune", job.result.model.name, "toy")
    assert said["model"].startswith("ft:toy:onchain:blue:")
    assert said["metrics"] == job.metrics
    assert {each["path"] for each in said["files"]} == set(adapter())
    (card,) = (each for each in said["files"] if each["path"] == "README.md")
    token = httpx.URL(card["url"]).path.rpartition("/")[2]
    assert files.linked(token, now=NOW + timedelta(days=29)).pk == card["sha256"]
    with pytest.raises(files.LinkRefused):
        files.linked(token, now=NOW + timedelta(days=31))
    assert Dataset.objects.get().deleted_at is not None


def test_the_confirmation_pays_the_nodes_owner(source: Source, bob: Client) -> None:
    begun(source)
    finish(Job.objects.get(), made.node(bob))
    found = advance(after_s=10)
    fulfilled.responded(Task.objects.get(), confirmed_block=98)
    assert paying.sweep(source.network, now=NOW) == 1
    assert earned(bob) == TOKEN - TOKEN // 10
    assert Transfer.objects.get().reference == found.reference


def test_what_was_trained_here_goes_to_the_fees(source: Source) -> None:
    begun(source)
    job = Job.objects.get()
    Job.objects.filter(pk=job.pk).update(status="succeeded", result=Model.objects.get(name="toy").revision)
    found = advance(after_s=10)
    assert (found.status, found.provider, found.node) == (Status.ANSWERING, None, None)
    fulfilled.responded(Task.objects.get(), confirmed_block=98)
    paying.sweep(source.network, now=NOW)
    assert ledger.balance(ledger.account(None, AccountKind.FEES)) == TOKEN


def test_the_result_can_be_named_by_further_tasks(source: Source, bob: Client) -> None:
    begun(source)
    finish(Job.objects.get(), made.node(bob))
    advance(after_s=10)
    name = Job.objects.get().result.model.name  # type: ignore[union-attr]
    Fulfilment.objects.all().delete()
    Task.objects.all().delete()
    config = {"function_name": "chat", "data": {"model": name, "messages": [{"role": "user"}]}}
    fulfilled.task(source, config)
    finding.discover(source.network, now=NOW)
    held = only(Status.FOUND)
    held.config = config
    assert checking.wanted_by(held).model == name


def test_rows_may_come_by_a_link(source: Source) -> None:
    link = fulfilled.pin(asked.lines(ROWS))
    begun(source, wanted(training_data=link, hyperparameters={"n_epochs": 2}))
    assert Job.objects.get().parameters["n_epochs"] == 2


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (wanted(training_data=[{"a": 1}, {"b": 2}]), "invalid_dataset"),
        (wanted(hyperparameters={"n_epochs": -5}), "invalid_hyperparameters"),
        (wanted(hyperparameters={"surprise": 1}), "invalid_hyperparameters"),
        (wanted(training_data="http://169.254.169.254/x"), "address_refused"),
        (wanted(model="nothing"), "model_not_found"),
    ],
)
def test_what_cannot_be_trained_is_declined(source: Source, config: Any, code: str) -> None:
    fulfilled.task(source, config)
    finding.discover(source.network, now=NOW)
    found = advance()
    assert (found.status, found.code) == (Status.DECLINED, code), found.reason
    assert not Job.objects.exists()
    assert not Transaction.objects.exists()


def test_a_model_whose_files_only_nodes_have_is_declined(source: Source) -> None:
    Model.objects.create(name="llama")
    Service.objects.update(model="llama")
    fulfilled.task(source, wanted())
    finding.discover(source.network, now=NOW)
    assert advance().code == "model_not_trainable"


def test_a_payment_that_is_too_low_for_it_is_declined(source: Source) -> None:
    fulfilled.task(source, wanted(), payment=1000)
    finding.discover(source.network, now=NOW)
    found = advance()
    assert (found.status, found.code) == (Status.DECLINED, "payment_too_low")


def test_without_a_place_it_is_tried_later(source: Source, settings: Any) -> None:
    settings.TRAINING_SLOTS = 0
    fulfilled.task(source, wanted())
    finding.discover(source.network, now=NOW)
    assert advance().code == "no_place"
    settings.TRAINING_SLOTS = 1
    assert advance(after_s=10).status == Status.ATTEMPTING
    assert Dataset.objects.count() == 1, "the rows are taken in once"


def test_a_link_that_fails_for_a_moment_is_followed_later(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = fulfilled.pin(asked.lines(ROWS))

    def fetch(url: str, **_options: Any) -> Any:
        raise NotFetched("unreachable", "Not now.", may_pass=True)

    fulfilled.task(source, wanted(training_data=link))
    finding.discover(source.network, now=NOW)
    with monkeypatch.context() as patch:
        patch.setattr(documents, "fetch", fetch)
        patch.setattr(documents, "fetch_json", lambda _url: wanted(training_data=link))
        found = advance()
    assert (found.status, found.reason) == (Status.FOUND, "data.training_data: Not now.")
    assert advance(after_s=10).status == Status.ATTEMPTING


def test_a_worker_that_dies_after_starting_the_job_leaves_one_job(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = fulfilled.task(source, wanted())
    finding.discover(source.network, now=NOW)
    advance()
    fulfilled.attempted(task)
    finding.follow(source.network, now=NOW)
    real = ordering.start_once

    def killed(*args: Any, **options: Any) -> Any:
        real(*args, **options)
        raise fulfilled.Killed

    with monkeypatch.context() as patch:
        patch.setattr(ordering, "start_once", killed)
        with pytest.raises(fulfilled.Killed):
            advance()
    found = advance(after_s=31)
    assert found.job == Job.objects.get()


def test_a_training_that_comes_to_nothing_has_failed(source: Source) -> None:
    begun(source)
    Job.objects.update(status=JobStatus.FAILED, code="bad_loss", reason="The loss is no number.")
    found = advance(after_s=10)
    assert (found.status, found.code) == (Status.FAILED, "bad_loss")
    assert "The loss is no number." in found.reason


def test_a_training_that_takes_too_long_is_stopped(source: Source) -> None:
    begun(source, expires_in_s=100)
    finding.follow(source.network, now=NOW + timedelta(seconds=100))
    only(Status.EXPIRED)
    assert Job.objects.get().status == JobStatus.CANCELLED


def test_a_training_that_nobody_needs_any_more_is_stopped(source: Source) -> None:
    begun(source)
    Task.objects.update(status=5)
    finding.follow(source.network, now=NOW)
    only(Status.LOST)
    assert Job.objects.get().status == JobStatus.CANCELLED


def test_a_training_whose_task_an_operator_gives_up_is_stopped(source: Source, operator: Client) -> None:
    found = begun(source)
    interventions.give_up(found, by=operator, reason="Enough", now=NOW)
    finding.follow(source.network, now=NOW)
    assert Job.objects.get().status == JobStatus.CANCELLED


def test_nobody_restarts_such_a_job_for_nothing(source: Source, operator: Client) -> None:
    begun(source)
    job = jobs.cancel(Job.objects.get(), now=NOW)
    with pytest.raises(WrongState):
        ordering.again(job, now=timezone.now())
    assert Job.objects.get().run == 1


def test_a_job_of_somebody_else_is_charged_as_before(bob: Client, alice: Client, operator: Client) -> None:
    job = made.job(alice)
    assert Hold.objects.get().amount == 3 * TOKEN
    finish(job, made.node(bob))
    assert (job.charged, earned(bob)) == (3 * TOKEN, 3 * TOKEN)


@pytest.mark.django_db(transaction=True)
def test_a_job_is_stopped_by_a_worker_of_its_own(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the transaction that other tests run in."""
    begun(source, expires_in_s=100)
    monkeypatch.setattr(
        checking, "wanted_by", lambda _held: (_ for _ in ()).throw(rows.TooLate("expired", "Late."))
    )
    advance(after_s=10)
    only(Status.EXPIRED)
    assert Job.objects.get().status == JobStatus.CANCELLED
