"""What a node can do besides answering: train models, and host models that the marketplace keeps.

Its agent says so when it registers and with its heartbeats; here is the shape of it, strictly read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from marketplace.errors import InvalidRequest

METHODS = ("causal", "embedding")
ENGINES = ("transformers", "vllm")
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Training:
    """`slots` trainings at once, each on all `gpus` (1 where only the processor computes)."""

    methods: tuple[str, ...] = METHODS
    slots: int = 1
    device: str = "cpu"
    gpus: int = 1
    memory_mib: int = 0

    @classmethod
    def read(cls, said: Any) -> Training:
        """Raises InvalidRequest."""
        known = _object("training", said)
        return cls(
            methods=_words("training.methods", known.get("methods", METHODS), METHODS),
            slots=_number("training.slots", known.get("slots", 1), 1, 64),
            device=str(known.get("device") or "cpu")[:50],
            gpus=_number("training.gpus", known.get("gpus", 1), 1, 64),
            memory_mib=_number("training.memory_mib", known.get("memory_mib", 0), 0, _MOST),
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "methods": list(self.methods)}


@dataclass(frozen=True, slots=True)
class HostingTalent:
    """`families` of models that it can host, `most` of them at once; `adapters`: LoRA over a base that it serves."""

    engine: str = "transformers"
    families: tuple[str, ...] = METHODS
    adapters: bool = True
    full: bool = True
    most: int = 4
    bases: tuple[str, ...] = ()

    @classmethod
    def read(cls, said: Any) -> HostingTalent:
        """Raises InvalidRequest."""
        known = _object("hosting", said)
        bases = known.get("bases", ())
        if not isinstance(bases, list | tuple) or not all(isinstance(each, str) for each in bases):
            raise InvalidRequest(fields={"hosting.bases": ["Expected a list of names."]})
        return cls(
            engine=_words("hosting.engine", [known.get("engine", "transformers")], ENGINES)[0],
            families=_words("hosting.families", known.get("families", METHODS), METHODS),
            adapters=bool(known.get("adapters", True)),
            full=bool(known.get("full", True)),
            most=_number("hosting.most", known.get("most", 4), 0, 1000),
            bases=tuple(each[:255] for each in bases[:500]),
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "families": list(self.families), "bases": list(self.bases)}


def _object(name: str, said: Any) -> Mapping[str, Any]:
    if not isinstance(said, Mapping):
        raise InvalidRequest(fields={name: ["Expected an object."]})
    return said


def _words(name: str, said: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(said, list | tuple) or not said or not all(each in known for each in said):
        raise InvalidRequest(fields={name: [f"Expected some of {', '.join(known)}."]})
    return tuple(dict.fromkeys(said))


def _number(name: str, said: Any, least: int, most: int) -> int:
    if isinstance(said, bool) or not isinstance(said, int) or not least <= said <= most:
        raise InvalidRequest(fields={name: [f"Expected a whole number from {least} to {most}."]})
    return said
