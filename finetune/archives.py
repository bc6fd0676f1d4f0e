"""Zip files: of plain files of rows, or of the folder that Hugging Face's `Dataset.save_to_disk` makes.

Nothing is unpacked to disk. Whatever a zip file should not have (paths that lead outside, links, further archives, too
many files, too much in too few bytes) is refused before anything of it is read.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

import orjson

from finetune import arrow, layouts
from finetune.formats import Fault
from finetune.layouts import Item, Layout
from marketplace import zips

MOST_FILES = 1000
# So much more than it takes in the archive may a large file be.
MAX_RATIO = 200
_SMALL = 1024 * 1024
_MAX_STATE = 16 * 1024 * 1024
_NESTED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")
_ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".txt")
TRAIN = "train"
_SPLITS = {
    TRAIN: TRAIN, "training": TRAIN, "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "eval": "validation", "test": "test",
}  # fmt: skip
_WORD = re.compile(r"[a-z]+")


class BadArchive(Exception):
    """An archive, or a file in it, that is not read."""

    def __init__(self, message: str, fix: str) -> None:
        self.fault = Fault("", message, fix)
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive that has rows."""

    name: str
    info: zipfile.ZipInfo
    is_arrow: bool


class Archive:
    """A zip file that is fit to be read. Raises BadArchive."""

    def __init__(self, file: IO[bytes], *, size: int, limit: int) -> None:
        try:
            self._zip = zips.opened(file)
        except (*zips.UNREADABLE, OSError) as error:
            raise BadArchive(
                f"This is no zip file that can be read: {error}.", "Make the zip file anew."
            ) from None
        infos = self._zip.infolist()
        if len(infos) > MOST_FILES:
            raise BadArchive(
                f"There are more than {MOST_FILES} files in it.", "Put the rows into fewer files."
            )
        self._files = [info for info in infos if not info.is_dir()]
        if any(info.filename == "xl/workbook.xml" for info in infos):
            raise BadArchive("This is an Excel workbook.", "Save the sheet as CSV (UTF-8), and send that.")
        for info in infos:
            _check(info)
        total = sum(info.file_size for info in self._files)
        if sum(info.compress_size for info in self._files) > size or total > limit:
            raise BadArchive(
                f"Its files have {total} bytes altogether, which are too many.",
                f"At most {limit} bytes are read.",
            )

    def members(self, split: str = "") -> tuple[list[Member], list[str]]:
        """The files with the rows of a split, and the names of those that belong to other splits.

        Unless one is named, that is what is there to train on, or whatever else there is only one of.
        """
        files = [info for info in self._files if not _is_hidden(info.filename)]
        saved = [info for info in files if PurePosixPath(info.filename).name == "state.json"]
        found = self._saved(saved) if saved else _plain(files)
        if not found:
            raise BadArchive(
                "There are no rows in it.",
                f"Put files into it that end in {', '.join(_ROWS)}, or `save_to_disk`'s folder.",
            )
        splits = {member.name: split_of(member.name) for member in found}
        there = set(splits.values())
        wanted = split or (TRAIN if TRAIN in there else "")
        if len(there) == 1 and not split:
            return found, []
        chosen = [member for member in found if splits[member.name] == wanted]
        if not chosen:
            named = ", ".join(sorted(filter(None, there))) or "none"
            raise BadArchive(
                f"Which files are to be taken? Splits in it: {named}.", "Name one of them as the split."
            )
        return chosen, [member.name for member in found if member not in chosen]

    def rows(self, member: Member) -> Iterator[Item]:
        """The rows of a file in it; a `Fault` ends them where they cannot be read on."""
        try:
            with (
                self._zip.open(member.info) as source,
                io.BufferedReader(cast(io.RawIOBase, source), _SMALL) as file,
            ):
                if member.is_arrow:
                    yield from arrow.read(file)
                    return
                layout = layouts.recognise(file.peek(layouts.HEAD)[: layouts.HEAD], member.name)
                if isinstance(layout, Fault) or layout is Layout.ZIP:
                    yield 1, layout if isinstance(layout, Fault) else _NO_NESTING
                    return
                yield from layouts.read(file, layout)
        except zips.UNREADABLE as error:
            yield 0, Fault("", f"It cannot be read on: {error}.", "Make the zip file anew.")

    def _saved(self, states: Sequence[zipfile.ZipInfo]) -> list[Member]:
        """The data files that the folders' `state.json` name, in their order."""
        by_name = {info.filename: info for info in self._files}
        found = []
        for state in states:
            folder = str(PurePosixPath(state.filename).parent)
            for name in self._data_files(state):
                path = name if folder == "." else f"{folder}/{name}"
                if path not in by_name:
                    raise BadArchive(
                        f"{path} is missing.", "Zip the whole folder that `save_to_disk` has made."
                    )
                found.append(Member(path, by_name[path], is_arrow=True))
        return found

    def _data_files(self, state: zipfile.ZipInfo) -> list[str]:
        try:
            with self._zip.open(state) as file:
                said = orjson.loads(file.read(_MAX_STATE))
            return [str(each["filename"]) for each in said["_data_files"]]
        except (*zips.UNREADABLE, KeyError, TypeError) as error:
            raise BadArchive(
                f"{state.filename} is not what `save_to_disk` writes ({type(error).__name__}).",
                "Zip the folder that `save_to_disk` has made, as it is.",
            ) from None


_NO_NESTING = Fault(
    "", "This is an archive in an archive.", "Unpack it, and zip the files of rows themselves."
)


def split_of(name: str) -> str:
    """Which split a file's path says that it belongs to; empty where it says nothing."""
    for part in reversed(PurePosixPath(name.lower()).parts):
        for word in _WORD.findall(part):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _plain(files: Sequence[zipfile.ZipInfo]) -> list[Member]:
    found = [
        Member(info.filename, info, is_arrow=False) for info in files if info.filename.lower().endswith(_ROWS)
    ]
    return sorted(found, key=lambda member: member.name)


def _is_hidden(name: str) -> bool:
    """What file managers leave in archives, and lists that describe but are no rows."""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def _check(info: zipfile.ZipInfo) -> None:
    found = zips.fault(info, small=_SMALL, most_times=MAX_RATIO)
    if found is not None:
        raise BadArchive(found.message, found.fix)
    if info.filename.lower().endswith(_NESTED):
        raise BadArchive(f"{info.filename[:100]!r} is an archive in an archive.", _NO_NESTING.fix)
