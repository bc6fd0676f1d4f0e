"""The ledger against the Treasury: all is explained when all is well, and one base unit too much is found and named."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from chain import ethereum, reconciliation, withdrawals
from chain.ethereum import Fault, NodeAway
from chain.models import Deposit, Log, Network, Reconciliation, Withdrawal
from clients import ledger, refunds
from clients.models import AccountKind, Transfer, TransferKind, Wallet
from tests.chain.sending import Sending


@pytest.fixture
def busy(sending: Sending, alice: Any, bob: Any) -> Sending:
    """Some of everything: capital, deposits of two people, one of nobody's, a withdrawal paid."""
    treasury, devnet = sending.devnet.contract("TREASURY"), sending.devnet
    devnet.transact(devnet.deployer, treasury.functions.setOperator(sending.operator, True), gas=200_000)
    sending.fund(1000)
    for client, account in ((alice, devnet.alice), (bob, devnet.bob)):
        Wallet.objects.create(client=client, address=account.address.lower())
    sending.deposit(0, 100)
    sending.deposit(ledger.account(bob.pk, AccountKind.SPENDABLE).pk, 50, devnet.bob)
    sending.deposit(0, 7, devnet.charlie)
    sending.index()
    ask(sending, alice, 30)
    sending.pay()
    return sending


def ask(sending: Sending, client: Any, amount: int) -> Withdrawal:
    address = sending.devnet.alice.address
    return withdrawals.request(
        client, amount=amount, address=address, network=sending.network, now=sending.now
    )


def run(sending: Sending) -> Reconciliation:
    return reconciliation.run(sending.network, now=sending.now)


def line(found: Reconciliation, name: str) -> dict[str, Any]:
    return next(each for each in found.lines if each["name"] == name)


def explained(found: Reconciliation, name: str = "Treasury") -> dict[str, int]:
    return {each["says"]: int(each["amount"]) for each in line(found, name)["explained"]}


def wrong(found: Reconciliation) -> list[str]:
    return [sentence for each in found.lines for sentence in each["wrong"]]


