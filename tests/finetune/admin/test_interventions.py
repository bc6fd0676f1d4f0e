"""What operators do about jobs and deployments: with a reason, a permission, and an audit row; once."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.utils import timezone

from clients import ledger, trial_balance
from clients.models import AccountKind, AuditEntry, Transfer
from finetune import attempts, deployments, interventions, ordering, quotes
from finetune.models import Deployment, Job
from gpus.models import Node
from inference.models import Model
from marketplace.errors import MarketplaceError
from marketplace.money import TOKEN
from tests.finetune import made
from tests.finetune.admin.conftest import audited, text_of

JOB = "/admin/finetune/job/"


def has(person: Any, kind: AccountKind = AccountKind.SPENDABLE) -> float:
    return ledger.balance(ledger.account(person.pk, kind)) / TOKEN


def held(person: Any) -> float:
    account = ledger.account(person.pk, AccountKind.SPENDABLE)
    account.refresh_from_db()
    return account.held / TOKEN


# --- Cancel ---------------------------------------------------------------------------------------------------


def test_a_job_is_cancelled_with_a_reason_and_its_money_is_free(
    browser: Any, act: Any, alice: Any, toy: Model, attic: Node
) -> None:
    job = made.job(alice)
    attempt = made.begin(job, attic)
    path = f"{JOB}{job.pk}/cancel/"
    assert path in text_of(browser.get(f"{JOB}{job.pk}/change/"))
    assert 'name="reason"' in text_of(browser.get(path))
    assert held(alice) == 3
    page = text_of(browser.post(path, {"reason": "The node misbehaves."}, follow=True))
    assert "is cancelled" in page
    assert "The node misbehaves." in page  # in the log
    job.refresh_from_db()
    assert (job.status, job.reason, held(alice)) == ("cancelled", "Cancelled by the operator.", 0)
    assert not attempts.order_for(attempt.token, now=timezone.now()).goes_on
    assert audited() == [("cancel_job", "The node misbehaves.")]
    assert AuditEntry.objects.get().subject == f"training:{job.pk}"
    assert "not ended can be cancelled" in act("job", "cancel", [job], reason="Again.")
    assert len(audited()) == 1


# --- Queue anew -------------------------------------------------------------------------------------------------


def test_a_job_is_taken_from_who_trains_it_and_goes_on_elsewhere(
    browser: Any, alice: Any, toy: Model, attic: Node, rung: list[Any]
) -> None:
    job = made.job(alice)
    attempt = made.begin(job, attic)
    rung.clear()
    text_of(browser.post(f"{JOB}{job.pk}/requeue/", {"reason": "It hangs."}, follow=True))
    job.refresh_from_db(), attempt.refresh_from_db()
    assert (job.status, attempt.outcome, attempt.code) == ("pending", "lost", "requeued")
    assert "It hangs." in attempt.reason
    assert held(alice) == 3
    assert audited() == [("requeue_job", "It hangs.")]
    page = text_of(browser.post(f"{JOB}{job.pk}/requeue/", {"reason": "Again."}, follow=True))
    assert "Nobody trains this job" in page
    assert len(audited()) == 1


def test_a_job_that_waits_to_be_tried_again_waits_no_longer(act: Any, alice: Any, toy: Model) -> None:
    job = made.job(alice)
    Job.objects.filter(pk=job.pk).update(not_before=timezone.now() + timedelta(hours=1))
    act("job", "requeue", [job], reason="It is mended.")
    job.refresh_from_db()
    assert (job.status, job.not_before) == ("pending", None)


# --- Restart ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Today it costs 4 tokens."""
    monkeypatch.setattr(quotes, "make", lambda **_wish: made.quote(4 * TOKEN))


@pytest.mark.usefixtures("_quoted")
def test_a_job_is_restarted_for_what_it_costs_today(browser: Any, act: Any, alice: Any, train: Any) -> None:
    job = train()
    text_of(browser.post(f"{JOB}{job.pk}/restart/", {"reason": "Bad luck."}, follow=True))
    job.refresh_from_db()
    assert (job.status, job.run, job.price, job.charged) == ("pending", 2, 4 * TOKEN, 0)
    assert held(alice) == 4
    assert audited() == [("restart_job", "Bad luck.")]
    # What the first run did cost can still be looked up, and given back from there.
    assert f"training:{job.pk}:1" in text_of(browser.get(f"{JOB}{job.pk}/change/"))
    assert "has ended can be restarted" in act("job", "restart", [job], reason="Again.")
    assert len(audited()) == 1


@pytest.mark.usefixtures("_quoted")
def test_nothing_is_restarted_that_its_owner_cannot_pay(browser: Any, alice: Any, train: Any) -> None:
    job = train()
    ledger.hold(reference="inference:1", client_id=alice.pk, amount=6 * TOKEN)
    page = text_of(browser.post(f"{JOB}{job.pk}/restart/", {"reason": "Bad luck."}, follow=True))
    assert "spendable" in page or "balance" in page.lower()
    job.refresh_from_db()
    assert (job.status, job.run, audited()) == ("succeeded", 1, [])


# --- Refund -----------------------------------------------------------------------------------------------------


