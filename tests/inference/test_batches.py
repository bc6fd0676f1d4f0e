"""Sealing receipts: each in exactly one batch, however transfers become visible."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction

from clients import ledger
from clients.models import AccountKind, Transfer, TransferKind
from inference import batches, proofs, signing, verification
from inference.models import Earning, Inference, ReceiptBatch
from inference.tasks import seal_receipts
from marketplace import money
from tests.inference.conftest import NOON

Pay = Callable[..., Inference]


def sealed() -> list[int]:
    """The transfers in batches, each as often as it is there."""
    paid = Transfer.objects.filter(kind=TransferKind.INFERENCE)
    return [
        pk
        for batch in ReceiptBatch.objects.order_by("pk")
        for pk in paid.filter(pk__range=(batch.first_transfer, batch.last_transfer))
        .order_by("pk")
        .values_list("pk", flat=True)
    ]


def test_every_receipt_is_in_a_batch_once_and_proves_it(pay: Pay) -> None:
    records = [pay() for _ in range(5)]

    assert batches.seal(now=NOON) == 5
    assert batches.seal(now=NOON) == 0
    records += [pay() for _ in range(3)]
    assert seal_receipts() == 3

    documents = [proofs.document(record) for record in records]
    found = [verification.verify(document, signing.signer()).batch for document in documents]
    assert [found.count(batch) for batch in sorted(set(found))] == [5, 3]
    assert [document["inclusion"]["index"] for document in documents] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert [batch.receipts for batch in ReceiptBatch.objects.order_by("pk")] == [5, 3]


def test_no_batch_is_larger_than_fits_in_memory(pay: Pay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST", 2)
    records = [pay() for _ in range(5)]

    assert batches.seal(now=NOON) == 5

    assert [batch.receipts for batch in ReceiptBatch.objects.order_by("pk")] == [2, 2, 1]
    assert sealed() == [Transfer.objects.get(reference=f"inference:{record.pk}").pk for record in records]


def test_other_transfers_and_free_requests_are_not_in_it(pay: Pay, alice: Any) -> None:
    Inference.objects.create(client=alice, kind="chat", desired_model="llama", status="completed")
    pay()
    ledger.grant(client_id=alice.pk, amount=5, reference="grant:more", reason="test", by_id=None)

    assert batches.seal(now=NOON) == 1
    assert batches.seal(now=NOON) == 0


def test_the_database_refuses_batches_that_overlap(db: None) -> None:
    common: dict[str, Any] = {
        "receipts": 1, "root": "", "signature": "", "signer": "", "marketplace": "", "currency": "", "leaves": b"",
        "created_at": NOON,
    }  # fmt: skip
    ReceiptBatch.objects.create(first_transfer=1, last_transfer=10, **common)

    with pytest.raises(IntegrityError), transaction.atomic():
        ReceiptBatch.objects.create(first_transfer=5, last_transfer=20, **common)
    ReceiptBatch.objects.create(first_transfer=11, last_transfer=20, **common)


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], Any]], threading.Thread]]:
    """Runs something in a thread with a connection of its own."""
    threads: list[threading.Thread] = []

    def start(work: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            finally:
                connections.close_all()

        thread = threading.Thread(target=run)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(20)


@pytest.mark.django_db(transaction=True)
def test_a_transfer_that_commits_late_is_never_skipped(
    pay: Pay, beside: Callable[..., threading.Thread], monkeypatch: pytest.MonkeyPatch, charlie: Any
) -> None:
    monkeypatch.setattr(batches, "_WRITERS_END_S", 0.2)
    first = Transfer.objects.get(reference=f"inference:{pay().pk}")
    drawn, commit = threading.Event(), threading.Event()
    late: list[Inference] = []

    def slow_payment() -> None:
        with transaction.atomic():
            late.append(pay())
            drawn.set()
            assert commit.wait(10)

    thread = beside(slow_payment)
    assert drawn.wait(10)
    # Written by hand, since a payment would wait for the locks of the slow one.
    quick = Inference.objects.create(
        client=charlie, provider_id=first.destination.client_id, kind="chat", desired_model="llama", node_id=7,
        status="completed", charged=1,
    )  # fmt: skip
    early = Transfer.objects.create(
        reference=f"inference:{quick.pk}", kind=TransferKind.INFERENCE, source_id=first.source_id,
        destination_id=first.destination_id, amount=1,
    )  # fmt: skip

    assert batches.seal(now=NOON) == 0  # somebody has drawn an earlier id and may still commit it: not yet
    commit.set()
    thread.join(10)
    assert batches.seal(now=NOON) == 3
    slow = Transfer.objects.get(reference=f"inference:{late[0].pk}")
    assert slow.pk < early.pk
    assert sealed() == [first.pk, slow.pk, early.pk]


@pytest.mark.django_db(transaction=True)
def test_payers_do_not_wait_for_the_sealer(
    pay: Pay,
    beside: Callable[..., threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
    alice: Any,
    charlie: Any,
) -> None:
    drawn, commit = threading.Event(), threading.Event()

    def slow_payment() -> None:
        with transaction.atomic():
            pay()
            drawn.set()
            assert commit.wait(10)

    slow = beside(slow_payment)
    assert drawn.wait(10)
    sealing = beside(lambda: batches.seal(now=NOON))
    threading.Event().wait(0.1)

    ledger.transfer(  # of other accounts
        source=ledger.account(None, AccountKind.OUTSIDE),
        destination=ledger.account(charlie.pk, AccountKind.SPENDABLE),
        amount=money.TOKEN,
        reference="deposit:1",
        kind=TransferKind.DEPOSIT,
    )

    assert sealing.is_alive()
    commit.set()
    slow.join(10)
    sealing.join(10)
    assert ReceiptBatch.objects.get().receipts == 1


@pytest.mark.django_db(transaction=True)
def test_sealers_beside_each_other_and_payers_make_no_batch_twice(
    pay: Pay, beside: Callable[..., threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST", 7)
    over = threading.Event()

    def seal() -> None:
        while not over.is_set():
            batches.seal(now=NOON)

    sealers = [beside(seal) for _ in range(3)]
    payers = [beside(lambda: [pay() for _ in range(15)]) for _ in range(3)]
    for payer in payers:
        payer.join(60)
    over.set()
    for sealer in sealers:
        sealer.join(20)
    batches.seal(now=NOON)

    paid = list(
        Transfer.objects.filter(kind=TransferKind.INFERENCE).order_by("pk").values_list("pk", flat=True)
    )
    assert len(paid) == 45
    assert sealed() == paid
    assert sum(batch.receipts for batch in ReceiptBatch.objects.all()) == 45
    assert sum(row.requests for row in Earning.objects.all()) == 45
    assert sum(row.charged for row in Earning.objects.all()) == 45 * money.parse("0.64")