def sql(statement: str, *parameters: Any) -> None:
    """Behind the back of all code, and of the database's own guards."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement, parameters)
        assert cursor.rowcount == 1
        cursor.execute("SET session_replication_role = DEFAULT")


def test_when_all_is_well_nothing_is_unexplained(busy: Sending, operator: Any) -> None:
    found = reconciliation.run(busy.network, now=busy.now, by=operator)
    assert (found.is_balanced, found.unexplained, found.by) == (True, 0, operator)
    assert found.block_number == busy.devnet.head()
    whole = line(found, "Treasury")
    assert (int(whole["ledger"]), int(whole["chain"])) == (120, 1127)
    assert explained(found) == {"deposits that nobody has claimed": 7, "capital of the operators'": 1000}
    assert wrong(found) == []
    assert reconciliation.run_all(now=busy.now) == 0


def test_what_is_not_final_yet_is_on_neither_side(busy: Sending, alice: Any) -> None:
    Network.objects.update(confirmations=4)
    before = busy.devnet.head()
    busy.deposit(0, 11)
    row = ask(busy, alice, 5)
    busy.pay(2)
    found = run(busy)
    assert found.is_balanced
    assert found.block_number < before + 2
    busy.devnet.mine(4)
    busy.pay(3)
    row.refresh_from_db()
    assert row.status == "confirmed"
    assert run(busy).is_balanced


def test_deposits_not_credited_yet_are_explained(busy: Sending) -> None:
    busy.deposit(0, 11)
    from chain import indexer

    indexer.follow(busy.network, now=busy.now + timedelta(seconds=2))
    found = run(busy)
    assert found.is_balanced
    assert explained(found)["deposits that are about to be credited"] == 11


def test_orphaned_deposits_are_explained(busy: Sending) -> None:
    busy.deposit(0, 11)
    busy.index()
    busy.devnet.reorganise(1)
    busy.index()
    assert Deposit.objects.filter(status="orphaned").count() == 1
    found = run(busy)
    assert found.is_balanced
    assert explained(found)["credited deposits whose block is gone"] == -11


def test_deposits_that_were_taken_back_are_gone_from_both_sides(busy: Sending) -> None:
    busy.deposit(0, 11)
    busy.index()
    busy.devnet.reorganise(1)
    busy.devnet.mine(5)
    busy.index()
    busy.index()
    assert Deposit.objects.filter(status="reversed").count() == 1
    found = run(busy)
    assert found.is_balanced, found.lines


def test_what_operators_reverse_is_explained(busy: Sending, operator: Any) -> None:
    deposit = Transfer.objects.filter(kind=TransferKind.DEPOSIT, amount=50).get()
    refunds.reverse(deposit, by=operator, reason="A mistake")
    found = run(busy)
    assert found.is_balanced, found.lines
    assert explained(found)["credits that an operator has reversed"] == 50


def test_paid_and_not_settled_is_explained(busy: Sending, alice: Any, monkeypatch: Any) -> None:
    row = ask(busy, alice, 5)
    with monkeypatch.context() as patch:
        patch.setattr(withdrawals, "_settle_by_event", lambda row, now: False)
        busy.pay(3)
    found = run(busy)
    assert found.is_balanced, found.lines
    assert explained(found)["paid withdrawals that are about to be settled"] == -5
    busy.pay(1)
    row.refresh_from_db()
    assert row.status == "confirmed"


def test_what_a_wallet_has_refused_is_explained_until_it_is_claimed(busy: Sending, alice: Any) -> None:
    # A contract that takes nothing at first: it reverts while its storage is empty, and a call with data fills it.
    code = "36600e57600054601557600080fd5b6001600055005b00"
    created = busy.devnet.send(
        busy.devnet.alice,
        None,
        data=f"0x{'60' + f'{len(code) // 2:02x}'}80600b6000396000f3{code}",
        gas=300_000,
    )
    contract = created["contractAddress"]
    Wallet.objects.create(client=alice, address=contract.lower())
    row = withdrawals.request(alice, amount=5, address=contract, network=busy.network, now=busy.now)
    busy.pay()
    row.refresh_from_db()
    assert row.is_claimable, row.reason
    found = run(busy)
    assert found.is_balanced, found.lines
    assert explained(found)["paid out, and kept for wallets that refused it"] == 5
    busy.devnet.send(busy.devnet.alice, contract, data="0x" + "11" * 32, gas=100_000)
    treasury = busy.devnet.contract("TREASURY")
    busy.devnet.transact(busy.devnet.bob, treasury.functions.claim(contract), gas=200_000)
    busy.index()
    found = run(busy)
    assert found.is_balanced, found.lines
    assert int(line(found, "Kept for wallets")["chain"]) == 0


def test_capital_that_was_taken_out_is_explained(busy: Sending) -> None:
    treasury, deployer = busy.devnet.contract("TREASURY"), busy.devnet.deployer
    busy.devnet.transact(deployer, treasury.functions.recover(deployer.address, 400), gas=200_000)
    busy.index()
    found = run(busy)
    assert found.is_balanced, found.lines
    assert explained(found)["what operators have taken out"] == -400


def _tamper_with_a_credit(busy: Sending, charlie: Any) -> None:
    sql("UPDATE clients_transfer SET amount = amount + 1 WHERE kind = 'deposit' AND amount = 50")


def _tamper_with_a_deposit(busy: Sending, charlie: Any) -> None:
    sql("UPDATE chain_deposit SET amount = amount + 1 WHERE amount = 50")


def _tamper_with_an_account_number(busy: Sending, charlie: Any) -> None:
    sql("UPDATE chain_deposit SET account_number = account_number + 1 WHERE amount = 50")


def _tamper_with_who_was_credited(busy: Sending, charlie: Any) -> None:
    thief = ledger.account(charlie.pk, AccountKind.SPENDABLE).pk
    sql("UPDATE clients_transfer SET destination_id = %s WHERE kind = 'deposit' AND amount = 50", thief)


def _invent_a_deposit(busy: Sending, charlie: Any) -> None:
    made = Deposit.objects.create(
        network=busy.network, transaction_hash="0x" + "ee" * 32, ordinal=0, block_number=2, log_index=0,
        sender=busy.devnet.charlie.address, account_number=0, amount=1, client=charlie, status="credited",
        credits=1, at=busy.now,
    )  # fmt: skip
    _credit(charlie, made.reference, 1)


def _invent_a_credit(busy: Sending, charlie: Any) -> None:
    _credit(charlie, "deposit:987654:1", 1)


def _credit_twice(busy: Sending, charlie: Any) -> None:
    row = Deposit.objects.get(amount=50)
    _credit(row.client, f"deposit:{row.pk}:2", 1)


def _credit(client: Any, reference: str, amount: int) -> None:
    ledger.transfer(
        source=ledger.account(None, AccountKind.OUTSIDE),
        destination=ledger.account(client.pk, AccountKind.SPENDABLE),
        amount=amount, reference=reference, kind=TransferKind.DEPOSIT,
    )  # fmt: skip


def _lose_a_credit(busy: Sending, charlie: Any) -> None:
    sql("DELETE FROM clients_transfer WHERE kind = 'deposit' AND amount = 50")


def _lose_a_deposit(busy: Sending, charlie: Any) -> None:
    sql("DELETE FROM chain_deposit WHERE amount = 7")


def _change_an_event(busy: Sending, charlie: Any) -> None:
    sql(
        "UPDATE chain_log SET arguments = arguments || '{\"amount\": \"51\"}' WHERE arguments->>'amount' = '50'"
    )


def _lose_an_event(busy: Sending, charlie: Any) -> None:
    sql("DELETE FROM chain_log WHERE name = 'Funded'")


def _settle_more(busy: Sending, charlie: Any) -> None:
    sql("UPDATE clients_transfer SET amount = amount + 1 WHERE kind = 'withdrawal'")


def _settle_what_was_not_paid(busy: Sending, charlie: Any) -> None:
    sql("UPDATE chain_withdrawal SET payment_reference = %s", "0x" + "00" * 32)


def _lose_a_settlement(busy: Sending, charlie: Any) -> None:
    sql("DELETE FROM clients_transfer WHERE kind = 'withdrawal'")


def _invent_a_settlement(busy: Sending, charlie: Any) -> None:
    ledger.transfer(
        source=ledger.account(Wallet.objects.earliest("pk").client_id, AccountKind.SPENDABLE),
        destination=ledger.account(None, AccountKind.OUTSIDE),
        amount=1, reference="withdrawal:987654", kind=TransferKind.WITHDRAWAL,
    )  # fmt: skip


def _pay_another_wallet(busy: Sending, charlie: Any) -> None:
    sql("UPDATE chain_withdrawal SET address = %s", busy.devnet.charlie.address)


def _pay_behind_our_back(busy: Sending, charlie: Any) -> None:
    treasury, devnet = busy.devnet.contract("TREASURY"), busy.devnet
    call = treasury.functions.withdraw(b"\1" * 32, devnet.charlie.address, 1)
    devnet.transact(devnet.deployer, call, gas=300_000)
    busy.index()


def _withdraw_from_somebody_else(busy: Sending, charlie: Any) -> None:
    victim = ledger.account(charlie.pk, AccountKind.SPENDABLE).pk
    sql("UPDATE clients_transfer SET source_id = %s WHERE kind = 'withdrawal'", victim)


@pytest.mark.parametrize(
    ("tamper", "names"),
    [
        (_tamper_with_a_credit, "51 credited, 50 on the chain"),
        (_tamper_with_a_deposit, "known as 51"),
        (_tamper_with_an_account_number, "another account"),
        (_tamper_with_who_was_credited, "somebody else"),
        (_invent_a_deposit, "1 credited, 0 on the chain"),
        (_invent_a_credit, "deposit 987654, which does not exist"),
        (_credit_twice, "51 credited, 50 on the chain"),
        (_lose_a_credit, "0 credited, 50 on the chain"),
        (_lose_a_deposit, "not known here"),
        (_change_an_event, "50 credited, 51 on the chain"),
        (_lose_an_event, None),
        (_settle_more, "31 settled, 30 on the chain"),
        (_settle_what_was_not_paid, "30 settled, 0 on the chain"),
        (_lose_a_settlement, "0 settled, 30 on the chain"),
        (_invent_a_settlement, "withdrawal:987654 is settled"),
        (_pay_another_wallet, "another wallet"),
        (_pay_behind_our_back, "nobody's"),
        (_withdraw_from_somebody_else, "somebody else's account"),
    ],
)
def test_whatever_was_tampered_with_is_found_and_named(
    busy: Sending, charlie: Any, tamper: Any, names: str | None
) -> None:
    assert run(busy).is_balanced
    tamper(busy, charlie)
    found = run(busy)
    assert not found.is_balanced
    if names is None:
        assert abs(found.unexplained) == 1000
    else:
        assert any(names in sentence for sentence in wrong(found)), wrong(found)
    assert reconciliation.run_all(now=busy.now) == 1


@pytest.mark.parametrize("tamper", [_tamper_with_a_credit, _invent_a_credit, _invent_a_deposit, _settle_more])
def test_one_base_unit_is_one_base_unit(busy: Sending, charlie: Any, tamper: Any) -> None:
    tamper(busy, charlie)
    assert abs(run(busy).unexplained) == 1


def test_coins_that_came_without_an_event_stand_out(busy: Sending) -> None:
    # PUSH20 treasury SELFDESTRUCT: the only way past the contract's own functions.
    treasury = busy.devnet.manifest["contracts"]["TREASURY"]
    busy.devnet.send(busy.devnet.charlie, None, value=1, data=f"0x73{treasury[2:]}ff", gas=200_000)
    busy.index()
    found = run(busy)
    assert (found.is_balanced, found.unexplained) == (False, 1)
    assert int(line(found, "Events of the Treasury")["unexplained"]) == 1


class Forgetful:
    """A node that keeps no state of older blocks."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def ask(self, questions: Any) -> list[Any]:
        said = self._node.ask(questions)
        old = [params[-1:] not in ([], ["latest"]) for _, params in questions]
        return [
            Fault("missing trie node", False) if is_old else answer
            for is_old, answer in zip(old, said, strict=True)
        ]


