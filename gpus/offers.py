"""What a node says it serves, in the shapes that agents and other people's programs send it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpus.models import Offer
from gpus.prices import NOTHING, PARTS, Wish
from marketplace import money
from marketplace.errors import InvalidRequest

KINDS = ("chat", "completion", "embedding")
MAX_MODELS = 500
_MAX_POSITIVE = 2_147_483_647
_TEXTS = {"revision": 100, "description": 500}
_NUMBERS = ("context_length", "concurrency", "min_vram_mib")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as a node offers it. `context_length` in tokens; `concurrency` requests at the same time.

    `only_price`: nothing but its name and price was said, which keeps everything else that is known of it.
    """

    name: str
    kinds: tuple[str, ...] = ("chat", "completion")
    context_length: int | None = None
    concurrency: int = 1
    revision: str = ""
    description: str = ""
    min_vram_mib: int | None = None
    price: Wish = NOTHING
    only_price: bool = False

    def offer(self, node_id: int) -> Offer:
        """An unsaved, active row."""
        return Offer(
            node_id=node_id,
            model=self.name,
            kinds=list(self.kinds),
            context_length=self.context_length,
            concurrency=self.concurrency,
            revision=self.revision,
            description=self.description,
            min_vram_mib=self.min_vram_mib,
        )


# What can be offered anew or repeated by its bare name, which keeps everything else that is known of it. A price is
# kept wherever none is said.
Named = ModelSpec | str


def parse(models: Any) -> list[Named]:
    """The `models` of a registration or a heartbeat: names, objects, or both; the last of a name counts.

    Raises InvalidRequest with a message per entry under `models`.
    """
    if not isinstance(models, list):
        raise InvalidRequest(fields={"models": ["Expected a list of model names or objects."]})
    if len(models) > MAX_MODELS:
        raise InvalidRequest(fields={"models": [f"A node may offer at most {MAX_MODELS} models."]})
    found: dict[str, Named] = {}
    wrong: dict[str, list[str]] = {}
    for index, entry in enumerate(models):
        try:
            spec = _one(entry)
        except ValueError as error:
            wrong[str(index)] = [str(error)]
            continue
        found[spec if isinstance(spec, str) else spec.name] = spec
    if wrong:
        raise InvalidRequest(fields={"models": wrong})
    return list(found.values())


def _one(entry: Any) -> Named:
    if isinstance(entry, str):
        return _name(entry)
    if not isinstance(entry, Mapping):
        raise ValueError("Expected a model name or an object with a name.")
    name = _name(entry.get("name") or entry.get("id") or entry.get("model_id"))
    price = Wish(**{part: _price(part, entry[part]) for part in PARTS if entry.get(part) is not None})
    if not set(entry) & {"kinds", *_TEXTS, *_NUMBERS}:
        return ModelSpec(name=name, price=price, only_price=True) if price != NOTHING else name
    values: dict[str, Any] = {
        key: _text(key, entry[key], limit) for key, limit in _TEXTS.items() if entry.get(key)
    }
    values |= {key: _number(key, entry[key]) for key in _NUMBERS if entry.get(key) is not None}
    if entry.get("kinds"):
        values["kinds"] = _kinds(entry["kinds"])
    return ModelSpec(name=name, price=price, **values)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("The name is missing.")
    return _text("name", value.strip(), 255)


def _text(key: str, value: Any, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise ValueError(f"{key}: expected a text of at most {limit} printable characters.")
    return value


def _number(key: str, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_POSITIVE:
        raise ValueError(f"{key}: expected a whole number from 1 to {_MAX_POSITIVE}.")
    return value


def _price(key: str, value: Any) -> int:
    try:
        return money.parse(value, param=key)
    except money.NotAnAmount as error:
        raise ValueError(error.message) from None


def _kinds(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(kind, str) and kind in KINDS for kind in value):
        raise ValueError(f"kinds: expected a list of {', '.join(KINDS)}.")
    return tuple(dict.fromkeys(value))
