"""Rows of Arrow's stream format (https://arrow.apache.org/docs/format/Columnar.html), as `datasets` saves them.

Written in Python on purpose: files come from strangers, and the readers in C that we have tried can be made to crash.
Values are looked up row by row, so that nothing grows beyond the batch that is being read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias, cast

from finetune.flatbuffers import Damaged, Table
from finetune.formats import Fault
from finetune.layouts import MAX_ROW, Item

MAX_BATCH = 64 * 1024 * 1024
MAX_DESCRIPTION = 16 * 1024 * 1024
# In the lists of one row.
MAX_VALUES = 100_000
_MAX_DEPTH = 8
_FIX = "Save the dataset anew with `save_to_disk`; keep plain columns, and batches of less than 64 MiB."
_CONTINUES = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
# Numbers of types in Arrow's Schema.fbs.
_NULL, _INT, _FLOAT, _BINARY, _TEXT, _BOOL, _LIST, _STRUCT = 1, 2, 3, 4, 5, 6, 12, 13
_LARGE_BINARY, _LARGE_TEXT, _LARGE_LIST, _MAP = 19, 20, 21, 17
# Of these it is only known how many buffers they have; their values are left out.
_FIXED = {
    7,
    8,
    9,
    10,
    11,
    15,
    18,
}  # decimal, date, time, timestamp, interval, binary of a fixed size, duration
_FIXED_LIST = 16
_INTS = {
    (8, 1): "b",
    (8, 0): "B",
    (16, 1): "h",
    (16, 0): "H",
    (32, 1): "i",
    (32, 0): "I",
    (64, 1): "q",
    (64, 0): "Q",
}
_FLOATS = {1: "f", 2: "d"}  # half-precision ones are left out, too

Get: TypeAlias = Callable[[int], Any]


@dataclass(slots=True)
class _Column:
    """A column's type, or that of what is in it."""

    name: str
    kind: int
    form: str = ""
    dictionary: int | None = None
    children: list[_Column] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    """The parts of a batch, taken one after the other in the order of the columns."""

    length: int
    nodes: Iterator[tuple[int, ...]]
    buffers: Iterator[tuple[int, ...]]
    body: memoryview

    def node(self) -> int:
        """The length of the next column."""
        length = next(self.nodes, (-1, 0))[0]
        if not 0 <= length <= 8 * len(self.body):
            raise Damaged("a column has an impossible length")
        return length

    def buffer(self) -> memoryview:
        start, size = next(self.buffers, (-1, -1))
        if start < 0 or size < 0 or start + size > len(self.body):
            raise Damaged("a buffer is not there")
        return self.body[start : start + size]


def read(file: IO[bytes]) -> Iterator[Item]:
    """The rows, numbered from 1; a `Fault` ends them where they cannot be read on."""
    number = 0
    try:
        for row in _Reader(file).rows():
            number += 1
            yield number, row
    except Damaged as error:
        yield number + 1, Fault("", f"This is no Arrow file that can be read: {error}.", _FIX)


