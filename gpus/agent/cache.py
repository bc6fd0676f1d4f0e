"""Files of the marketplace's models on this machine: fetched once by their hash, kept for as long as there is room.

blobs/SHA256        whole files, each checked
coming/SHA256       what has arrived of a file so far; a broken download goes on from there
models/DIGEST/…/…   the files of a model under their names, linked from the blobs while it is loaded
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp

from gpus import model_files

CHUNK = 1024 * 1024
GIB = 1024**3
# Without a byte for so long, a download is begun again.
STALLED_S = 60.0
# Left free on the disk for everything else.
SPARE = GIB // 2
_SHA256 = re.compile(r"[0-9a-f]{64}")
BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


class CannotFetch(Exception):
    """Files cannot be had. The message says why. `again`: it may work later."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        self.again = again
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class File:
    path: str
    sha256: str
    size: int
    url: str

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> File:
        """Raises CannotFetch where the marketplace names what cannot be a file of a model."""
        try:
            path = model_files.check_name(str(said["path"]))
            sha256, size, url = str(said["sha256"]), int(said["size"]), str(said["url"])
        except (KeyError, ValueError, TypeError) as error:
            raise CannotFetch(f"A file of it cannot be read: {error}") from None
        if not _SHA256.fullmatch(sha256) or size < 0:
            raise CannotFetch(f"{path} has no hash that could be checked.")
        return cls(path, sha256, size, url)


def digest_of(files: Iterable[File]) -> str:
    """What the marketplace calls a revision of these files."""
    named = {file.path: (file.sha256, file.size) for file in files}
    return hashlib.sha256(model_files.manifest(named)).hexdigest()


Open = Callable[[str, int], Awaitable[aiohttp.ClientResponse]]


class Cache:
    """One folder, of one agent. `limit`: bytes that all files together may take."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._blobs, self._coming, self._models = folder / "blobs", folder / "coming", folder / "models"
        self._limit = limit
        self._in_use: dict[str, dict[str, int]] = {}  # sizes by hash, by digest
        self._locks: dict[str, asyncio.Lock] = {}

    def prepare(self) -> None:
        """Nothing is loaded yet: what an earlier run had is only linked."""
        shutil.rmtree(self._models, ignore_errors=True)
        for folder in (self._blobs, self._coming, self._models):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def use(self, digest: str, files: Sequence[File]) -> None:
        """Keep these files from now on, whatever else wants their room. Raises CannotFetch where there is none."""
        self._in_use[digest] = {file.sha256: file.size for file in files}
        try:
            self._make_room()
        except CannotFetch:
            del self._in_use[digest]
            raise

    async def fetch(self, file: File, open_at: Open) -> None:
        """Have a file here. Raises CannotFetch; what had arrived stays."""
        async with self._locks.setdefault(file.sha256, asyncio.Lock()):
            blob = self._blobs / file.sha256
            if blob.exists():
                os.utime(blob)
                return
            try:
                await self._download(file, open_at)
            except BROKEN as error:
                raise CannotFetch(
                    f"{file.path} could not be fetched: {error or type(error).__name__}", again=True
                ) from error

    async def _download(self, file: File, open_at: Open) -> None:
        part = self._coming / file.sha256
        with part.open("ab") as out:
            hashed = await asyncio.to_thread(_hash_of, part)
            if out.tell() < file.size:
                hashed = await self._receive(file, out, hashed, open_at)
            if out.tell() != file.size or hashed.hexdigest() != file.sha256:
                if out.tell() >= file.size:
                    part.unlink()  # it is another content: what has come is of no use
                raise CannotFetch(f"What came for {file.path} is not what was announced.", again=True)
            out.flush()
            await asyncio.to_thread(os.fsync, out.fileno())
        part.replace(self._blobs / file.sha256)

    async def _receive(self, file: File, out: IO[bytes], hashed: Any, open_at: Open) -> Any:
        """What is still missing; the hash of it all."""
        async with await open_at(file.url, out.tell()) as response:
            if response.status not in (200, 206):
                raise CannotFetch(f"{file.path} is answered with status {response.status}.", again=True)
            if response.status == 200 and out.tell():
                out.truncate(0)  # it does not go on where we were
                hashed = hashlib.sha256()
            async for chunk in response.content.iter_chunked(CHUNK):
                await asyncio.to_thread(_take, out, hashed, chunk)
                if out.tell() > file.size:
                    break
        return hashed

    def lay_out(self, digest: str, files: Sequence[File], part: str) -> Path:
        """A folder with files under their names in the model. Raises model_files.BadFile where they are none."""
        folder = self._models / digest / part
        for file in files:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                os.link(self._blobs / file.sha256, path)
        model_files.check_paths({file.path: folder / file.path for file in files})
        return folder

    def release(self, digest: str) -> None:
        """A model is loaded no longer: its files may go when others need the room."""
        self._in_use.pop(digest, None)
        shutil.rmtree(self._models / digest, ignore_errors=True)

    def _make_room(self) -> None:
        """For all that is in use, whether it is here already or still to come. The longest unused goes first."""
        kept = {sha256: size for files in self._in_use.values() for sha256, size in files.items()}
        there = {path.name: path.stat() for path in self._blobs.iterdir()}
        missing = sum(size for sha256, size in kept.items() if sha256 not in there)
        free = min(
            self._limit - sum(stat.st_size for stat in there.values()),
            shutil.disk_usage(self._blobs).free - SPARE,
        )
        idle = sorted((stat.st_mtime, sha256) for sha256, stat in there.items() if sha256 not in kept)
        for _, sha256 in idle:
            if free >= missing:
                break
            (self._blobs / sha256).unlink()
            free += there[sha256].st_size
        if free < missing:
            raise CannotFetch(
                f"{missing / GIB:.2f} GiB are needed, and there is room for {max(free, 0) / GIB:.2f}; "
                "--host-cache says how much there may be."
            )


def _hash_of(path: Path) -> Any:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hashed.update(chunk)
    return hashed


def _take(out: IO[bytes], hashed: Any, chunk: bytes) -> None:
    out.write(chunk)
    hashed.update(chunk)
