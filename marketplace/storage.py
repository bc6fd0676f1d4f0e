"""Files as the marketplace keeps them: in a folder, or in a bucket (django-storages), never whole in memory.

`spool` takes bytes as they come onto this machine's disk and learns their size and hashes; `keep` moves that into the
storage. What a stored file is called is the storage's business: rows remember the name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from uuid import uuid4

from Crypto.Hash import keccak
from django.conf import settings
from django.core.files import File
from django.core.files.storage import default_storage

from marketplace.errors import PayloadTooLarge

CHUNK = 1024 * 1024


class TooLarge(PayloadTooLarge):
    code = "file_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file is larger than {limit} bytes.", details={"limit_bytes": limit})


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file on this machine's disk until it is kept or thrown away. Hashes are hexadecimal, without 0x."""

    path: Path
    size: int
    sha256: str
    keccak256: str

    def __enter__(self) -> Spooled:
        return self

    def __exit__(self, *_error: object) -> None:
        self.path.unlink(missing_ok=True)


def spool(chunks: Iterable[bytes], *, limit: int) -> Spooled:
    """Write what comes to disk. Use it in a `with` statement. Raises TooLarge, and leaves nothing behind then."""
    folder = Path(settings.MEDIA_ROOT) / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=folder)
    path, size = Path(name), 0
    sha256, keccak256 = hashlib.sha256(), keccak.new(digest_bits=256)
    try:
        with os.fdopen(number, "wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise TooLarge(limit)
                sha256.update(chunk)
                keccak256.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Spooled(path, size, sha256.hexdigest(), keccak256.hexdigest())


class _Local(File):
    """A file on disk that a storage on the same disk may simply move."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb"), name=path.name)
        self._path = path

    def temporary_file_path(self) -> str:
        return str(self._path)


def keep(spooled: Spooled) -> str:
    """Store a spooled file for good, under a name of its own; the name."""
    name = f"blobs/{spooled.sha256[:2]}/{spooled.sha256}-{uuid4().hex[:8]}"
    with _Local(spooled.path) as file:
        return default_storage.save(name, file)


def delete(name: str) -> None:
    """Harmless where there is no such file."""
    default_storage.delete(name)


def opened(name: str) -> IO[bytes]:
    """A stored file for reading. Raises FileNotFoundError."""
    return cast(IO[bytes], default_storage.open(name, "rb"))


def local_path(name: str) -> Path | None:
    """Where a stored file is on this machine; None where it is elsewhere."""
    try:
        path = Path(default_storage.path(name))
    except NotImplementedError:
        return None
    return path if path.exists() else None


def chunks_of(file: IO[bytes] | Any, *, length: int | None = None) -> Iterator[bytes]:
    """A file's bytes from where it stands, in pieces; at most `length` of them."""
    left = length
    while left is None or left > 0:
        piece = file.read(CHUNK if left is None else min(CHUNK, left))
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece
