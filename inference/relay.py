"""From a request to an answer: place it, send it to the node, follow the answer, record how it ended.

Before the consumer has got anything, a failed attempt moves to another node; after the first byte the answer ends
with a clear error instead. Whatever happens, the slot is given back, the node stops, and the record is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import psycopg2
from django.conf import settings

from gpus import placement
from gpus.delivery import Exchange
from gpus.directory import LiveNode
from gpus.gateway import Gateway
from gpus.links import NodeLost, NodeRefused, NodeUnreachable
from gpus.placement import NoCapacity, QueueTimeout, Slot
from inference import charging, metering
from inference.charging import Charging
from inference.demand import SERVED, DemandCounter
from inference.journal import Journal, Record
from inference.metering import StreamMeter, Usage
from inference.models import Kind, Status, UsageSource
from inference.runs import Ask, Run
from inference.shelf import ModelLoading, Shelf
from marketplace import background
from marketplace.errors import BadGateway, DeadlineExceeded, InternalError, InvalidRequest, MarketplaceError
from marketplace.groupcommit import NotRecorded, Part
from marketplace.http import ConsumerLeft

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
BUSY_PAUSE_S = 0.15
# A stream that has begun and gives nothing for so long has been forgotten by its engine.
STALLED_AFTER_S = 120.0
WATCH_S = 1.0
# Statuses by which an engine says that the request itself is wrong: no other node would think otherwise.
_CODE = re.compile(r"[\w.:/-]{1,50}", re.ASCII)  # what an engine's own error code may look like
REQUEST_IS_WRONG = frozenset((400, 413, 415, 422))

PATHS = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.COMPLETION: "/v1/completions",
    Kind.EMBEDDING: "/v1/embeddings",
}


class NodesFailed(BadGateway):
    """Every node that was tried failed before it had answered anything."""


class EngineRejected(InvalidRequest):
    """The model server says that the request is wrong."""


class Interrupted(BadGateway):
    code, message = "node_lost", "The node failed in the middle of its answer."


class Late(DeadlineExceeded):
    pass


class Relay:
    """Carries the requests of one process."""

    def __init__(self, gateway: Gateway, journal: Journal, shelf: Shelf) -> None:
        self.gateway = gateway
        self._shelf = shelf
        self._journal = journal
        self._charging = Charging(journal, gateway.directory)
        self.demand = DemandCounter()
        self._running: set[Run] = set()
        self._background: set[asyncio.Task[None]] = set()
        gateway.directory.on_change(self._node_changed)

    def start(self) -> None:
        self._watching = background.keep_running(self._watch)
        self.demand.start()

    async def stop(self) -> None:
        await background.end(self._watching)
        await self.demand.stop()

    # --- The life of a request ----------------------------------------------------------------------------

    async def begin(self, run: Run) -> None:
        """Place and send; return when the whole answer is there (`run.body`), or the first block of a stream.

        Raises NoCapacity, PolicyNotMet, OverMaximumCost, NodesFailed, EngineRejected, Late, NotRecorded, ConsumerLeft;
        the record is closed by then. What the ledger refuses (InsufficientFunds, BudgetExceeded, RateLimited) has none.
        """
        try:
            await self._attempts(run)
            await self._charging.admitted(run)
        except MarketplaceError as error:
            await self._fail(run, error)
            raise
        except asyncio.CancelledError:
            if run.interrupted_by("deadline_exceeded"):
                late = Late(f"No answer within {run.ask.deadline_s:.0f} seconds.")
                await self._fail(run, late)
                raise late from None
            await self._abandon(run)
            raise ConsumerLeft from None
        except Exception:
            logger.exception("Unforeseen error in request %s", run.record.request_id)
            await self._fail(run, InternalError())
            raise InternalError() from None

    async def open(self, ask: Ask) -> Run:
        """Take a request in; `begin` must follow. Raises NotRecorded."""
        task = asyncio.current_task()
        assert task is not None
        ask.deadline_s = min(ask.deadline_s or settings.REQUEST_DEADLINE_S, settings.REQUEST_DEADLINE_S)
        principal = ask.principal
        record = Record(
            id=ask.claim.inference_id if ask.claim else await self._journal.next_id(),
            client_id=principal.client_id,
            api_key_id=principal.api_key_id,
            face=ask.face,
            kind=ask.kind.value,
            desired_model=ask.alias or ask.model,
            streamed=ask.stream,
            request_sha256=hashlib.sha256(ask.body).hexdigest(),
            question_text=ask.question_text,
            allocation=ask.allocation,
        )
        run = Run(ask, record, task, deadline=record.started + ask.deadline_s)
        self._running.add(run)
        return run

    async def _attempts(self, run: Run) -> None:
        """Try nodes until one has answered. Raises what `begin` says."""
        while True:
            slot = await self._place(run)
            await self._charging.secure(run)
            try:
                await self._attempt(run, slot)
                return
            except (NodeLost, NodeRefused) as failure:
                await self._failed(run, slot, failure)

    async def _place(self, run: Run) -> Slot:
        ask, record = run.ask, run.record
        pool = self.gateway.directory.pool_for(ask.model, ask.allocation, record.client_id)
        slot = placement.choose(
            pool, policy=ask.policy, failed=run.failed | run.busy if run.busy else run.failed
        )
        if slot is None and run.busy:
            # Other processes were quicker everywhere; a slot comes free soon.
            await asyncio.sleep(BUSY_PAUSE_S)
            record.queued_s += BUSY_PAUSE_S
            run.busy.clear()
            slot = placement.choose(pool, policy=ask.policy, failed=run.failed)
        if slot is not None:
            run.slot = slot
            self._charging.price(run, slot)
        if record.opened is None:
            self._charging.open(run)
        if slot is not None:
            return slot
        queued = time.monotonic()
        try:
            run.slot = slot = await placement.take(
                pool,
                consumer=record.client_id,
                policy=ask.policy,
                failed=run.failed,
                for_s=min(settings.QUEUE_WAIT_S, run.left_s),
            )
            self._charging.price(run, slot)
            return slot
        except NoCapacity as error:
            raise (self._nodes_failed(record) if record.attempts else self._with_others(error, ask)) from None
        finally:
            record.queued_s += time.monotonic() - queued

    def _with_others(self, error: NoCapacity, ask: Ask) -> NoCapacity:
        """The same error, with what the consumer could ask for instead; or that a node is just loading the model."""
        if self._shelf.is_loading(ask.model):
            return ModelLoading(ask.model)
        pools = self.gateway.directory.pools_for(ask.allocation, ask.principal.client_id)
        names = [
            name
            for name in placement.others(pools, but=ask.model, policy=ask.policy)
            if self._shelf.may_use(name, ask.principal)
        ]
        if not names:
            return error
        return type(error)(
            f"{error.message} {' and '.join(names)} could answer now.",
            code=error.code,
            details={**(error.details or {}), "suggestions": names},
            retry_after=error.retry_after,
        )

    async def _attempt(self, run: Run, slot: Slot) -> None:
        """One node: until its first block of a stream, or its whole answer. Raises NodeLost, NodeRefused."""
        ask, record = run.ask, run.record
        run.link_id = slot.node.link_id
        try:
            run.exchange = exchange = self.gateway.deliveries.open(
                slot.node,
                path=PATHS[ask.kind],
                deadline_s=max(run.left_s, 1.0),
                request_id=record.request_id.hex,
                body=ask.body,
            )
            status, _ = await exchange.head()
            if status != 200:
                await self._refused(exchange, status)
            elif ask.stream:
                await self._first_block(run, exchange)
            else:
                await self._whole_body(run, exchange)
        except asyncio.CancelledError:
            if run.interrupted_by("node_lost"):
                raise NodeLost(run.why) from None
            raise

    async def _first_block(self, run: Run, exchange: Exchange) -> None:
        meter = run.meter = StreamMeter(pass_usage=run.ask.pass_usage, keep_text=run.ask.keep_text)
        run.chunks = exchange.chunks()
        async for chunk in run.chunks:
            run.first = meter.feed(chunk)
            if meter.error is not None:
                raise NodeLost(f"The engine failed: {meter.error}")
            if run.first or meter.done:
                break
        if not run.first and not meter.done:
            run.first = meter.rest()
            if meter.error is not None or not run.first:
                raise NodeLost(f"The engine failed: {meter.error or 'it answered nothing'}")
        run.last_byte = time.monotonic()
        run.record.first_token_s = run.last_byte - run.record.started

    async def _whole_body(self, run: Run, exchange: Exchange) -> None:
        parts, size = [], 0
        async for chunk in exchange.chunks():
            size += len(chunk)
            if size > settings.MAX_RESPONSE_BYTES:
                raise NodeLost("The node's answer is larger than any may be.")
            parts.append(chunk)
        body = run.body = b"".join(parts)
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise NodeLost("The node's answer is not JSON.") from None
        if not isinstance(said, dict) or ("error" in said and "choices" not in said and "data" not in said):
            raise NodeLost(
                f"The engine failed: {metering.error_message(said if isinstance(said, dict) else {})}"
            )
        run.record.response_sha256 = hashlib.sha256(body).hexdigest()
        if run.ask.keep_text:
            run.record.answer_text = metering.text_of(said)
        self._count(run, metering.usage_of(said), answer_bytes=size)

    @staticmethod
    async def _refused(exchange: Exchange, status: int) -> None:
        parts: list[bytes] = []
        async for chunk in exchange.chunks():
            parts.append(chunk)
            if sum(map(len, parts)) > 65536:
                break
        text = b"".join(parts)
        try:
            said = orjson.loads(text)
        except orjson.JSONDecodeError:
            said = {"error": text[:200].decode(errors="replace") or f"status {status}"}
        message = metering.error_message(said if isinstance(said, dict) else {"error": str(said)})
        if status in REQUEST_IS_WRONG:
            error = said.get("error") if isinstance(said, dict) else None
            code = error.get("code") if isinstance(error, dict) else None
            raise EngineRejected(
                message, code=code if isinstance(code, str) and _CODE.fullmatch(code) else None
            )
        raise NodeRefused("engine_failed", f"The engine answered with status {status}: {message}")

    async def _failed(self, run: Run, slot: Slot, failure: NodeLost | NodeRefused) -> None:
        """After an attempt: give the slot back, remember why, and find out whether another attempt makes sense."""
        slot.release()
        if run.exchange is not None:
            self._in_background(run.exchange.cancel())
        record, node = run.record, slot.node
        if isinstance(failure, NodeRefused) and failure.code == "busy":
            # Another process was quicker; it is full, not broken.
            run.busy[node.id] = run.link_id
            if time.monotonic() - record.started < settings.QUEUE_WAIT_S and run.left_s > 0:
                return
            raise QueueTimeout(f"{node.name} stayed busy.", retry_after=2) from None
        record.attempts.append({"node": node.id, "name": node.name, "reason": str(failure)[:300]})
        run.failed[node.id] = run.link_id
        if isinstance(failure, NodeUnreachable):
            self._in_background(self.gateway.mark_unreachable(node, str(failure)))
        if len(record.attempts) >= MAX_ATTEMPTS:
            raise self._nodes_failed(record)

    @staticmethod
    def _nodes_failed(record: Record) -> NodesFailed:
        tried = "; ".join(f"{attempt['name']}: {attempt['reason']}" for attempt in record.attempts)
        return NodesFailed(
            f"No node could answer. Tried {tried}", details={"attempts": record.attempts}, retry_after=5
        )

    async def pour(self, run: Run, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass a stream on, block by block, as `begin` left it.

        Raises Interrupted or Late when it breaks off, and ConsumerLeft; the record is closed by then.
        """
        try:
            await write(run.first)
            await self._pour(run, write)
        except MarketplaceError as error:
            await self._break_off(run, error)
            raise
        except asyncio.CancelledError:
            if (broken := self._broken(run)) is not None:
                await self._break_off(run, broken)
                raise broken from None
            await self._abandon(run)
            raise ConsumerLeft from None
        except Exception:
            logger.exception("Unforeseen error in request %s", run.record.request_id)
            await self._break_off(run, InternalError())
            raise InternalError() from None

    @staticmethod
    async def _pour(run: Run, write: Callable[[bytes], Awaitable[None]]) -> None:
        meter, chunks = run.meter, run.chunks
        assert meter is not None
        assert chunks is not None
        try:
            async for chunk in chunks:
                block = meter.feed(chunk)
                run.last_byte = time.monotonic()
                if meter.error is not None:
                    raise Interrupted(f"The engine failed in the middle of its answer: {meter.error}")
                if block:
                    await write(block)
        except (NodeLost, NodeRefused) as failure:
            raise Interrupted(f"The node failed in the middle of its answer: {failure}") from None
        if rest := meter.rest():
            await write(rest)

    @staticmethod
    def _broken(run: Run) -> MarketplaceError | None:
        if run.interrupted_by("node_lost"):
            return Interrupted(f"The node failed in the middle of its answer: {run.why}")
        if run.interrupted_by("deadline_exceeded"):
            return Late(f"The answer was not complete within {run.ask.deadline_s:.0f} seconds.")
        return None

    # --- How it ends --------------------------------------------------------------------------------------

    async def complete(self, run: Run) -> None:
        """The answer is whole. Returns when the record is durable; raises NotRecorded."""
        if run.meter is not None:
            self._read_meter(run)
        run.record.status = Status.COMPLETED
        await self._close(run, took_s=time.monotonic() - run.record.started - run.record.queued_s)

    async def _break_off(self, run: Run, error: MarketplaceError) -> None:
        """The answer ends in the middle, with an error."""
        await self._stop_node(run)
        if run.meter is not None:
            self._read_meter(run)
        run.record.status, run.record.code, run.record.reason = Status.PARTIAL, error.code, error.message
        await self._close(run)

    async def _abandon(self, run: Run) -> None:
        """The consumer has left: stop the node, and keep what had been delivered."""
        await self._stop_node(run)
        delivered = run.last_byte > 0
        if delivered:
            self._read_meter(run)
        record = run.record
        record.status = Status.PARTIAL if delivered else Status.CANCELLED
        record.code = "consumer_left" if run.interruption == "consumer_left" else "stopped"
        record.reason = run.why or "The process that relayed it was stopped."
        await self._close(run)

    async def _fail(self, run: Run, error: MarketplaceError) -> None:
        await self._stop_node(run)
        run.record.status, run.record.code, run.record.reason = Status.FAILED, error.code, error.message
        await self._close(run)

    async def _stop_node(self, run: Run) -> None:
        run.closed = True  # from here on nothing breaks in: the record must be closed
        if run.exchange is not None:
            await run.exchange.cancel()

    async def _close(self, run: Run, *, took_s: float | None = None) -> None:
        """Give the place back, then write how it ended and settle it. Raises NotRecorded where that was a success."""
        run.closed = True
        self._running.discard(run)
        if run.slot is not None:
            run.slot.release(took_s=took_s)
        record, ask = run.record, run.ask
        if not ask.allocation:
            delivered = record.status in (Status.COMPLETED, Status.PARTIAL)
            self.demand.count(ask.model, ask.kind.value, ask.policy, SERVED if delivered else record.code)
        if not await self._charging.is_recorded(run):
            if run.ask.claim is not None:
                await run.ask.claim.free()
            return
        record.charged, record.fee = charging.charge(run)
        try:
            await self._journal.close(record, *_with_reply(run), keep=record.status != Status.COMPLETED)
        except NotRecorded:
            if record.status == Status.COMPLETED:
                self._unrecorded(run)
                raise
        except (psycopg2.Error, TypeError):
            was_good = record.status == Status.COMPLETED
            record.strip()
            await self._journal.close(record, *_with_reply(run), keep=True)
            if was_good:
                raise NotRecorded from None

    def _unrecorded(self, run: Run) -> None:
        """The end of a good answer could not be written in time: write it when the database is back.

        What a consumer has of a stream is charged; an answer that was not given out is not.
        """
        record = run.record
        if run.meter is None:
            record.status, record.code, record.reason = Status.FAILED, NotRecorded.code, NotRecorded.message
            record.charged = record.fee = 0
        self._journal.close(record, *_with_reply(run), keep=True)

    def _read_meter(self, run: Run) -> None:
        meter = run.meter
        assert meter is not None
        run.record.response_sha256 = meter.sha256
        if run.ask.keep_text:
            run.record.answer_text = "".join(meter.text)
        self._count(run, meter.usage, source=meter.usage_source, events=meter.events)

    @staticmethod
    def _count(
        run: Run,
        usage: Usage | None,
        *,
        source: str = UsageSource.ENGINE.value,
        answer_bytes: int = 0,
        events: int = 0,
    ) -> None:
        record, exchange = run.record, run.exchange
        if exchange is not None and exchange.usage and exchange.usage_source in UsageSource.values:
            reported = metering.usage_of({"usage": exchange.usage})
            usage, source = (reported, exchange.usage_source) if reported else (usage, source)
        if usage is None:
            usage = metering.estimate(
                request_bytes=len(run.ask.body), answer_bytes=answer_bytes, events=events
            )
            source = UsageSource.ESTIMATE.value
        record.prompt_tokens, record.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        record.usage_source = source

    # --- Watching -----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Once a second: who is over time, and which stream has stalled."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            for run in list(self._running):
                if now > run.deadline:
                    run.interrupt("deadline_exceeded", "The deadline has passed.")
                elif run.last_byte and now - run.last_byte > STALLED_AFTER_S:
                    run.interrupt("node_lost", f"It has sent nothing for {STALLED_AFTER_S:.0f} seconds.")

    def _node_changed(self, node: LiveNode) -> None:
        """A node that stopped calling will not answer either; what has not begun moves on."""
        if node.state in ("silent", "suspended"):
            for run in list(self._running):
                if run.slot is not None and run.slot.node is node and not run.last_byte:
                    run.interrupt("node_lost", node.liveness.reason)

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _with_reply(run: Run) -> tuple[Part, ...]:
    """What is written together with the end of the record, for whoever repeats the request."""
    return () if run.ask.claim is None else run.ask.claim.parts(run.record)
