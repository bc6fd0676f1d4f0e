"""What waits for an operator: sources to serve, deposits of nobody, withdrawals, and files to delete."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from chain import withdrawals
from chain.models import Deposit, Network, Pin, Purpose, Service, Withdrawal
from clients import ledger, terms
from clients.models import AccountKind, Transfer, Wallet
from inference.models import Model
from marketplace.money import TOKEN
from tests.chain.admin import made
from tests.chain.admin.conftest import audited, text_of


def has(person: Any) -> float:
    return ledger.balance(ledger.account(person.pk, AccountKind.SPENDABLE)) / TOKEN


def listed(browser: Any, name: str) -> list[Any]:
    return [each.pk for each in browser.get(f"/admin/chain/{name}/").context["cl"].result_list]


# --- Sources ----------------------------------------------------------------------------------------------


@pytest.fixture
def service(network: Network) -> Service:
    return made.service(made.source(network, "Sentiment"))


def test_sources_that_wait_come_first_the_oldest_on_top(
    browser: Any, network: Network, service: Service
) -> None:
    served = made.service(made.source(network), status="served")
    second = made.service(made.source(network))
    assert listed(browser, "service") == [service.pk, second.pk, served.pk]


def test_a_source_is_served_with_functions_of_its_own(browser: Any, service: Service) -> None:
    defined = '{"analyze": {"kind": "chat", "prompt": "Positive or negative: {text}"}}'
    path = f"/admin/chain/service/{service.pk}"
    Model.objects.create(name="llama")
    browser.post(f"{path}/serve/", {"model": "llama", "functions": defined, "reason": "They pay well."})
    service.refresh_from_db()
    assert (service.status, service.model, list(service.functions)) == ("served", "llama", ["analyze"])
    assert audited() == [("serve_source", "They pay well.")]
    page = text_of(browser.get(f"{path}/change/"))
    assert "Positive or negative" in page
    assert "They pay well." in page
    # Its form begins with what holds.
    assert "Positive or negative" in text_of(browser.get(f"{path}/serve/"))


@pytest.mark.parametrize(
    ("model", "functions"),
    [
        ("no-such-model", "{}"),
        ("", "{"),
        ("", "[1]"),
        ("", '{"f": 1}'),
        ("", '{"f": {"kind": "?"}}'),
        ("", '{"f": {"kind": "chat", "prompt": "{text}"}}'),
    ],
)
def test_what_is_wrong_is_said_beside_what_was_typed(
    browser: Any, service: Service, model: str, functions: str
) -> None:
    said = {"model": model, "functions": functions, "reason": "A reason to keep."}
    page = text_of(browser.post(f"/admin/chain/service/{service.pk}/serve/", said))
    assert "A reason to keep." in page
    assert "errornote" in page
    service.refresh_from_db()
    assert service.status == "asked"
    assert audited() == []


def test_a_source_is_refused_with_a_reason(browser: Any, act: Any, service: Service) -> None:
    browser.post(f"/admin/chain/service/{service.pk}/refuse/", {"reason": "We do not do that."})
    service.refresh_from_db()
    assert (service.status, service.reason) == ("refused", "We do not do that.")
    assert audited() == [("refuse_source", "We do not do that.")]
    assert "refused already" in act("service", "refuse", [service], reason="Again.")


def test_why_our_provider_is_not_registered_is_said(browser: Any, network: Network) -> None:
    made.service(made.source(network), status="served", reason="Fine.", obstacle="The lockup is too small.")
    assert "The lockup is too small." in text_of(browser.get("/admin/chain/service/"))


# --- Deposits ---------------------------------------------------------------------------------------------


@pytest.fixture
def deposit(network: Network) -> Deposit:
    return made.deposit(network)


def test_deposits_of_nobody_come_first(browser: Any, network: Network, deposit: Deposit) -> None:
    credited = made.deposit(network, status="credited")
    orphaned = made.deposit(network, status="orphaned")
    assert listed(browser, "deposit") == [deposit.pk, orphaned.pk, credited.pk]


@pytest.mark.parametrize("whose", ["alice", "ALICE@example.com", "account"])
def test_a_deposit_is_credited_to_whom_an_operator_names(
    browser: Any,
    alice: Any,
    books: None,
    deposit: Deposit,
    whose: str,
) -> None:
    if whose == "account":
        whose = ledger.account(alice.pk, AccountKind.SPENDABLE).name
    path = f"/admin/chain/deposit/{deposit.pk}"
    browser.post(f"{path}/assign/", {"client": whose, "reason": "She has shown the transaction."})
    deposit.refresh_from_db()
    assert (deposit.status, deposit.client, has(alice)) == ("credited", alice, 10)
    assert audited() == [("assign_deposit", "She has shown the transaction.")]
    page = text_of(browser.get(f"{path}/change/"))
    assert f"{deposit.reference}: 10 OMNIT" in page
    assert f"{path}/assign/" not in page
    browser.post(f"{path}/assign/", {"client": "alice", "reason": "Again."})
    assert has(alice) == 10


@pytest.mark.parametrize("whose", ["nobody", "", "acc_999999999", "acc_x", "acc_99999999999999999999"])
def test_a_deposit_is_not_credited_to_whom_nobody_knows(browser: Any, deposit: Deposit, whose: str) -> None:
    said = {"client": whose, "reason": "A reason to keep."}
    page = text_of(browser.post(f"/admin/chain/deposit/{deposit.pk}/assign/", said))
    assert "A reason to keep." in page
    deposit.refresh_from_db()
    assert deposit.status == "unclaimed"


def test_it_says_whose_wallet_has_sent_it_and_what_account_it_names(
    browser: Any, alice: Any, bob: Any, network: Network
) -> None:
    named = ledger.account(bob.pk, AccountKind.SPENDABLE)
    row = made.deposit(network, account_number=named.pk)
    Wallet.objects.create(client=alice, address=row.sender.lower())
    page = text_of(browser.get(f"/admin/chain/deposit/{row.pk}/change/"))
    assert f"/admin/clients/client/{alice.pk}/change/" in page
    assert f"{named.name} bob" in page
    odd = made.deposit(network, account_number=2**256 - 1)
    assert "there is no such account" in text_of(browser.get(f"/admin/chain/deposit/{odd.pk}/change/"))


# --- Withdrawals ------------------------------------------------------------------------------------------


@pytest.fixture
def ask(alice: Any, operator: Any, network: Network, fund: Any) -> Any:
    """`ask(3)` is a withdrawal of alice's that waits for an operator; she has deposited 10."""
    fund(alice, 10)
    terms.change(by=operator, reason="A limit.", withdrawal_approval_above=0)
    wallet = made.address()
    Wallet.objects.create(client=alice, address=wallet.lower())

    def one(tokens: int = 3) -> Withdrawal:
        return withdrawals.request(
            alice, amount=tokens * TOKEN, address=wallet, network=network, now=timezone.now()
        )

    return one


