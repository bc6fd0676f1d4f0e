"""/chain/withdrawals/: money that goes out to a wallet."""

import pytest
from django.utils import timezone

from chain import networks
from chain.models import Withdrawal
from clients import keys, ledger, terms, transfers
from clients.models import AccountKind, TransferKind, Wallet
from marketplace.money import TOKEN
from tests.chain.api import made
from tests.clients.conftest import ODD_VALUES

pytestmark = pytest.mark.django_db
PATH = "/chain/withdrawals/"
NOW = timezone.now()
WALLET = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
SAID = {"amount": "4", "address": WALLET}


@pytest.fixture(autouse=True)
def _setting(books, settings, manifest):
    settings.CHAIN_KEY = made.KEY


@pytest.fixture
def owner(alice, local):
    """alice has deposited 10, and her wallet is linked."""
    ledger.transfer(
        source=ledger.account(None, AccountKind.OUTSIDE),
        destination=ledger.account(alice.pk, AccountKind.SPENDABLE),
        amount=10 * TOKEN,
        reference="deposit:1:1",
        kind=TransferKind.DEPOSIT,
    )
    Wallet.objects.create(client=alice, address=WALLET.lower())
    return alice


def money_of(person):
    has = transfers.balances(person)
    return has.spendable / TOKEN, has.held / TOKEN


def test_it_is_asked_for_and_held(api, owner):
    reply = api(owner).post(PATH, SAID | {"address": WALLET.lower()})

    assert reply.status_code == 201
    found = reply.json()
    assert (found["amount"], found["address"], found["account"], found["network"]) == (
        "4",
        WALLET,
        "spendable",
        "local",
    )
    assert (found["status"], found["transaction"], found["claimable"]) == ("approved", None, False)
    assert money_of(owner) == (6, 4)
    assert api(owner).get(f"{PATH}{found['id']}/").json() == found
    assert (
        api(owner).get(PATH).json()
        == api(owner).get(f"{PATH}?status=approved&network=local").json()
        == [found]
    )
    assert api(owner).get(f"{PATH}?status=confirmed").json() == []


def test_earnings_can_be_withdrawn(api, bob, fund, local):
    fund(bob, 5, kind="earned")
    Wallet.objects.create(client=bob, address=WALLET.lower())
    found = api(bob).post(PATH, SAID | {"from": "earned"}).json()
    assert found["account"] == "earned"
    assert transfers.balances(bob).earned_held == 4 * TOKEN


def test_only_to_a_wallet_of_ones_own(api, owner, charlie):
    for person, address in ((owner, made.address(9)), (charlie, WALLET)):
        reply = api(person).post(PATH, SAID | {"address": address})
        assert (reply.status_code, reply.json()["code"]) == (400, "wallet_not_linked")
    assert not Withdrawal.objects.exists()


def test_nobody_withdraws_more_than_there_is(api, owner):
    assert api(owner).post(PATH, SAID | {"amount": "10.5"}).status_code == 402
    assert money_of(owner) == (10, 0)


def test_a_large_one_waits_for_an_operator(api, owner, operator):
    terms.change(by=operator, reason="care", withdrawal_approval_above=3 * TOKEN)
    assert api(owner).post(PATH, SAID).json()["status"] == "requested"


def test_its_owner_takes_it_back(api, owner):
    number = api(owner).post(PATH, SAID).json()["id"]
    assert api(owner).delete(f"{PATH}{number}/").status_code == 204
    assert api(owner).get(f"{PATH}{number}/").json()["status"] == "cancelled"
    assert money_of(owner) == (10, 0)
    assert api(owner).delete(f"{PATH}{number}/").status_code == 409


def test_somebody_elses_does_not_exist(api, owner, charlie, operator):
    number = api(owner).post(PATH, SAID).json()["id"]
    for person in (charlie, operator):
        assert api(person).get(PATH).json() == []
        for method in ("get", "delete"):
            assert getattr(api(person), method)(f"{PATH}{number}/").status_code == 404
    assert Withdrawal.objects.get().status == "approved"


def test_an_api_key_may_only_look(api, owner, holder):
    number = api(owner).post(PATH, SAID).json()["id"]
    caller = holder(f"Bearer {keys.create(owner, name='k').key}")
    assert caller.get(PATH).status_code == caller.get(f"{PATH}{number}/").status_code == 200
    assert caller.post(PATH, SAID).status_code == caller.delete(f"{PATH}{number}/").status_code == 403


def test_a_repeat_with_its_key_withdraws_once(api, owner):
    first, again = (api(owner).post(PATH, SAID, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert again.json() == first.json()
    assert money_of(owner) == (6, 4)


def test_there_is_no_dry_run(api, owner):
    assert api(owner).post(f"{PATH}?dry_run=1", SAID).status_code == 400
    assert not Withdrawal.objects.exists()


def test_without_a_credential_nothing(api):
    assert api().get(PATH).status_code == api().post(PATH, SAID).status_code == 401
    assert api().delete(f"{PATH}1/").status_code == 401


def test_a_network_that_is_not_followed(api, owner):
    assert api(owner).post(PATH, SAID | {"network": "nowhere"}).status_code == 404
    assert api(owner).post(PATH, SAID | {"network": networks.default().name}).status_code == 201


@pytest.mark.parametrize("field", ["amount", "address", "from", "network"])
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, owner, field, value):
    assert api(owner).post(PATH, SAID | {field: value}).status_code in (201, 400, 402, 404)


def test_how_much_can_be_withdrawn_is_said(api, owner, fund):
    """What is under way is gone, and counts for the day."""
    fund(owner, 50, kind="earned")
    assert api(owner).post(PATH, SAID).status_code == 201

    said = api(owner).get(f"{PATH}limits/").json()

    assert (said["spendable"], said["earned"], said["used_today"]) == ("6", "50", "4")
    assert (said["minimum"], said["daily"], said["approval_above"]) == ("0", None, None)
    assert (said["is_frozen"], said["currency"]) == (False, "OMNIT")


def test_the_limits_are_those_of_the_terms(api, owner, operator):
    terms.change(
        by=operator, reason="Careful", payouts_frozen=True, withdrawal_minimum=TOKEN, withdrawal_daily=7 * TOKEN,
        withdrawal_approval_above=5 * TOKEN,
    )  # fmt: skip

    said = api(owner).get(f"{PATH}limits/").json()

    assert (said["minimum"], said["daily"], said["approval_above"], said["is_frozen"]) == (
        "1",
        "7",
        "5",
        True,
    )


def test_limits_are_for_whoever_is_signed_in(api):
    assert api().get(f"{PATH}limits/").status_code == 401
