"""What a node can do besides answering, on its page."""

from typing import Any

from django.test import Client as Browser

from finetune.models import Attempt
from gpus import prices
from gpus.models import Node
from gpus.prices import Wishes
from gpus.talents import Training
from inference import hosting
from marketplace.money import TOKEN
from tests.finetune import made
from tests.gpus.conftest import NOW


def page_of(node: Node, operator: Any) -> str:
    browser = Browser()
    browser.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    reply = browser.get(f"/admin/gpus/node/{node.pk}/change/")
    assert reply.status_code == 200
    return reply.content.decode()


def test_a_node_shows_what_it_trains_and_hosts(operator: Any, alice: Any, bob: Any) -> None:
    node = made.node(bob, most=3)
    talent = Training(methods=("causal",), slots=2, device="cuda", gpus=2, memory_mib=81_920)
    Node.objects.filter(pk=node.pk).update(training=talent.to_json())
    prices.change(node_id=node.pk, wishes=Wishes(training=7 * TOKEN), now=NOW)
    hosting.want(made.model(alice, "ft:toy:alice::1"), now=NOW)
    made.begin(made.job(alice), node)
    assert Attempt.objects.get().node_id == node.pk
    page = page_of(node, operator)
    assert "causal models on 2 × cuda with 81920 MiB; 1 of 2 now" in page
    assert "at most 3: ft:toy:alice::1 (wanted)" in page
    assert "7 OMNIT" in page


def test_a_node_that_only_answers_says_so(operator: Any, bob: Any) -> None:
    node = made.node(bob)
    Node.objects.filter(pk=node.pk).update(hosting=None)
    page = page_of(node, operator)
    assert "no models of others" in page
