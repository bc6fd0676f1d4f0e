"""GET /api/tasks/{address}: the confirmed response, as the document's clients ask for it."""

import pytest

from chain.models import TaskStatus
from tests.chain.api import made

pytestmark = pytest.mark.django_db
# An address with letters in it, with its checksum.
MIXED = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


@pytest.fixture
def mixed(source):
    return made.task(source, address=MIXED)


def test_a_confirmed_response_is_given_to_everybody(api, mixed):
    response = made.response(mixed)
    made.confirm(response, block=95)
    reply = api().get(f"/api/tasks/{MIXED}")

    assert reply.status_code == 200
    assert reply.json() == {
        "data": {
            "address": response.address,
            "data": "https://elsewhere.example/answer.json",
            "provider": made.address(8),
            "payment": "10000000000000000",
            "status": 1,
            "timestamp": int(made.AT.timestamp()),
            "confirmed": True,
            "final": True,
            "transaction": made.digest(95),
            "network": "local",
            "task": {
                "address": MIXED,
                "source": mixed.source.address,
                "config": "https://elsewhere.example/config.json",
                "expiryTime": "4000000000",
                "payment": "10000000000000000",
                "status": int(TaskStatus.FINALIZED),
            },
        }
    }


@pytest.mark.parametrize("spelling", [MIXED.lower(), "0x" + MIXED[2:].upper(), MIXED + "/"])
def test_the_address_may_be_spelt_in_any_case(api, mixed, spelling):
    made.confirm(made.response(mixed), block=95)
    assert api().get(f"/api/tasks/{spelling}").json()["data"]["task"]["address"] == MIXED


def test_what_is_not_final_yet_says_so(api, mixed):
    made.confirm(made.response(mixed), block=100)
    assert api().get(f"/api/tasks/{MIXED}").json()["data"]["final"] is False


def test_a_response_that_nobody_has_confirmed_is_not_told(api, mixed):
    made.response(mixed)
    reply = api().get(f"/api/tasks/{MIXED}")

    assert (reply.status_code, reply.json()["code"]) == (404, "not_confirmed")


def test_of_several_responses_the_confirmed_one_is_told(api, mixed):
    made.response(mixed, 21)
    second = made.response(mixed, 22)
    made.confirm(second, block=95)
    assert api().get(f"/api/tasks/{MIXED}").json()["data"]["address"] == second.address


@pytest.mark.parametrize("address", [made.address(999), "0x12", "nothing", "0x" + "g" * 40, "%00", "1"])
def test_what_is_no_task_is_not_found(api, mixed, address):
    reply = api().get(f"/api/tasks/{address}")

    assert reply.status_code == 404
    assert set(reply.json()) == {"detail", "code"}


def test_of_two_networks_the_default_one_is_meant(api, settings, tmp_path):
    """The same deployer makes the same addresses on every chain."""
    made.manifest(settings, tmp_path, "first", "second")
    second = made.network("second", 131277322940538)
    first = made.network("first", 131277322940537)
    for network, data in ((second, "of the second"), (first, "of the first")):
        task = made.task(made.source(network), address=MIXED)
        made.confirm(made.response(task, data=data), block=95)

    def told(query=""):
        return api().get(f"/api/tasks/{MIXED}{query}").json()["data"]["data"]

    assert told() == "of the first"
    assert told("?network=second") == told("?network=131277322940538") == "of the second"
    assert api().get(f"/api/tasks/{MIXED}?network=third").status_code == 400


def test_a_wrong_credential_does_not_matter(holder, mixed):
    made.confirm(made.response(mixed), block=95)
    assert holder("Token nonsense").get(f"/api/tasks/{MIXED}").status_code == 200
