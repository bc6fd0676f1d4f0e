"""What answers requests at a node: one interface, and the engines behind it.

An engine offers models and opens answers:

    Engine          upstream.Upstream (any OpenAI-compatible server) · local.Local (models in this process)
    Answer          status, content type, then bytes; can be stopped; knows what it used
    Refusal         Busy · NoSuchModel · Draining · EngineUnreachable · EngineFailed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream"
# Which kind of model answers at which path.
KIND_OF_PATH: Mapping[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
}

UsageSource = Literal["engine", "tokenizer", "estimate"]


class Refusal(Exception):
    """There is no answer from this node; before the first byte the marketplace may ask another one."""

    code = "engine_failed"


class Busy(Refusal):
    """Every slot and every place in the queue is taken."""

    code = "busy"


class NoSuchModel(Refusal):
    """The request names a model that is not served here."""

    code = "no_such_model"


class Draining(Refusal):
    """The node finishes what it has and takes nothing new."""

    code = "draining"


class EngineUnreachable(Refusal):
    """The engine does not answer at all."""

    code = "engine_unreachable"


class EngineFailed(Refusal):
    """The engine gave up on this request."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model as the marketplace is told about it."""

    name: str
    kinds: tuple[str, ...] = ("chat", "completion")
    context_length: int | None = None
    concurrency: int = 1
    revision: str = ""
    description: str = ""
    min_vram_mib: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in OpenAI's words (None: nothing is known), and who counted them."""

    tokens: dict[str, Any] | None
    source: UsageSource

    def to_json(self) -> dict[str, Any]:
        return {"usage": self.tokens, "usage_source": self.source}


def token_counts(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Answer(ABC):
    """One answer on its way. Iterate it once for its bytes; stop it to end the engine's work early."""

    status: int
    content_type: str

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    @abstractmethod
    async def stop(self) -> None:
        """End the engine's work at once. Harmless when it has ended by itself."""

    @abstractmethod
    async def usage(self) -> Usage:
        """What has been used for the bytes read so far."""


class Whole(Answer):
    """An answer that is there in full."""

    def __init__(self, body: bytes, *, status: int = 200, usage: Usage | None = None) -> None:
        self.status, self.content_type = status, JSON_TYPE
        self._body = body
        self._usage = usage or Usage(None, "engine")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def stop(self) -> None:
        return

    async def usage(self) -> Usage:
        return self._usage


def openai_error(
    message: str, *, status: int = 400, code: str | None = None, param: str | None = None
) -> Whole:
    """An answer that is OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return Whole(
        orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}),
        status=status,
    )


class CannotHost(Exception):
    """An engine cannot serve a model of the marketplace's. The message says why."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A model of the marketplace's, as its files lie here. `base`: what an adapter lies over, folder None if loaded."""

    name: str
    digest: str
    family: str
    folder: Path
    is_adapter: bool = False
    base: str = ""
    base_digest: str = ""
    base_folder: Path | None = None

    @property
    def label(self) -> str:
        """What offers call the revision."""
        return self.digest[:12]

    @property
    def key(self) -> str:
        """By what it can be asked before it is offered."""
        return f"{self.name}@{self.label}"


class Engine(ABC):
    """Something that holds models and answers requests for them."""

    #: What it is, with versions, for the marketplace's operators.
    title: str = ""

    @property
    @abstractmethod
    def offers(self) -> list[Offer]:
        """The models that can be used right now; empty while the engine is away."""

    @abstractmethod
    async def start(self, changed: Callable[[], None]) -> None:
        """Get ready. Calls `changed` whenever the offers have changed since."""

    @abstractmethod
    async def open(self, path: str, body: bytes, request: dict[str, Any]) -> Answer:
        """Begin to answer. `request` is `body`, parsed. Raises a Refusal."""

    @abstractmethod
    async def close(self) -> None:
        """End everything that runs."""

    # --- Models of the marketplace's: nothing of it, unless an engine can ---------------------------------
    @property
    def hosting(self) -> dict[str, Any] | None:
        """What it could host: {"engine", "families", "adapters", "full", "bases"}."""
        return None

    @property
    def untried(self) -> list[Offer]:
        """What can be asked by its key, and is not offered yet."""
        return []

    async def has_base(self, name: str, digest: str) -> bool:
        """Whether it holds these weights already, so that adapters need no others."""
        return False

    def has_guest(self, guest: Guest) -> bool:
        """Whether what was hosted is still there: a server may have been started anew."""
        return True

    async def host(self, guest: Guest) -> None:
        """Load a model; it can be asked by its key then. Raises CannotHost."""
        raise CannotHost("This engine hosts no models.")

    def offer_guest(self, guest: Guest) -> None:
        """From now on offer it by its name, instead of what was hosted under that name before."""
        raise NotImplementedError

    async def dismiss(self, guest: Guest) -> None:
        """Hold it no longer. Answers that have begun go on. Harmless where it is not there."""
        raise NotImplementedError
