"""What a run needs of the marketplace's database: an account, many nodes, a count of what was recorded.

A program of its own, so that the measuring process stays free of Django; `peers.Marketplace.rows` runs it and
reads the JSON that it prints.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import orjson
from django.db import transaction
from django.db.models import BigIntegerField, Count, Max, QuerySet, Sum
from django.db.models.functions import Cast, Substr
from django.utils import timezone

from benchmarks.peers import HARDWARE
from clients import credentials, keys, ledger
from clients.models import Account, Client, Hold, ProviderStatus, Stripe, Transfer
from gpus.models import Delivery, Heartbeat, Node, NodeState, Offer, Price
from inference.models import Inference
from marketplace import bus, money

ACCOUNT = "benchmark"
# Each of the many nodes holds one model in common, and one of so many others.
OTHER_MODELS = 50
CREDIT = 10**9 * money.TOKEN


@transaction.atomic
def account() -> dict[str, Any]:
    """An approved provider without nodes and with a fresh key; the newest record there is before the run."""
    client, _ = Client.objects.update_or_create(
        username=ACCOUNT,
        defaults={"email": "benchmark@localhost.example", "provider_status": ProviderStatus.APPROVED},
    )
    _forget(client.nodes.all())
    client.api_keys.all().delete()
    ledger.grant(
        client_id=client.pk,
        amount=CREDIT,
        reference=f"grant:benchmark:{timezone.now().timestamp()}",
        reason="for the benchmark",
        by_id=None,
    )
    return {"key": keys.create(client, name="benchmark").key} | newest()


@transaction.atomic
def price(model: str) -> dict[str, Any]:
    """Put a price on a model of the account's nodes; from then on each of its requests is paid."""
    offers = Offer.objects.filter(node__owner__username=ACCOUNT, model=model).select_related("node")
    for offer in offers:
        offer.price = Price.objects.create(
            node=offer.node,
            owner_id=offer.node.owner_id,
            model=model,
            input_price=money.TOKEN,
            output_price=2 * money.TOKEN,
        )
        offer.save()
        Node.objects.filter(pk=offer.node_id).update(changed_at=timezone.now())
    transaction.on_commit(lambda: _announce([offer.node_id for offer in offers]))
    return {"priced": len(offers)}


def books(after: int) -> dict[str, Any]:
    """Whether the books add up: the sum of all accounts, what is held, and charged requests without their transfer.

    `transfers` are those for records made after this id.
    """
    total = Account.objects.aggregate(total=Sum("balance"))["total"] or 0
    striped = Stripe.objects.aggregate(total=Sum("balance"))["total"] or 0
    charged = Inference.objects.aggregate(total=Sum("charged"))["total"] or 0
    paid = Transfer.objects.filter(kind="inference").aggregate(total=Sum("amount"))["total"] or 0
    transfers = Transfer.objects.filter(kind="inference").annotate(
        request=Cast(Substr("reference", len("inference:") + 1), BigIntegerField())
    )
    return {
        "sum": str(total + striped),
        "held": str(Account.objects.aggregate(total=Sum("held"))["total"] or 0),
        "holds": Hold.objects.filter(ended_at=None).count(),
        "unpaid": str(charged - paid),
        "transfers": transfers.filter(request__gt=after).count(),
    }


def _forget(nodes: QuerySet[Node]) -> None:
    """Remove the nodes of an earlier run; the web process must know at once, nobody answers there now."""
    gone = list(nodes.values_list("id", flat=True))
    list(nodes.select_for_update().values("pk"))  # no sweep may write events for them meanwhile
    nodes.delete()
    transaction.on_commit(lambda: _announce(gone))


def _announce(node_ids: Iterable[int]) -> None:
    for node_id in node_ids:
        bus.announce("nodes", str(node_id))


def newest() -> dict[str, Any]:
    """The id of the newest record."""
    return {"newest": Inference.objects.aggregate(newest=Max("id"))["newest"] or 0}


@transaction.atomic
def nodes(model: str, count: int, push_url: str) -> dict[str, Any]:
    """Register nodes with `model` that answer at `push_url`, as `gpus.nodes.register` would, in bulk."""
    owner, now = Client.objects.get(username=ACCOUNT), timezone.now()
    tokens = [credentials.new_secret("") for _ in range(count)]
    made = Node.objects.bulk_create(
        (
            Node(
                **HARDWARE,
                owner=owner,
                machine_id=f"many-{number}",
                name=f"many-{number}",
                token_prefix=token[:12],
                token_digest=credentials.digest(token),
                delivery=Delivery.PUSH,
                push_url=push_url,
                agent_version="0.1.0",
                state=NodeState.ONLINE,
                state_since=now,
            )
            for number, token in enumerate(tokens)
        ),
        batch_size=1000,
    )
    Heartbeat.objects.bulk_create((Heartbeat(node=node, at=now) for node in made), batch_size=1000)
    Offer.objects.bulk_create(
        (
            Offer(node=node, model=held, kinds=["chat"], concurrency=4)
            for number, node in enumerate(made)
            for held in (model, f"{model}-{number % OTHER_MODELS}")
        ),
        batch_size=1000,
    )
    transaction.on_commit(lambda: _announce([made[-1].pk]))
    return {"tokens": tokens}


def recorded(after: int) -> dict[str, Any]:
    """The records made after this id: how many per model and status, and their completion tokens."""
    rows = Inference.objects.filter(id__gt=after, client__username=ACCOUNT).order_by()
    counted = rows.values("desired_model", "status").annotate(
        rows=Count("id"), tokens=Sum("completion_tokens")
    )
    charged = rows.aggregate(total=Sum("charged"))["total"] or 0
    return {"records": list(counted), "charged": str(charged)}


def heard(seconds: float) -> dict[str, Any]:
    """How many of the account's nodes have a heartbeat that is at most `seconds` old."""
    since = timezone.now() - timedelta(seconds=seconds)
    return {"nodes": Heartbeat.objects.filter(node__owner__username=ACCOUNT, at__gt=since).count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("account")
    verbs.add_parser("newest")
    many = verbs.add_parser("nodes")
    many.add_argument("model")
    many.add_argument("count", type=int)
    many.add_argument("push_url")
    verbs.add_parser("price").add_argument("model")
    verbs.add_parser("books").add_argument("after", type=int)
    verbs.add_parser("recorded").add_argument("after", type=int)
    verbs.add_parser("heard").add_argument("seconds", type=float)
    options = vars(parser.parse_args())
    verbs_by_name: dict[str, Callable[..., dict[str, Any]]] = {
        "account": account,
        "newest": newest,
        "nodes": nodes,
        "price": price,
        "books": books,
        "recorded": recorded,
        "heard": heard,
    }
    verb = verbs_by_name[options.pop("verb")]
    sys.stdout.buffer.write(orjson.dumps(verb(**options)))


if __name__ == "__main__":
    main()
