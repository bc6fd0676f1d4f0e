"""/v1/files and /v1/uploads as OpenAI's own client uses them, against the real server."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from clients import keys
from clients.models import Blob, Client, UploadPart
from finetune import datasets
from finetune.models import Dataset
from tests.finetune.test_data_upload import BROKEN, CHAT
from tests.served import Server


@pytest.fixture
def client(server: Server, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=20) as found:
        yield found


@pytest.fixture
def stranger(server: Server, charlie: Client) -> Iterator[openai.OpenAI]:
    key = keys.create(charlie, name="tests").key
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=20) as found:
        yield found


def create(client: openai.OpenAI, content: bytes = CHAT, name: str = "talk.jsonl") -> openai.types.FileObject:
    return client.files.create(file=(name, content), purpose="fine-tune")


def test_a_file_is_created_retrieved_downloaded_and_deleted(client, server):
    made = create(client)

    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename) == ("file", len(CHAT), "talk.jsonl")
    assert (made.purpose, made.status, made.expires_at) == ("fine-tune", "processed", None)
    assert client.files.retrieve(made.id) == made
    assert client.files.wait_for_processing(made.id) == made
    content = client.files.content(made.id)
    assert content.read() == CHAT
    assert content.response.headers["etag"] == f'"{hashlib.sha256(CHAT).hexdigest()}"'
    gone = client.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_a_path_and_an_open_file_can_be_sent(client, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CHAT)

    assert client.files.create(file=path, purpose="fine-tune").filename == "rows.jsonl"
    with path.open("rb") as file:
        assert client.files.create(file=file, purpose="fine-tune").bytes == len(CHAT)


def test_an_error_says_in_which_line_and_what_to_do(client):
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, BROKEN)

    assert refused.value.code == "invalid_dataset"
    assert "line 6" in refused.value.message
    assert "line 7" in refused.value.message
    assert not Dataset.objects.exists()


def test_another_purpose_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a.jsonl", CHAT), purpose="assistants")

    assert refused.value.param == "purpose"


def test_a_file_can_expire(client):
    made = client.files.create(
        file=("a.jsonl", CHAT), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )

    assert made.expires_at == made.created_at + 3600
    with pytest.raises(openai.BadRequestError):
        client.files.create(
            file=("a.jsonl", CHAT), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 1}
        )


def test_files_are_listed_in_pages(client, stranger):
    made = [create(client, name=f"{n}.jsonl").id for n in range(5)]

    assert [each.id for each in client.files.list(limit=2)] == made[::-1]
    assert [each.id for each in client.files.list(limit=2, order="asc")] == made
    page = client.files.list(limit=2, order="asc", after=made[2])
    assert ([each.id for each in page.data], page.has_more) == (made[3:], False)
    assert list(client.files.list(purpose="batch")) == []
    assert len(list(client.files.list(purpose="fine-tune"))) == 5
    assert list(stranger.files.list()) == []
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"extra_query": {"order": "up"}}):
        with pytest.raises(openai.BadRequestError):
            client.files.list(**wrong)


def test_a_stranger_finds_nothing(client, stranger):
    made = create(client)

    for call in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    with pytest.raises(openai.NotFoundError):
        stranger.files.list(after=made.id)
    assert client.files.retrieve(made.id).id == made.id


def test_nobody_is_let_in_without_a_key(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-nonsense", max_retries=0) as nobody:
        for call in (lambda: create(nobody), nobody.files.list, lambda: nobody.files.retrieve("file-1")):
            with pytest.raises(openai.AuthenticationError):
                call()


def test_a_large_file_is_sent_in_parts(client, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CHAT * 50)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()

    done = client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=5000, md5=md5
    )

    assert (done.status, done.bytes, done.filename) == ("completed", len(CHAT) * 50, "rows.jsonl")
    assert done.file is not None
    row = Dataset.objects.get(uid=done.file.id)
    datasets.validate(row.pk)  # a worker may have been quicker
    assert client.files.retrieve(row.uid).status == "processed"
    assert client.files.content(row.uid).read() == CHAT * 50
    assert not UploadPart.objects.exists()


def test_parts_are_put_together_in_the_order_of_their_ids(client):
    upload = client.uploads.create(
        bytes=len(CHAT), filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    second = client.uploads.parts.create(upload.id, data=io.BytesIO(CHAT[100:]))
    first = client.uploads.parts.create(upload.id, data=io.BytesIO(CHAT[:100]))

    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    done = client.uploads.complete(upload.id, part_ids=[first.id, second.id])
    assert done.file is not None
    assert client.files.content(done.file.id).read() == CHAT
    with pytest.raises(openai.ConflictError):
        client.uploads.complete(upload.id, part_ids=[first.id, second.id])
    with pytest.raises(openai.ConflictError):
        client.uploads.parts.create(upload.id, data=io.BytesIO(b"x"))


def test_what_is_not_what_was_announced_is_refused(client, stranger):
    upload = client.uploads.create(bytes=200, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    part = client.uploads.parts.create(upload.id, data=io.BytesIO(b"x" * 100))

    for wrong in (
        {"part_ids": [part.id]},
        {"part_ids": ["part_1"]},
        {"part_ids": [part.id, part.id]},
        {"part_ids": []},
    ):
        with pytest.raises(openai.BadRequestError):
            client.uploads.complete(upload.id, **wrong)
    with pytest.raises(openai.APIStatusError) as large:
        client.uploads.parts.create(upload.id, data=io.BytesIO(b"x" * 101))
    assert large.value.status_code == 413
    rest = client.uploads.parts.create(upload.id, data=io.BytesIO(b"y" * 100))
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(upload.id, part_ids=[part.id, rest.id], md5="0" * 32)
    for call in (stranger.uploads.cancel, lambda id: stranger.uploads.complete(id, part_ids=[part.id])):
        with pytest.raises(openai.NotFoundError):
            call(upload.id)
    assert client.uploads.cancel(upload.id).status == "cancelled"
    assert client.uploads.cancel(upload.id).status == "cancelled"


def test_a_file_that_is_sent_twice_is_kept_once(client, tmp_path: Path):
    create(client)
    create(client)

    assert Dataset.objects.count() == 2
    assert Blob.objects.count() == 2  # the file, and its rows
