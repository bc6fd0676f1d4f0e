"""What a request may cost is held before it goes to a node; what it did cost is worked out when it ends."""

from __future__ import annotations

import asyncio
from typing import Any

from clients import ledger
from clients.models import AccountKind
from gpus.directory import Directory
from gpus.placement import NoCapacity, Slot
from gpus.prices import FREE
from inference import pricing
from inference.journal import Journal
from inference.models import Status
from inference.runs import Ask, Run
from marketplace import money
from marketplace.errors import InvalidRequest, MarketplaceError
from marketplace.groupcommit import NotRecorded

Verdict = tuple[str, Any] | None


class OverMaximumCost(InvalidRequest):
    """The request can cost more than its consumer allows."""

    code = "over_maximum_cost"


class Charging:
    """The money of the requests of one process."""

    def __init__(self, journal: Journal, directory: Directory) -> None:
        self._journal = journal
        self._directory = directory

    def price(self, run: Run, slot: Slot) -> None:
        """From now on a request has the price of this node, unless its next attempt is elsewhere.

        Raises OverMaximumCost.
        """
        ask, record, offer, terms = run.ask, run.record, slot.offer, self._directory.terms
        record.node_id, record.provider_id = slot.node.id, slot.node.owner_id
        record.revision = ask.revision_of(offer.revision)
        record.rates, record.terms_id, record.fee_bps = offer.rates, terms.pk, terms.fee_bps
        run.bound = pricing.bound(
            ask.kind,
            request_bytes=len(ask.body),
            most_tokens=ask.most_tokens,
            copies=ask.copies,
            context_length=offer.context_length,
        )
        run.most = pricing.most(record.rates, run.bound)
        check_cost(ask, run.most, on=slot.node.name)
        if not ask.principal.pays:
            # What chains pay for costs nothing here: neither held nor charged.
            record.rates, run.most = FREE, 0

    def open(self, run: Run) -> None:
        """Record that a request has begun, and hold what it can cost as far as its price is known."""
        record, principal = run.record, run.ask.principal
        limited = principal.limited
        record.held, record.tokens = run.most, run.bound.total
        # Where the price is not known yet, or another attempt may have one, the hold is made now and grows.
        may_cost = record.held > 0 or run.slot is None or run.slot.pool.is_priced
        record.has_hold = limited or (principal.pays and may_cost)
        self._journal.open(record, limited=limited)

    async def secure(self, run: Run) -> None:
        """Return when all that the present attempt can cost is held.

        Raises NotRecorded and what `ledger.refusal` makes.
        """
        record = run.record
        if record.has_hold:
            await self.admitted(run)
        if run.most:
            record.payee = await self._journal.account(record.provider_id, AccountKind.EARNED.value)
            record.fees = await self._journal.account(None, AccountKind.FEES.value)
        limited = run.ask.principal.limited
        if run.most <= record.held and (run.bound.total <= record.tokens or not limited):
            return
        if not record.has_hold:
            # A hold that is made only now could outlive the record, if a sweep has ended that.
            raise NoCapacity(
                "The only node that can take this has begun to charge for it. Send it again.", retry_after=1
            )
        before = record.held, record.tokens
        record.held, record.tokens = max(run.most, record.held), max(run.bound.total, record.tokens)
        try:
            self._heed(run, await _whatever_comes(run, self._journal.grow(record)))
        except MarketplaceError:
            record.held, record.tokens = before
            raise

    async def admitted(self, run: Run) -> None:
        """Return when the request is known to be recorded. Raises as `secure` does."""
        record = run.record
        if record.admitted:
            return
        assert record.opened is not None
        verdict = await _whatever_comes(run, record.opened)
        if verdict is not None and verdict[0] == "again":
            self._journal.open(record, limited=True)
            verdict = await _whatever_comes(run, record.opened)
        self._heed(run, verdict)

    async def is_recorded(self, run: Run) -> bool:
        """Whether there is a record to close. Waits: in one batch it would be closed before it is opened."""
        if run.record.opened is None:
            return False
        if not run.record.refused:
            try:
                await self.admitted(run)
            except NotRecorded:
                return True  # perhaps it was written, and only the answer was lost
            except MarketplaceError:
                return False
        return not run.record.refused

    @staticmethod
    def _heed(run: Run, verdict: Verdict) -> None:
        record = run.record
        code, details = verdict or ("", None)
        if code:
            # Only what opens a record can keep it from being one.
            record.refused = not record.admitted
            record.limits = _left_of(details) or record.limits
            raise ledger.refusal(code, details)
        record.admitted = True
        record.limits = details or record.limits


def _left_of(details: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a limit per minute that refused a request has left, in the shape in which admitted ones are told."""
    what = {"requests_per_minute": "requests", "tokens_per_minute": "tokens"}.get(
        (details or {}).get("limit", "")
    )
    if details is None or what is None:
        return None
    left = [details["allowed"], details["allowed"] - details["used"]]
    return {"requests": None, "tokens": None, "reset": details["retry_after"] or 60, what: left}


def check_cost(ask: Ask, most: int, *, on: str) -> None:
    """Raise OverMaximumCost where a request can cost more on a node than its consumer allows."""
    if ask.most_cost is not None and most > ask.most_cost:
        raise OverMaximumCost(
            f"This can cost up to {money.named(most)} on {on}; your maximum is {money.named(ask.most_cost)}.",
            details={"needed": money.render(most), "allowed": money.render(ask.most_cost)},
        )


async def _whatever_comes(run: Run, done: asyncio.Future[Verdict]) -> Verdict:
    """Wait for the ledger. That a node is lost meanwhile shows when the request is sent to it."""
    while True:
        try:
            # Whoever breaks in must not cancel what will be written all the same.
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not run.interrupted_by("node_lost"):
                raise


def charge(run: Run) -> tuple[int, int]:
    """What the consumer pays for what was delivered, and the marketplace's part of that."""
    record, bound = run.record, run.bound
    if record.status not in (Status.COMPLETED, Status.PARTIAL) or not record.held:
        return 0, 0
    # Where the node broke off, the request was not fulfilled: only its tokens are paid.
    whole = record.status == Status.COMPLETED or record.code == "consumer_left"
    cost = pricing.cost(
        record.rates,
        prompt_tokens=min(record.prompt_tokens, bound.prompt),
        completion_tokens=min(record.completion_tokens, bound.completion),
        per_request=whole,
    )
    charged = min(cost, record.held)
    return charged, money.share(charged, record.fee_bps)