def test_a_node_without_old_state_is_asked_for_the_newest_where_nothing_has_moved(
    busy: Sending, monkeypatch: Any
) -> None:
    real = ethereum.of
    monkeypatch.setattr(ethereum, "of", lambda network: Forgetful(real(network)))
    Network.objects.update(confirmations=3)
    busy.devnet.mine(2)
    monkeypatch.setattr(ethereum, "of", real)
    busy.index()
    monkeypatch.setattr(ethereum, "of", lambda network: Forgetful(real(network)))
    assert run(busy).is_balanced
    busy.deposit(0, 5)
    with pytest.raises(NodeAway, match="compared later"):
        run(busy)


def test_before_anything_was_read_there_is_nothing_to_compare(sending: Sending) -> None:
    Network.objects.update(cursor_block=-1, head_block=-1)
    with pytest.raises(reconciliation.NothingRead):
        run(sending)
    assert reconciliation.run_all(now=sending.now) == 0


def test_old_ones_that_agreed_are_forgotten(busy: Sending, monkeypatch: Any) -> None:
    monkeypatch.setattr(reconciliation, "KEPT", 2)
    for _ in range(4):
        run(busy)
    assert Reconciliation.objects.count() == 2


def test_the_events_are_what_the_chain_says_and_nothing_of_ours(busy: Sending) -> None:
    assert Log.objects.filter(name="Deposited", address=busy.network.address("TREASURY")).count() == 3
