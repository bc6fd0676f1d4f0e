"""Folders as tar archives, and back: only plain files, nothing outside the folder."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

MOST_FILES = 10_000


class BadArchive(Exception):
    """An archive holds what it may not, or is none."""


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a folder into a tar archive; the same files make the same archive."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()):
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(info, file)


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> None:
    """Write an archive's files into a folder. Raises BadArchive for links, devices, paths outside, or too much."""
    folder.mkdir(parents=True, exist_ok=True)
    size = count = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                size, count = size + member.size, count + 1
                if not _is_plain(member) or size > most_bytes or count > MOST_FILES:
                    raise BadArchive(f"{member.name}: not a plain file, or more than may be.")
                _write(tar, member, folder / member.name)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise BadArchive(f"The archive cannot be unpacked: {error}") from error


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether it is an ordinary file inside the folder. tarfile's own filters came with Python 3.11.4 only."""
    path = PurePosixPath(member.name)
    return member.isreg() and not member.issparse() and not path.is_absolute() and ".." not in path.parts


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # of an ordinary file there is one
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
