"""The operators' pages."""

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.test import Client as Browser
from django.utils import timezone

from clients import devices, keys, lockout, providers
from clients.models import ApiKey, Client, Token
from tests.clients.conftest import PASSWORD

NOW = timezone.now()


@pytest.fixture
def browser(operator):
    found = Browser()
    found.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return found


@pytest.fixture
def act(browser):
    """Run an action on rows of a list, as the list's form does."""

    def run(path, action, rows, **more):
        body = {"action": action, ACTION_CHECKBOX_NAME: [row.pk for row in rows]} | more
        return browser.post(path, body, follow=True)

    return run


@pytest.fixture
def waiting(alice, charlie):
    for person in (alice, charlie):
        providers.ask(person, now=NOW)
    return [alice, charlie]


def statuses(people):
    return [Client.objects.get(pk=person.pk).provider_status for person in people]


@pytest.mark.parametrize("page", ["client", "provider", "apikey", "token"])
def test_every_list_and_row_opens_and_shows_no_digest(browser, waiting, page):
    made = keys.create(waiting[0], name="k")
    devices.log_in(waiting[0], ip="192.0.2.1", user_agent="x", now=NOW)
    row = {"client": waiting[0], "provider": waiting[0], "apikey": made.row, "token": Token.objects.get()}[
        page
    ]
    for path in (
        f"/admin/clients/{page}/",
        f"/admin/clients/{page}/?q=a",
        f"/admin/clients/{page}/{row.pk}/change/",
    ):
        reply = browser.get(path)
        assert reply.status_code == 200
        text = reply.content.decode()
        for secret in (made.row.digest, made.row.secret_digest, Token.objects.get().digest):
            assert secret not in text


def test_the_login_page_slows_guessing_too(operator, db):
    for _ in range(5):
        Browser().post("/admin/login/", {"username": "operator", "password": "wrong"})
    reply = Browser().post("/admin/login/", {"username": "operator", "password": PASSWORD})
    assert reply.status_code == 429


def test_an_operator_forgives_a_lockout(browser, act, alice):
    with pytest.raises(lockout.BadCredentials):
        lockout.authenticate(request=browser.get("/admin/").wsgi_request, login="alice", password="wrong")
    reply = browser.get("/admin/axes/accessattempt/")
    assert reply.status_code == 200
    assert "alice" in reply.content.decode()


def test_the_list_of_providers_has_those_who_asked_and_first_those_who_wait(browser, alice, bob, charlie):
    providers.ask(charlie, now=NOW)
    rows = browser.get("/admin/clients/provider/").context["cl"].result_list
    assert [row.username for row in rows] == ["charlie", "bob"]


def test_many_are_approved_at_once(act, waiting, operator):
    reply = act("/admin/clients/provider/", "approve", waiting)
    assert statuses(waiting) == ["approved", "approved"]
    assert "is now “approved”" in reply.content.decode()
    assert Client.objects.get(username="alice").provider_decided_by == operator


def test_refusing_many_asks_for_a_reason_first(act, waiting):
    reply = act("/admin/clients/provider/", "refuse", waiting)
    assert 'name="reason"' in reply.content.decode()
    assert statuses(waiting) == ["pending", "pending"]
    reply = act("/admin/clients/provider/", "refuse", waiting, reason=" ")
    assert statuses(waiting) == ["pending", "pending"]
    act("/admin/clients/provider/", "refuse", waiting, reason="No machine there.")
    assert statuses(waiting) == ["refused", "refused"]
    assert Client.objects.get(username="alice").provider_reason == "No machine there."


def test_what_cannot_be_decided_is_said_and_the_rest_is_done(act, waiting, bob):
    reply = act("/admin/clients/provider/", "suspend", [*waiting, bob], reason="Wrong answers.")
    assert statuses([*waiting, bob]) == ["pending", "pending", "suspended"]
    assert "cannot become" in reply.content.decode()


@pytest.mark.parametrize(
    ("button", "reason", "status"),
    [("approve_one", "", "approved"), ("refuse_one", "No.", "refused"), ("refuse_one", "", "pending")],
)
def test_one_is_decided_on_its_own_page(browser, waiting, button, reason, status):
    path = f"/admin/clients/provider/{waiting[0].pk}/change/"
    assert f"clients_provider_{button}" in browser.get(path).content.decode()
    reply = browser.post(path, {"reason": reason, f"clients_provider_{button}": "1"}, follow=True)
    assert reply.status_code == 200
    assert statuses(waiting) == [status, "pending"]


def test_opening_a_page_changes_nothing(browser, waiting):
    browser.get(f"/admin/clients/provider/{waiting[0].pk}/change/?clients_provider_approve_one=1")
    assert statuses(waiting) == ["pending", "pending"]


def test_keys_are_cut_off_with_a_reason(act, browser, alice):
    first, second = keys.create(alice, name="a").row, keys.create(alice, name="b").row
    act("/admin/clients/apikey/", "cut_off", [first])
    assert ApiKey.objects.filter(revoked_at=None).count() == 2
    act("/admin/clients/apikey/", "cut_off", [first], reason="It was published.")
    browser.post(
        f"/admin/clients/apikey/{second.pk}/change/", {"reason": "Too.", "clients_apikey_cut_off_one": "1"}
    )
    reasons = ApiKey.objects.exclude(revoked_at=None).values_list("name", "revoked_reason")
    assert sorted(reasons) == [("a", "It was published."), ("b", "Too.")]


def test_a_tokens_are_revoked_and_everybody_is_told(act, alice, announced):
    devices.log_in(alice, ip=None, user_agent="", now=NOW)
    token = Token.objects.get()
    with announced(f"token:{token.pk}"):
        act("/admin/clients/token/", "revoke", [token])
    assert not Token.objects.exists()


def test_a_blocked_account_is_announced(browser, alice, announced):
    path = f"/admin/clients/client/{alice.pk}/change/"
    with announced(f"client:{alice.pk}"):
        reply = browser.post(path, {"username": "alice", "email": alice.email})
    assert reply.status_code == 302
    alice.refresh_from_db()
    assert not alice.is_active


def test_accounts_are_closed_not_deleted(act, browser, alice):
    assert browser.post(f"/admin/clients/client/{alice.pk}/delete/", {"post": "yes"}).status_code == 403
    act("/admin/clients/client/", "close", [alice])
    alice.refresh_from_db()
    assert alice.closed_at is not None


def test_an_account_is_opened_in_the_admin(browser):
    body = {"username": "dora", "email": "dora@example.com", "usable_password": "true"}
    reply = browser.post("/admin/clients/client/add/", body | {"password1": PASSWORD, "password2": PASSWORD})
    assert reply.status_code == 302
    assert Client.objects.get(username="dora").check_password(PASSWORD)


def test_an_address_in_use_is_a_form_error(browser, alice):
    body = {"username": "dora", "email": "ALICE@example.com", "usable_password": "true"}
    reply = browser.post("/admin/clients/client/add/", body | {"password1": PASSWORD, "password2": PASSWORD})
    assert reply.status_code == 200
    assert "already exists" in reply.content.decode()


def test_others_do_not_come_in(alice, db):
    stranger = Browser()
    stranger.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    for page in ("client", "provider", "apikey", "token"):
        assert stranger.get(f"/admin/clients/{page}/").status_code == 302
