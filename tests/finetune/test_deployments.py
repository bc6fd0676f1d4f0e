"""A model takes over a name that stays, and gives it back."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from finetune import attempts, deployments, tasks
from finetune.models import Deployment, Job
from finetune.results import Made
from gpus.models import Node, NodeState
from inference.models import Hosting, Model, RevisionKind
from marketplace import bus
from tests.finetune import made

PATH = "/fine-tuning/deployments"
LIVE = "ft:toy:alice:live"


@pytest.fixture(autouse=True)
def rung(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which tasks would have been sent."""
    found: list[Any] = []
    monkeypatch.setattr(tasks, "ring", found.append)
    return found


@pytest.fixture
def toy(db: None) -> Model:
    return made.model(None, "toy")


@pytest.fixture
def attic(bob: Any) -> Node:
    """bob's node, which hosts models."""
    return made.node(bob)


@pytest.fixture
def tuned(alice: Any, toy: Model) -> Callable[[str], Model]:
    """`tuned("a")` is a model that alice has trained from toy."""

    def one(word: str, owner: Any = alice) -> Model:
        return made.model(owner, f"ft:toy:{owner}:{word}:1234abcd", base=toy.revision)

    return one


def sweep(after: timedelta = timedelta(0)) -> int:
    return deployments.sweep(now=timezone.now() + after)


def target(name: str = LIVE) -> str | None:
    found = Model.objects.select_related("target").get(name=name)
    assert found.is_alias
    return found.target.name if found.target else None


def live(model: Model, on: Node, **more: Any) -> Deployment:
    """A model that was deployed."""
    found = deployments.start(model, now=timezone.now(), **more)
    made.serve(model, on)
    sweep()
    found.refresh_from_db()
    assert found.status == "live"
    return found


# --- Taking a name over -----------------------------------------------------------------------------------


def test_a_model_takes_the_name_over_once_a_node_has_answered_with_it(
    alice: Any, api: Any, attic: Node, tuned: Any
) -> None:
    model = tuned("a")
    reply = api(alice).post(PATH, {"model": model.name})
    assert reply.status_code == 201
    said = reply.json()
    assert (said["alias"], said["model"], said["status"]) == (LIVE, model.name, "loading")
    assert (said["previous"], said["task_id"], said["live_at"]) == (None, None, None)
    assert target() is None
    assert Hosting.objects.get().node_id == attic.pk
    assert sweep() == 0  # the node loads it
    made.serve(model, attic)
    assert sweep() == 1
    assert target() == model.name
    now = api(alice).get(f"{PATH}/{said['id']}").json()
    assert now["status"] == "live"
    assert now["live_at"]
    assert LIVE in now["reason"]


@pytest.mark.parametrize("missing", ["word", "offer", "node"])
def test_the_name_stays_while_anything_is_missing(attic: Node, tuned: Any, missing: str) -> None:
    model = tuned("a")
    deployments.start(model, now=timezone.now())
    made.serve(model, attic)
    if missing == "word":
        Hosting.objects.update(state="loading")
    elif missing == "offer":
        attic.offers.all().delete()
    else:
        Node.objects.update(state=NodeState.SILENT)
    sweep()
    assert target() is None
    assert Deployment.objects.get().status == "loading"


