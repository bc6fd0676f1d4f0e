"""Zip files from strangers: what they should not have is found before anything of them is read."""

from __future__ import annotations

import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

# What reading an archive can raise that is damaged, or not what it says; opening one, an OSError too.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)
_MAX_LISTING = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file in an archive, and what to do about it."""

    message: str
    fix: str


def opened(file: IO[bytes]) -> zipfile.ZipFile:
    """An archive, its list of files read; the file stays its owner's. Raises one of UNREADABLE, OSError."""
    return zipfile.ZipFile(cast(IO[bytes], _Guarded(file)))


def fault(info: zipfile.ZipInfo, *, small: int, most_times: int) -> Fault | None:
    """What is wrong with an entry, by what the list of files says of it alone.

    `most_times`: how many times as large as in the archive a file of more than `small` bytes may be.
    """
    shown = repr(info.filename[:100])
    mode = stat.S_IFMT(info.external_attr >> 16)
    if _leads_out(info):
        return Fault(f"{shown} leads out of the archive.", "Give the files plain names.")
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return Fault(f"{shown} is a link or a device.", "Put the file itself into the archive.")
    if info.flag_bits & 0x1:
        return Fault(f"{shown} is encrypted.", "Make the archive without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return Fault(f"{shown} is compressed in a way that is not read here.", "Use plain zip (deflate).")
    if info.file_size > max(small, most_times * info.compress_size):
        return Fault(
            f"{shown} would be more than {most_times} times as large as it is in the archive.",
            "Send it unpacked.",
        )
    return None


def _leads_out(info: zipfile.ZipInfo) -> bool:
    name = info.filename
    return (
        not name
        or name.startswith("/")
        or any(bad in name for bad in "\\:")
        or ".." in PurePosixPath(name).parts
        or "\0" in info.orig_filename
    )


class _Guarded:
    """A file that does not let its reader take everything into memory at once, whatever the archive says."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_LISTING:
            raise ValueError("its list of files is too long")
        return self._file.read(_MAX_LISTING if size < 0 else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """The file is closed by who has opened it."""
