"""Giving back what a request did cost, and its money on the operators' pages."""

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.test import Client as Browser

from clients import ledger, refunds
from clients.models import AccountKind, AuditEntry, Transfer, TransferKind
from gpus.models import Price
from inference import refunds as inference_refunds
from inference.models import Inference
from marketplace.money import TOKEN

PAGE = "/admin/inference/inference/"


def enter(person):
    found = Browser()
    found.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return found


@pytest.fixture
def browser(operator):
    return enter(operator)


def request_of(alice, bob, charged=0):
    return Inference.objects.create(
        client=alice,
        provider=bob,
        face="/inference/",
        kind="chat",
        desired_model="toy",
        status="completed",
        charged=charged * TOKEN,
        fee=TOKEN if charged else 0,
        price=Price.objects.create(node_id=1, owner=bob, model="toy", input_price=3 * TOKEN),
    )


@pytest.fixture
def free(alice, bob):
    return request_of(alice, bob)


@pytest.fixture
def paid(alice, bob):
    """alice has paid bob 5 tokens for it, one of them the fee."""
    ledger.grant(client_id=alice.pk, amount=10 * TOKEN, reference="grant:1", reason="", by_id=None)
    row = request_of(alice, bob, charged=5)
    reference = f"inference:{row.pk}"
    ledger.hold(reference=reference, client_id=alice.pk, amount=6 * TOKEN)
    ledger.settle(
        reference=reference, amount=5 * TOKEN, fee=TOKEN, payee_id=bob.pk, kind=TransferKind.INFERENCE
    )
    return row


def has(person):
    return ledger.balance(ledger.account(person.pk, AccountKind.SPENDABLE)) / TOKEN


def test_what_a_request_did_cost_is_given_back_once(paid, alice, operator):
    inference_refunds.refund(paid, by=operator, reason="Wrong answers.")
    assert has(alice) == 10
    with pytest.raises(refunds.AlreadyReversed):
        inference_refunds.refund(paid, by=operator, reason="Again.")
    assert has(alice) == 10
    assert AuditEntry.objects.get().subject == f"inference:{paid.pk}"


def test_where_nothing_was_charged_nothing_is_given_back(free, operator):
    with pytest.raises(inference_refunds.NothingCharged):
        inference_refunds.refund(free, by=operator, reason="Wrong answers.")
    assert not AuditEntry.objects.exists()


def test_many_are_refunded_with_a_reason(browser, paid, free, alice):
    body = {"action": "refund", ACTION_CHECKBOX_NAME: [paid.pk, free.pk]}
    assert 'name="reason"' in browser.post(PAGE, body).content.decode()
    assert has(alice) == 5
    page = browser.post(PAGE, body | {"reason": "Wrong answers."}, follow=True).content.decode()
    assert "5 OMNIT went back to alice spendable." in page
    assert "This request did cost nothing" in page
    assert has(alice) == 10
    assert Transfer.objects.get(kind="reversal", reverses__isnull=False).memo == "Wrong answers."


def test_one_is_refunded_on_its_own_page(browser, paid, alice):
    path = f"{PAGE}{paid.pk}/refund/"
    assert path in browser.get(f"{PAGE}{paid.pk}/change/").content.decode()
    browser.post(path, {"reason": "Wrong answers."})
    assert has(alice) == 10


def test_credit_is_offered_where_the_provider_has_too_little(browser, paid, alice, bob, charlie):
    ledger.transfer(
        source=ledger.account(bob.pk, AccountKind.EARNED),
        destination=ledger.account(charlie.pk, AccountKind.SPENDABLE),
        amount=TOKEN,
        reference="t:1",
        kind=TransferKind.TRANSFER,
    )
    page = browser.post(f"{PAGE}{paid.pk}/refund/", {"reason": "Wrong."}, follow=True).content.decode()
    transfer = inference_refunds.charge_of(paid)
    assert f"/admin/clients/client/{alice.pk}/give-credit/?instead_of={transfer.pk}" in page


def test_who_may_only_look_refunds_nothing(charlie, paid, alice):
    charlie.is_staff = True
    charlie.save()
    charlie.user_permissions.set(Permission.objects.filter(codename="view_inference"))
    clerk = enter(charlie)
    assert clerk.get(f"{PAGE}{paid.pk}/change/").status_code == 200
    assert clerk.post(f"{PAGE}{paid.pk}/refund/", {"reason": "Mine."}).status_code == 403
    clerk.post(PAGE, {"action": "refund", ACTION_CHECKBOX_NAME: [paid.pk], "reason": "Mine."})
    assert has(alice) == 5


def test_the_pages_show_what_it_did_cost(browser, paid, free):
    page = browser.get(f"{PAGE}{paid.pk}/change/").content.decode()
    for text in ("5 OMNIT", "1 OMNIT", "4 OMNIT", "3 in, 0 out", f"/inference/{paid.pk}/receipt"):
        assert text in page
    assert f"/inference/{free.pk}/receipt" not in browser.get(f"{PAGE}{free.pk}/change/").content.decode()
    assert "5 OMNIT" in browser.get(PAGE).content.decode()
