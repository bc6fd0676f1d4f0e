"""The files of a model as one: tar and zip archives that are made while they are sent, always the same to the byte."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator, Mapping

from clients import files
from clients.models import Blob

_BLOCK = 512
_DAY_ONE = (1980, 1, 1, 0, 0, 0)
_LARGE = 2**31


def tar(found: Mapping[str, Blob], *, folder: str = "") -> Iterator[bytes]:
    """A tar archive, piece by piece. `folder`: what the files lie in."""
    for path, blob in sorted(found.items()):
        yield _header(path, blob, folder)
        yield from files.chunks(blob)
        yield b"\0" * (-blob.size % _BLOCK)
    yield b"\0" * 2 * _BLOCK


def tar_size(found: Mapping[str, Blob], *, folder: str = "") -> int:
    """How long that will be, in bytes."""
    each = (
        len(_header(path, blob, folder)) + blob.size + -blob.size % _BLOCK for path, blob in found.items()
    )
    return sum(each) + 2 * _BLOCK


def _header(path: str, blob: Blob, folder: str) -> bytes:
    info = tarfile.TarInfo(f"{folder}/{path}" if folder else path)
    info.size = blob.size
    return info.tobuf(tarfile.PAX_FORMAT)


class _Sink:
    """What an archive is written to: gives it back piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes, /) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def zip(found: Mapping[str, Blob]) -> Iterator[bytes]:
    """A zip archive (stored: weights do not get smaller), piece by piece."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for path, blob in sorted(found.items()):
            info = zipfile.ZipInfo(path, _DAY_ONE)
            info.file_size = blob.size
            with archive.open(info, "w", force_zip64=blob.size >= _LARGE) as member:
                for chunk in files.chunks(blob):
                    member.write(chunk)
                    yield sink.taken()
    yield sink.taken()
