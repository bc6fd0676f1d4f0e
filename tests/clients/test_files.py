"""GET /files/{token}: a content, or a part of it, for whoever has the link."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from clients import files
from clients.models import Blob

pytestmark = pytest.mark.django_db
CONTENT = bytes(range(256)) * 10


@pytest.fixture
def blob(db: None) -> Blob:
    return files.keep_all([CONTENT], limit=10**6)


@pytest.fixture
def link(blob: Blob) -> str:
    return files.link(blob, expires_at=timezone.now() + timedelta(minutes=1))


def body(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else answer.content


def test_whoever_has_the_link_reads_it(api, link, blob):
    answer = api().get(link, HTTP_AUTHORIZATION="Token nonsense")

    assert answer.status_code == 200
    assert body(answer) == CONTENT
    assert answer["ETag"] == f'"{blob.sha256}"'
    assert answer["Content-Length"] == str(len(CONTENT))
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["Content-Disposition"].startswith("attachment")
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_head_says_how_large_it_is(api, link):
    answer = api().head(link)

    assert (answer.status_code, answer["Content-Length"], answer["Accept-Ranges"]) == (200, "2560", "bytes")
    assert body(answer) == b""


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=2550-", 2550, 2560), ("bytes=-5", 2555, 2560),
     ("bytes=0-", 0, 2560), ("bytes=2559-9999", 2559, 2560), ("bytes=-9999", 0, 2560)],
)  # fmt: skip
def test_a_part_is_given(api, link, asked, start, end):
    answer = api().get(link, HTTP_RANGE=asked)

    assert answer.status_code == 206
    assert body(answer) == CONTENT[start:end]
    assert answer["Content-Range"] == f"bytes {start}-{end - 1}/2560"
    assert answer["Content-Length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=2560-", "bytes=9999-10000", "bytes=-0"])
def test_a_part_that_is_not_there_is_a_416(api, link, asked):
    answer = api().get(link, HTTP_RANGE=asked)

    assert (answer.status_code, answer["Content-Range"]) == (416, "bytes */2560")
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "asked", ["lines=1-2", "bytes=5-1", "bytes=1-2,4-5", "bytes=", "bytes=-", "", "bytes=a-b"]
)
def test_what_is_no_range_is_answered_with_everything(api, link, asked):
    answer = api().get(link, HTTP_RANGE=asked)

    assert (answer.status_code, body(answer)) == (200, CONTENT)


def test_a_part_of_something_else_is_not_given(api, link, blob):
    tag = f'"{blob.sha256}"'
    same = api().get(link, HTTP_RANGE="bytes=0-1", HTTP_IF_RANGE=tag)
    other = api().get(link, HTTP_RANGE="bytes=0-1", HTTP_IF_RANGE='"other"')

    assert (same.status_code, body(same)) == (206, CONTENT[:2])
    assert (other.status_code, body(other)) == (200, CONTENT)
    assert api().get(link, HTTP_IF_NONE_MATCH=tag).status_code == 304


def test_a_link_that_has_expired_or_was_changed_is_refused(api, blob, link):
    late = files.link(blob, expires_at=timezone.now() - timedelta(seconds=1))

    for path in (late, link + "x", "/files/nonsense", "/files/a:b:c"):
        answer = api().get(path)
        assert (answer.status_code, answer.json()["code"]) == (403, "link_refused")
    blob.delete()
    assert api().get(link).status_code == 403


def test_an_empty_content_is_given(api):
    empty = files.keep_all([], limit=1)
    answer = api().get(files.link(empty, expires_at=timezone.now() + timedelta(minutes=1)))

    assert (answer.status_code, body(answer), answer["Content-Length"]) == (200, b"", "0")


@given(asked=st.text(max_size=40) | st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True))
def test_no_range_breaks_it(asked):
    from django.test import RequestFactory

    from clients.api.files import _asked_part

    request = RequestFactory().get("/", HTTP_RANGE=asked)
    part = _asked_part(request, len(CONTENT), '"tag"')
    assert part is None or (0 <= part.start <= part.start + part.length <= len(CONTENT))