def test_the_next_model_replaces_it_and_all_processes_are_told(
    attic: Node,
    tuned: Any,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    first, second = tuned("a"), tuned("b")
    one = live(first, attic)
    two = deployments.start(second, now=timezone.now())
    made.serve(second, attic)
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(bus, "announce", lambda *message: said.append(message))
    with django_capture_on_commit_callbacks(execute=True):
        sweep()
    assert ("catalogue", LIVE) in said
    assert target() == second.name
    one.refresh_from_db(), two.refresh_from_db()
    assert (one.status, two.status, two.previous) == ("replaced", "live", first)
    assert second.name in one.reason


@pytest.mark.parametrize("how", ["failed", "slow", "deleted"])
def test_a_deployment_that_fails_leaves_the_name_where_it_led(attic: Node, tuned: Any, how: str) -> None:
    first, second = tuned("a"), tuned("b")
    live(first, attic)
    made_anew = deployments.start(second, now=timezone.now())
    late = timedelta(0)
    if how == "failed":
        made.fail(second, attic, "There is no room.")
    elif how == "slow":
        late = timedelta(minutes=31)
    else:
        Model.objects.filter(pk=second.pk).update(hidden=True)
    assert sweep(late) == 1
    made_anew.refresh_from_db()
    assert made_anew.status == "failed"
    assert {"failed": "There is no room.", "slow": "30 minutes", "deleted": "deleted"}[
        how
    ] in made_anew.reason
    assert target() == first.name
    # It is no obstacle for another try.
    Model.objects.update(hidden=False)
    assert deployments.start(second, now=timezone.now()).pk != made_anew.pk


def test_where_one_node_fails_another_is_asked(bob: Any, attic: Node, tuned: Any) -> None:
    model = tuned("a")
    deployments.start(model, now=timezone.now())
    cellar = made.node(bob, "cellar")
    made.fail(model, attic)
    sweep()
    assert Deployment.objects.get().status == "loading"
    made.serve(model, cellar)
    sweep()
    assert target() == model.name


def test_it_waits_for_a_node_where_there_is_none(bob: Any, tuned: Any) -> None:
    model = tuned("a")
    deployments.start(model, now=timezone.now())
    sweep()
    assert Deployment.objects.get().status == "loading"
    assert "Waits for a node" in Deployment.objects.get().reason
    attic = made.node(bob)
    sweep()
    made.serve(model, attic)
    sweep()
    assert target() == model.name


# --- One at a time ------------------------------------------------------------------------------------------


def test_another_one_of_the_same_name_is_refused_or_waits_as_is_wanted(
    alice: Any, api: Any, attic: Node, tuned: Any
) -> None:
    first, second = tuned("a"), tuned("b")
    deployments.start(first, now=timezone.now())
    refused = api(alice).post(PATH, {"model": second.name})
    assert refused.status_code == 409
    assert first.name in refused.json()["detail"]
    assert Deployment.objects.count() == 1
    waits = api(alice).post(PATH, {"model": second.name, "wait_on_conflict": True})
    assert (waits.status_code, waits.json()["status"]) == (201, "waiting")
    assert first.name in waits.json()["reason"]
    sweep()
    assert Hosting.objects.filter(model=second).count() == 0
    made.serve(first, attic)
    sweep(), sweep()
    assert target() == first.name
    made.serve(second, attic)
    sweep()
    assert target() == second.name


def test_asked_for_once_more_it_is_the_deployment_that_it_was(
    alice: Any, api: Any, attic: Node, tuned: Any
) -> None:
    model = tuned("a")
    ids = {api(alice).post(PATH, {"model": model.name}).json()["id"] for _ in range(2)}
    made.serve(model, attic)
    sweep()
    again = api(alice).post(PATH, {"model": model.name}).json()
    assert {again["id"]} == ids
    assert again["status"] == "live"


def test_other_names_are_moved_beside_it(alice: Any, api: Any, attic: Node, tuned: Any) -> None:
    live(tuned("a"), attic)
    said = api(alice).post(PATH, {"model": tuned("b").name, "alias": "trial"}).json()
    assert (said["alias"], said["status"]) == ("ft:toy:alice:trial", "loading")
    full = api(alice).post(PATH, {"model": tuned("b").name, "alias": "ft:mine:alice:trial"}).json()
    assert full["alias"] == "ft:mine:alice:trial"
    assert [each["alias"] for each in api(alice).get(f"{PATH}?alias={LIVE}").json()] == [LIVE]


@pytest.mark.parametrize(
    "alias",
    [
        "gpt-4:x",
        "a b",
        "ft:toy:bob:live",
        "ft::alice:live",
        "ft:toy:alice:",
        "x" * 65,
        "../x",
        "ft:a:b:c:d",
        "ft:<b>:alice:x",
    ],
)
def test_a_name_that_is_not_ones_own_is_refused(
    alice: Any, api: Any, attic: Node, tuned: Any, alias: str
) -> None:
    reply = api(alice).post(PATH, {"model": tuned("a").name, "alias": alias})
    assert reply.status_code == 400
    assert "ft:BASE:alice:WORD" in str(reply.json()["detail"])
    assert not Model.objects.filter(is_alias=True).exists()


def test_a_name_that_another_model_has_is_not_taken_from_it(
    alice: Any, bob: Any, api: Any, tuned: Any
) -> None:
    Model.objects.create(name=LIVE, owner=bob)
    assert api(alice).post(PATH, {"model": tuned("a").name}).status_code == 409


@pytest.mark.django_db(transaction=True)
def test_of_many_at_the_same_time_one_is_deployed(alice: Any, bob: Any, tuned: Any, attic: Node) -> None:
    models, answers = [tuned(f"m{number}") for number in range(6)], []

    def ask(model: Model) -> None:
        try:
            answers.append(deployments.start(model, now=timezone.now()).status)
        except deployments.UnderWay:
            answers.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=[model]) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["loading", *["refused"] * 5]


