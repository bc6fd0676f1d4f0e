"""`Idempotency-Key` for the endpoints of the hot path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from inference import dry_run
from marketplace.http import Call

if TYPE_CHECKING:
    from inference.api.completions import Desk

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[None]])


def once(endpoint: Handler) -> Handler:
    """For an endpoint that costs money: its request takes effect once, however often it is sent with one key.

    What it finds in the scope as "claim" belongs into `Ask.claim`: its reply is stored when the request is settled.
    """

    @wraps(endpoint)
    async def answer(call: Call, desk: Desk, *args: Any, **named: Any) -> None:
        key = call.header(b"idempotency-key")
        if key is None or dry_run.wanted(call):
            await endpoint(call, desk, *args, **named)
            return
        principal = await desk.principal(call)
        claim = await desk.replays.claim(call, client_id=principal.client_id, key=key)
        if claim is None:
            return
        call.scope["claim"] = claim
        call.overhear(claim.hear)
        try:
            await endpoint(call, desk, *args, **named)
        finally:
            await claim.free()

    return cast(Handler, answer)
