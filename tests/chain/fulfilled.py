"""Tasks on chains that our nodes work on: their rows, and a whole marketplace with a chain beside it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from django.utils import timezone
from web3.logs import DISCARD

from chain import broadcast, indexer, pins
from chain.fulfilment import asking, course, finding, rounds, rows
from chain.functions import Request
from chain.models import (
    Attempt,
    DeliveryMethod,
    Fulfilment,
    FulfilmentStatus,
    Network,
    Response,
    ResponseStatus,
    Service,
    Serving,
    Source,
    Task,
    TaskStatus,
    Transaction,
    TransactionStatus,
)
from clients import house
from gpus.models import Node
from inference.models import Inference, Kind
from marketplace.money import TOKEN
from tests.chain.network import Network as Devnet

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
# The first of anvil's and hardhat's accounts: known to everybody.
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
PROVIDER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
OPERATOR = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
PROVIDER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
_numbers = itertools.count(1)


class Killed(BaseException):
    """The process ends here; nothing of ours may catch it."""


class Inline:
    """A crew of one that does everything at once, in the thread of whoever asks."""

    free = 1000

    def begin(self, key: object, work: Callable[[], object]) -> bool:
        work()
        return True


def address() -> str:
    """Another one each time, as they stand in rows."""
    from eth_utils import to_checksum_address

    return str(to_checksum_address(f"0x{next(_numbers) + 0xABC000:040x}"))


def digest() -> str:
    return f"0x{next(_numbers) + 0xDEF000:064x}"


def network(**fields: Any) -> Network:
    """One that is read up to block 100, of which 98 is final."""
    return Network.objects.create(
        **{
            "name": "test",
            "chain_id": 131277322940537,
            "contracts": {name: address() for name in ("NEXUS", "CONTROLLER", "TERMINAL", "VAULT")},
            "confirmations": 3,
            "cursor_block": 100,
            "head_block": 100,
            "head_at": NOW,
        }
        | fields
    )


def source(
    on: Network, *, model: str = "llama", functions: Any = None, served: bool = True, **fields: Any
) -> Source:
    """A source that we serve, our provider registered."""
    found = Source.objects.create(
        **{
            "network": on,
            "block_number": 10,
            "log_index": next(_numbers),
            "transaction_hash": digest(),
            "address": address(),
            "client": address(),
            "delivery_method": DeliveryMethod.FIRST_RESPONSE,
            "published_at": NOW,
            "environments": 1,
            "fetch_at": NOW,
        }
        | fields
    )
    if served:
        Service.objects.create(
            network=on,
            source_address=found.address,
            status=Serving.SERVED,
            model=model,
            functions=functions or {},
            registered_at=NOW,
            next_try_at=NOW,
        )
    return found


def task(of: Source, config: Any = None, *, expires_in_s: float = 3600, **fields: Any) -> Task:
    """A task whose config is pinned; `config` may be bytes, or a URL."""
    if config is None:
        config = {"function_name": "chat", "data": {"messages": [{"role": "user", "content": "Hello"}]}}
    url = config if isinstance(config, str) else pin(config)
    return Task.objects.create(
        **{
            "network": of.network,
            "block_number": 20,
            "log_index": next(_numbers),
            "transaction_hash": digest(),
            "address": address(),
            "source": of,
            "config_url": url,
            "expiry_time": int((NOW + timedelta(seconds=expires_in_s)).timestamp()),
            "payment": TOKEN,
            "delivery_method": of.delivery_method,
            "published_at": NOW,
            "status_at": NOW,
        }
        | fields
    )


def pin(content: Any) -> str:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return pins.url(
        pins.keep(body, filename="x.json", content_type="application/json", keep_until=None, now=NOW)
    )


def attempted(task: Task, provider: str = PROVIDER) -> Attempt:
    Task.objects.filter(pk=task.pk).update(status=TaskStatus.ATTEMPTED)
    return Attempt.objects.create(
        network=task.network, task=task, provider=provider, suggested_payment=task.payment, attempted_at=NOW,
        block_number=97, log_index=next(_numbers), transaction_hash=digest(),
    )  # fmt: skip


def responded(
    task: Task, provider: str = PROVIDER, *, confirmed_block: int | None = None, **fields: Any
) -> Response:
    is_confirmed = confirmed_block is not None
    Task.objects.filter(pk=task.pk).update(
        status=TaskStatus.FINALIZED if is_confirmed else TaskStatus.RESPONDED
    )
    return Response.objects.create(
        **{
            "network": task.network,
            "task": task,
            "provider": provider,
            "address": address(),
            "payment": task.payment,
            "submitted_at": NOW,
            "block_number": 97,
            "log_index": next(_numbers),
            "transaction_hash": digest(),
            "status": ResponseStatus.CONFIRMED if is_confirmed else ResponseStatus.SUBMITTED,
            "confirmed_block": confirmed_block,
            "confirmed_at": NOW if is_confirmed else None,
            "confirmed_transaction": digest() if is_confirmed else "",
        }
        | fields
    )


def ended(sent: Transaction, status: TransactionStatus, reason: str = "") -> None:
    """What the outbox does when a transaction has ended."""
    from django.db import transaction

    from chain import outbox

    with transaction.atomic():
        hash_ = {"hash": digest()} if status == TransactionStatus.CONFIRMED else {}
        assert outbox.end(sent, status, now=NOW, reason=reason, **hash_)


def only(status: FulfilmentStatus | None = None) -> Fulfilment:
    found = Fulfilment.objects.get()
    assert status in (None, found.status), f"{found.status}: {found.code} {found.reason}"
    return found


# --- One at a time, with a node that always answers ---------------------------------------------------------------

HELLO = {"function_name": "chat", "data": {"messages": [{"role": "user", "content": "Hello"}]}}
REPLY = {"id": "x", "model": "llama", "choices": [{"message": {"content": "one two three"}}]}


class Api:
    """Our own API: a node of bob's answers each key once, and everybody else who comes with it gets the same."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.asked: list[dict[str, Any]] = []
        self.done: dict[str, asking.Answer] = {}
        self.failure: Exception | None = None

    def foresee(self, request: Request, *, budget: int) -> asking.Outlook:
        return asking.Outlook(0)

    def ask(self, request: Request, *, key: str, budget: int, deadline_s: float) -> asking.Answer:
        self.asked.append({"body": request.body, "key": key, "budget": budget, "deadline_s": deadline_s})
        if self.failure is not None:
            raise self.failure
        if key not in self.done:
            record = Inference.objects.create(
                client=house.account(), kind=Kind.CHAT, desired_model="llama", node=self.node,
                provider=self.node.owner, status="completed",
            )  # fmt: skip
            self.done[key] = asking.Answer({**REPLY, "id": f"answer-{len(self.done)}"}, record)
        return self.done[key]


