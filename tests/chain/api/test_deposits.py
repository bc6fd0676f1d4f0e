"""/chain/deposits/: money that comes in from a chain."""

import pytest

from chain.models import Deposit
from clients import ledger
from clients.models import AccountKind, Wallet
from marketplace.money import TOKEN
from tests.chain.api import made

pytestmark = pytest.mark.django_db
PATH = "/chain/deposits/"


def deposit(network, number=1, **fields):
    values = {
        "network": network, "transaction_hash": made.digest(number), "ordinal": 0, "block_number": 99,
        "log_index": 1, "sender": made.address(9), "account_number": 0, "amount": TOKEN, "at": made.AT,
    }  # fmt: skip
    return Deposit.objects.create(**(values | fields))


def test_each_person_reads_their_own(api, alice, charlie, operator, local):
    row = deposit(local, client=alice, status="credited", credited_at=made.AT)
    (found,) = api(alice).get(PATH).json()

    assert (found["amount"], found["status"], found["network"]) == ("1", "credited", "local")
    assert (found["confirmations"], found["wanted_confirmations"], found["block_number"]) == (2, 3, 99)
    assert api(alice).get(f"{PATH}{row.pk}/").json() == found
    for person in (charlie, operator):
        assert api(person).get(PATH).json() == []
        assert api(person).get(f"{PATH}{row.pk}/").status_code == 404


def test_what_waits_for_confirmations_is_seen_by_whom_it_is_for(api, alice, charlie, local):
    Wallet.objects.create(client=alice, address=made.address(9).lower())
    account = ledger.account(alice.pk, AccountKind.SPENDABLE)
    by_wallet, named = deposit(local, 1), deposit(local, 2, account_number=account.pk, sender=made.address(8))
    deposit(local, 3, sender=made.address(8))
    deposit(local, 4, account_number=2**200)

    assert [each["id"] for each in api(alice).get(PATH).json()] == [named.pk, by_wallet.pk]
    assert {each["status"] for each in api(alice).get(PATH).json()} == {"seen"}
    assert api(charlie).get(PATH).json() == []


def test_what_names_another_account_is_not_the_wallets(api, alice, charlie, local):
    """Whoever sends it: the account that is named gets it."""
    Wallet.objects.create(client=alice, address=made.address(9).lower())
    deposit(local, account_number=ledger.account(charlie.pk, AccountKind.SPENDABLE).pk)
    assert api(alice).get(PATH).json() == []
    assert len(api(charlie).get(PATH).json()) == 1


def test_one_whose_block_is_gone_has_no_confirmations(api, alice, local):
    deposit(local, client=alice, status="orphaned", block_number=None, log_index=None)
    (found,) = api(alice).get(PATH).json()
    assert (found["confirmations"], found["block_number"]) == (0, None)


def test_lists_can_be_narrowed(api, alice, local):
    other = made.network("other", 5)
    first, second = deposit(local, 1, client=alice), deposit(other, 2, client=alice, status="credited")

    def found(query):
        return [each["id"] for each in api(alice).get(PATH + query).json()]

    assert found("") == [second.pk, first.pk]
    assert found("?network=local") == found("?status=seen") == [first.pk]
    assert api(alice).get(f"{PATH}?status=x").status_code == 400


def test_how_to_deposit_is_told(api, alice, manifest, local):
    Wallet.objects.create(client=alice, address="0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed")
    (way,) = api(alice).get(f"{PATH}address/").json()

    number = ledger.account(alice.pk, AccountKind.SPENDABLE).pk
    assert (way["treasury"], way["account_number"]) == (local.address("TREASURY"), number)
    # The selector of the Treasury's `deposit`, and the account.
    assert way["data"] == f"0xb6b55f25{number:064x}"
    assert way["wallets"] == ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"]
    assert (way["chain_id"], way["confirmations"], way["minimum"]) == (131277322940537, 3, "0")


def test_where_there_is_no_treasury_there_is_no_way(api, alice, settings):
    settings.CHAIN_NETWORKS = []
    assert api(alice).get(f"{PATH}address/").json() == []


def test_without_a_credential_nothing(api, local):
    for path in (PATH, f"{PATH}1/", f"{PATH}address/"):
        assert api().get(path).status_code == 401
