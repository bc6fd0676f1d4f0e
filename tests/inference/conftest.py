"""What the tests of requests share."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from clients import ledger, terms
from clients.models import TransferKind
from gpus.models import Node, Offer, Price
from inference.models import Inference, Status
from marketplace import money
from tests.engine import Engine
from tests.served import Server

NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
_references = itertools.count()


@pytest.fixture
def price(bob: Any) -> Price:
    """bob asks 1000 and 2000 per million tokens, and half a token for each request."""
    return Price.objects.create(
        node_id=7,
        owner=bob,
        model="llama",
        input_price=1000 * money.TOKEN,
        output_price=2000 * money.TOKEN,
        request_price=money.TOKEN // 2,
    )


@pytest.fixture
def add_priced(server: Server, engine: Engine, add_node: Callable[..., Node]) -> Callable[..., Node]:
    """`add_priced("one", request="0")`: a node for llama that asks this, in tokens of money; the server knows it."""

    def add(
        name: str, *, input: str = "1000", output: str = "2000", request: str = "0.5", **more: Any
    ) -> Node:
        node = add_node(name, url=more.pop("url", engine.url), **more)
        price = Price.objects.create(
            node=node,
            owner=node.owner,
            model="llama",
            input_price=money.parse(input),
            output_price=money.parse(output),
            request_price=money.parse(request),
        )
        Offer.objects.filter(node=node).update(price=price)
        Node.objects.get(pk=node.pk).save()
        live = server.hot.gateway.directory.nodes
        server.until(lambda: node.pk in live and live[node.pk].offers["llama"].rates.price_id == price.pk)
        return node

    return add


@pytest.fixture
def pay(alice: Any, bob: Any, operator: Any, price: Price) -> Callable[..., Inference]:
    """`pay()` is a request of alice's that bob's node 7 has answered, and that she has paid; the fee is 10 %."""
    told = terms.change(by=operator, reason="A share.", fee_bps=1000)

    def paid(cost: int | None = None, **fields: Any) -> Inference:
        values: dict[str, Any] = {
            "client": alice,
            "provider": bob,
            "face": "/v1/chat/completions",
            "kind": "chat",
            "desired_model": "llama",
            "revision": "a1b2",
            "node_id": 7,
            "price": price,
            "terms": told,
            "status": Status.COMPLETED,
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "usage_source": "engine",
            "latency_ms": 2000,
            "request_sha256": "1" * 64,
            "response_sha256": "2" * 64,
            "finished_at": NOON,
        } | fields
        if cost is None:
            cost = (
                values["prompt_tokens"] * 1000 + values["completion_tokens"] * 2000
            ) * money.TOKEN // 10**6 + (money.TOKEN // 2 if values["status"] == Status.COMPLETED else 0)
        fee = cost // 10
        record = Inference.objects.create(charged=cost, fee=fee, **values)
        ledger.grant(
            client_id=values["client"].pk,
            amount=cost,
            reference=f"grant:{next(_references)}",
            reason="test",
            by_id=None,
        )
        reference = f"inference:{record.pk}"
        ledger.hold(reference=reference, client_id=values["client"].pk, amount=cost)
        assert ledger.settle(
            reference=reference,
            amount=cost,
            fee=fee,
            payee_id=values["provider"].pk,
            kind=TransferKind.INFERENCE,
        )
        return record

    return paid
