"""POST /client/password-reset/ and /client/reset-password/{uidb64}/{token}/"""

import re
import threading

import pytest
from django.core import mail
from django.db import connections
from kombu.exceptions import OperationalError
from rest_framework.test import APIClient

from clients import tasks
from clients.models import Client
from marketplace.celery import app
from tests.clients.conftest import ODD_VALUES, PASSWORD

ASK = "/client/password-reset/"
NEW = "an entirely new one"


@pytest.fixture(autouse=True)
def _tasks_run_at_once():
    before = {name: app.conf[name] for name in ("task_always_eager", "task_eager_propagates")}
    app.conf.update(dict.fromkeys(before, True))
    yield
    app.conf.update(before)


@pytest.fixture
def ask(api, django_capture_on_commit_callbacks):
    def ask(email):
        with django_capture_on_commit_callbacks(execute=True):
            return api().post(ASK, {"email": email})

    return ask


@pytest.fixture
def link(ask, settings):
    """Ask for alice, and return the path of the link in the mail."""

    def path(person):
        ask(person.email)
        found = re.search(
            re.escape(settings.PUBLIC_URL) + r"(/client/reset-password/\S+)", mail.outbox[-1].body
        )
        assert found
        return found.group(1)

    return path


def test_the_answer_does_not_tell_who_has_an_account(ask, alice):
    known, unknown = ask("alice@example.com"), ask("nobody@example.com")
    assert known.status_code == unknown.status_code == 201
    assert known.json() == unknown.json()
    assert [message.to for message in mail.outbox] == [["alice@example.com"]]


def test_the_mail_goes_to_the_stored_address(ask, alice):
    ask("ALICE@EXAMPLE.COM")
    assert mail.outbox[0].to == ["alice@example.com"]


def test_a_blocked_account_gets_no_mail(ask, alice):
    Client.objects.update(is_active=False)
    ask(alice.email)
    assert mail.outbox == []


def test_the_link_sets_a_new_password_and_logs_every_device_out(link, api, alice, login, holder, announced):
    device = login(alice)["token"]
    path = link(alice)
    with announced(f"client:{alice.pk}"):
        reply = api().post(path, {"new_password": NEW, "confirm_password": NEW})
    assert reply.status_code == 201
    assert holder(f"Token {device}").get("/client/list/").status_code == 401
    assert api().post("/client/login/", {"email": alice.email, "password": PASSWORD}).status_code == 401
    login(alice, password=NEW)
    alice.refresh_from_db()
    assert alice.email_confirmed_at is not None


def test_the_short_form_of_the_body_works(link, api, alice, login):
    assert api().post(link(alice), {"password": NEW}).status_code == 201
    login(alice, password=NEW)


def test_the_link_works_once(link, api, alice):
    path = link(alice)
    assert api().post(path, {"new_password": NEW}).status_code == 201
    reply = api().post(path, {"new_password": "another new one"})
    assert reply.status_code == 400
    assert reply.json()["code"] == "bad_reset_link"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "new_password"),
        ({"new_password": "12345678"}, "new_password"),
        ({"new_password": NEW, "confirm_password": "other"}, "confirm_password"),
    ],
)
def test_what_is_wrong_is_said_under_its_field_and_the_link_stays_good(link, api, alice, body, field):
    path = link(alice)
    reply = api().post(path, body)
    assert reply.status_code == 400
    assert reply.json()[field]
    assert api().post(path, {"new_password": NEW}).status_code == 201


def test_a_locked_out_person_gets_in_again(link, api, alice, login):
    for _ in range(6):
        reply = api().post("/client/login/", {"email": alice.email, "password": "wrong"})
    assert reply.status_code == 429
    api().post(link(alice), {"new_password": NEW})
    login(alice, password=NEW)


def test_somebody_elses_link_does_not_fit(link, api, alice, bob):
    uid, token = link(alice).strip("/").split("/")[-2:]
    other = link(bob).strip("/").split("/")[-2]
    assert api().post(f"/client/reset-password/{other}/{token}/", {"new_password": NEW}).status_code == 400
    assert uid != other


@pytest.mark.parametrize("uid", ["MQ", "x", "===", "%00", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "é", "LTE"])
@pytest.mark.parametrize("token", ["x", "%00", "é-é", "a-b-c"])
def test_odd_links_are_not_valid(api, db, uid, token):
    assert api().post(f"/client/reset-password/{uid}/{token}/", {"new_password": NEW}).status_code == 400


@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, alice, value):
    assert api().post(ASK, {"email": value}).status_code == 400
    assert api().post("/client/reset-password/x/y/", {"new_password": value}).status_code == 400


def test_the_page_behind_the_link_keeps_the_secret(link, api, alice):
    reply = api().get(link(alice))
    assert reply.status_code == 200
    assert reply["Content-Type"].startswith("text/html")
    assert (reply["Referrer-Policy"], reply["Cache-Control"]) == ("no-referrer", "no-store")


def test_without_a_broker_the_person_is_told_to_come_back(ask, alice, monkeypatch):
    def away(*args):
        raise OperationalError

    monkeypatch.setattr(tasks.send_password_reset, "delay_on_commit", away)
    reply = ask(alice.email)
    assert reply.status_code == 503
    assert reply["Retry-After"]


@pytest.mark.django_db(transaction=True)
def test_of_two_uses_at_the_same_moment_one_counts(link, alice):
    path, answers, together = link(alice), [], threading.Barrier(2)

    def use(number):
        together.wait()
        answers.append(APIClient().post(path, {"new_password": f"{NEW} {number}"}).status_code)
        connections.close_all()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, 400]
