"""How rows lie in a file: JSON lines, a JSON array, CSV or TSV, lines of text. Read as a stream, whatever is in it.

A reader gives each row with its line, and in place of a row that cannot be read a `Fault` with its line; it raises
nothing but what reading the file raises. Nothing that is longer than `MAX_ROW` is ever held.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import IO, Any, TypeAlias

import orjson

from finetune.formats import Fault, Value

# The bytes of one row, or of one line.
MAX_ROW = 4 * 1024 * 1024
_CHUNK = 1024 * 1024
_MAX_COLUMNS = 1000
# As deep as orjson reads.
MAX_DEPTH = 1000
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)
_SCALAR = re.compile(r"[^,\]\s]*")
_BOM = codecs.BOM_UTF8
_NOT_UTF8 = "Save the file as UTF-8."

csv.field_size_limit(MAX_ROW)

Item: TypeAlias = tuple[int, Value | Fault]
Line: TypeAlias = tuple[int, bytes | Fault]


class Layout(StrEnum):
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    TEXT = "txt"
    ZIP = "zip"


_ENDINGS = {
    ".jsonl": Layout.JSONL,
    ".ndjson": Layout.JSONL,
    ".csv": Layout.CSV,
    ".tsv": Layout.TSV,
    ".tab": Layout.TSV,
    ".zip": Layout.ZIP,
}
# By their first bytes: what somebody may send by mistake, and what to do about it.
_FOREIGN = (
    (b"\x1f\x8b", "gzip", "Unpack it, or send a zip file."),
    (
        b"PAR1",
        "Parquet",
        'Save it with `dataset.to_json("rows.jsonl")`, or as a zip of `save_to_disk`\'s folder.',
    ),
    (b"ARROW1", "Arrow", "Send a zip of the folder that `save_to_disk` makes."),
    (b"BZh", "bzip2", "Unpack it, or send a zip file."),
    (b"\xfd7zXZ", "xz", "Unpack it, or send a zip file."),
    (b"7z\xbc\xaf", "7-Zip", "Send a zip file."),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "Unpack it, or send a zip file."),
    (b"%PDF", "PDF", "Send its text."),
    (b"\xff\xfe", "UTF-16", _NOT_UTF8),
    (b"\xfe\xff", "UTF-16", _NOT_UTF8),
)
HEAD = 4096


def recognise(head: bytes, name: str) -> Layout | Fault:
    """How a file is laid out, by its first `HEAD` bytes and its name."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Layout.ZIP
    for magic, what, fix in _FOREIGN:
        if head.startswith(magic):
            return Fault("", f"This is a {what} file, which is not read here.", fix)
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    if ending in (".csv", ".tsv", ".tab"):
        return _ENDINGS[ending]
    start = head.removeprefix(_BOM).lstrip()
    if start.startswith(b"["):
        return Layout.JSON
    if start.startswith(b"{") or ending in _ENDINGS or ending == ".json":
        return _ENDINGS.get(ending, Layout.JSONL)
    return Layout.TEXT


def read(file: IO[bytes], layout: Layout) -> Iterator[Item]:
    """The rows of a file, each with the line that it begins in."""
    return _READERS[layout](file)


def lines(file: IO[bytes]) -> Iterator[Line]:
    """A file's lines without their ends, from 1; those that are blank are left out, and of too long ones only said."""
    number, limit = 0, MAX_ROW + 2
    while line := file.readline(limit):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if len(line) == limit and not line.endswith(b"\n"):
            _skip_line(file, limit)
            yield number, _too_long("line")
        elif line := line.rstrip(b"\r\n"):
            yield number, line


def _skip_line(file: IO[bytes], limit: int) -> None:
    while (more := file.readline(limit)) and not more.endswith(b"\n"):
        pass


def _too_long(what: str) -> Fault:
    return Fault("", f"The {what} is longer than {MAX_ROW} bytes.", "Split it into several rows.")


