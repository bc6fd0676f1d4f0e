"""A file of rows, read once from its beginning to its end: its rows in their canonical form, and all that is wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import orjson

from finetune import formats, layouts
from finetune.archives import Archive, BadArchive
from finetune.formats import Fault, Row, Value, WrongRow
from finetune.layouts import Item, Layout
from finetune.models import Format

# Of the errors so many are kept; all are counted.
KEPT_ERRORS = 100
LEAST_ROWS = 2
# Rows that are remembered to find those that come twice.
REMEMBERED = 500_000
_BYTES_PER_TOKEN = 4
_SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What whoever sends a file says of it. Nothing of it needs to be said."""

    format: Format | None = None
    layout: Layout | None = None
    split: str = ""


class TakesLonger(Exception):
    """The time that an inspection may take is over."""


@dataclass(slots=True)
class Inspection:
    """What is found while `canonical` is being read to its end. `ends_at`: when to give up, by `time.monotonic`."""

    told: Told
    ends_at: float = math.inf
    format: Format | None = None
    rows: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    error_count: int = 0
    _chars: int = 0
    _bytes: int = 0
    _duplicates: int = 0
    _seen: set[int] = field(default_factory=set)
    _longest: tuple[int, int, str] = (0, 0, "")
    _scored: bool = False
    _has_clicks: bool = False
    _file: str = ""
    _unused: list[str] = field(default_factory=list)
    _line: int = 0

    @property
    def is_good(self) -> bool:
        return not self.error_count

    def canonical(self, file: IO[bytes], *, name: str, size: int, limit: int) -> Iterator[bytes]:
        """The rows as JSON lines. After the first error nothing more comes, but everything is still read.

        `file` must be able to seek. `limit`: bytes that an archive may have in it. Raises TakesLonger.
        """
        self.format = self.told.format
        for line, value in self._items(file, name=name, size=size, limit=limit):
            self._line = line
            if time.monotonic() > self.ends_at:
                raise TakesLonger
            if isinstance(value, Fault):
                self._note(value)
            elif (row := self._checked(value)) is not None:
                encoded = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
                self._count(row, encoded)
                if self.is_good:
                    yield encoded
        self._check_whole()

    def summary(self) -> dict[str, Any]:
        """What a dataset's summary says; see `finetune.models.Dataset`."""
        line, chars, name = self._longest
        found: dict[str, Any] = {
            "rows": self.rows,
            "tokens": max(1, self._chars // _BYTES_PER_TOKEN) if self.rows else 0,
            "duplicates": self._duplicates,
            "longest": {"line": line, "chars": chars} | ({"file": name} if name else {}),
            "bytes": self._bytes,
        }
        if self.rows > REMEMBERED:
            found["duplicates_among"] = REMEMBERED
        if self._scored:
            found["scored"] = True
        if self._unused:
            found["unused_files"] = self._unused[:20]
        return found

    def _items(self, file: IO[bytes], *, name: str, size: int, limit: int) -> Iterator[Item]:
        head = file.read(layouts.HEAD)
        file.seek(0)
        layout = layouts.recognise(head, name)
        if self.told.layout is not None and not (isinstance(layout, Fault) or layout is Layout.ZIP):
            layout = self.told.layout
        if isinstance(layout, Fault):
            yield 0, layout
        elif layout is not Layout.ZIP:
            yield from layouts.read(file, layout)
        elif not head.startswith(b"PK"):
            yield 0, Fault("", "This is no zip file.", "Say what it is, or nothing.")
        else:
            yield from self._archived(file, size=size, limit=limit)

    def _archived(self, file: IO[bytes], *, size: int, limit: int) -> Iterator[Item]:
        try:
            archive = Archive(file, size=size, limit=limit)
            members, self._unused = archive.members(self.told.split)
        except BadArchive as error:
            yield 0, error.fault
            return
        for member in members:
            self._file = member.name
            yield from archive.rows(member)
        self._file = ""

    def _checked(self, value: Value) -> Row | None:
        """A row in its canonical form; None where something is wrong with it, which is noted."""
        if self.format is None:
            self.format = formats.recognise(value)
            if self.format is None:
                self._note(formats.unknown(value))
                return None
        try:
            row = formats.canonical(self.format, value)
        except WrongRow as error:
            for fault in error.faults:
                self._note(fault)
            return None
        scored = formats.is_scored(self.format, row)
        if self.rows == 0:
            self._scored = scored
        elif scored != self._scored:
            self._note(
                Fault(
                    "score",
                    "Some rows have a score, and some have none.",
                    "Give a score to all rows, or to none.",
                )
            )
            return None
        return row

    def _count(self, row: Row, encoded: bytes) -> None:
        self.rows += 1
        self._bytes += len(encoded)
        length = 0
        for text in formats.texts(row):
            length += len(text)
            self._chars += len(text) if text.isascii() else len(text.encode())
        if length > self._longest[1]:
            self._longest = (self._line, length, self._file)
        key = hash(encoded)
        if key in self._seen:
            self._duplicates += 1
        elif len(self._seen) < REMEMBERED:
            self._seen.add(key)
        if row.get("clicked"):
            self._has_clicks = True

    def _check_whole(self) -> None:
        self._line = 0
        if self.is_good and self.rows < LEAST_ROWS:
            self._note(
                Fault(
                    "", f"There {'is one row' if self.rows else 'are no rows'}; at least {LEAST_ROWS} are needed.",
                    "Add rows: one part is learned, and another one shows how well.",
                )
            )  # fmt: skip
        elif self.is_good and self.format is Format.CLICKS and not self._has_clicks:
            self._note(Fault("clicked", "Nothing was clicked in any session.", "Add sessions with clicks."))

    def _note(self, fault: Fault) -> None:
        self.error_count += 1
        if len(self.errors) < KEPT_ERRORS:
            self.errors.append(
                {
                    "line": self._line,
                    "field": fault.field[:_SHOWN],
                    "message": fault.message[:_SHOWN],
                    "fix": fault.fix[:_SHOWN],
                }
                | ({"file": self._file} if self._file else {})
            )
