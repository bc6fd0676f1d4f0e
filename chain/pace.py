"""How many blocks a node tells of at once: found out by asking, as TCP finds out how much a line carries (RFC 5681)."""

from __future__ import annotations


class Pace:
    """Doubles up to where it was last too much, and goes on from there in small steps."""

    def __init__(self, most: int) -> None:
        self._size = most
        self._refused: int | None = None

    def size(self, most: int) -> int:
        return min(self._size, most)

    def went_well(self, size: int) -> None:
        doubled = 2 * size
        if self._refused is not None and doubled >= self._refused:
            doubled = size + max(size // 8, 1)
            if doubled >= self._refused:
                self._refused = None
        self._size = max(self._size, doubled)

    def was_too_much(self, size: int) -> None:
        self._size = max(size // 2, 1)
        self._refused = size

    def failed(self, size: int) -> None:
        """For whatever reason: perhaps it was too much."""
        self._size = max(size // 2, 1)