def test_withdrawals_that_wait_come_first_the_oldest_on_top(
    browser: Any, alice: Any, network: Network
) -> None:
    first, done, third = (
        made.withdrawal(network, alice, status=each) for each in ("requested", "confirmed", "requested")
    )
    assert listed(browser, "withdrawal") == [first.pk, third.pk, done.pk]


def test_what_to_decide_by_is_on_its_page(browser: Any, ask: Any) -> None:
    ask(2)
    row = ask(3)
    page = text_of(browser.get(f"/admin/chain/withdrawal/{row.pk}/change/"))
    for shown in (
        "3 OMNIT",
        "5 OMNIT",
        row.address,
        f"{row.reference}: 3 OMNIT",
        withdrawals.payment_reference(row),
    ):
        assert shown in page, shown
    assert "to nobody" not in page
    Wallet.objects.all().delete()
    assert "to nobody any more" in text_of(browser.get(f"/admin/chain/withdrawal/{row.pk}/change/"))


def test_a_withdrawal_is_approved(browser: Any, act: Any, ask: Any, books: None) -> None:
    row = ask()
    path = f"/admin/chain/withdrawal/{row.pk}"
    assert row.address in text_of(browser.get(f"{path}/approve/"))
    browser.post(f"{path}/approve/", {"reason": "Known to us."})
    row.refresh_from_db()
    assert (row.status, row.decided_by.username) == ("approved", "operator")
    assert audited() == [("approve_withdrawal", "Known to us.")]
    assert "already" in act("withdrawal", "approve", [row], reason="Again.")


