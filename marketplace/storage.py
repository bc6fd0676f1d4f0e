"""Files as the marketplace keeps them: in a folder, or in a bucket (django-storages), never whole in memory.

`spool` takes bytes as they come onto this machine's disk and learns their size and hashes; `keep` moves that into the
storage. What a stored file is called is the storage's business: rows remember the name.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError
from Crypto.Hash import keccak
from django.conf import settings
from django.core.files import File
from django.core.files.storage import default_storage

from marketplace.errors import PayloadTooLarge

CHUNK = 1024 * 1024
# Nobody is still at a spooled file that was written to so long ago.
_ABANDONED_S = 24 * 3600


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


class Spool:
    """A file on this machine's disk that is being written. `finish` it, or `abandon` it."""

    def __init__(self, *, limit: int) -> None:
        folder = Path(settings.MEDIA_ROOT) / "spool"
        folder.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=folder)
        self._path, self._file = Path(name), os.fdopen(number, "wb")
        self._limit = limit
        self._size = 0
        self._sha256, self._keccak256 = hashlib.sha256(), keccak.new(digest_bits=256)

    def write(self, chunk: bytes) -> None:
        """Raises TooLarge."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise TooLarge(self._limit)
        self._sha256.update(chunk)
        self._keccak256.update(chunk)
        self._file.write(chunk)

    def finish(self) -> Spooled:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Spooled(self._path, self._size, self._sha256.hexdigest(), self._keccak256.hexdigest())

    def abandon(self) -> None:
        """Harmless if it is gone already."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def spool(chunks: Iterable[bytes], *, limit: int) -> Spooled:
    """Write what comes to disk. Use it in a `with` statement. Raises TooLarge, and leaves nothing behind then."""
    writing = Spool(limit=limit)
    try:
        for chunk in chunks:
            writing.write(chunk)
        return writing.finish()
    except BaseException:
        writing.abandon()
        raise


def sweep_spool() -> int:
    """Delete what processes have left behind that were killed while they wrote; how many files."""
    count, end = 0, time.time() - _ABANDONED_S
    for path in (Path(settings.MEDIA_ROOT) / "spool").glob("*"):
        try:
            if path.stat().st_mtime < end:
                path.unlink()
                count += 1
        except FileNotFoundError:
            continue  # its own process was quicker
    return count


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


def opened(name: str, *, start: int = 0) -> IO[bytes]:
    """A stored file for reading, which can seek, and stands at `start`. Raises FileNotFoundError."""
    bucket = getattr(default_storage, "bucket", None)
    if bucket is None:
        file = cast(IO[bytes], default_storage.open(name, "rb"))
        file.seek(start)
        return file
    raw = Remote(bucket.Object(_key(name)))
    raw.seek(start)
    return cast(IO[bytes], io.BufferedReader(raw, CHUNK))


@contextmanager
def on_disk(name: str) -> Iterator[Path]:
    """A stored file on this machine: where it is, or a copy that is there for so long. Raises FileNotFoundError."""
    path = local_path(name)
    if path is not None:
        yield path
        return
    with opened(name) as file, spool(chunks_of(file), limit=settings.MAX_FILE_BYTES) as copy:
        yield copy.path


def local_path(name: str) -> Path | None:
    """Where a stored file is on this machine; None where it is elsewhere."""
    try:
        path = Path(default_storage.path(name))
    except NotImplementedError:
        return None
    return path if path.exists() else None


def _key(name: str) -> str:
    return posixpath.join(getattr(default_storage, "location", ""), name)


class Remote(io.RawIOBase):
    """An object in a bucket, read as a stream from wherever one stands. django-storages would fetch it whole first."""

    def __init__(self, found: Any) -> None:
        self._object = found
        self._at = 0
        self._body: Any = None
        try:
            self._size = int(found.content_length)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                raise FileNotFoundError(found.key) from None
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset != self._at:
            self._drop()
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        piece = self._read(len(buffer))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _read(self, most: int) -> bytes:
        for patience in (2, 1, 0):
            try:
                if self._body is None:
                    self._body = self._object.get(Range=f"bytes={self._at}-")["Body"]
                return cast(bytes, self._body.read(most))
            except (BotoCoreError, ClientError) as error:
                # A connection that breaks is taken up where it broke.
                self._drop()
                if not patience:
                    raise OSError(f"The storage does not answer: {error}") from error
        raise AssertionError

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


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
