"""/chain/responses/: answers to tasks on the chains, and confirming one."""

from datetime import timedelta

import pytest
from django.utils import timezone

from chain import orders
from chain.models import Fulfilment, Transaction
from marketplace.money import TOKEN
from tests.chain.api import made

pytestmark = pytest.mark.django_db
PATH = "/chain/responses/"
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _setting(books, settings):
    settings.CHAIN_KEY = made.KEY


@pytest.fixture
def answered(alice, fund, source):
    """A response to a task that alice has ordered."""
    fund(alice, 10)
    order = orders.publish(
        alice, source=source, function="chat", config_url="https://m.example/ipfs/x", payment=TOKEN,
        expires_at=NOW + timedelta(hours=1), now=NOW,
    )  # fmt: skip
    return made.response(made.published(order))


def test_everybody_who_is_signed_in_reads_them(api, charlie, response):
    (found,) = api(charlie).get(PATH).json()

    assert (found["address"], found["task"], found["provider"]) == (
        response.address, response.task.address, made.address(8),
    )  # fmt: skip
    assert (found["payment"], found["status"], found["confirmed_at"]) == ("0.01", "submitted", None)
    assert found["place"]["block_number"] == 30
    assert api(charlie).get(f"{PATH}{response.address}/").json() == found
    made.confirm(response, block=99)
    later = api(charlie).get(f"{PATH}{response.address}/").json()
    assert (later["status"], later["confirmed_for_good"]) == ("confirmed", False)


def test_without_a_credential_nothing(api, response):
    assert api().get(PATH).status_code == api().get(f"{PATH}{response.address}/").status_code == 401
    assert api().post(f"{PATH}{response.address}/confirm/").status_code == 401


def test_lists_can_be_narrowed(api, alice, bob, charlie, answered, source):
    other = made.response(made.task(source, 61), 62)
    Fulfilment.objects.create(
        network=source.network, task_address=other.task.address, source_address=source.address,
        published_transaction=other.task.transaction_hash, payment=1, expires_at=NOW, provider=bob,
        response_address=other.address,
    )  # fmt: skip

    def found(query, person=alice):
        return [each["address"] for each in api(person).get(PATH + query).json()]

    assert found("") == [other.address, answered.address]
    assert found(f"?task={other.task.address}") == [other.address]
    assert found(f"?source={source.address}&network=local&status=submitted") == [
        other.address,
        answered.address,
    ]
    assert found("?status=confirmed") == []
    assert found("?mine=true") == [answered.address]
    assert found("?mine=true", bob) == [other.address]
    assert found("?mine=true", charlie) == []
    assert api(alice).get(f"{PATH}?task=x").status_code == 400


def test_the_owner_of_the_task_confirms_one(api, alice, answered):
    reply = api(alice).post(f"{PATH}{answered.address}/confirm/", headers={"Idempotency-Key": "c"})

    assert reply.status_code == 200
    order = reply.json()["order"]
    assert (order["status"], order["confirmation"]["status"], order["held"]) == ("confirming", "queued", "1")
    row = Transaction.objects.get(purpose="confirm")
    assert answered.address[2:].lower() in row.data
    assert (
        api(alice).post(f"{PATH}{answered.address}/confirm/", headers={"Idempotency-Key": "c"}).json()
        == reply.json()
    )
    again = api(alice).post(f"{PATH}{answered.address}/confirm/")
    assert (again.status_code, again.json()["code"]) == (409, "order_not_ready")
    assert Transaction.objects.filter(purpose="confirm").count() == 1


def test_nobody_else_confirms_it(api, bob, charlie, operator, answered):
    for person in (bob, charlie, operator):
        assert api(person).post(f"{PATH}{answered.address}/confirm/").status_code == 404
    assert not Transaction.objects.filter(purpose="confirm").exists()


def test_what_is_confirmed_already_is_not_confirmed_again(api, alice, answered):
    made.confirm(answered, block=99)
    assert api(alice).post(f"{PATH}{answered.address}/confirm/").status_code == 409


def test_there_is_no_dry_run(api, alice, answered):
    assert api(alice).post(f"{PATH}{answered.address}/confirm/?dry_run=true").status_code == 400
    assert not Transaction.objects.filter(purpose="confirm").exists()


@pytest.mark.parametrize("response", ["999", "0x12", "nothing", made.address(77), "%00"])
def test_what_is_not_there_is_not_found(api, alice, response):
    assert api(alice).get(f"{PATH}{response}/").status_code == 404
    assert api(alice).post(f"{PATH}{response}/confirm/").status_code == 404