def _json_lines(file: IO[bytes]) -> Iterator[Item]:
    for number, line in lines(file):
        if isinstance(line, Fault):
            yield number, line
        elif line.strip():
            yield number, _parsed(line)


def _parsed(text: bytes) -> Value | Fault:
    try:
        return _row(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        return _json_fault(str(error), text)


def _row(value: Any) -> Value | Fault:
    if isinstance(value, dict | str):
        return value
    return Fault("", "This is JSON, but no object.", 'Write an object: {"…": "…"}.')


def _json_fault(said: str, text: bytes) -> Fault:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return Fault("", f"This is not UTF-8 (byte {error.start + 1}).", _NOT_UTF8)
    if "ecursion" in said or "depth" in said:
        return Fault("", "This is nested too deeply.", "Take out what is not needed.")
    if b"NaN" in text or b"Infinity" in text:
        return Fault(
            "", f"This is not valid JSON: {said}.", "JSON has no NaN and no Infinity: write null or a number."
        )
    return Fault("", f"This is not valid JSON: {said}.", "Write one object to a line, with double quotes.")


def _array(file: IO[bytes]) -> Iterator[Item]:
    """The elements of one JSON array. After what is not JSON nobody knows where the next one begins."""
    text = _Text(file)
    if text.peek() != "[":
        yield text.line, Fault("", "This does not begin with [.", "Write a list: [{…}, {…}].")
        return
    text.take(1)
    if text.peek() == "]":
        text.take(1)
    else:
        while True:
            number, value = text.line, text.element()
            yield number, value
            if text.is_broken:
                return
            sign = text.peek()
            text.take(1)
            if sign == "]":
                break
            if sign != ",":
                yield text.line, text.fault or Fault("", "A comma or ] is missing here.", "Write [{…}, {…}].")
                return
            text.peek()
    if text.peek():
        yield text.line, Fault("", "There is something behind the end of the list.", "Take it out.")


class _Text:
    """Text that is read as it is needed, and knows its line."""

    _SPACE = " \t\r\n"

    def __init__(self, file: IO[bytes]) -> None:
        self.line = 1
        self.fault: Fault | None = None
        self.is_broken = False
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._at = 0

    def _more(self) -> bool:
        """Read a further piece; whether there was one."""
        piece = b"" if self.fault else self._file.read(_CHUNK)
        try:
            said = self._decode(piece, not piece)
        except UnicodeDecodeError as error:
            self.fault = Fault("", "This is not UTF-8.", _NOT_UTF8)
            said = error.object[: error.start].decode().removeprefix("\ufeff")
        self._text, self._at = self._text[self._at :] + said, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            start = self._at
            rest = len(self._text)
            while start < rest and self._text[start] in self._SPACE:
                start += 1
            self.take(start - self._at)
            if start < rest:
                return self._text[start]
            if not self._more() and self._at >= len(self._text):
                return ""

    def take(self, count: int) -> None:
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def element(self) -> Value | Fault:
        """The next value of a list."""
        self.peek()
        while (end := self._end()) is None:
            if len(self._text) - self._at > MAX_ROW:
                return self._break(_too_long("row"))
            if not self._more():
                fault = Fault("", "This is not valid JSON: it is not complete.", "Write it to its end.")
                return self._break(self.fault or fault)
        if end < 0:
            return self._break(Fault("", "This is nested too deeply.", "Take out what is not needed."))
        piece = self._text[self._at : end]
        self.take(end - self._at)
        return _too_long("row") if len(piece) > MAX_ROW else _parsed(piece.encode())

    def _end(self) -> int | None:
        """Where the value ends that begins here; None where that is not there yet, -1 where it is nested too deeply.

        Not by a JSON parser: that would take one level of the stack for each level of the text.
        """
        if self._text[self._at : self._at + 1] not in ("{", "[", '"'):
            end = _SCALAR.match(self._text, self._at)
            return end.end() if end is not None and end.end() < len(self._text) else None
        depth = 0
        for token in _TOKEN.finditer(self._text, self._at):
            sign = token[0]
            if sign == '"':
                return None  # a text that has no end yet
            if sign in "{[":
                depth += 1
            elif sign in "}]":
                depth -= 1
            if depth > MAX_DEPTH:
                return -1
            if depth <= 0:
                return token.end()
        return None

    def _break(self, fault: Fault) -> Fault:
        self.is_broken = True
        return fault


def _csv(file: IO[bytes]) -> Iterator[Item]:
    return _table(file, "")


def _tsv(file: IO[bytes]) -> Iterator[Item]:
    return _table(file, "\t")


def _table(file: IO[bytes], delimiter: str) -> Iterator[Item]:
    """Rows under a header. A quoted field may go over several lines."""
    source = _TableLines(file)
    first = next(source, "")
    if source.faults:
        yield from source.take_faults()
        return
    delimiter = delimiter or max(",;\t", key=lambda sign: (first.count(sign), sign == ","))
    header = _header(first, delimiter)
    if isinstance(header, Fault):
        yield 1, header
        return
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        start = source.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield (
                start,
                Fault(
                    "", f"This is not valid CSV: {error}.", 'Put texts in double quotes, and write "" for ".'
                ),
            )
            yield from source.take_faults()
            continue
        yield from source.take_faults()
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield start, _cells(cells, header)


class _TableLines:
    """Lines as the csv module wants them, blank ones included: they may be inside of a field."""

    def __init__(self, file: IO[bytes]) -> None:
        self.number = 0
        self.faults: list[Item] = []
        self._file = file

    def __iter__(self) -> _TableLines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW)
        if not line:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(_BOM)
        if len(line) == MAX_ROW and not line.endswith(b"\n"):
            _skip_line(self._file, MAX_ROW)
            self.faults.append((self.number, _too_long("line")))
            return "\n"
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self.faults.append(
                (self.number, Fault("", f"This is not UTF-8 (byte {error.start + 1}).", _NOT_UTF8))
            )
            return "\n"

    def take_faults(self) -> list[Item]:
        found, self.faults = self.faults, []
        return found