class _Reader:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._columns: list[_Column] = []
        self._by_id: dict[int, _Column] = {}
        self._dictionaries: dict[int, tuple[int, Get]] = {}
        self._dictionary_bytes = 0
        # What the row that is being read may still take: a few bytes can stand for very many.
        self._values_left = self._bytes_left = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        for kind, table, body in self._messages():
            if kind == _SCHEMA:
                self._columns = self._schema(table)
            elif kind == _DICTIONARY:
                self._remember(table, body)
            elif kind == _BATCH:
                yield from self._batch(table, body)
        if not self._columns:
            raise Damaged("it does not say what is in it")

    def _messages(self) -> Iterator[tuple[int, Table, memoryview]]:
        while len(head := self._file.read(4)) == 4:
            if head == _CONTINUES:
                head = self._file.read(4)
            size = int.from_bytes(head, "little")
            if size == 0:
                return
            message = Table.root(self._exactly(size, MAX_DESCRIPTION))
            body = self._exactly(message.number(3, "<q"), MAX_BATCH)
            yield message.number(1, "<B"), message.needed(2), body

    def _exactly(self, size: int, limit: int) -> memoryview:
        if not 0 <= size <= limit:
            raise Damaged(f"a part of it has more than {limit} bytes")
        found = self._file.read(size)
        if len(found) < size:
            raise Damaged("it is cut off")
        return memoryview(found)

    def _schema(self, table: Table) -> list[_Column]:
        if table.number(0, "<h") != 0:
            raise Damaged("its numbers are big-endian")
        return [self._column(each, 0) for each in table.tables(1)]

    def _column(self, table: Table, depth: int) -> _Column:
        name, kind = table.text(0), table.number(2, "<B")
        known = {
            _NULL,
            _INT,
            _FLOAT,
            _BINARY,
            _TEXT,
            _BOOL,
            _LIST,
            _STRUCT,
            _LARGE_BINARY,
            _LARGE_TEXT,
            _LARGE_LIST,
        }
        if depth > _MAX_DEPTH or kind not in known | _FIXED | {_MAP, _FIXED_LIST}:
            raise Damaged(f"the column {name[:50]!r} is of a type that is not read here")
        found = _Column(name, kind)
        if kind == _INT:
            found.form = _int_form(table.needed(3))
        elif kind == _FLOAT:
            found.form = _FLOATS.get(table.needed(3).number(0, "<h"), "")
        found.children = [self._column(each, depth + 1) for each in table.tables(5)]
        if kind in (_LIST, _LARGE_LIST, _MAP, _FIXED_LIST) and len(found.children) != 1:
            raise Damaged("a list is not described")
        encoding = table.table(4)
        if encoding is not None:
            return self._encoded(found, encoding)
        return found

    def _encoded(self, values: _Column, encoding: Table) -> _Column:
        """A column of numbers that stand for values elsewhere."""
        number, index = encoding.number(0, "<q"), encoding.table(1)
        self._by_id[number] = values
        form = "i" if index is None else _int_form(index)
        return _Column(values.name, _INT, form, dictionary=number)

    def _remember(self, table: Table, body: memoryview) -> None:
        number = table.number(0, "<q")
        if number not in self._by_id or table.number(2, "<B"):
            raise Damaged("a dictionary does not belong to a column, or is added to")
        self._dictionary_bytes += len(body)
        if self._dictionary_bytes > MAX_BATCH:
            raise Damaged("its dictionaries are too large")
        batch = _opened(table.needed(1), body)
        self._dictionaries[number] = self._values(self._by_id[number], batch)

    def _batch(self, table: Table, body: memoryview) -> Iterator[dict[str, Any]]:
        batch = _opened(table, body)
        columns = []
        for column in self._columns:
            length, get = self._values(column, batch)
            if length < batch.length:
                raise Damaged("a column is too short")
            columns.append((column.name, get))
        for index in range(batch.length):
            self._values_left, self._bytes_left = MAX_VALUES, MAX_ROW
            yield {name: _plain(get(index)) for name, get in columns}

    def _values(self, column: _Column, batch: _Batch) -> tuple[int, Get]:
        """How many values a column has, and how each is looked up."""
        length = batch.node()
        if column.kind == _NULL:
            return length, _nothing
        valid = batch.buffer()
        if column.kind in (_INT, _FLOAT, _BOOL) or column.kind in _FIXED:
            get = self._fixed(column, batch.buffer(), length)
        elif column.kind in (_TEXT, _LARGE_TEXT, _BINARY, _LARGE_BINARY):
            get = self._texts(column, _offsets(column, batch.buffer(), length), batch.buffer())
        elif column.kind == _STRUCT:
            get = self._struct(column, batch, length)
        elif column.kind == _FIXED_LIST:
            self._values(column.children[0], batch)
            get = _nothing
        else:
            get = self._list(column, batch, _offsets(column, batch.buffer(), length))
        return length, _where_valid(get, valid, length)

    def _fixed(self, column: _Column, data: memoryview, length: int) -> Get:
        if column.kind == _BOOL:
            if length > 8 * len(data):
                raise Damaged("a column is too short")
            return lambda index: bool(data[index >> 3] >> (index & 7) & 1)
        if not column.form:
            return _nothing
        numbers = _cast(data, column.form, length)
        if column.dictionary is None:
            return lambda index: numbers[index]
        if column.dictionary not in self._dictionaries:
            raise Damaged("a dictionary is missing")
        count, value = self._dictionaries[column.dictionary]
        return lambda index: value(_within(numbers[index], count))

    def _struct(self, column: _Column, batch: _Batch, length: int) -> Get:
        parts = []
        for child in column.children:
            count, get = self._values(child, batch)
            if count < length:
                raise Damaged("a column is too short")
            parts.append((child.name, get))
        return lambda index: {name: get(index) for name, get in parts}

    def _list(self, column: _Column, batch: _Batch, offsets: memoryview) -> Get:
        count, get = self._values(column.children[0], batch)

        def values(index: int) -> list[Any]:
            start, end = _span(offsets, index, count)
            self._values_left -= end - start
            if self._values_left < 0:
                raise Damaged(f"the lists of a row have more than {MAX_VALUES} values")
            return [get(each) for each in range(start, end)]

        return values

    def _texts(self, column: _Column, offsets: memoryview, data: memoryview) -> Get:
        if column.kind in (_BINARY, _LARGE_BINARY):
            return _nothing

        def text(index: int) -> str:
            start, end = _span(offsets, index, len(data))
            self._bytes_left -= end - start
            if self._bytes_left < 0:
                raise Damaged(f"a row has more than {MAX_ROW} bytes")
            try:
                return str(data[start:end], "utf-8")
            except UnicodeDecodeError:
                raise Damaged("a text is not UTF-8") from None

        return text


