"""POST /ai/models/upload: a model of one's own in one request."""

import base64
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from clients.models import Blob
from inference.models import Model, Revision
from tests import models

URL = "/ai/models/upload"
pytestmark = pytest.mark.django_db


def said(content: bytes, **more: Any) -> dict[str, Any]:
    return {
        "model_name": "tiny",
        "description": "A tiny one.",
        "file": base64.b64encode(content).decode(),
        **more,
    }


@pytest.fixture
def upload(api: Callable[..., Any], alice: Any) -> Callable[..., Any]:
    def post(content: bytes, person: Any = None, **more: Any) -> Any:
        return api(person or alice).post(URL, said(content, **more), format="json")

    return post


def test_a_zip_in_base64_becomes_a_model_as_the_document_has_it(
    upload: Callable[..., Any], alice: Any
) -> None:
    config = {"framework": "TensorFlow", "version": "2.4.0"}
    reply = upload(models.zipped(models.full()), config=config)
    assert reply.status_code == 201, reply.content
    found = reply.json()
    assert (found["model_id"], found["status"]) == ("alice/tiny", "Model successfully uploaded")
    assert (found["revision"], found["kind"], found["family"]) == (1, "full", "causal")
    model = Model.objects.get(name="alice/tiny")
    assert (model.owner, model.title, model.framework, model.version) == (
        alice,
        "tiny",
        "TensorFlow",
        "2.4.0",
    )
    assert model.is_hosted
    assert sorted(model.revision.files.values_list("path", flat=True)) == sorted(models.full())
    assert model.revision.config == config


def test_the_folder_that_all_files_lie_in_is_left_away(upload: Callable[..., Any]) -> None:
    content = models.zipped({**models.full(), ".gitattributes": b"x", "LICENSE": b"y"}, folder="my-model/")
    assert upload(content).status_code == 201
    assert sorted(Revision.objects.get().files.values_list("path", flat=True)) == sorted(models.full())


def test_the_same_name_again_is_a_new_revision(upload: Callable[..., Any]) -> None:
    upload(models.zipped(models.full(1)))
    again = upload(models.zipped(models.full(2))).json()
    assert (again["model_id"], again["revision"]) == ("alice/tiny", 2)
    model = Model.objects.get()
    assert model.revision.number == 2
    assert Blob.objects.count() == 4  # what is the same is kept once


def test_the_same_files_again_are_the_same_revision(upload: Callable[..., Any]) -> None:
    first = upload(models.zipped(models.full())).json()
    assert upload(models.zipped(models.full())).json() == first


def test_weights_alone_are_kept_but_served_by_nobody(upload: Callable[..., Any]) -> None:
    reply = upload(models.safetensors())
    assert reply.status_code == 201, reply.content
    assert reply.json()["family"] == "other"
    assert not Model.objects.get().is_hosted


def test_files_in_a_form(api: Callable[..., Any], alice: Any) -> None:
    files = {
        "file": [SimpleUploadedFile(name, content) for name, content in models.full().items()],
        "1_Pooling/config.json": SimpleUploadedFile("config.json", b"{}"),
        "modules.json": SimpleUploadedFile("x", models.embedding()["modules.json"]),
    }
    form = {
        "model_name": "My Tiny Model!",
        "config": '{"framework": "transformers"}',
        "host": "false",
        **files,
    }
    reply = api(alice).post(URL, form, format="multipart")
    assert reply.status_code == 201, reply.content
    assert (reply.json()["model_id"], reply.json()["family"]) == ("alice/My-Tiny-Model", "embedding")
    assert sorted(Revision.objects.get().files.values_list("path", flat=True)) == sorted(models.embedding())
    assert not Model.objects.get().is_hosted


def test_a_zip_in_a_form(api: Callable[..., Any], alice: Any) -> None:
    file = SimpleUploadedFile("model.zip", models.zipped(models.full()))
    assert api(alice).post(URL, {"model_name": "tiny", "file": file}, format="multipart").status_code == 201


def test_a_form_without_files_is_told_so(api: Callable[..., Any], alice: Any) -> None:
    reply = api(alice).post(URL, {"model_name": "tiny"}, format="multipart")
    assert reply.status_code == 400
    assert "file" in reply.json()["error"]["details"]["fields"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"pytorch_model.bin": b"\x80\x02"}, "can run code"),
        ({"weights/model.pkl": b"\x80\x02"}, "can run code"),
        ({"modeling_evil.py": b"import os"}, "can run code"),
        ({"notes.exe": b"MZ"}, "can run code"),
        ({"picture.png": b"x"}, "a model consists of"),
        ({"../outside.json": b"{}"}, "leads out"),
        ({"/etc/passwd.json": b"{}"}, "leads out"),
        ({"config.json": b"{"}, "not valid JSON"),
        ({"config.json": b'{"hidden_size": 99999999999}'}, "more than any model"),
        ({"config.json": b'{"activation_function": "os.abort"}'}, "none of torch's"),
        ({"modules.json": b'[{"type": "os.system", "path": ""}]'}, "names the class"),
        ({"model.safetensors": b"no weights at all"}, "is no safetensors file"),
        ({"model.safetensors": models.safetensors()[:-1]}, "is not complete"),
        ({"model.safetensors": None}, "weights are missing"),
        ({"config.json": None}, "config.json is missing"),
        ({"tokenizer.json": None}, "tokenizer is missing"),
    ],
)
def test_what_is_no_model_or_could_run_code_is_refused_with_a_sentence(
    upload: Callable[..., Any], files: dict[str, bytes | None], sentence: str
) -> None:
    content = {name: each for name, each in {**models.full(), **files}.items() if each is not None}
    reply = upload(models.zipped(content))
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]["message"]
    assert not Model.objects.exists()
    assert not Blob.objects.exists()


