"""Zip files that bring the files of a model.

Nothing is unpacked under the names in them: each file is written where uploads are kept, under a name of ours. Whatever
such an archive should not have (paths that lead outside, links, too many files, too much in too few bytes) is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from inference import weights
from inference.weights import BadWeights
from marketplace import storage, zips

# So many times larger than in the archive may a file be; weights hardly get smaller.
MAX_RATIO = 100
_SMALL = 4 * 1024 * 1024


def is_zip(path: Path) -> bool:
    """By its first bytes."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


class ModelArchive:
    """A zip file that is fit to be read, by `with`. Raises BadWeights."""

    def __init__(self, path: Path, *, limit: int) -> None:
        self._file = path.open("rb")
        try:
            self._zip = zips.opened(self._file)
        except (*zips.UNREADABLE, OSError) as error:
            self._file.close()
            raise BadWeights(f"This is no zip file that can be read: {error}.") from None
        self._infos = [info for info in self._zip.infolist() if not info.is_dir()]
        try:
            self._check(path.stat().st_size, limit)
        except BadWeights:
            self._file.close()
            raise

    def __enter__(self) -> ModelArchive:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def _check(self, size: int, limit: int) -> None:
        if len(self._infos) > 4 * weights.MOST_FILES:
            raise BadWeights(f"There are {len(self._infos)} files in the archive; a model has fewer.")
        for info in self._infos:
            _check(info)
        total = sum(info.file_size for info in self._infos)
        if total > limit or sum(info.compress_size for info in self._infos) > size:
            raise BadWeights(f"The archive's files have {total} bytes altogether; at most {limit} are taken.")

    def members(self) -> dict[str, zipfile.ZipInfo]:
        """The files of the model by their names in it. The one folder in which all of them lie is left away."""
        found = {info.filename: info for info in self._infos if not _is_beside(info.filename)}
        if len(found) < sum(not _is_beside(info.filename) for info in self._infos):
            raise BadWeights("The archive has two files of one name.")
        tops = {PurePosixPath(name).parts[0] for name in found}
        if len(tops) == 1 and all("/" in name for name in found):
            found = {name.partition("/")[2]: info for name, info in found.items()}
        for name in found:
            weights.check_name(name)
        return found

    def chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """A file's content, never whole in memory. Raises BadWeights where it cannot be read."""
        try:
            with self._zip.open(info) as file:
                yield from storage.chunks_of(file)
        except (*zips.UNREADABLE, OSError) as error:
            raise BadWeights(f"{info.filename[:100]!r} cannot be read from the archive: {error}.") from None


def _is_beside(name: str) -> bool:
    """What file managers and repositories leave beside a model: hidden files, and those without an ending (LICENSE)."""
    parts = PurePosixPath(name).parts
    return (
        any(part.startswith((".", "__MACOSX")) for part in parts if part != "..")
        or not PurePosixPath(name).suffix
    )


def _check(info: zipfile.ZipInfo) -> None:
    found = zips.fault(info, small=_SMALL, most_times=MAX_RATIO)
    if found is not None:
        raise BadWeights(f"{found.message} {found.fix}")
