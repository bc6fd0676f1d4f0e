"""What a node fetches: checked by its hash, gone on with where it broke off, kept for the next training."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from finetune.trainer.remote import CHUNK, Away, Link, Refused
from finetune.trainer.session import CalledOff, Wanted
from gpus import model_files

logger = logging.getLogger(__name__)

# Links hold for hours; what takes longer is asked for anew by the next start.
_TRIES = 3


class WrongContent(Exception):
    """What came is not what was announced, or may not be there."""


class Cache:
    """A folder of contents by their SHA-256 and of models by their digest; the longest unused go first."""

    def __init__(self, folder: Path, link: Link, *, most_bytes: int) -> None:
        self._folder, self._link, self._most_bytes = folder, link, most_bytes

    def file(self, about: Mapping[str, Any], wanted: Wanted) -> Path:
        """A content as a file. Raises CalledOff, WrongContent, OSError."""
        sha256 = _hexadecimal(about["sha256"])
        path = self._folder / "files" / sha256
        if not path.exists():
            self._make_room(int(about["size"]))
            self._fetch(about, path, wanted)
        os.utime(path)
        return path

    def model(self, about: Mapping[str, Any], wanted: Wanted) -> Path:
        """A model's folder. Raises as `file`."""
        folder = self._folder / "models" / _hexadecimal(about["digest"])
        if not folder.exists():
            self._make_room(sum(int(each["size"]) for each in about["files"]))
            # Goes on with what an earlier start has left.
            new = folder.with_name(f"{folder.name}.partial")
            for each in about["files"]:
                path = new / _checked_name(each["path"])
                if not path.exists():
                    self._fetch(each, path, wanted)
                _look_into(path, each["path"])
            new.rename(folder)
        os.utime(folder)
        return folder

    def _fetch(self, about: Mapping[str, Any], target: Path, wanted: Wanted) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.part")
        for _ in range(_TRIES):
            try:
                self._link.patiently(lambda: self._more(about, partial, wanted), wanted)
            except Refused as error:
                raise WrongContent(f"A file cannot be fetched: status {error.status}.") from error
            with partial.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found == about["sha256"]:
                partial.rename(target)
                return
            partial.unlink()
        raise WrongContent(f"A file came with SHA-256 {found}, not {about['sha256']}.")

    def _more(self, about: Mapping[str, Any], partial: Path, wanted: Wanted) -> None:
        """Fetch what is missing. Raises Away where it breaks off."""
        size = int(about["size"])
        start = partial.stat().st_size if partial.exists() else 0
        if start == size:
            partial.touch()
            return
        if start > size:
            partial.unlink()
            start = 0
        with self._link.opened(str(about["url"]), start=start) as reply:
            _write(reply, partial, "ab" if start and reply.status == 206 else "wb", size, wanted)
        if partial.stat().st_size < size:
            raise Away("A file broke off.")

    def _make_room(self, size: int) -> None:
        """Delete what was not used for longest, so that so much more fits. What is in use has just been touched."""
        there = [*self._folder.glob("models/*"), *self._folder.glob("files/*")]
        sizes = {path: _size(path) for path in there}
        total = sum(sizes.values())
        for path in sorted(there, key=lambda each: each.stat().st_mtime):
            if total + size <= self._most_bytes:
                return
            if time.time() - path.stat().st_mtime > 3600:
                total -= sizes[path]
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write(reply: Any, path: Path, mode: str, most: int, wanted: Wanted) -> None:
    try:
        with path.open(mode) as file:
            while file.tell() <= most and (chunk := reply.read(CHUNK)):
                if not wanted():
                    raise CalledOff
                file.write(chunk)
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise Away(f"A file broke off: {error}") from error


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file())


def _hexadecimal(text: Any) -> str:
    if not isinstance(text, str) or len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise WrongContent("A file is named by something that is no SHA-256.")
    return text


def _checked_name(text: Any) -> str:
    """A path within a model's folder. Raises WrongContent for others, and for what is not weights or text."""
    try:
        return model_files.check_name(str(text))
    except model_files.BadFile as error:
        raise WrongContent(str(error)) from error


def _look_into(path: Path, name: str) -> None:
    """Raises WrongContent where loading a file would do more than reading it: this is somebody else's model."""
    try:
        with path.open("rb") as file:
            model_files.check(name, file, path.stat().st_size)
    except model_files.BadFile as error:
        raise WrongContent(str(error)) from error
