"""One request in this process: what the consumer wants, and how far it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from clients.credentials import Principal
from gpus import placement
from gpus.delivery import Exchange
from gpus.placement import Policy, Slot
from inference.journal import Record
from inference.metering import StreamMeter
from inference.models import Kind
from inference.pricing import NOTHING, Bound
from inference.replays import Claim


@dataclass(slots=True)
class Ask:
    """What a consumer wants, in the words of OpenAI's API: `body` goes to the node as it is."""

    principal: Principal
    face: str
    kind: Kind
    model: str
    body: bytes
    stream: bool = False
    policy: Policy = placement.ANY
    deadline_s: float = 0.0
    # The most completion tokens it asks for, over all of its answers; and how many answers.
    most_tokens: int | None = None
    copies: int = 1
    allocation: str = ""
    # The most that it may cost, whatever the price.
    most_cost: int | None = None
    # Streams: whether the consumer asked for the usage report itself.
    pass_usage: bool = False
    # Kept with the record, where the API must give it back.
    question_text: str = ""
    keep_text: bool = False
    # The consumer's Idempotency-Key, which its reply is stored under.
    claim: Claim | None = None
    # The name that the consumer used, where `model` is what it stands for.
    alias: str = ""

    def lead_to(self, model: str) -> None:
        """The name that was asked for stands for this model: it is what nodes know."""
        self.alias, self.model = self.model, model
        self.body = orjson.dumps({**orjson.loads(self.body), "model": model})

    def revision_of(self, label: str) -> str:
        """What records and receipts say that has answered. A name that is moved says nothing without its target."""
        return f"{self.model}@{label}"[-100:] if self.alias else label


@dataclass(slots=True, eq=False)
class Run:
    """One request in this process."""

    ask: Ask
    record: Record
    task: asyncio.Task[Any]
    deadline: float
    slot: Slot | None = None
    exchange: Exchange | None = None
    meter: StreamMeter | None = None
    first: bytes = b""
    body: bytes = b""
    last_byte: float = 0.0
    interruption: str = ""
    why: str = ""
    chunks: AsyncIterator[bytes] | None = None
    closed: bool = False
    # What it can use and cost at most, where it is sent to at present.
    bound: Bound = NOTHING
    most: int = 0
    link_id: UUID | None = None  # of the present attempt's node
    failed: dict[int, UUID | None] = field(default_factory=dict)
    # Nodes that were full when they were asked: another free one comes first.
    busy: dict[int, UUID | None] = field(default_factory=dict)

    def interrupt(self, what: str, why: str) -> None:
        """Break in from outside: "consumer_left", "deadline_exceeded", or "node_lost"."""
        if not self.interruption and not self.closed:
            self.interruption, self.why = what, why
            self.task.cancel()

    def interrupted_by(self, what: str) -> bool:
        """Whether a CancelledError is an interruption of this kind; if so, the task goes on."""
        if self.interruption != what:
            return False
        self.interruption = ""
        self.task.uncancel()
        return True

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()
