"""JSON-RPC as steps: many requests in one round trip, and what to do with servers that take no batches."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from chain.client.errors import ConfigurationError, NodeRefused, NodeUnreachable
from chain.client.steps import Deadline, Http, Pause, Reply, Steps, Unreachable

# geth's own limit for a batch.
MOST_IN_BATCH = 1_000
TIMEOUT = 30.0
# Reads are repeated where the connection breaks; nothing is changed by that.
TRIES = 3
BACKOFF = 0.25

_numbers = itertools.count(1)
# How many requests a server has been seen to take at once, by URL.
_taken: dict[str, int] = {}


@dataclass(frozen=True)
class Request:
    method: str
    params: tuple[Any, ...] = ()


Answer = Any | NodeRefused


def ask(
    url: str,
    requests: Sequence[Request],
    *,
    deadline: Deadline,
    timeout: float = TIMEOUT,
    tries: int = TRIES,
) -> Steps[list[Answer]]:
    """The answers in the order of the requests; a refusal stands in its place as `NodeRefused`.

    For reads: a broken connection is tried again. Raises `NodeUnreachable`, `ConfigurationError` without a URL.
    """
    if not url:
        raise ConfigurationError(
            "The network's manifest names no node: set CHAIN_RPC_URL, or call ChainConfig.set_rpc(URL)."
        )
    found: list[Answer] = []
    while len(found) < len(requests):
        size = _taken.get(url, MOST_IN_BATCH)
        part = requests[len(found) : len(found) + size]
        answers = yield from _patiently(url, part, deadline, timeout, tries)
        if answers is None:
            # The server takes no batch of this size; one at a time it must take.
            _taken[url] = max(1, len(part) // 4)
        else:
            found += answers
    return found


def ask_one(url: str, request: Request, *, deadline: Deadline, timeout: float = TIMEOUT) -> Steps[Any]:
    """The result. Raises `NodeRefused`, `NodeUnreachable`."""
    (answer,) = yield from ask(url, [request], deadline=deadline, timeout=timeout)
    if isinstance(answer, NodeRefused):
        raise answer
    return answer


def ask_once(url: str, request: Request, *, timeout: float = TIMEOUT) -> Steps[Any]:
    """Like `ask_one`, without a second try: for what must not be repeated unseen."""
    answers = yield from _trip(url, [request], timeout)
    answer = (answers or [NodeRefused(0, "no answer")])[0]
    if isinstance(answer, NodeRefused):
        raise answer
    return answer


def _patiently(
    url: str, requests: Sequence[Request], deadline: Deadline, timeout: float, tries: int
) -> Steps[list[Answer] | None]:
    for attempt in range(1, tries + 1):
        try:
            return (yield from _trip(url, requests, deadline.within(timeout, "while asking the node")))
        except NodeUnreachable:
            if attempt == tries:
                raise
            yield Pause(BACKOFF * 2**attempt)
    return None


def _trip(url: str, requests: Sequence[Request], timeout: float) -> Steps[list[Answer] | None]:
    """One HTTP request; None where a batch as such was refused."""
    bodies = [
        {"jsonrpc": "2.0", "id": next(_numbers), "method": found.method, "params": list(found.params)}
        for found in requests
    ]
    body = json.dumps(bodies if len(bodies) > 1 else bodies[0]).encode()
    try:
        reply = yield Http("POST", url, timeout, body, {"Content-Type": "application/json"})
    except Unreachable as error:
        raise NodeUnreachable(f"The node at {place(url)}: {error}.") from None
    return _answers(url, [found["id"] for found in bodies], reply)


def _answers(url: str, numbers: list[Any], reply: Reply) -> list[Answer] | None:
    found = _parsed(reply)
    if len(numbers) == 1:
        found = [found] if isinstance(found, dict) else found
    if isinstance(found, list):
        by_number = {answer.get("id"): answer for answer in found if isinstance(answer, dict)}
        if all(number in by_number for number in numbers):
            return [_answer(by_number[number]) for number in numbers]
        if len(numbers) == 1 and len(found) == 1 and isinstance(found[0], dict) and "error" in found[0]:
            return [_answer(found[0])]
    if len(numbers) > 1 and reply.status < 500 and reply.status != 429:
        return None
    raise NodeUnreachable(f"The node at {place(url)} answered {reply.status}, and not as JSON-RPC.")


def _parsed(reply: Reply) -> Any:
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        return None


def _answer(answer: dict[str, Any]) -> Answer:
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    if not isinstance(error, dict):
        return NodeRefused(0, str(error))
    code = error.get("code")
    return NodeRefused(code if isinstance(code, int) else 0, str(error.get("message", "")), error.get("data"))


def place(url: str) -> str:
    """A URL as errors may show it: without path, query and user, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def forget() -> None:
    """What has been learned of servers; for tests."""
    _taken.clear()
