"""Where contents are kept: a folder, or a bucket. moto's server stands in for S3."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from django.test import override_settings
from moto.server import ThreadedMotoServer

from clients import files
from marketplace import storage

CONTENT = os.urandom(3 * storage.CHUNK + 7)

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def kept(request: Any, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Contents go here; for the bucket, boto3's view of it."""
    settings.MEDIA_ROOT = tmp_path
    if request.param == "folder":
        yield None
        return
    url = request.getfixturevalue("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    found = boto3.resource("s3", endpoint_url=url, region_name="us-east-1").Bucket(tmp_path.name)
    found.create()
    options = {
        "bucket_name": found.name, "endpoint_url": url, "region_name": "us-east-1", "location": "under",
        "file_overwrite": True, "signature_version": "s3v4",
    }  # fmt: skip
    backends = settings.STORAGES | {
        "default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
    }
    with override_settings(STORAGES=backends):
        yield found
    found.objects.delete()
    found.delete()


def test_a_content_goes_in_and_comes_out(kept):
    blob = files.keep_all([CONTENT[:100], CONTENT[100:]], limit=len(CONTENT))

    assert (blob.size, blob.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert b"".join(files.chunks(blob)) == CONTENT
    with files.on_disk(blob) as path:
        assert path.read_bytes() == CONTENT
    if kept is not None:
        assert [each.key for each in kept.objects.all()] == [f"under/{blob.name}"]
        assert not path.exists()


def test_it_is_read_from_wherever_one_wants(kept):
    blob = files.keep_all([CONTENT], limit=len(CONTENT))

    with files.opened(blob, start=storage.CHUNK + 3) as file:
        assert file.tell() == storage.CHUNK + 3
        assert file.read(5) == CONTENT[storage.CHUNK + 3 :][:5]
        file.seek(-4, io.SEEK_END)
        assert file.read() == CONTENT[-4:]
        file.seek(10)
        file.seek(5, io.SEEK_CUR)
        assert file.read(20) == CONTENT[15:35]
    with files.opened(blob) as file:
        assert (
            b"".join(storage.chunks_of(file, length=2 * storage.CHUNK + 1))
            == CONTENT[: 2 * storage.CHUNK + 1]
        )


def test_what_is_deleted_is_gone(kept):
    blob = files.keep_all([CONTENT], limit=len(CONTENT))
    storage.delete(blob.name)
    storage.delete(blob.name)

    with pytest.raises(FileNotFoundError):
        files.opened(blob)
    with pytest.raises(FileNotFoundError), files.on_disk(blob):
        pass


def test_the_same_content_is_kept_once(kept):
    first = files.keep_all([CONTENT], limit=len(CONTENT))

    assert files.keep_all([CONTENT], limit=len(CONTENT)) == first
    assert not list((Path(storage.settings.MEDIA_ROOT) / "spool").iterdir())


def test_too_much_leaves_nothing_behind(kept):
    with pytest.raises(storage.TooLarge):
        files.keep_all([CONTENT], limit=len(CONTENT) - 1)

    assert not list((Path(storage.settings.MEDIA_ROOT) / "spool").iterdir())


class Shaky:
    """An object in a bucket whose connections break after some bytes."""

    key = "shaky"
    content_length = len(CONTENT)

    def __init__(self, good_for: int) -> None:
        self.good_for = good_for
        self.calls = 0

    def get(self, Range: str) -> dict[str, Any]:
        self.calls += 1
        start = int(Range.removeprefix("bytes=").removesuffix("-"))
        return {"Body": _Breaking(CONTENT[start : start + self.good_for])}


class _Breaking(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        if not found:
            raise ReadTimeoutError(endpoint_url="x")
        return found


def test_a_connection_that_breaks_is_taken_up_where_it_broke():
    shaky = Shaky(good_for=1_000_000)

    with io.BufferedReader(storage.Remote(shaky), storage.CHUNK) as file:
        assert file.read() == CONTENT
    assert shaky.calls == 4
    with pytest.raises(OSError, match="does not answer"):
        storage.Remote(Shaky(good_for=0)).read(10)


def test_what_killed_processes_have_left_is_swept_away(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    (tmp_path / "spool").mkdir()
    old, new = tmp_path / "spool" / "old", tmp_path / "spool" / "new"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))

    assert storage.sweep_spool() == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_the_settings_name_a_bucket(monkeypatch):
    import subprocess
    import sys

    told = {
        "FILES_BUCKET": "b",
        "FILES_ENDPOINT": "http://s3.example",
        "FILES_REGION": "r",
        "FILES_PREFIX": "/p/",
    }
    code = (
        "import django; django.setup()\nfrom django.core.files.storage import default_storage as s\n"
        "print(s.bucket_name, s.endpoint_url, s.region_name, s.location)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | told, capture_output=True, text=True, check=True
    )

    assert said.stdout.split() == ["b", "http://s3.example", "r", "p"]
