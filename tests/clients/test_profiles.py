"""/client/list/"""

import pytest
from django.contrib.auth.models import Permission

from clients import accounts, keys
from clients.models import ApiKey, Client
from tests.clients.conftest import ODD_VALUES, PASSWORD

PATH = "/client/list/"
SCHEMA = {
    "user",
    "phone_no",
    "user_token",
    "user_image",
    "ip",
    "terms_accepted",
    "role",
    "profile_image_url",
    "is_gpu_provider_approved",
    "provider_registration_date",
}


def of(person):
    return f"{PATH}{person.pk}/"


@pytest.fixture
def helper(db):
    """Staff who may see and change clients, but is no superuser."""
    person = Client.objects.create_user("helper", "helper@example.com", PASSWORD, is_staff=True)
    person.user_permissions.set(
        Permission.objects.filter(content_type__app_label="clients", content_type__model="client")
    )
    return Client.objects.get(pk=person.pk)


def test_a_person_sees_their_own_record_in_the_documents_schema(api, alice, bob):
    reply = api(alice).get(PATH)
    assert reply.status_code == 200
    [row] = reply.json()
    assert set(row) == SCHEMA
    assert row["user"] == {"id": alice.pk, "username": "alice", "email": "alice@example.com"}
    assert (row["role"], row["user_image"]) == ("user", 0)


def test_an_operator_sees_everybody(api, alice, bob, operator):
    rows = api(operator).get(PATH).json()
    assert {row["user"]["username"]: row["role"] for row in rows} == {
        "alice": "user",
        "bob": "gpu_provider",
        "operator": "admin",
    }


def test_an_operator_can_read_in_pages(api, alice, bob, operator):
    reply = api(operator).get(PATH, {"limit": 1, "offset": 1})
    assert [row["user"]["username"] for row in reply.json()] == ["bob"]
    assert reply["X-Total-Count"] == "3"
    assert api(operator).get(PATH, {"limit": "x"}).status_code == 400


def test_staff_without_the_permission_sees_only_itself(api, alice):
    staff = Client.objects.create_user("staff", "staff@example.com", PASSWORD, is_staff=True)
    assert [row["user"]["username"] for row in api(staff).get(PATH).json()] == ["staff"]
    assert api(staff).get(of(alice)).status_code == 404


def test_tokens_are_masked_for_everybody(api, alice, operator, login):
    token = login(alice)["token"]
    for person in (alice, operator):
        reply = api(person).get(of(alice))
        assert reply.json()["user_token"] == "********"
        assert token not in reply.content.decode()


def test_somebody_elses_record_does_not_exist(api, alice, bob):
    for method in ("get", "put", "patch", "delete"):
        assert getattr(api(alice), method)(of(bob)).status_code == 404
        assert getattr(api(), method)(of(bob)).status_code == 401
    bob.refresh_from_db()
    assert bob.is_active


@pytest.mark.parametrize("number", ["0", "9" * 18, "9" * 19, "9" * 60, "-1", "x"])
def test_a_number_that_no_row_has_is_not_found(api, operator, number):
    reply = api(operator).get(f"{PATH}{number}/")
    assert reply.status_code == 404
    assert reply.json()["detail"]


@pytest.mark.parametrize("method", ["put", "patch"])
def test_a_person_changes_what_is_theirs(api, alice, method, announced):
    body = {"user": {"username": "alicia", "email": "alicia@example.com"}, "phone_no": "123", "user_image": 7}
    with announced(f"client:{alice.pk}"):
        reply = getattr(api(alice), method)(of(alice), body)
    assert reply.status_code == 200
    assert reply.json()["user"] == {"id": alice.pk, "username": "alicia", "email": "alicia@example.com"}
    alice.refresh_from_db()
    assert (alice.username, alice.phone_no, alice.user_image) == ("alicia", "123", 7)


def test_a_part_of_the_nested_user_is_enough(api, alice):
    assert api(alice).patch(of(alice), {"user": {"username": "alicia"}}).status_code == 200
    alice.refresh_from_db()
    assert (alice.username, alice.email) == ("alicia", "alice@example.com")


def test_what_is_not_the_callers_to_change_stays(api, alice):
    body = {
        "role": "admin",
        "is_gpu_provider_approved": True,
        "ip": "192.0.2.1",
        "user_token": "x",
        "is_staff": True,
        "provider_status": "approved",
        "user": {"id": 99, "username": "alice", "email": "alice@example.com", "is_superuser": True},
    }
    assert api(alice).patch(of(alice), body).status_code == 200
    found = Client.objects.get(username="alice")
    assert (found.pk, found.role, found.provider_status, found.ip) == (alice.pk, "user", "none", None)
    assert not found.is_superuser


