"""/client/provider/ and the verbs behind it."""

from datetime import timedelta

import pytest
from django.utils import timezone

from clients import providers
from clients.models import Client

PATH = "/client/provider/"
NOW = timezone.now()


def test_somebody_who_never_asked_reads_how_to(api, alice):
    body = api(alice).get(PATH).json()
    assert (body["status"], body["role"], body["is_gpu_provider_approved"]) == ("none", "user", False)
    assert "/client/provider/" in body["fix"]


def test_asking_waits_for_an_operator(api, alice, announced):
    with announced(f"client:{alice.pk}"):
        reply = api(alice).post(PATH)
    assert reply.status_code == 201
    body = reply.json()
    assert (body["status"], body["role"], body["code"]) == ("pending", "gpu_provider", "waits_for_approval")
    assert body["provider_registration_date"]
    assert body["is_gpu_provider_approved"] is False


def test_asking_again_changes_nothing(alice, api):
    providers.ask(alice, now=NOW)
    providers.ask(alice, now=NOW + timedelta(days=1))
    assert Client.objects.get(pk=alice.pk).provider_registration_date == NOW
    assert api(alice).post(PATH).json()["status"] == "pending"


def test_where_registration_is_open_asking_is_enough(alice, api, settings):
    settings.OPEN_PROVIDER_REGISTRATION = True
    assert api(alice).post(PATH).json()["status"] == "approved"


def test_whoever_waits_when_registration_opens_is_approved_by_asking(alice, settings):
    providers.ask(alice, now=NOW)
    settings.OPEN_PROVIDER_REGISTRATION = True
    assert providers.ask(alice, now=NOW).is_gpu_provider_approved


def test_an_approval_is_seen_with_who_and_when(alice, operator, api):
    providers.ask(alice, now=NOW)
    providers.approve(alice, by=operator, now=NOW)
    alice.refresh_from_db()
    assert (alice.provider_decided_by, alice.provider_decided_at) == (operator, NOW)
    assert api(alice).get(PATH).json()["is_gpu_provider_approved"] is True


def test_a_refusal_is_read_with_its_reason_and_can_be_asked_again(alice, operator, api):
    providers.ask(alice, now=NOW)
    providers.refuse(alice, reason="Tell us where the machine stands.", by=operator, now=NOW)
    body = api(alice).get(PATH).json()
    assert (body["status"], body["reason"]) == ("refused", "Tell us where the machine stands.")
    assert "where the machine stands" in body["message"]
    assert api(alice).post(PATH).json()["status"] == "pending"


def test_whoever_is_suspended_cannot_ask_again(bob, operator, api, settings):
    settings.OPEN_PROVIDER_REGISTRATION = True
    providers.suspend(bob, reason="Wrong answers.", by=operator, now=NOW)
    reply = api(bob).post(PATH)
    assert reply.status_code == 403
    assert "Wrong answers." in reply.json()["detail"]
    assert api(bob).get(PATH).json()["status"] == "suspended"


def test_an_operator_lifts_a_suspension(bob, operator):
    providers.suspend(bob, reason="Wrong answers.", by=operator, now=NOW)
    assert providers.approve(bob, by=operator, now=NOW).is_gpu_provider_approved
    assert bob.provider_reason == ""


def test_deciding_again_changes_nothing(bob, operator):
    providers.suspend(bob, reason="first", by=operator, now=NOW)
    providers.suspend(bob, reason="second", by=None, now=NOW + timedelta(days=1))
    bob.refresh_from_db()
    assert (bob.provider_reason, bob.provider_decided_by, bob.provider_decided_at) == ("first", operator, NOW)


def test_a_stale_page_cannot_undo_what_another_operator_decided(alice, operator):
    providers.ask(alice, now=NOW)
    stale = Client.objects.get(pk=alice.pk)
    providers.approve(alice, by=operator, now=NOW)
    with pytest.raises(providers.CannotDecide):
        providers.refuse(stale, reason="no", by=operator, now=NOW)
    alice.refresh_from_db()
    assert alice.is_gpu_provider_approved


def test_nobody_is_approved_who_never_asked(alice, operator):
    with pytest.raises(providers.CannotDecide):
        providers.approve(alice, by=operator, now=NOW)


@pytest.mark.parametrize("verb", [providers.refuse, providers.suspend])
def test_a_no_needs_a_reason(bob, operator, verb):
    with pytest.raises(providers.ReasonMissing):
        verb(bob, reason="  ", by=operator, now=NOW)


def test_without_a_credential_nothing(api, db):
    assert api().get(PATH).status_code == api().post(PATH).status_code == 401
