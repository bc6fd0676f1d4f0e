from typing import Any

import pytest
from django.test import Client as Browser
from django.urls import reverse

from gpus.models import Gpu, Node

CHANGELIST = "/admin/gpus/node/"


@pytest.fixture
def browser(operator: Any) -> Browser:
    found = Browser()
    found.force_login(operator)
    return found


@pytest.fixture
def node(bob: Any, join: Any, connect: Any) -> Node:
    found: Node = join(bob, "toy").node
    connect(found)
    return found


def do(browser: Browser, action: str, *nodes: Node, **more: str) -> Any:
    ids = [str(node.pk) for node in nodes]
    return browser.post(CHANGELIST, {"action": action, "_selected_action": ids, **more}, follow=True)


def test_the_list_shows_the_state_and_why(browser: Browser, node: Node) -> None:
    page = browser.get(CHANGELIST).content.decode()

    assert "silent" in page
    assert "stopped calling" in page
    assert "0 / 1" in page


def test_the_list_takes_few_queries_however_long(
    browser: Browser, bob: Any, join: Any, django_assert_max_num_queries: Any
) -> None:
    for index in range(30):
        join(bob, machine_id=f"m{index}")

    with django_assert_max_num_queries(15):
        assert browser.get(CHANGELIST).status_code == 200


def test_a_nodes_page_shows_its_past(browser: Browser, node: Node) -> None:
    page = browser.get(f"{CHANGELIST}{node.pk}/change/").content.decode()

    assert "the connection over which it would get requests is down" in page
    assert f"node__id__exact={node.pk}" in page
    assert node.token_digest not in page


def test_what_is_typed_does_not_overwrite_what_changed_meanwhile(
    browser: Browser, node: Node, announced: Any
) -> None:
    with announced() as said:
        reply = browser.post(
            f"{CHANGELIST}{node.pk}/change/",
            {
                "name": "attic", "message": "Update, please.", "region": "", "trusted": "on",
                "events-TOTAL_FORMS": "0", "events-INITIAL_FORMS": "0",
                "offers-TOTAL_FORMS": "0", "offers-INITIAL_FORMS": "0",
            },
        )  # fmt: skip

    assert reply.status_code == 302
    node.refresh_from_db()
    assert (node.name, node.message, node.trusted) == ("attic", "Update, please.", True)
    assert said == [("nodes", str(node.pk))]


def test_an_operator_suspends_with_a_reason_and_resumes(browser: Browser, node: Node) -> None:
    do(browser, "suspend", node)
    assert Node.objects.get().suspended_at is None  # the page asks for the reason first

    do(browser, "suspend", node, reason="mining")
    assert Node.objects.get().suspended_reason == "mining"

    do(browser, "resume", node)
    assert Node.objects.get().suspended_at is None


def test_an_operator_drains_and_cancels(browser: Browser, node: Node) -> None:
    assert "1 nodes are asked to drain" in do(browser, "drain", node).content.decode()
    assert Node.objects.get().drain_requested_at is not None
    do(browser, "cancel_drain", node)
    assert Node.objects.get().drain_requested_at is None


def test_an_operator_approves_the_owners(browser: Browser, charlie: Any, join: Any) -> None:
    node = join(charlie).node

    do(browser, "approve_owner", node)

    charlie.refresh_from_db()
    assert charlie.is_gpu_provider_approved
    assert Node.objects.get().state != "pending"


def test_an_operator_removes_a_node(browser: Browser, node: Node, announced: Any) -> None:
    with announced() as said:
        browser.post(f"{CHANGELIST}{node.pk}/delete/", {"post": "yes"})

    assert not Node.objects.exists()
    assert ("credentials", f"node:{node.pk}") in said


@pytest.mark.parametrize("name", ["gpu", "gateway", "offer"])
def test_the_other_lists_open(
    browser: Browser, node: Node, name: str, bob: Any, hardware: dict[str, str]
) -> None:
    Gpu.objects.create(user=bob, **hardware)

    assert browser.get(reverse(f"admin:gpus_{name}_changelist")).status_code == 200


def test_a_search_finds_a_node(browser: Browser, node: Node) -> None:
    assert node.name in browser.get(CHANGELIST, {"q": "toy"}).content.decode()
    assert browser.get(CHANGELIST, {"q": "nothing-like-it"}).status_code == 200


def test_nobody_else_gets_in(alice: Any, node: Node) -> None:
    browser = Browser()
    browser.force_login(alice)

    assert browser.get(CHANGELIST).status_code == 302