def test_a_withdrawal_is_refused_and_its_money_is_free(
    act: Any,
    ask: Any,
    alice: Any,
    books: None,
) -> None:
    row = ask()
    account = ledger.account(alice.pk, AccountKind.SPENDABLE)
    assert ledger.balances([account])[account.pk][1] == 3 * TOKEN
    page = act("withdrawal", "refuse", [row], reason="Not your wallet.")
    assert "3 OMNIT for alice: refused." in page
    row.refresh_from_db()
    assert (row.status, row.reason) == ("refused", "Not your wallet.")
    assert ledger.balances([account])[account.pk][1] == 0
    assert not Transfer.objects.filter(reference=row.reference).exists()


@pytest.mark.parametrize(
    ("status", "sent", "offered"),
    [
        ("requested", None, {"approve", "refuse"}),
        ("approved", None, {"refuse"}),
        ("sending", "queued", {"refuse"}),
        ("sending", "signed", set()),
        ("confirmed", "confirmed", set()),
        ("refused", None, set()),
    ],
)
def test_its_page_offers_what_can_be_done(
    browser: Any, alice: Any, network: Network, status: str, sent: str | None, offered: set[str]
) -> None:
    by = made.transaction(network, Purpose.WITHDRAWAL, status=sent) if sent else None
    row = made.withdrawal(network, alice, status=status, transaction=by)
    page = text_of(browser.get(f"/admin/chain/withdrawal/{row.pk}/change/"))
    assert {name for name in ("approve", "refuse") if f"{row.pk}/{name}/" in page} == offered


def test_nothing_is_approved_while_payouts_are_frozen_and_the_pages_say_so(
    browser: Any, act: Any, ask: Any, operator: Any
) -> None:
    row = ask()
    terms.change(by=operator, reason="We are looking into something.", payouts_frozen=True)
    for path in ("", f"{row.pk}/change/"):
        page = text_of(browser.get(f"/admin/chain/withdrawal/{path}"))
        assert "Payouts are frozen" in page
        assert "We are looking into something." in page
    assert withdrawals.WithdrawalsFrozen.message in act("withdrawal", "approve", [row], reason="Fine.")
    row.refresh_from_db()
    assert row.status == "requested"
    act("withdrawal", "refuse", [row], reason="No.")
    row.refresh_from_db()
    assert row.status == "refused"


# --- Pins -------------------------------------------------------------------------------------------------


def test_a_file_that_nothing_points_to_is_deleted(browser: Any) -> None:
    pin = made.pin()
    reply = browser.post(f"/admin/chain/pin/{pin.pk}/drop/", {"reason": "Somebody complains."}, follow=True)
    assert "is deleted." in text_of(reply)
    assert not Pin.objects.exists()
    assert audited() == [("delete_pin", "Somebody complains.")]


def test_a_file_that_a_task_points_to_stays(act: Any, network: Network) -> None:
    pin = made.pin()
    made.task(made.source(network), config_url=f"https://m.example/ipfs/{pin.cid}")
    assert "It stays." in act("pin", "drop", [pin], reason="Somebody complains.")
    assert Pin.objects.exists()
    assert audited() == []