def advance(*, after_s: float = 0) -> Fulfilment:
    now = NOW + timedelta(seconds=after_s)
    held = rows.claim(Fulfilment.objects.get().pk, now=now)
    assert held is not None
    course.advance(held, clock=lambda: now)
    return Fulfilment.objects.get()


def working(source: Source, **options: Any) -> Fulfilment:
    """A fulfilment whose attempt is in a block."""
    published = task(source, options.pop("config", HELLO), **options)
    finding.discover(source.network, now=NOW)
    advance()
    attempted(published)
    finding.follow(source.network, now=NOW)
    return only(FulfilmentStatus.WORKING)


def answer_of(found: Fulfilment) -> Any:
    return orjson.loads(pins.read(pins.cid_in(found.answer_url) or ""))


# --- A whole marketplace ------------------------------------------------------------------------------------


@dataclass
class Market:
    """The marketplace's worker for a chain, one round at a time, and people who publish there."""

    devnet: Devnet
    network: Network
    hands: Any = field(default_factory=Inline)

    def round(self) -> None:
        """What the queue `chain` does within a second."""
        now = timezone.now()
        indexer.follow(self.network, now=now)
        broadcast.advance(self.network, now=now)
        indexer.follow(self.network, now=timezone.now())
        rounds.look(self.hands, clock=timezone.now)
        self.network.refresh_from_db()

    def until(self, true: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, list(Fulfilment.objects.values("status", "code", "reason")) + list(
                Transaction.objects.values("reference", "status", "reason")
            )
            # Back-off belongs to tests of back-off.
            Service.objects.update(next_try_at=timezone.now())
            Fulfilment.objects.filter(status__in=rows.TO_DO).update(next_try_at=timezone.now())
            Transaction.objects.update(next_try_at=timezone.now())
            self.round()
            time.sleep(0.05)

    def publish_source(
        self, metadata: Any, *, delivery: int = 1, min_payment: int = 0, lockup: int = 0
    ) -> str:
        client = self.devnet.alice
        nexus = self.devnet.contract("NEXUS")
        said = (client.address, pin(metadata), 1, min_payment, lockup, 10**6, False, "", delivery, 1)
        receipt = self.devnet.transact(client, nexus.functions.publishSource(said), gas=3_000_000)
        return str(nexus.events.SourcePublished().process_receipt(receipt, DISCARD)[0]["args"]["source"])

    def publish_task(
        self, source: str, config: Any, *, payment: int = TOKEN, expires_in_s: int = 3600
    ) -> str:
        client = self.devnet.alice
        vault, controller = self.devnet.contract("VAULT"), self.devnet.contract("CONTROLLER")
        self.devnet.transact(client, vault.functions.deposit(client.address), value=payment or 1)
        expiry = self.devnet.w3.eth.get_block("latest")["timestamp"] + expires_in_s
        call = controller.functions.publishTask((source, pin(config), expiry, payment))
        receipt = self.devnet.transact(client, call, gas=3_000_000)
        nexus = self.devnet.contract("NEXUS")
        events = nexus.events.TaskPublished().process_receipt(receipt, DISCARD)
        return str(events[0]["args"]["task"])

    def confirm(self, response: str) -> None:
        controller = self.devnet.contract("CONTROLLER")
        self.devnet.transact(self.devnet.alice, controller.functions.confirmResponse(response), gas=2_000_000)
