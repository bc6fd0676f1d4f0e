"""Reserved nodes, and what is asked for nodes, on the operators' pages."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.test import Client as Browser
from django.utils import timezone

from clients import ledger, trial_balance
from clients.models import AccountKind, AuditEntry
from gpus import allocations, prices
from gpus.candidates import Wanted
from gpus.models import Allocation, Lease, Node, Offer
from gpus.prices import Wish, Wishes
from marketplace import money
from marketplace.money import TOKEN

PAGE = "/admin/gpus/allocation/"


def enter(person: Any) -> Browser:
    found = Browser()
    found.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return found


@pytest.fixture
def browser(operator: Any) -> Browser:
    return enter(operator)


@pytest.fixture
def node(bob: Any, join: Any, connect: Any) -> Node:
    now = timezone.now()
    found: Node = join(bob, "toy", machine_id="m1", name="attic", hour_price=money.parse("3.6"), now=now).node
    connect(found, now)
    Node.objects.update(state="online")
    return found


@pytest.fixture
def allocation(alice: Any, node: Node) -> Allocation:
    """alice has bob's node for an hour from ten minutes ago."""
    ledger.grant(client_id=alice.pk, amount=10 * TOKEN, reference="grant:t", reason="tests", by_id=None)
    made = allocations.allocate(
        client_id=alice.pk,
        wanted=Wanted(gpu_type="", gpu_count=1, seconds=3600, task_type="inference"),
        now=timezone.now(),
    )
    ago = timezone.now() - timedelta(seconds=600)
    Lease.objects.update(started_at=ago, paid_until=ago)
    return Allocation.objects.get(pk=made.pk)


def test_the_pages_show_reserved_nodes_and_their_price(browser: Browser, allocation: Allocation) -> None:
    lease = Lease.objects.get()
    for path, shown in (
        ("allocation/", "alice"),
        (f"allocation/{allocation.pk}/change/", "alice"),
        ("lease/", "attic"),
        (f"lease/{lease.pk}/change/", "attic"),
    ):
        reply = browser.get(f"/admin/gpus/{path}")
        assert reply.status_code == 200
        page = reply.content.decode()
        assert shown in page
    assert "3.6 OMNIT" in page
    assert browser.get("/admin/gpus/allocation/", {"q": "attic"}).status_code == 200


def test_an_operator_releases_an_allocation_with_a_reason(
    browser: Browser, allocation: Allocation, alice: Any, bob: Any
) -> None:
    path = f"{PAGE}{allocation.pk}/release/"
    assert path in browser.get(f"{PAGE}{allocation.pk}/change/").content.decode()
    assert 'name="reason"' in browser.get(path).content.decode()
    page = browser.post(path, {"reason": "The node misbehaves."}, follow=True).content.decode()
    assert "is released" in page
    allocation.refresh_from_db()
    assert allocation.ended_at is not None
    assert allocation.end_reason == "An operator released it: The node misbehaves."
    earned = ledger.balance(ledger.account(bob.pk, AccountKind.EARNED)) / TOKEN
    assert 0.59 < earned < 0.7
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.reason) == ("release_allocation", "The node misbehaves.")
    assert "already" in browser.post(path, {"reason": "Again."}, follow=True).content.decode()
    assert AuditEntry.objects.count() == 1


def test_who_may_only_look_releases_nothing(charlie: Any, allocation: Allocation) -> None:
    charlie.is_staff = True
    charlie.save()
    charlie.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    clerk = enter(charlie)
    assert clerk.post(f"{PAGE}{allocation.pk}/release/", {"reason": "Mine."}).status_code == 403
    clerk.post(PAGE, {"action": "release", ACTION_CHECKBOX_NAME: [allocation.pk], "reason": "Mine."})
    assert Allocation.objects.get().ended_at is None


def test_nothing_of_it_is_changed_or_deleted(browser: Browser, allocation: Allocation) -> None:
    for path in (f"allocation/{allocation.pk}", f"lease/{Lease.objects.get().pk}"):
        assert browser.post(f"/admin/gpus/{path}/change/", {"gpus": "9"}).status_code == 403
        assert browser.post(f"/admin/gpus/{path}/delete/", {"post": "yes"}).status_code == 403


def test_the_pages_show_what_is_asked(browser: Browser, node: Node) -> None:
    assert "the default" in browser.get("/admin/gpus/offer/").content.decode()
    wish = Wish(input_price=TOKEN, output_price=2 * TOKEN, request_price=TOKEN // 2)
    prices.change(node_id=node.pk, wishes=Wishes(every=wish), now=timezone.now())
    for path in ("offer/", f"offer/{Offer.objects.get().pk}/change/", f"node/{node.pk}/change/"):
        assert browser.get(f"/admin/gpus/{path}").status_code == 200
    assert "1 / 2, 0.5 OMNIT" in browser.get("/admin/gpus/offer/").content.decode()
    page = browser.get(f"/admin/gpus/node/{node.pk}/change/").content.decode()
    assert "1 / 2, 0.5 OMNIT" in page
    assert "3.6 OMNIT" in page
    assert "0.5 OMNIT" in browser.get("/admin/gpus/price/").content.decode()


def test_the_lists_take_few_queries_however_long(
    browser: Browser, bob: Any, join: Any, allocation: Allocation, django_assert_max_num_queries: Any
) -> None:
    for index in range(20):
        join(bob, "a", "b", machine_id=f"x{index}", hour_price=TOKEN)
    for name in ("allocation", "lease", "price", "offer"):
        with django_assert_max_num_queries(15):
            assert browser.get(f"/admin/gpus/{name}/").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_the_books_add_up_after_a_release(operator: Any, request: Any) -> None:
    allocation: Allocation = request.getfixturevalue("allocation")
    allocations.end(allocation, by=operator, reason="The node misbehaves.", now=timezone.now())
    assert trial_balance.run().adds_up
