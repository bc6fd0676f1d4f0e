"""What is shown on top of the admin's first page, and of the networks."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from chain import networks
from chain.models import Network
from tests.chain.admin import made
from tests.chain.admin.conftest import text_of

PATHS = ("/admin/", "/admin/chain/network/")


@pytest.fixture(autouse=True)
def _followed(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    """The network is followed, all is well."""
    monkeypatch.setattr(networks, "followed", lambda: list(Network.objects.all()))


def titles(page: str) -> list[str]:
    return [part.split("</strong>")[0] for part in page.split('anywhere"><strong>')[1:]]


def test_a_chain_that_fails_a_deposit_of_nobody_and_a_difference_are_told_with_where_to_look(
    browser: Any, network: Network, settings: Any
) -> None:
    settings.CHAIN_KEY = "0x" + "11" * 32
    for path in PATHS:
        assert titles(text_of(browser.get(path))) == []
    Network.objects.filter(pk=network.pk).update(failing_since=timezone.now(), failure="timed <b>out")
    made.deposit(network)
    made.reconciliation(network, off_by=1)
    for path in PATHS:
        page = text_of(browser.get(path))
        away, unbalanced, unclaimed = titles(page)
        assert "timed &lt;b&gt;out" in away
        assert "did not agree at block 980" in unbalanced
        assert "10 OMNIT came in 1 deposits on local" in unclaimed
        for name in ("network", "reconciliation", "deposit"):
            assert f'class="underline" href="/admin/chain/{name}/"' in page
    # They are said again as long as they hold, and not twice at once.
    assert len(titles(text_of(browser.get("/admin/")))) == 3


def test_a_sender_with_little_is_told(browser: Any, network: Network, settings: Any) -> None:
    settings.CHAIN_KEY = "0x" + "11" * 32
    network.senders.update(address="0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A", balance=5 * 10**16)
    page = text_of(browser.get("/admin/"))
    assert titles(page) == ["0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A has 0.05 coins for gas on local."]
    assert "11" * 32 not in page


def test_who_does_not_see_chains_is_told_nothing(charlie: Any, network: Network) -> None:
    from tests.chain.admin.conftest import enter

    Network.objects.filter(pk=network.pk).update(is_paused=True)
    charlie.is_staff = True
    charlie.save()
    assert titles(text_of(enter(charlie).get("/admin/"))) == []


def test_a_setting_that_is_wrong_is_told_and_closes_nothing(
    browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> list[Network]:
        raise ImproperlyConfigured("CHAIN_NETWORKS names 'x', and that is no network's manifest.")

    monkeypatch.setattr(networks, "followed", wrong)
    for path in PATHS:
        assert "that is no network&#x27;s manifest" in titles(text_of(browser.get(path)))[0]
