"""Chains: how far each is read and why not further, what is sent with, and pausing them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from chain.models import Network, Purpose
from marketplace.money import TOKEN
from tests.chain.admin import made
from tests.chain.admin.conftest import audited, text_of


def page_of(browser: Any, network: Network) -> str:
    return text_of(browser.get(f"/admin/chain/network/{network.pk}/change/"))


def test_a_network_shows_how_far_it_is_read_and_its_contracts(browser: Any, network: Network) -> None:
    page = page_of(browser, network)
    for shown in (
        "followed",
        "1000",
        "998",
        "2 blocks",
        "989",
        network.cursor_hash,
        *network.contracts.values(),
    ):
        assert str(shown) in page, shown


def test_senders_and_reorganisations_are_shown(browser: Any, network: Network) -> None:
    page = page_of(browser, network)
    sender = network.senders.get()
    for shown in (sender.address, "5 OMNIT", ">7<", ">5<", ">900<"):
        assert shown in page.replace("\n", "").replace("  ", ""), shown
    assert sender.address in text_of(browser.get("/admin/chain/network/"))


@pytest.mark.parametrize(
    ("changes", "state", "why"),
    [
        ({}, "followed", "-"),
        ({"head_block": 1049}, "behind", "51 blocks are there and not read yet."),
        ({"head_block": 1048}, "followed", "-"),
        ({"is_paused": True, "failing_since": timezone.now()}, "paused", "An operator has paused it"),
        ({"polled_at": None}, "not read yet", "-"),
        (
            {
                "failing_since": timezone.now() - timedelta(minutes=7),
                "failures": 12,
                "failure": "timed <b>out",
            },
            "its node fails",
            "Failing for 7\xa0minutes, 12 times in a row: timed &lt;b&gt;out",
        ),
    ],
)
def test_the_state_of_a_network_has_a_reason(
    browser: Any, network: Network, changes: dict[str, Any], state: str, why: str
) -> None:
    Network.objects.filter(pk=network.pk).update(**changes)
    for page in (page_of(browser, network), text_of(browser.get("/admin/chain/network/"))):
        assert state in page
        assert why in page


def test_what_is_not_done_is_counted(browser: Any, network: Network) -> None:
    made.network("other")
    for status in ("queued", "queued", "signed", "sent", "mined", "confirmed", "refused"):
        made.transaction(network, Purpose.CONFIRM, status=status)
    page = text_of(browser.get("/admin/chain/network/"))
    assert "2 to be sent, 3 on their way" in page
    assert "0 to be sent, 0 on their way" in page


def test_a_network_is_paused_and_goes_on_with_a_reason(browser: Any, act: Any, network: Network) -> None:
    later = timezone.now() + timedelta(hours=1)
    Network.objects.filter(pk=network.pk).update(next_poll_at=later)
    path = f"/admin/chain/network/{network.pk}"
    assert f"{path}/pause/" in page_of(browser, network)
    assert f"{path}/resume/" not in page_of(browser, network)
    browser.post(f"{path}/pause/", {"reason": "The node lies."})
    network.refresh_from_db()
    assert network.is_paused
    assert f"{path}/pause/" not in page_of(browser, network)
    assert "is paused already" in act("network", "pause", [network], reason="Again.")
    assert "local is followed again." in act("network", "resume", [network], reason="Mended.")
    network.refresh_from_db()
    assert (network.is_paused, network.next_poll_at < later) == (False, True)
    assert "is not paused" in act("network", "resume", [network], reason="Again.")
    assert audited() == [("pause_network", "The node lies."), ("resume_network", "Mended.")]


def test_keys_and_where_a_node_is_are_on_no_page(browser: Any, network: Network, settings: Any) -> None:
    settings.CHAIN_KEY = "0x" + "5ec7e7" * 10 + "beef"
    settings.CHAIN_RPC_URL = "https://node.example/v3/a-secret"
    for page in (page_of(browser, network), text_of(browser.get("/admin/chain/network/"))):
        assert "5ec7e7" not in page
        assert "a-secret" not in page


def test_amounts_of_senders_are_in_coins(browser: Any, network: Network) -> None:
    network.senders.update(balance=TOKEN // 4)
    assert "0.25 OMNIT" in page_of(browser, network)
