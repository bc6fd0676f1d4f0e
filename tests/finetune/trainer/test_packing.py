"""Checkpoints travel as archives, some of them from machines that nobody vouches for."""

import io
import tarfile
from pathlib import Path

import pytest

from finetune.trainer import packing
from finetune.trainer.packing import BadArchive


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    (folder / "deep").mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    (folder / "deep" / "weights.bin").write_bytes(bytes(5000))
    packing.pack(folder, tmp_path / "a.tar")
    packing.unpack(tmp_path / "a.tar", tmp_path / "two", most_bytes=10_000)
    assert (tmp_path / "two" / "state.json").read_text() == "{}"
    assert (tmp_path / "two" / "deep" / "weights.bin").read_bytes() == bytes(5000)


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("deep/../../outside"),
        member("/tmp/outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "state.json"),
        member("pipe", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
    ],
    ids=lambda info: info.name,
)
def test_nothing_but_plain_files_inside_the_folder_is_taken(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = archive_of(tmp_path / "a.tar", (member("state.json"), b"{}"), (bad, b""))
    with pytest.raises(BadArchive):
        packing.unpack(archive, tmp_path / "two", most_bytes=10_000)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "state.json", "two"]


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.tar", (member("state.json"), b"{}"), (member("state.json"), b"[]"))
    with pytest.raises(BadArchive):
        packing.unpack(archive, tmp_path / "two", most_bytes=10_000)


def test_no_more_is_written_than_may_be(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.tar", (member("large"), bytes(10_001)))
    with pytest.raises(BadArchive):
        packing.unpack(archive, tmp_path / "two", most_bytes=10_000)
    assert not (tmp_path / "two" / "large").exists()