# --- Back ---------------------------------------------------------------------------------------------------


def test_a_rollback_is_one_call_and_can_be_undone(alice: Any, api: Any, attic: Node, tuned: Any) -> None:
    first, second = tuned("a"), tuned("b")
    one, two = live(first, attic), live(second, attic)
    reply = api(alice).post(f"{PATH}/{two.pk}/rollback")
    assert reply.status_code == 200
    assert reply.json()["status"] == "rolled_back"
    assert target() == first.name
    one.refresh_from_db()
    assert one.status == "live"
    assert Hosting.objects.filter(model=second).exists()  # it stays loaded
    # Once more, by a deployment of its own: at once, since it is loaded.
    again = api(alice).post(PATH, {"model": second.name}).json()
    sweep()
    assert target() == second.name
    assert api(alice).post(f"{PATH}/{again['id']}/rollback").status_code == 200
    assert target() == first.name


def test_there_is_no_way_back_to_what_is_gone(alice: Any, api: Any, attic: Node, tuned: Any) -> None:
    first, second, third = tuned("a"), tuned("b"), tuned("c")
    one = live(first, attic)
    reply = api(alice).post(f"{PATH}/{one.pk}/rollback")
    assert (reply.status_code, "the first" in reply.json()["detail"]) == (409, True)
    two = live(second, attic)
    assert api(alice).post(f"{PATH}/{one.pk}/rollback").status_code == 409  # it is not live
    assert api(alice).post(f"{PATH}/{two.pk}/rollback").status_code == 200
    live(second, attic)
    three = live(third, attic)
    Model.objects.filter(pk=second.pk).update(hidden=True)
    assert "deleted" in api(alice).post(f"{PATH}/{three.pk}/rollback").json()["detail"]
    assert target() == third.name


def test_the_way_back_to_one_that_rests_is_loaded_first(
    alice: Any, api: Any, attic: Node, tuned: Any
) -> None:
    first, second = tuned("a"), tuned("b")
    live(first, attic)
    two = live(second, attic)
    Hosting.objects.filter(model=first).delete()
    attic.offers.filter(model=first.name).delete()
    reply = api(alice).post(f"{PATH}/{two.pk}/rollback")
    assert (reply.status_code, reply.headers["Retry-After"]) == (409, "5")
    assert target() == second.name
    made.serve(first, attic)  # the node was asked
    assert api(alice).post(f"{PATH}/{two.pk}/rollback").status_code == 200
    assert target() == first.name


def test_what_a_name_leads_to_makes_room_for_nothing(bob: Any, attic: Node, tuned: Any) -> None:
    Node.objects.filter(pk=attic.pk).update(hosting=attic.hosting | {"most": 2})
    first, second, third = tuned("a"), tuned("b"), tuned("c")
    live(first, attic), live(second, attic)
    long_after = timezone.now() + timedelta(hours=1)
    deployments.hosting.want(third, now=long_after)
    deployments.hosting.sweep(now=long_after)
    # Only what was replaced has gone.
    assert set(Hosting.objects.values_list("model", flat=True)) == {second.pk, third.pk}


# --- What a job wants ---------------------------------------------------------------------------------------


def succeed(job: Job, *, is_better: bool = True) -> Job:
    attempt = made.begin(job)
    what = Made(
        files={"model.safetensors": made.blob()}, kind=RevisionKind.FULL, metrics={}, is_better=is_better
    )
    assert attempts.succeed(attempt.token, what, now=timezone.now())
    job.refresh_from_db()
    return job


