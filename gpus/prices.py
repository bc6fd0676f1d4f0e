"""What providers ask for their nodes' models, within the operator's limits."""

from __future__ import annotations

from typing import NamedTuple


class Rates(NamedTuple):
    """A price as requests are charged by it: base units per million tokens, and per request."""

    input: int = 0
    output: int = 0
    request: int = 0
    price_id: int | None = None  # None: the default of the terms

    @property
    def is_free(self) -> bool:
        return not (self.input or self.output or self.request)


class Ceiling(NamedTuple):
    """The most that a consumer is willing to pay. None is any price."""

    input: int | None = None
    output: int | None = None
    request: int | None = None

    def admits(self, rates: Rates) -> bool:
        return all(most is None or asked <= most for most, asked in zip(self, rates[:3], strict=True))

    def lower(self, other: Ceiling) -> Ceiling:
        """Of two ceilings the lower in each part."""
        pairs = zip(self, other, strict=True)
        return Ceiling(*(one if two is None else two if one is None else min(one, two) for one, two in pairs))


FREE, ANY_PRICE = Rates(), Ceiling()