def test_a_job_is_refunded_once(browser: Any, act: Any, alice: Any, bob: Any, train: Any) -> None:
    job = train()
    assert (has(alice), has(bob, AccountKind.EARNED)) == (7, 2.7)
    assert 'name="reason"' in act("job", "refund", [job])
    assert "went back to" in act("job", "refund", [job], reason="It is worthless.")
    assert (has(alice), has(bob, AccountKind.EARNED)) == (10, 0)
    assert audited() == [("reverse_transfer", "It is worthless.")]
    page = text_of(browser.post(f"{JOB}{job.pk}/refund/", {"reason": "Again."}, follow=True))
    assert "given back already" in page
    assert "given back as" in page
    assert (has(alice), Transfer.objects.filter(reverses__isnull=False).count() > 0) == (10, True)
    assert len(audited()) == 1


def test_what_did_cost_nothing_is_not_refunded(act: Any, alice: Any, toy: Model) -> None:
    job = made.job(alice)
    assert "did cost nothing" in act("job", "refund", [job], reason="Why not.")
    assert audited() == []


def test_where_the_provider_has_nothing_left_credit_is_offered(act: Any, bob: Any, train: Any) -> None:
    job = train()
    ledger.transfer(
        source=ledger.account(bob.pk, AccountKind.EARNED),
        destination=ledger.account(None, AccountKind.OUTSIDE),
        amount=2 * TOKEN,
        reference="payout:1",
        kind="payout",  # type: ignore[arg-type]
    )
    page = act("job", "refund", [job], reason="It is worthless.")
    assert "give-credit/?instead_of=" in page


@pytest.mark.django_db(transaction=True)
def test_the_books_add_up_after_all_of_it(
    alice: Any, operator: Any, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotes, "make", lambda **_wish: made.quote(4 * TOKEN))
    why: dict[str, Any] = {"by": operator, "reason": "Why not.", "now": timezone.now()}
    refunded, restarted, cancelled = train(), train(), made.job(alice)
    interventions.refund(refunded, **why)
    interventions.restart(restarted, **why)
    interventions.cancel(cancelled, **why)
    assert trial_balance.run().adds_up


# --- Deployments ------------------------------------------------------------------------------------------------


@pytest.fixture
def second(train: Any, attic: Node) -> Deployment:
    """The second of two jobs' results is live."""
    for job in (train(), train()):
        found = deployments.start(job.result.model, now=timezone.now(), job=job)
        made.serve(job.result.model, attic)
        deployments.sweep(now=timezone.now())
        found.refresh_from_db()
    return found


def test_a_deployment_is_rolled_back_with_one_click_and_a_reason(
    browser: Any, act: Any, second: Deployment
) -> None:
    path = f"/admin/finetune/deployment/{second.pk}/roll-back/"
    assert path in text_of(browser.get(f"/admin/finetune/deployment/{second.pk}/change/"))
    assert 'name="reason"' in text_of(browser.get(path))
    text_of(browser.post(path, {"reason": "It answers nonsense."}, follow=True))
    alias = Model.objects.get(pk=second.alias_id)
    assert alias.target == second.previous
    second.refresh_from_db()
    assert second.status == "rolled_back"
    assert "the operator: It answers nonsense." in second.reason
    assert audited() == [("roll_back_deployment", "It answers nonsense.")]
    assert "not live" in act("deployment", "roll_back", [second], reason="Again.")
    assert len(audited()) == 1


# --- Who may ----------------------------------------------------------------------------------------------------


def test_who_may_only_look_does_nothing(clerk: Any, train: Any, alice: Any, second: Deployment) -> None:
    done, waits = train(), made.job(alice)
    Job.objects.filter(pk=waits.pk).update(not_before=timezone.now() + timedelta(hours=1))
    said = {"reason": "Mine."}
    for path in (
        *(f"job/{waits.pk}/{verb}/" for verb in ("cancel", "requeue")),
        *(f"job/{done.pk}/{verb}/" for verb in ("restart", "refund")),
        f"deployment/{second.pk}/roll-back/",
    ):
        assert clerk.post(f"/admin/finetune/{path}", said).status_code == 403, path
        assert clerk.get(f"/admin/finetune/{path}").status_code == 403, path
    for model, action, row in (
        *(("job", verb, waits) for verb in ("cancel", "requeue")),
        *(("job", verb, done) for verb in ("restart", "refund")),
        ("deployment", "roll_back", second),
    ):
        clerk.post(f"/admin/finetune/{model}/", {"action": action, ACTION_CHECKBOX_NAME: [row.pk], **said})
    waits.refresh_from_db(), done.refresh_from_db(), second.refresh_from_db()
    assert (waits.status, waits.not_before is None, done.run, second.status) == ("pending", False, 1, "live")
    assert audited() == []
    assert not Transfer.objects.filter(reverses__isnull=False).exists()


def test_an_error_of_one_job_does_not_keep_others_from_it(
    act: Any, alice: Any, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Job, **_more: Any) -> Job:
        raise MarketplaceError("No place can train this.")

    monkeypatch.setattr(ordering, "again", fails)
    done, waits = train(), made.job(alice)
    assert "No place can train this." in act("job", "restart", [done, waits], reason="Bad luck.")
    assert audited() == []
