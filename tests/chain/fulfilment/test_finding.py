"""From what chains say to our fulfilments: found, gone, lost, too late."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chain.fulfilment import finding
from chain.models import (
    Fulfilment,
    FulfilmentStatus,
    Network,
    Purpose,
    Reorganisation,
    Service,
    Serving,
    Task,
    TaskStatus,
    Transaction,
)
from tests.chain import fulfilled
from tests.chain.fulfilled import NOW, PROVIDER, only

pytestmark = pytest.mark.django_db
Status = FulfilmentStatus


def discover(network: Network) -> int:
    return finding.discover(network, now=NOW)


def follow(network: Network, *, after_s: float = 0) -> None:
    finding.follow(network, now=NOW + timedelta(seconds=after_s))


def at(status: FulfilmentStatus, task: Task) -> Fulfilment:
    """A fulfilment that is so far, with the transactions that it has by then."""
    discover(task.network)
    found = Fulfilment.objects.get(task_address=task.address, published_transaction=task.transaction_hash)
    sent = {
        name: Transaction.objects.create(
            network=task.network,
            sender=PROVIDER,
            purpose=purpose,
            reference=f"{name}:{found.pk}",
            to=PROVIDER,
        )
        for name, purpose in (("attempt", Purpose.ATTEMPT), ("answer", Purpose.RESPONSE))
    }
    changes: dict[str, object] = {"status": status}
    if status not in (Status.FOUND, Status.CHECKED):
        changes["attempt"] = sent["attempt"]
    if status in (Status.ANSWERING, Status.ANSWERED):
        changes["answer"] = sent["answer"]
    Fulfilment.objects.filter(pk=found.pk).update(**changes)
    found.refresh_from_db()
    return found


def test_a_final_task_of_a_served_source_is_found_once(network: Network) -> None:
    task = fulfilled.task(fulfilled.source(network))
    assert discover(network) == 1
    assert discover(network) == 0
    found = only(Status.FOUND)
    assert (found.task_address, found.source_address) == (task.address, task.source.address)
    assert (found.published_transaction, found.payment) == (task.transaction_hash, task.payment)
    assert found.expires_at == NOW + timedelta(hours=1)


def test_a_task_that_is_not_final_is_left(network: Network) -> None:
    source = fulfilled.source(network)
    fulfilled.task(source, block_number=99)
    assert discover(network) == 0
    network.head_block = network.cursor_block = 101
    assert discover(network) == 1


@pytest.mark.parametrize(
    "status", [TaskStatus.RESPONDED, TaskStatus.CANCELED, TaskStatus.EXPIRED, TaskStatus.FINALIZED]
)
def test_a_task_that_is_answered_or_over_is_left(network: Network, status: TaskStatus) -> None:
    fulfilled.task(fulfilled.source(network), status=status)
    assert discover(network) == 0


def test_a_task_that_somebody_else_has_attempted_is_found(network: Network) -> None:
    fulfilled.task(fulfilled.source(network), status=TaskStatus.ATTEMPTED)
    assert discover(network) == 1


def test_a_task_that_has_expired_is_left(network: Network) -> None:
    fulfilled.task(fulfilled.source(network), expires_in_s=0)
    assert discover(network) == 0


def test_the_longest_expiry_there_is_can_be_written_down(network: Network) -> None:
    fulfilled.task(fulfilled.source(network), expiry_time=2**256 - 1)
    assert discover(network) == 1
    assert only().expires_at > datetime(8999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes", [{"status": Serving.ASKED}, {"status": Serving.REFUSED}, {"registered_at": None}]
)
def test_tasks_of_sources_that_we_do_not_serve_are_left(network: Network, changes: dict[str, object]) -> None:
    fulfilled.task(fulfilled.source(network))
    Service.objects.update(**changes)
    assert discover(network) == 0
    assert fulfilled.source(network, served=False).pk


def test_another_networks_service_counts_for_nothing(network: Network) -> None:
    other = fulfilled.network(name="other", chain_id=5)
    source = fulfilled.source(network, served=False)
    fulfilled.source(other, address=source.address)
    fulfilled.task(source)
    assert discover(network) == 0


def test_a_task_that_comes_back_by_the_same_transaction_is_the_same(network: Network) -> None:
    source = fulfilled.source(network)
    task = fulfilled.task(source)
    discover(network)
    said = {name: getattr(task, name) for name in ("address", "transaction_hash", "config_url")}
    task.delete()
    assert discover(network) == 0
    follow(network)
    assert only(Status.FOUND)
    fulfilled.task(source, block_number=30, **said)
    assert discover(network) == 0
    assert only(Status.FOUND)


def test_an_address_that_is_another_task_now_is_another_fulfilment(network: Network) -> None:
    source = fulfilled.source(network)
    task = fulfilled.task(source)
    first = at(Status.ANSWERED, task)
    task.delete()
    fulfilled.task(source, address=task.address)
    Reorganisation.objects.create(network=network, common_block=19, depth=2, logs=1, at=NOW)
    assert discover(network) == 1
    follow(network)
    first.refresh_from_db()
    assert (first.status, first.code) == (Status.LOST, "replaced")
    second = Fulfilment.objects.exclude(pk=first.pk).get()
    assert (second.task_address, second.status) == (first.task_address, Status.FOUND)


def test_where_no_blocks_were_replaced_nothing_that_was_is_looked_for(
    network: Network, django_assert_num_queries: Any
) -> None:
    at(Status.ANSWERED, fulfilled.task(fulfilled.source(network)))
    with django_assert_num_queries(1):
        finding._replaced(network, NOW)


def test_work_begins_when_our_attempt_is_in_a_block(network: Network) -> None:
    task = fulfilled.task(fulfilled.source(network))
    at(Status.ATTEMPTING, task)
    follow(network)
    only(Status.ATTEMPTING)
    fulfilled.attempted(task, provider=fulfilled.OPERATOR)
    follow(network)
    only(Status.ATTEMPTING)
    fulfilled.attempted(task)
    follow(network)
    only(Status.WORKING)


UNANSWERED = [Status.FOUND, Status.CHECKED, Status.ATTEMPTING, Status.WORKING]


@pytest.mark.parametrize("status", [*UNANSWERED, Status.ANSWERING, Status.ANSWERED])
@pytest.mark.parametrize(
    ("end", "becomes", "code"),
    [
        (TaskStatus.CANCELED, Status.LOST, "cancelled"),
        (TaskStatus.EXPIRED, Status.EXPIRED, "expired"),
        (TaskStatus.FINALIZED, Status.LOST, "other_confirmed"),
    ],
)
def test_what_the_chain_has_ended_is_over(
    network: Network, status: Status, end: TaskStatus, becomes: Status, code: str
) -> None:
    task = fulfilled.task(fulfilled.source(network))
    at(status, task)
    Task.objects.update(status=end)
    follow(network)
    assert only(becomes).code == code


def test_that_ours_was_confirmed_is_no_loss(network: Network) -> None:
    task = fulfilled.task(fulfilled.source(network))
    at(Status.ANSWERED, task)
    fulfilled.responded(task, confirmed_block=99)
    follow(network)
    only(Status.ANSWERED)


def test_that_another_one_was_confirmed_is_a_loss_although_we_have_answered(network: Network) -> None:
    task = fulfilled.task(fulfilled.source(network))
    at(Status.ANSWERED, task)
    fulfilled.responded(task)
    fulfilled.responded(task, provider=fulfilled.OPERATOR, confirmed_block=99)
    follow(network)
    only(Status.LOST)


@pytest.mark.parametrize("status", [Status.FOUND, Status.CHECKED, Status.WORKING])
def test_what_is_not_answered_in_time_has_expired(network: Network, status: Status) -> None:
    at(status, fulfilled.task(fulfilled.source(network), expires_in_s=60))
    follow(network, after_s=59)
    only(status)
    follow(network, after_s=60)
    assert only(Status.EXPIRED).code == "expired"


def test_the_chains_clock_counts_where_it_is_ahead(network: Network) -> None:
    at(Status.WORKING, fulfilled.task(fulfilled.source(network), expires_in_s=60))
    network.head_at = NOW + timedelta(seconds=61)
    follow(network)
    only(Status.EXPIRED)


def test_an_attempt_that_is_never_heard_of_again_is_given_up(network: Network) -> None:
    at(Status.ATTEMPTING, fulfilled.task(fulfilled.source(network), expires_in_s=60))
    follow(network, after_s=120)
    only(Status.ATTEMPTING)
    follow(network, after_s=60 + 601)
    only(Status.EXPIRED)


def test_an_answer_may_be_confirmed_long_after(network: Network) -> None:
    at(Status.ANSWERED, fulfilled.task(fulfilled.source(network), expires_in_s=60))
    follow(network, after_s=500_000)
    only(Status.ANSWERED)


def test_an_answer_that_nobody_ever_confirms_is_lost(network: Network) -> None:
    at(Status.ANSWERED, fulfilled.task(fulfilled.source(network)))
    week = timedelta(hours=1, days=7).total_seconds()
    follow(network, after_s=week - 1)
    only(Status.ANSWERED)
    follow(network, after_s=week)
    assert (only(Status.LOST).code, "7 days" in only().reason) == ("never_confirmed", True)


def test_a_confirmation_that_is_not_final_yet_is_waited_for(network: Network) -> None:
    task = fulfilled.task(fulfilled.source(network))
    at(Status.ANSWERED, task)
    fulfilled.responded(task, confirmed_block=99)
    follow(network, after_s=timedelta(days=8).total_seconds())
    only(Status.ANSWERED)


def test_whoever_still_works_on_what_is_over_writes_nothing_more(network: Network) -> None:
    from chain.fulfilment import rows

    at(Status.WORKING, fulfilled.task(fulfilled.source(network), expires_in_s=60))
    held = rows.claim(only().pk, now=NOW)
    assert held is not None
    follow(network, after_s=60)
    with pytest.raises(rows.TakenAway):
        rows.move(held, Status.ANSWERING, now=NOW)
    only(Status.EXPIRED)
