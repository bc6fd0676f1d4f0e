"""How a request says who sends it."""

from django.test import Client as Browser
from rest_framework.test import APIClient

from clients import keys


def test_without_a_credential_the_answer_opens_no_dialog(api, db):
    reply = api().get("/client/list/")
    assert reply.status_code == 401
    assert reply["WWW-Authenticate"] == "Token"
    assert reply.json()["detail"]


def test_a_bad_credential_says_what_is_wrong(holder, db):
    reply = holder("Token nope").get("/client/list/")
    assert reply.status_code == 401
    assert reply["WWW-Authenticate"] == "Token"
    assert reply.json()["code"] == "unknown_credential"


def test_a_bad_header_is_not_saved_by_a_session(alice):
    browser = APIClient()
    browser.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    assert browser.get("/client/list/").status_code == 200
    assert browser.get("/client/list/", HTTP_AUTHORIZATION="Token nope").status_code == 401


def test_a_session_may_read_but_changes_need_its_csrf_token(alice):
    browser = Browser(enforce_csrf_checks=True)
    browser.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    assert browser.get("/client/list/").status_code == 200
    assert browser.post("/client/provider/").status_code == 403


def test_public_endpoints_do_not_look_at_an_old_token(alice, holder):
    reply = holder("Token expired-long-ago").post(
        "/client/login/", {"email": alice.email, "password": "correct horse battery"}
    )
    assert reply.status_code == 201


def test_both_spellings_of_a_path_work(login, alice, holder):
    client = holder(f"Token {login(alice)['token']}")
    assert client.get("/client/list").status_code == client.get("/client/list/").status_code == 200


def test_an_api_key_reads_but_does_not_manage_the_account(alice, holder):
    client = holder(f"Bearer {keys.create(alice, name='k').key}")
    assert client.get("/client/list/").status_code == 200
    assert client.get("/client/provider/").status_code == 200
    for method, path in [
        ("get", "/client/api-keys/"),
        ("post", "/client/api-keys/"),
        ("get", "/client/tokens/"),
        ("post", "/client/provider/"),
        ("patch", f"/client/list/{alice.pk}/"),
        ("delete", f"/client/list/{alice.pk}/"),
    ]:
        reply = getattr(client, method)(path, {} if method != "get" else None)
        assert reply.status_code == 403, path
        assert "Log in" in reply.json()["detail"]
