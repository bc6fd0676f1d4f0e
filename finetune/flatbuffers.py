"""Just enough of FlatBuffers to read what Arrow describes its data with. Safe for any bytes: it raises Damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterator

MOST_ELEMENTS = 100_000


class Damaged(Exception):
    """These bytes are not what they should be."""


class Table:
    """A table in a buffer. Fields are named by their numbers in the schema; an absent one has its default."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self._at = at
        self._fields = at - self._read("<i", at)
        self._size: int = self._read("<H", self._fields)

    @classmethod
    def root(cls, data: memoryview) -> Table:
        if len(data) < 4:
            raise Damaged("a description is too short")
        return cls(data, int.from_bytes(data[:4], "little"))

    def number(self, field: int, form: str, default: int = 0) -> int:
        """A scalar: `form` as in the module struct."""
        at = self._where(field)
        return default if at is None else self._read(form, at)

    def table(self, field: int) -> Table | None:
        at = self._where(field)
        return None if at is None else Table(self._data, at + self._read("<I", at))

    def needed(self, field: int) -> Table:
        found = self.table(field)
        if found is None:
            raise Damaged("a part of a description is missing")
        return found

    def text(self, field: int) -> str:
        at = self._where(field)
        if at is None:
            return ""
        start, count = self._vector(at)
        try:
            return str(self._data[start : start + count], "utf-8")
        except UnicodeDecodeError:
            raise Damaged("a name is not UTF-8") from None

    def tables(self, field: int) -> Iterator[Table]:
        at = self._where(field)
        if at is not None:
            start, count = self._vector(at)
            for place in range(start, start + 4 * count, 4):
                yield Table(self._data, place + self._read("<I", place))

    def structs(self, field: int, form: str) -> list[tuple[int, ...]]:
        at = self._where(field)
        if at is None:
            return []
        start, count = self._vector(at)
        size = struct.calcsize(form)
        if start + count * size > len(self._data):
            raise Damaged("a list is longer than what is there")
        return list(struct.iter_unpack(form, self._data[start : start + count * size]))

    def _vector(self, at: int) -> tuple[int, int]:
        start = at + self._read("<I", at)
        count = self._read("<I", start)
        if count > MOST_ELEMENTS:
            raise Damaged("a list is too long")
        return start + 4, count

    def _where(self, field: int) -> int | None:
        slot = 4 + 2 * field
        if slot + 2 > self._size:
            return None
        offset = self._read("<H", self._fields + slot)
        return self._at + offset if offset else None

    def _read(self, form: str, at: int) -> int:
        if at < 0:
            raise Damaged("a reference leads nowhere")
        try:
            found: int = struct.unpack_from(form, self._data, at)[0]
        except struct.error:
            raise Damaged("a reference leads nowhere") from None
        return found