def test_links_in_an_archive_are_refused(upload: Callable[..., Any]) -> None:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for name, content in models.full().items():
            archive.writestr(name, content)
        link = zipfile.ZipInfo("vocab.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "a link" in upload(found.getvalue()).json()["error"]["message"]


def test_a_zip_bomb_is_refused(upload: Callable[..., Any]) -> None:
    reply = upload(models.zipped({**models.full(), "vocab.txt": bytes(50_000_000)}))
    assert reply.status_code == 400
    assert "times as large" in reply.json()["error"]["message"]


def test_what_is_refused_leaves_nothing_on_the_disk(upload: Callable[..., Any], settings: Any) -> None:
    upload(models.zipped({**models.full(), "model.safetensors": b"no weights"}))
    assert list((Path(settings.MEDIA_ROOT) / "spool").iterdir()) == []


def test_what_is_not_base64_is_refused(api: Callable[..., Any], alice: Any) -> None:
    reply = api(alice).post(URL, {"model_name": "tiny", "file": "§§§"}, format="json")
    assert reply.status_code == 400
    assert "base64" in json.dumps(reply.json())


def test_an_adapter_lies_over_a_model_that_is_kept(
    upload: Callable[..., Any], operator: Any, alice: Any
) -> None:
    upload(models.zipped(models.full()), operator, model_name="meta/base")
    base = Model.objects.get(name="meta/base")
    content = models.zipped(models.adapter("somebody/elses"))
    refused = upload(content, model_name="lora")
    assert refused.status_code == 400
    assert "does not keep" in refused.json()["error"]["message"]
    hidden = upload(content, model_name="lora", base_model="meta/base")
    assert hidden.status_code == 400  # it is the operator's alone so far
    Model.objects.filter(pk=base.pk).update(owner=None)
    reply = upload(content, model_name="lora", base_model="meta/base")
    assert reply.status_code == 201, reply.content
    assert (reply.json()["kind"], reply.json()["base_model"]) == ("adapter", "meta/base")


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"r": 100_000},
        {"init_lora_weights": "pissa"},
    ],
)
def test_an_adapter_that_would_change_its_base_is_refused(
    upload: Callable[..., Any], config: dict[str, Any]
) -> None:
    upload(models.zipped(models.full()), model_name="base")
    reply = upload(models.zipped(models.adapter("alice/base", **config)), model_name="lora")
    assert reply.status_code == 400
    assert "adapter_config.json" in reply.json()["error"]["message"]


def test_an_adapter_with_tensors_of_its_base_is_refused(upload: Callable[..., Any]) -> None:
    upload(models.zipped(models.full()), model_name="base")
    names = ("base_model.model.q.lora_A.weight", "base_model.model.lm_head.weight")
    content = models.adapter("alice/base") | {"adapter_model.safetensors": models.safetensors(names)}
    reply = upload(models.zipped(content), model_name="lora")
    assert "no part of a LoRA adapter" in reply.json()["error"]["message"]


def test_operators_name_models_freely_and_others_under_their_own_name(
    upload: Callable[..., Any], operator: Any, bob: Any
) -> None:
    content = models.zipped(models.full())
    assert (
        upload(content, operator, model_name="meta-llama/Llama-3").json()["model_id"] == "meta-llama/Llama-3"
    )
    assert (
        upload(content, bob, model_name="meta-llama/Llama-3").json()["model_id"] == "bob/meta-llama/Llama-3"
    )
    assert upload(content, bob, model_name="bob/mine").json()["model_id"] == "bob/mine"


def test_a_name_that_nodes_offer_already_is_taken(upload: Callable[..., Any]) -> None:
    Model.objects.create(name="alice/tiny")
    assert upload(models.zipped(models.full())).status_code == 409


def test_more_than_one_may_store_is_refused(upload: Callable[..., Any], settings: Any) -> None:
    settings.MAX_STORED_BYTES = 100
    reply = upload(models.zipped(models.full()))
    assert reply.status_code == 409
    assert reply.json()["error"]["code"] in ("storage_full", "STORAGE_FULL")


def test_nobody_uploads_without_a_credential(api: Callable[..., Any]) -> None:
    assert api().post(URL, said(b"x"), format="json").status_code == 401
