"""Carries out steps in the calling thread, with `requests`."""

import functools
import inspect
import os
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import requests

from chain.client.steps import Http, Pause, Reply, Step, Steps, Unreachable

P = ParamSpec("P")
T = TypeVar("T")

MOST_BYTES = 64 * 1024 * 1024
CHUNK = 64 * 1024

_local = threading.local()


class Operation(Protocol[P, T]):
    """A function to call; `steps` is the same as a generator, for `aio` and for other operations."""

    steps: Callable[P, Steps[T]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T: ...


def operation(steps: Callable[P, Steps[T]]) -> Operation[P, T]:
    """Turn a function that returns steps into one that carries them out."""

    @functools.wraps(steps)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return perform(steps(*args, **kwargs))

    found = cast(Operation[P, T], run)
    found.steps = steps
    # What people see in help() is what they get, not the steps to it.
    del run.__dict__["__wrapped__"]
    run.__annotations__ = steps.__annotations__ | {"return": _result_of(steps)}
    run.__dict__["__signature__"] = inspect.signature(steps).replace(return_annotation=_result_of(steps))
    return found


def _result_of(steps: Callable[..., Any]) -> Any:
    """T of Steps[T]."""
    annotation = steps.__annotations__.get("return")
    return getattr(annotation, "__args__", (None, None, annotation))[2]


def perform(steps: Steps[T]) -> T:
    try:
        step = next(steps)
        while True:
            try:
                outcome = _carry_out(step)
            except Unreachable as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as finished:
        return cast(T, finished.value)
    finally:
        steps.close()


def _carry_out(step: Step) -> Any:
    if isinstance(step, Http):
        return _request(step)
    if isinstance(step, Pause):
        return time.sleep(step.seconds)
    return step.call()


def _request(step: Http) -> Reply:
    deadline = time.monotonic() + step.timeout
    try:
        with _session().request(
            step.method,
            step.url,
            data=step.body or None,
            headers=dict(step.headers),
            timeout=step.timeout,
            stream=True,
            allow_redirects=step.method == "GET",
        ) as reply:
            return Reply(reply.status_code, _read(reply, deadline))
    except requests.RequestException as error:
        raise Unreachable(_sentence(error)) from None


def _read(reply: requests.Response, deadline: float) -> bytes:
    """The body, within time and size: `requests` itself limits only the time between two bytes."""
    found = bytearray()
    for chunk in reply.iter_content(CHUNK):
        found += chunk
        if len(found) > MOST_BYTES:
            raise Unreachable("the answer is too long")
        if time.monotonic() > deadline:
            raise Unreachable("no whole answer in time")
    return bytes(found)


def _sentence(error: requests.RequestException) -> str:
    """Without the URL, which `requests` puts into its texts."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"the request failed ({type(error).__name__})"


def _session() -> requests.Session:
    """One for each thread, and a new one after a fork: connections cannot be shared."""
    if getattr(_local, "process", None) != os.getpid():
        _local.process, _local.session = os.getpid(), requests.Session()
    return cast(requests.Session, _local.session)