def _opened(table: Table, body: memoryview) -> _Batch:
    if table.table(3) is not None:
        raise Damaged("it is compressed")
    length = table.number(0, "<q")
    if not 0 <= length <= 8 * len(body):
        raise Damaged("a batch has an impossible length")
    return _Batch(length, iter(table.structs(1, "<qq")), iter(table.structs(2, "<qq")), body)


def _int_form(table: Table) -> str:
    form = _INTS.get((table.number(0, "<i"), table.number(1, "<B")))
    if form is None:
        raise Damaged("numbers are of a size that is not read here")
    return form


def _offsets(column: _Column, data: memoryview, length: int) -> memoryview:
    # An empty column may leave them out.
    if not length:
        return memoryview(bytes(16)).cast("q")
    return _cast(data, "q" if column.kind in (_LARGE_TEXT, _LARGE_BINARY, _LARGE_LIST) else "i", length + 1)


def _cast(data: memoryview, form: str, count: int) -> memoryview:
    size = count * {"b": 1, "h": 2, "i": 4, "f": 4, "q": 8, "d": 8}[form.lower()]
    if len(data) < size:
        raise Damaged("a column is too short")
    return data[:size].cast(cast(Any, form))


def _span(offsets: memoryview, index: int, most: int) -> tuple[int, int]:
    start, end = offsets[index], offsets[index + 1]
    if not 0 <= start <= end <= most:
        raise Damaged("a value leads out of its column")
    return start, end


def _within(index: int, count: int) -> int:
    if not 0 <= index < count:
        raise Damaged("a value is not in its dictionary")
    return index


def _where_valid(get: Get, valid: memoryview, length: int) -> Get:
    if not len(valid):
        return get
    if length > 8 * len(valid):
        raise Damaged("a column is too short")
    return lambda index: get(index) if valid[index >> 3] >> (index & 7) & 1 else None


def _nothing(_index: int) -> None:
    return None


def _plain(value: Any) -> Any:
    """Hugging Face stores a list of objects as an object of lists, too."""
    if isinstance(value, dict) and value and all(isinstance(each, list) for each in value.values()):
        lists = list(value.values())
        if len({len(each) for each in lists}) == 1:
            return [dict(zip(value, each, strict=True)) for each in zip(*lists, strict=True)]
    return value