@pytest.mark.parametrize("user", [{"username": "bob"}, {"email": "BOB@example.com"}, {"username": "a@b"}])
def test_what_somebody_else_has_is_an_error_under_user(api, alice, bob, user):
    reply = api(alice).patch(of(alice), {"user": user})
    assert reply.status_code == 400
    assert list(reply.json()["user"]) == list(user)


@pytest.mark.parametrize("field", ["user", "phone_no", "user_image", "terms_accepted", "username", "email"])
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, alice, operator, field, value):
    body = {"user": {field: value}} if field in ("username", "email") else {field: value}
    assert api(alice).patch(of(alice), body).status_code in (200, 400)
    assert api(alice).put(of(alice), body).status_code in (200, 400)
    whole = {"user": {"username": "new", "email": "new@example.com"}}
    assert api(operator).post(PATH, whole | body).status_code in (201, 400)


class TestOpening:
    BODY = {
        "user": {"username": "dora", "email": "dora@example.com"},
        "phone_no": None,
        "terms_accepted": True,
    }

    def test_an_operator_opens_an_account_that_waits_for_a_password(self, api, operator):
        reply = api(operator).post(PATH, self.BODY)
        assert reply.status_code == 201
        assert set(reply.json()) == SCHEMA
        assert not Client.objects.get(username="dora").has_usable_password()

    def test_nobody_else_does(self, api, alice):
        assert api(alice).post(PATH, self.BODY).status_code == 403
        assert api().post(PATH, self.BODY).status_code == 401
        assert Client.objects.count() == 1

    def test_what_somebody_has_is_an_error_under_user(self, api, operator, alice):
        reply = api(operator).post(PATH, {"user": {"username": "dora", "email": "ALICE@example.com"}})
        assert reply.status_code == 400
        assert "already exists" in reply.json()["user"]["email"][0]


class TestClosing:
    def test_nobody_enters_and_nothing_tells_whose_it_was(self, api, alice, login, holder, announced):
        device, key = login(alice)["token"], keys.create(alice, name="k").key
        accounts.update(alice, changes={"phone_no": "123"})
        with announced(f"client:{alice.pk}"):
            assert api(alice).delete(of(alice)).status_code == 204
        for header in (f"Token {device}", f"Bearer {key}"):
            assert holder(header).get(PATH).status_code == 401
        assert (
            api().post("/client/login/", {"email": "alice@example.com", "password": PASSWORD}).status_code
            == 401
        )
        row = Client.objects.values().get(pk=alice.pk)
        assert "alice" not in repr(row)
        assert (row["phone_no"], row["ip"], row["is_active"]) == (None, None, False)
        assert ApiKey.objects.get().revoked_reason == "The account was closed."

    def test_it_is_gone_for_operators_too_and_its_names_are_free(self, api, alice, operator):
        api(alice).delete(of(alice))
        assert api(operator).get(of(alice)).status_code == 404
        assert len(api(operator).get(PATH).json()) == 1
        accounts.create(username="alice", email="alice@example.com")

    def test_nobody_can_take_the_place_that_it_needs(self, api, alice):
        body = {"password": PASSWORD, "confirm_password": PASSWORD, "terms_accepted": True}
        for username, email in [
            (f"closed:{alice.pk}", "dora@example.com"),
            ("dora", f"closed:{alice.pk}@closed.invalid"),
        ]:
            reply = api().post("/client/register/", body | {"username": username, "email": email})
            assert reply.status_code == 400

    def test_a_providers_nodes_get_no_more_work(self, api, bob):
        api(bob).delete(of(bob))
        bob.refresh_from_db()
        assert not bob.is_gpu_provider_approved

    def test_an_operator_closes_somebodys(self, api, alice, operator):
        assert api(operator).delete(of(alice)).status_code == 204

    def test_the_last_operator_stays(self, api, operator):
        reply = api(operator).delete(of(operator))
        assert reply.status_code == 409
        assert reply.json()["code"] == "last_operator"
        Client.objects.create_superuser("second", "second@example.com", PASSWORD)
        assert api(operator).delete(of(operator)).status_code == 204


class TestStaffThatIsNoSuperuser:
    def test_changes_and_closes_clients(self, api, helper, alice):
        assert api(helper).patch(of(alice), {"phone_no": "1"}).status_code == 200
        assert api(helper).delete(of(alice)).status_code == 204

    def test_cannot_take_over_an_operator(self, api, helper, operator):
        assert api(helper).get(of(operator)).status_code == 200
        assert api(helper).patch(of(operator), {"user": {"email": "mine@example.com"}}).status_code == 403
        assert api(helper).delete(of(operator)).status_code == 403
