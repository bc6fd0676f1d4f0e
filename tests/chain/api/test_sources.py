"""/chain/sources/: services on the chains, and having one published."""

import json

import pytest

from chain import pins, sources
from chain.models import Service, Serving, SourceOrder, Transaction, TransactionStatus
from clients.models import Wallet
from marketplace.money import TOKEN
from tests.chain.api import made
from tests.clients.conftest import ODD_VALUES

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("key")]
PATH = "/chain/sources/"
SAID = {
    "name": "sentiment", "description": "says how it feels", "cpu": "https://example.com/docker-compose.yml",
    "min_payment": "0.001", "delivery_method": "FIRST_RESPONSE",
}  # fmt: skip


def test_everybody_who_is_signed_in_reads_them(api, charlie, source):
    (said,) = api(charlie).get(PATH).json()

    assert said["address"] == source.address
    assert (said["min_payment"], said["environments"], said["status"]) == ("0.001", ["cpu"], "active")
    assert said["delivery_method"] == "MANUAL_CONFIRMATION"
    assert said["place"] == {
        "block_number": 10, "log_index": 1, "transaction_hash": made.digest(1), "confirmations": 91, "is_final": True,
    }  # fmt: skip
    assert (said["order"], said["service"]) == (None, None)
    assert api(charlie).get(f"{PATH}{source.address}/").json() == said


def test_without_a_credential_nothing(api, source):
    assert api().get(PATH).status_code == api().post(PATH, SAID).status_code == 401
    assert api().get(f"{PATH}{source.address}/").status_code == 401


def test_lists_can_be_narrowed(api, alice, local):
    other = made.network("other", 5)
    first, second = made.source(local, 1), made.source(other, 2, status=1)
    Wallet.objects.create(client=alice, address=made.address(9).lower())
    third = made.source(local, 3, client=made.address(9))

    def found(query):
        return [each["address"] for each in api(alice).get(PATH + query).json()]

    assert found("") == [third.address, second.address, first.address]
    assert found("?network=local") == [third.address, first.address]
    assert found("?network=5") == found("?status=inactive") == [second.address]
    assert found("?mine=true") == [third.address]
    assert found("?limit=1&offset=1") == [second.address]
    assert api(alice).get(PATH).headers["X-Total-Count"] == "3"


@pytest.mark.parametrize(
    "query", ["?network=nowhere", "?status=strange", "?mine=perhaps", "?limit=0", "?network=%00"]
)
def test_odd_filters_are_the_callers_mistake(api, alice, source, query):
    assert api(alice).get(PATH + query).status_code == 400


def test_whether_we_serve_it_is_said_and_why_only_to_whom_it_concerns(api, alice, bob, operator, source):
    Service.objects.create(
        network=source.network, source_address=source.address, status=Serving.REFUSED, reason="It is a scam."
    )
    Wallet.objects.create(client=bob, address=source.client.lower())
    reasons = {
        person.username: api(person).get(f"{PATH}{source.address}/").json()["service"]["reason"]
        for person in (alice, bob, operator)
    }
    assert reasons == {"alice": "", "bob": "It is a scam.", "operator": "It is a scam."}


def test_a_provider_has_one_published(api, bob, manifest, local):
    reply = api(bob).post(PATH, SAID)

    assert reply.status_code == 201
    said = reply.json()
    assert (said["address"], said["status"], said["place"]) == (None, None, None)
    assert (said["name"], said["client"], said["delivery_method"]) == (
        "sentiment",
        made.ADDRESS,
        "FIRST_RESPONSE",
    )
    assert said["order"]["publication"]["status"] == "queued"
    order = SourceOrder.objects.get()
    assert (order.publication.purpose, order.publication.to) == ("publish_source", local.address("NEXUS"))
    metadata = json.loads(pins.read(pins.cid_in(said["metadata_url"])))
    assert metadata == {
        "cpu": SAID["cpu"], "nvidia": "", "amd": "", "name": "sentiment",
        "description": "says how it feels", "logoUrl": "",
    }  # fmt: skip
    assert api(bob).get(f"{PATH}{said['order']['id']}/").json() == said


def test_once_it_is_on_the_chain_its_order_leads_there(api, bob, alice, manifest, local):
    number = api(bob).post(PATH, SAID).json()["order"]["id"]
    order = SourceOrder.objects.get()
    published = made.source(local, 5, transaction_hash=made.digest(10**6 + order.publication_id))
    made.log(made.task(published), "Other", {}, block=11)
    made.source_log(published)
    made.carried_out(order.publication)

    said = api(bob).get(f"{PATH}{number}/").json()
    assert (said["address"], said["order"]["id"]) == (published.address, number)
    assert [each["address"] for each in api(bob).get(f"{PATH}?mine=true").json()] == [published.address]
    assert api(alice).get(f"{PATH}?mine=true").json() == []
    assert api(alice).get(f"{PATH}{published.address}/").json()["order"] is None


