"""What trainings have brought in, as `/llm_models/earnings/` tells it."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from clients import terms
from clients.models import Transfer
from finetune import interventions
from gpus.models import Node
from tests.finetune import made
from tests.finetune.nodes import Caller, adapter, with_token

URL = "/llm_models/earnings/"


@pytest.fixture
def node(bob: Any, operator: Any) -> Node:
    terms.change(by=operator, reason="A share.", fee_bps=1000)
    return made.node(bob)


@pytest.fixture
def trained(alice: Any, node: Node) -> Any:
    job = made.job(alice)
    assert Caller(made.begin(job, node), with_token(node)).finish(adapter()).status_code == 200
    return job


@pytest.mark.parametrize("group", ["node", "model", "day"])
def test_a_provider_sees_what_trainings_brought_in(
    trained: Any, node: Node, bob: Any, api: Any, group: str
) -> None:
    shown = api(bob).get(URL, {"group": group}).json()
    assert (shown["total"]["training_income"], shown["total"]["net"]) == ("2.7", "2.7")
    key = {
        "node": str(node.pk),
        "model": trained.base.model.name,
        "day": timezone.now().date().isoformat(),
    }[group]
    (line,) = (line for line in shown["lines"] if line["training_income"] != "0")
    assert (line["key"], line["training_income"], line["net"]) == (key, "2.7", "2.7")


def test_only_their_own_and_of_the_time_that_was_asked_for(
    trained: Any, charlie: Any, bob: Any, api: Any
) -> None:
    assert api(charlie).get(URL).json()["total"]["training_income"] == "0"
    before = {"since": "2020-01-01", "until": "2020-01-02"}
    assert api(bob).get(URL, before).json()["total"]["training_income"] == "0"


def test_what_was_given_back_is_no_income(trained: Any, operator: Any, bob: Any, api: Any) -> None:
    interventions.refund(trained, by=operator, reason="It was bad.", now=timezone.now())
    assert Transfer.objects.filter(kind="reversal").exists()
    total = api(bob).get(URL).json()["total"]
    assert (total["training_income"], total["net"]) == ("0", "0")


def test_operators_see_everybodys(trained: Any, operator: Any, bob: Any, api: Any) -> None:
    shown = api(operator).get(URL, {"group": "provider"}).json()
    assert [(line["key"], line["training_income"]) for line in shown["lines"]] == [(str(bob.pk), "2.7")]