def test_a_job_deploys_its_result(alice: Any, attic: Node, toy: Model) -> None:
    job = succeed(made.job(alice, deploy=True))
    deployment = Deployment.objects.get()
    assert (deployment.job, deployment.model, deployment.status) == (job, job.result.model, "loading")
    made.serve(job.result.model, attic)
    sweep()
    assert target() == job.result.model.name
    assert job.events.filter(message__contains="live", data__deployment=deployment.pk).exists()


def test_a_job_that_does_not_want_it_deploys_nothing(alice: Any, attic: Node, toy: Model) -> None:
    succeed(made.job(alice))
    assert not Deployment.objects.exists()


def test_a_result_that_is_not_better_is_not_deployed_by_itself(
    alice: Any, api: Any, attic: Node, toy: Model
) -> None:
    job = succeed(made.job(alice, deploy=True), is_better=False)
    deployment = Deployment.objects.get()
    assert deployment.status == "refused"
    assert "not better than its base" in deployment.reason
    assert target() is None
    assert job.status == "succeeded"
    # By hand its owner may.
    assert api(alice).post(PATH, {"model": job.result.model.name}).status_code == 201


@pytest.mark.parametrize(("waits", "status"), [(False, "refused"), (True, "waiting")])
def test_a_job_waits_for_another_deployment_if_it_shall(
    alice: Any, attic: Node, tuned: Any, waits: bool, status: str
) -> None:
    deployments.start(tuned("a"), now=timezone.now())
    job = succeed(made.job(alice, deploy=True, wait_on_conflict=waits))
    assert job.deployments.get().status == status


def test_a_name_that_is_taken_does_not_keep_a_job_from_succeeding(
    alice: Any, bob: Any, attic: Node, toy: Model
) -> None:
    Model.objects.create(name=LIVE, owner=bob)
    job = succeed(made.job(alice, deploy=True))
    assert job.status == "succeeded"
    assert job.events.filter(level="warn", message__startswith="Not deployed").exists()


# --- Who may ------------------------------------------------------------------------------------------------


def test_strangers_find_nothing(alice: Any, charlie: Any, api: Any, attic: Node, tuned: Any) -> None:
    model = tuned("a")
    mine = live(model, attic)
    stranger = api(charlie)
    assert stranger.get(PATH).json() == []
    assert stranger.get(f"{PATH}/{mine.pk}").status_code == 404
    assert stranger.post(f"{PATH}/{mine.pk}/rollback").status_code == 404
    missing = stranger.post(PATH, {"model": model.name})
    assert missing.status_code == 404
    assert missing.json() == stranger.post(PATH, {"model": model.name}).json()


def test_nobody_without_a_credential(api: Any, db: None) -> None:
    assert [api().get(PATH).status_code, api().post(PATH, {}).status_code] == [401, 401]
    assert [api().get(f"{PATH}/1").status_code, api().post(f"{PATH}/1/rollback").status_code] == [401, 401]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": None},
        {"model": "a\0b"},
        {"model": "x", "what": 1},
        {"model": "x", "wait_on_conflict": 3},
        [],
    ],
)
def test_an_odd_request_is_a_400(alice: Any, api: Any, body: Any) -> None:
    assert api(alice).post(PATH, body).status_code == 400


def test_a_name_is_not_deployed_under_a_name(alice: Any, api: Any, attic: Node, tuned: Any) -> None:
    live(tuned("a"), attic)
    assert api(alice).post(PATH, {"model": LIVE}).status_code == 409


def test_a_missing_model_is_a_404_that_knows_names_like_it(alice: Any, api: Any, tuned: Any) -> None:
    tuned("alpha")
    said = api(alice).post(PATH, {"model": "ft:toy:alice:alpa:1234abcd"})
    assert said.status_code == 404
    assert "ft:toy:alice:alpha:1234abcd" in said.json()["detail"]


def test_a_list_takes_few_queries(
    alice: Any, api: Any, attic: Node, tuned: Any, django_assert_max_num_queries: Any
) -> None:
    for number in range(8):
        live(tuned(f"m{number}"), attic)
    with django_assert_max_num_queries(3):
        assert len(api(alice).get(PATH).json()) == 8