def test_one_that_was_refused_says_why(api, bob, manifest, local):
    number = api(bob).post(PATH, SAID).json()["order"]["id"]
    made.failed(Transaction.objects.get(), TransactionStatus.REFUSED, "NotOwner")
    said = api(bob).get(f"{PATH}{number}/").json()

    assert said["order"]["publication"]["reason"] == "NotOwner"


def test_somebody_elses_order_does_not_exist(api, bob, charlie, operator, manifest, local):
    number = api(bob).post(PATH, SAID).json()["order"]["id"]
    assert api(charlie).get(f"{PATH}{number}/").status_code == 404
    assert api(operator).get(f"{PATH}{number}/").status_code == 200


@pytest.mark.parametrize(
    ("who", "status"), [("alice", 403), ("charlie", 403), ("bob", 201), ("operator", 201)]
)
def test_gas_is_spent_for_providers_and_operators_only(api, request, manifest, local, who, status):
    reply = api(request.getfixturevalue(who)).post(PATH, SAID)

    assert reply.status_code == status
    assert SourceOrder.objects.count() == Transaction.objects.count() == (status == 201)
    assert status == 201 or reply.json()["code"] == "providers_only"


def test_so_many_a_day(api, bob, manifest, local, monkeypatch):
    monkeypatch.setattr(sources, "MAX_A_DAY", 1)
    assert [api(bob).post(PATH, SAID).status_code for _ in range(2)] == [201, 409]


def test_a_repeat_with_its_key_publishes_once(api, bob, manifest, local):
    first, again = (api(bob).post(PATH, SAID, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert (first.json(), again.json()) == (first.json(), first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert SourceOrder.objects.count() == 1
    assert api(bob).post(PATH, SAID | {"name": "x"}, headers={"Idempotency-Key": "k"}).status_code == 409


def test_there_is_no_dry_run(api, bob, manifest, local):
    assert api(bob).post(f"{PATH}?dry_run=1", SAID).status_code == 400
    assert not SourceOrder.objects.exists()


def test_a_source_needs_something_that_answers(api, bob, manifest, local):
    reply = api(bob).post(PATH, SAID | {"cpu": ""})
    assert (reply.status_code, reply.json()["code"]) == (400, "no_environment")


def test_a_model_that_nobody_knows(api, bob, manifest, local):
    assert api(bob).post(PATH, SAID | {"model": "nobody/knows-it"}).status_code == 404


def test_a_model_of_the_marketplace_is_named_by_its_service_document(api, bob, manifest, local, monkeypatch):
    monkeypatch.setattr(
        "chain.services.document", lambda model: {"url": f"https://m.example/chain/services/{model}/"}
    )
    said = api(bob).post(PATH, {"name": "n", "model": "acme/tiny"}).json()
    metadata = json.loads(pins.read(pins.cid_in(said["metadata_url"])))

    assert metadata["cpu"] == metadata["nvidia"] == "https://m.example/chain/services/acme/tiny/"


def test_without_a_chain_or_a_key_nothing_is_published(api, bob, settings, manifest, local):
    settings.CHAIN_KEY = ""
    assert api(bob).post(PATH, SAID).json()["code"] == "no_chain_key"
    settings.CHAIN_NETWORKS = []
    reply = api(bob).post(PATH, SAID)
    assert (reply.status_code, reply.json()["code"]) == (503, "no_network")
    assert api(bob).post(PATH, SAID | {"network": "x"}).status_code in (404, 503)


@pytest.mark.parametrize(
    "field", ["name", "cpu", "min_payment", "delivery_method", "network", "max_expiry_duration"]
)
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, bob, manifest, local, field, value):
    assert api(bob).post(PATH, SAID | {field: value}).status_code in (201, 400, 404, 413)


@pytest.mark.parametrize("source", ["999", "0x12", "nothing", made.address(77), "%00", "9" * 40, "²"])
def test_what_is_not_there_is_not_found(api, alice, source):
    assert api(alice).get(f"{PATH}{source}/").status_code == 404


def test_amounts_are_tokens(api, bob, manifest, local):
    api(bob).post(PATH, SAID | {"min_payment": "1.5"})
    assert f"{TOKEN * 3 // 2:064x}" in Transaction.objects.get().data
