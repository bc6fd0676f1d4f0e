"""The roots of receipts' batches stand on the chain, once and in order; a receipt is checked against them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from chain import roots, warnings
from chain.models import Network, PublishedRoot, Transaction, TransactionStatus
from chain.tasks import publish_roots
from inference import batches, proofs, signing, verification
from inference.models import ReceiptBatch
from inference.verification import ChainAway, InvalidReceipt, Publication
from tests.chain.sending import Sending
from tests.inference.conftest import NOON, pay, price  # noqa: F401 - fixtures


@pytest.fixture
def publishing(sending: Sending) -> Sending:
    """The operator may publish."""
    receipts, deployer = sending.devnet.contract("RECEIPTS"), sending.devnet.deployer
    sending.devnet.transact(deployer, receipts.functions.setOperator(sending.operator, True), gas=200_000)
    sending.index()
    return sending


def _sealed(pay: Any, count: int = 1) -> list[Any]:  # noqa: F811
    """Records, each in a batch of its own."""
    records = []
    for _ in range(count):
        records.append(pay())
        batches.seal(now=NOON)
    return records


def _finish(sending: Sending, rounds: int = 4) -> None:
    for _ in range(rounds):
        roots.publish(now=sending.now)
        sending.advance()
        sending.index()


def _contract(sending: Sending) -> str:
    return str(sending.devnet.manifest["contracts"]["RECEIPTS"])


def _check(sending: Sending, record: Any, **changed: Any) -> Publication:
    wanted = {"rpc_url": sending.devnet.url, "contract": _contract(sending)} | changed
    return verification.on_chain(proofs.document(record), **wanted)


def test_each_root_is_published_once_and_a_receipt_proves_it(publishing: Sending, pay: Any) -> None:  # noqa: F811
    (record,) = _sealed(pay)
    assert _check(publishing, record) is Publication.NOT_PUBLISHED
    assert publish_roots() == 1
    assert publish_roots() == 0
    _finish(publishing)
    published = PublishedRoot.objects.get()
    assert published.transaction.status == TransactionStatus.CONFIRMED
    receipts = publishing.devnet.contract("RECEIPTS")
    assert "0x" + receipts.functions.rootOf(published.batch_id).call().hex() == published.batch.root
    assert _check(publishing, record) is Publication.PUBLISHED
    later = pay()
    assert _check(publishing, later) is Publication.NOT_SEALED


def test_only_a_few_are_on_their_way_at_once_and_in_order(publishing: Sending, pay: Any) -> None:  # noqa: F811
    _sealed(pay, 6)
    with publishing.devnet.held():
        assert roots.publish(now=publishing.now) == roots.MOST_AT_ONCE
        publishing.advance()
        assert roots.publish(now=publishing.now) == 0
    _finish(publishing, 8)
    batches_ = list(PublishedRoot.objects.order_by("transaction__nonce").values_list("batch_id", flat=True))
    assert batches_ == list(ReceiptBatch.objects.order_by("pk").values_list("pk", flat=True))
    assert set(Transaction.objects.values_list("status", flat=True)) == {TransactionStatus.CONFIRMED}


def test_what_was_refused_is_tried_again_and_later_ones_wait(sending: Sending, pay: Any) -> None:  # noqa: F811
    receipts, deployer = sending.devnet.contract("RECEIPTS"), sending.devnet.deployer
    call = receipts.functions.setOperator(sending.operator, False)
    sending.devnet.transact(deployer, call, gas=200_000)
    sending.index()
    _sealed(pay, 6)
    _finish(sending, 2)
    assert {row.reason for row in Transaction.objects.all()} == {"NotOperator"}
    assert PublishedRoot.objects.count() == roots.MOST_AT_ONCE
    sending.devnet.transact(deployer, receipts.functions.setOperator(sending.operator, True), gas=200_000)
    sending.now += timedelta(minutes=11)
    _finish(sending, 8)
    assert PublishedRoot.objects.filter(transaction__status=TransactionStatus.CONFIRMED).count() == 6


def test_one_that_stands_there_already_holds_up_nobody(publishing: Sending, pay: Any) -> None:  # noqa: F811
    records = _sealed(pay, 2)
    first = ReceiptBatch.objects.order_by("pk")[0]
    receipts, deployer = publishing.devnet.contract("RECEIPTS"), publishing.devnet.deployer
    call = receipts.functions.publish(first.pk, bytes.fromhex("ab" * 32))
    publishing.devnet.transact(deployer, call, gas=200_000)
    publishing.index()
    _finish(publishing)
    assert _check(publishing, records[1]) is Publication.PUBLISHED
    with pytest.raises(InvalidReceipt, match="another root"):
        _check(publishing, records[0])
    sending = PublishedRoot.objects.get(batch=first).transaction
    assert sending.status == TransactionStatus.REFUSED
    assert "Another root stands on the chain" in sending.reason
    assert "ab" * 32 in sending.reason
    Network.objects.update(polled_at=timezone.now())
    assert "another_root" in [each.code for each in warnings.current()]


def test_our_own_that_stands_there_already_is_well(publishing: Sending, pay: Any) -> None:  # noqa: F811
    (record,) = _sealed(pay)
    batch = ReceiptBatch.objects.get()
    receipts, deployer = publishing.devnet.contract("RECEIPTS"), publishing.devnet.deployer
    call = receipts.functions.publish(batch.pk, bytes.fromhex(batch.root.removeprefix("0x")))
    publishing.devnet.transact(deployer, call, gas=200_000)
    # As long as the event of it is not read and final, nobody knows whose it is.
    roots.publish(now=publishing.now)
    publishing.advance()
    sending = PublishedRoot.objects.get().transaction
    assert sending.status == TransactionStatus.QUEUED
    assert "awaited" in sending.reason
    publishing.index()
    publishing.now += timedelta(minutes=2)
    _finish(publishing, 1)
    sending.refresh_from_db()
    assert (sending.status, sending.reason) == (TransactionStatus.REFUSED, "AlreadyPublished")
    assert _check(publishing, record) is Publication.PUBLISHED
    assert "another_root" not in [each.code for each in warnings.current()]


def test_a_chain_without_the_contract_or_without_a_key_publishes_nothing(
    publishing: Sending,
    pay: Any,  # noqa: F811 - the fixture
    settings: Any,
    tmp_path: Path,
) -> None:
    _sealed(pay)
    settings.CHAIN_KEY = ""
    assert roots.publish(now=publishing.now) == 0
    settings.CHAIN_KEY = publishing.devnet.deployer.private_key
    Network.objects.update(is_paused=True)
    assert roots.publish(now=publishing.now) == 0
    without = publishing.devnet.manifest["contracts"].copy()
    del without["RECEIPTS"]
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(publishing.devnet.manifest | {"contracts": without}))
    settings.CHAIN_NETWORKS = [str(file)]
    assert roots.home() is None
    assert roots.publish(now=publishing.now) == 0
    settings.CHAIN_NETWORKS = []
    assert roots.publish(now=publishing.now) == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rpc_url": "http://127.0.0.1:9"}, "does not answer"),
        ({"rpc_url": "file:///etc/passwd"}, "named by a URL"),
        ({"contract": "0x12"}, "named by a URL"),
        ({"contract": "0x" + "12" * 20}, "no contract"),
    ],
)
def test_a_chain_that_cannot_be_asked_is_no_verdict(
    publishing: Sending,
    pay: Any,  # noqa: F811 - the fixture
    changed: dict[str, str],
    said: str,
) -> None:
    (record,) = _sealed(pay)
    with pytest.raises(ChainAway, match=said):
        _check(publishing, record, **changed)


def test_the_program_by_itself_says_whether_it_is_published(
    publishing: Sending,
    pay: Any,  # noqa: F811 - the fixture
    tmp_path: Path,
    capsys: Any,
) -> None:
    (record,) = _sealed(pay)
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(proofs.document(record)))
    chain = ["--rpc", publishing.devnet.url, "--contract", _contract(publishing)]
    assert verification.main([str(file), signing.signer()]) == 0
    assert "chain" not in capsys.readouterr().out
    assert verification.main([str(file), signing.signer(), *chain]) == 3
    assert "not published on the chain yet" in capsys.readouterr().out
    _finish(publishing)
    assert verification.main([str(file), *chain]) == 0
    assert "stands on the chain" in capsys.readouterr().out
    for wrong in (chain[:2], ["--other"], [*chain, "--rpc"]):
        assert verification.main([str(file), *wrong]) == 2
        assert "usage" in capsys.readouterr().err
    assert verification.main([str(file), "--rpc", "http://127.0.0.1:9", *chain[2:]]) == 2


def test_the_command_says_whether_it_is_published(
    publishing: Sending,
    pay: Any,  # noqa: F811 - the fixture
    tmp_path: Path,
    capsys: Any,
) -> None:
    (record,) = _sealed(pay)
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(proofs.document(record)))
    chain = {"rpc": publishing.devnet.url, "contract": _contract(publishing)}
    call_command("verify_receipt", str(file), **chain)
    assert "not published on the chain yet" in capsys.readouterr().out
    _finish(publishing)
    call_command("verify_receipt", str(file), **chain)
    assert "stands on the chain" in capsys.readouterr().out
    with pytest.raises(CommandError, match="go together"):
        call_command("verify_receipt", str(file), rpc="http://127.0.0.1:9")
    with pytest.raises(CommandError, match="does not answer"):
        call_command("verify_receipt", str(file), **chain | {"rpc": "http://127.0.0.1:9"})
