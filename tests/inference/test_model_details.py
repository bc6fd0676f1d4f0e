"""/ai/models/{id}: what its owner sees and changes, and others do not."""

import base64
import io
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from inference.models import Model, Revision, RevisionFile
from tests import models

pytestmark = pytest.mark.django_db
ONE = "/ai/models/alice/tiny"


@pytest.fixture
def model(api: Callable[..., Any], alice: Any) -> Model:
    """alice's, with two revisions."""
    for fill in (1, 2):
        file = base64.b64encode(models.zipped(models.full(fill))).decode()
        reply = api(alice).post("/ai/models/upload", {"model_name": "tiny", "file": file}, format="json")
        assert reply.status_code == 201
    return Model.objects.get()


def content(reply: Any) -> bytes:
    assert reply.status_code == 200, reply.content
    return b"".join(reply.streaming_content)


def test_its_owner_sees_all_of_it(api: Callable[..., Any], alice: Any, model: Model) -> None:
    found = api(alice).get(ONE).json()
    assert (found["model_id"], found["owner"], found["published"]) == ("alice/tiny", "alice", False)
    assert (found["revision"]["number"], found["revision"]["kind"]) == (2, "full")
    assert (found["hosted"], found["hosting"]) == (True, [])
    assert api(alice).get(f"{ONE}/").json() == found


def test_revisions_and_files(api: Callable[..., Any], alice: Any, model: Model) -> None:
    listed = api(alice).get(f"{ONE}/revisions")
    assert [(each["number"], each["is_current"]) for each in listed.json()] == [(2, True), (1, False)]
    assert listed["X-Total-Count"] == "2"
    files = api(alice).get(f"{ONE}/revisions/1/files").json()
    assert [each["path"] for each in files] == sorted(models.full(1))
    one = api(alice).get(f"{ONE}/revisions/1/files/model.safetensors")
    assert content(one) == models.full(1)["model.safetensors"]
    assert api(alice).get(f"{ONE}/revisions/1/files/other.json").status_code == 404
    assert api(alice).get(f"{ONE}/revisions/3/files").status_code == 404


def test_all_files_of_a_revision_as_one(api: Callable[..., Any], alice: Any, model: Model) -> None:
    with tarfile.open(fileobj=io.BytesIO(content(api(alice).get(f"{ONE}/revisions/2/archive")))) as archive:
        assert {f"tiny/{name}" for name in models.full(2)} == set(archive.getnames())
    as_zip = content(api(alice).get(f"{ONE}/revisions/2/archive?form=zip"))
    with zipfile.ZipFile(io.BytesIO(as_zip)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == models.full(2)


def test_strangers_find_nothing(api: Callable[..., Any], charlie: Any, model: Model) -> None:
    client = api(charlie)
    for path in (ONE, f"{ONE}/revisions", f"{ONE}/revisions/1/files", f"{ONE}/revisions/1/archive"):
        assert client.get(path).status_code == 404, path
    assert client.get(f"{ONE}/revisions/1/files/config.json").status_code == 404
    assert client.patch(ONE, {"published": True}, format="json").status_code == 404
    assert client.delete(ONE).status_code == 404
    assert "alice/tiny" not in str(client.get("/ai/models").json())
    assert "alice/tiny" not in str(client.get("/v1/models").json())
    assert client.get("/v1/models/alice/tiny").status_code == 404
    assert api().get(ONE).status_code == 401


def test_what_is_published_everybody_may_use_and_only_its_owner_download(
    api: Callable[..., Any], alice: Any, charlie: Any, model: Model
) -> None:
    reply = api(alice).patch(ONE, {"published": True, "title": "Tiny"}, format="json")
    assert (reply.status_code, reply.json()["published"], reply.json()["model_name"]) == (200, True, "Tiny")
    found = api(charlie).get(ONE).json()
    assert (found["revision"], found["hosting"], found["owner"]) == (None, None, "alice")
    assert api(charlie).get("/v1/models/alice/tiny").json()["owned_by"] == "alice"
    assert "alice/tiny" in str(api(charlie).get("/llm_models/all-models/").json())
    assert api(charlie).get(f"{ONE}/revisions/1/archive").status_code == 404
    api(alice).patch(ONE, {"published": False}, format="json")
    assert api(charlie).get(ONE).status_code == 404


def test_nodes_can_be_let_off(api: Callable[..., Any], alice: Any, model: Model) -> None:
    assert api(alice).patch(ONE, {"hosted": False}, format="json").json()["hosted"] is False
    assert api(alice).patch(ONE, {"hosted": True}, format="json").json()["hosted"] is True
    assert api(alice).patch(ONE, {"price": 3}, format="json").status_code == 400


def test_operators_may_do_all_of_it(api: Callable[..., Any], operator: Any, model: Model) -> None:
    assert api(operator).get(ONE).json()["revision"]["number"] == 2
    assert api(operator).get(f"{ONE}/revisions/1/archive").status_code == 200
    assert api(operator).delete(ONE).status_code == 204


def test_it_can_be_deleted_with_its_revisions(api: Callable[..., Any], alice: Any, model: Model) -> None:
    assert api(alice).delete(ONE).status_code == 204
    assert not Model.objects.exists()
    assert not Revision.objects.exists()
    assert api(alice).get(ONE).status_code == 404


def test_not_while_a_name_leads_to_it(api: Callable[..., Any], alice: Any, model: Model) -> None:
    Model.objects.create(name="ft:tiny:alice:live", owner=alice, is_alias=True, target=model)
    reply = api(alice).delete(ONE)
    assert reply.status_code == 409
    assert "ft:tiny:alice:live" in reply.json()["error"]["message"]


def test_not_while_an_adapter_lies_over_it(api: Callable[..., Any], alice: Any, model: Model) -> None:
    tuned = Model.objects.create(name="ft:tiny:alice::1", owner=alice)
    adapter = Revision.objects.create(
        model=tuned, number=1, kind="adapter", family="causal", base=model.revision, digest="d", model_hash="0x",
        size=1, source="training", created_at=timezone.now(),
    )  # fmt: skip
    file = model.revision.files.first()
    RevisionFile.objects.create(revision=adapter, path="adapter_model.safetensors", blob=file.blob)
    reply = api(alice).delete(ONE)
    assert reply.status_code == 409
    assert "lies over it" in reply.json()["error"]["message"]


def test_what_was_made_from_it_by_itself_stays_and_so_does_its_name_for_the_records(
    api: Callable[..., Any], alice: Any, model: Model
) -> None:
    tuned = Model.objects.create(name="ft:tiny:alice::1", owner=alice)
    Revision.objects.create(
        model=tuned, number=1, kind="full", family="causal", base=model.revision, digest="d", model_hash="0x", size=1,
        source="training", created_at=timezone.now(),
    )  # fmt: skip
    assert api(alice).delete(ONE).status_code == 204
    model.refresh_from_db()
    assert model.name == f"alice/tiny (deleted {model.pk})"
    assert not RevisionFile.objects.filter(revision__model=model).exists()
    assert api(alice).get(ONE).status_code == 404
    assert "alice/tiny" not in str(api(alice).get("/ai/models").json())