def _header(line: str, delimiter: str) -> list[str] | Fault:
    fix = "Name the columns in the first line, such as prompt,completion."
    try:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
    except csv.Error as error:
        return Fault("", f"The header is not valid CSV: {error}.", fix)
    # Spreadsheets write out columns, and rows, that are empty.
    while names and not names[-1]:
        names.pop()
    if not names or not all(names) or len(set(names)) < len(names) or len(names) > _MAX_COLUMNS:
        return Fault("", "The header is missing, or names a column twice or not at all.", fix)
    return names


def _cells(cells: list[str], header: list[str]) -> Value | Fault:
    while len(cells) > len(header) and not cells[-1].strip():
        cells.pop()
    if len(cells) != len(header):
        return Fault(
            "",
            f"There are {len(cells)} fields, but {len(header)} columns.",
            "Put texts that have commas in quotes.",
        )
    return {name: _cell(name, text) for name, text in zip(header, cells, strict=True)}


# Columns that may hold JSON.
_LISTS = {"messages", "conversations", "results", "search_results", "clicked", "events"}


def _cell(name: str, text: str) -> Any:
    if name in _LISTS:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text


def _text_lines(file: IO[bytes]) -> Iterator[Item]:
    for number, line in lines(file):
        if isinstance(line, Fault):
            yield number, line
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            yield number, Fault("", f"This is not UTF-8 (byte {error.start + 1}).", _NOT_UTF8)
            continue
        if text.strip():
            yield number, text


_READERS: dict[Layout, Callable[[IO[bytes]], Iterator[Item]]] = {
    Layout.JSONL: _json_lines,
    Layout.JSON: _array,
    Layout.CSV: _csv,
    Layout.TSV: _tsv,
    Layout.TEXT: _text_lines,
}
