"""Having the work done: a request to the marketplace's own API in the name of its own account (`clients.house`).

So it is placed, metered and recorded like everybody's. It costs nothing at that moment, but what it can cost on the
node must not be more than what the task's payment leaves for that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson
import requests
from django.conf import settings

from chain.fulfilment.rows import Impossible, Later
from chain.functions import Request
from clients import house
from gpus.models import Node
from inference.models import Inference, Kind
from marketplace import money

PATHS = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.COMPLETION: "/v1/completions",
    Kind.EMBEDDING: "/v1/embeddings",
}
CONNECT_S, DRY_RUN_S = 5.0, 30.0
# Beyond the deadline that the API itself keeps.
_SLACK_S = 10.0
# Errors that say nothing against the request itself, whatever their status.
_PASSING = frozenset(("idempotency_key_in_use", "over_maximum_cost", "policy_not_met", "model_loading"))
_PASSING_STATUSES = frozenset((401, 408, 425, 429))
_NOT_KEPT = "idempotency_reply_not_kept"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request can cost at most (base units), and the ceiling that keeps it with nodes that are cheap enough;
    `is_needed` where a node that is too dear was seen.
    """

    cost: int
    ceiling: str = ""
    is_needed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node has answered, and the record of it."""

    body: dict[str, Any]
    inference: Inference | None

    def done_by(self) -> dict[str, Any]:
        """Who has done it: fields of a fulfilment."""
        record = self.inference
        if record is None:
            return {}
        # A record outlives its node.
        node = None if record.node_id is None else Node.objects.filter(pk=record.node_id).first()
        return {"inference": record, "node": node, "provider_id": record.provider_id}


class Refused(Impossible):
    """The API says no. `status` as in HTTP."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code, message)
        self.status = status


def foresee(request: Request, *, budget: int) -> Outlook:
    """Whether a node would take this now for at most `budget` base units. Nothing is sent to it.

    Raises Impossible where the payment is too low or nobody does such things, Later where nobody can at the moment.
    """
    said = _dry_run(request)
    cost = _cost(said)
    if cost <= budget:
        return Outlook(cost, _ceiling(said, budget, cost) if cost else "")
    # The node that was looked at is too dear; a cheaper one may be there.
    ceiling = _ceiling(said, budget, cost)
    try:
        cheaper = _dry_run(request, ceiling)
    except Refused as refused:
        if refused.code != "policy_not_met":
            raise
        raise _too_low(cost, budget) from None
    if _cost(cheaper) > budget:
        raise _too_low(cost, budget)
    return Outlook(_cost(cheaper), ceiling, is_needed=True)


def ask(request: Request, *, key: str, budget: int, deadline_s: float) -> Answer:
    """Have a node do it, once: a repetition with the same `key` gets the first answer again.

    Raises Impossible, Later.
    """
    outlook = foresee(request, budget=budget)
    headers = {
        "X-Max-Cost": money.render(budget),
        "X-Deadline-S": f"{min(deadline_s, settings.REQUEST_DEADLINE_S):.3f}",
    }
    if outlook.is_needed:
        headers["X-Max-Price"] = outlook.ceiling
    try:
        return _asked(request, headers, key, deadline_s)
    except Later as why:
        if why.code != "over_maximum_cost" or outlook.is_needed or not outlook.ceiling:
            raise
        # It came to another node than the one that was looked at.
        return _asked(request, {**headers, "X-Max-Price": outlook.ceiling}, key, deadline_s)


def _asked(request: Request, headers: dict[str, str], key: str, deadline_s: float) -> Answer:
    body = _written(request)
    # A request that has become another one (the source is served with another model now) is another one.
    key = f"{key}:{sha256(body).hexdigest()[:16]}"
    try:
        return _answer(request.kind, body, {**headers, "Idempotency-Key": key}, deadline_s)
    except Refused as refused:
        if refused.code != _NOT_KEPT:
            raise
        # It was done, and its answer is lost: it has to be done once more.
        return _answer(request.kind, body, {**headers, "Idempotency-Key": f"{key}:again"}, deadline_s)


def _answer(kind: Kind, body: bytes, headers: dict[str, str], deadline_s: float) -> Answer:
    reply = _post(kind, body, headers, deadline_s + _SLACK_S)
    said = _read(reply)
    number = reply.headers.get("X-Inference-Id", "")
    found = Inference.objects.filter(pk=int(number)).first() if number.isdigit() else None
    return Answer(said, found)


def _dry_run(request: Request, ceiling: str = "") -> dict[str, Any]:
    body = _written(request)
    headers = {"X-Dry-Run": "true", **({"X-Max-Price": ceiling} if ceiling else {})}
    said = _read(_post(request.kind, body, headers, DRY_RUN_S))
    refusal = said.get("refusal")
    if said.get("node") is None and refusal is not None:
        if refusal["code"] == "policy_not_met":
            raise Refused(400, refusal["code"], refusal["message"])
        raise Later(refusal["code"], refusal["message"])
    return said


def _written(request: Request) -> bytes:
    """Always the same. The database gives back great numbers as whole ones, of any length."""
    return json.dumps(request.body, ensure_ascii=False, sort_keys=True).encode()


def _cost(said: dict[str, Any]) -> int:
    return money.parse(said.get("cost_at_most") or "0")


def _ceiling(said: dict[str, Any], budget: int, cost: int) -> str:
    """Prices, each lower than those that were seen, by as much as is needed."""
    price = said["price"]
    parts = {"prompt": "input_per_million", "completion": "output_per_million", "request": "per_request"}
    lower = {name: money.parse(price[key]) * budget // cost for name, key in parts.items()}
    return ", ".join(f"{name}={money.render(amount)}" for name, amount in lower.items())


def _too_low(cost: int, budget: int) -> Impossible:
    return Impossible(
        "payment_too_low",
        f"This can cost up to {money.named(cost)}; of the payment {money.named(budget)} are for whoever does the work. "
        "Pay more, or ask for fewer tokens.",
    )


def _post(kind: Kind, body: bytes, headers: dict[str, str], timeout_s: float) -> requests.Response:
    said = {
        "Authorization": f"Bearer {house.token()}",
        "Content-Type": "application/json",
        **headers,
    }
    url = settings.INTERNAL_URL + PATHS[kind]
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy: the token is for nobody else
            return session.post(
                url, data=body, headers=said, timeout=(CONNECT_S, timeout_s), allow_redirects=False
            )
    except requests.RequestException as error:
        raise Later("marketplace_away", f"Our own API does not answer: {type(error).__name__}.") from None


def _read(reply: requests.Response) -> dict[str, Any]:
    """The JSON of a good reply. Raises Refused, Later."""
    try:
        said = orjson.loads(reply.content)
    except orjson.JSONDecodeError:
        said = None
    if reply.status_code == 200 and isinstance(said, dict):
        return said
    error = said.get("error") if isinstance(said, dict) else None
    code, message = "", ""
    if isinstance(error, dict):
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
    message = message or f"Our own API answered with status {reply.status_code}."
    passes = reply.status_code >= 500 or reply.status_code in _PASSING_STATUSES or code in _PASSING
    if passes or not 400 <= reply.status_code < 500:
        raise Later(code or "marketplace_failed", message)
    raise Refused(reply.status_code, code or "refused", message)


def left_s(expires_at: datetime, *, now: datetime, keep_s: float) -> float:
    """How long a node may take, if `keep_s` seconds are to be left for the answer's way to the chain."""
    return (expires_at - now).total_seconds() - keep_s
