"""/v1/user/{address}/dataset and …/task/{id}/lora: files from a wallet, and to it."""

import io
import zipfile
from typing import Any
from uuid import UUID

import ecies
import pytest
from Crypto.Cipher import AES
from Crypto.Hash import keccak
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone
from eth_keys.datatypes import Signature

from clients import files
from clients.models import Wallet
from finetune import attempts, results, sealing, signatures
from finetune.models import Dataset, Job
from inference import packages, signing
from inference.models import RevisionKind
from tests.finetune import asked, made, wallets
from tests.finetune.wallets import ADDRESS, KEY, OTHER, OTHER_KEY, sign

DATASET = f"/v1/user/{ADDRESS}/dataset"


pytestmark = pytest.mark.usefixtures("wallet")


def upload(api: Any, content: bytes, *, name: str = "rows.jsonl", path: str = DATASET, **signed: Any) -> Any:
    at = int(timezone.now().timestamp()) - signed.get("age", 0)
    inner = signatures.upload_hash(signed.get("said", ADDRESS), at)
    body = {
        "file": SimpleUploadedFile(name, content),
        "signature": sign(inner, signed.get("key", KEY)),
        "timestamp": str(at),
    }
    return api().post(path, body, format="multipart")


def test_a_dataset_is_uploaded_and_found_by_its_hash(api, alice):
    content = asked.chats()
    reply = upload(api, content)

    assert reply.status_code == 200, reply.json()
    assert reply.json()["datasetHash"] == "0x" + keccak.new(digest_bits=256, data=content).hexdigest()
    assert reply.json()["message"]
    dataset = Dataset.objects.get()
    assert (dataset.owner, dataset.status, dataset.filename) == (alice, "ready", "rows.jsonl")

    model_hash = asked.model("toy").revision.model_hash
    body = wallets.task(
        model_hash=model_hash, dataset_hash=reply.json()["datasetHash"], fee=0, covers_fee=False
    )
    assert api().post(f"/v1/user/{ADDRESS}/task", body).status_code == 201


@pytest.mark.parametrize("said", [ADDRESS.lower(), ADDRESS])
def test_either_spelling_of_the_address_may_be_signed(api, said):
    assert upload(api, asked.chats(), said=said).status_code == 200


def test_a_dataset_with_wrong_lines_is_refused_with_what_is_wrong(api):
    reply = upload(api, b'{"messages": 5}\n' * 3)
    assert reply.status_code == 400
    assert "line 1" in reply.json()["error"]
    assert not Dataset.objects.exists()


@pytest.mark.parametrize("more", [{"key": OTHER_KEY}, {"age": 301}, {"age": -100}, {"said": OTHER}])
def test_who_has_not_signed_just_now_uploads_nothing(api, more):
    assert upload(api, asked.chats(), **more).status_code == 401
    assert not Dataset.objects.exists()


def test_a_wallet_of_nobody_uploads_nothing(api):
    path = f"/v1/user/{OTHER}/dataset"
    assert upload(api, asked.chats(), key=OTHER_KEY, said=OTHER, path=path).status_code == 403


@pytest.mark.parametrize("name", ["rows.txt", "rows", ".jsonl.exe"])
def test_only_json_lines_are_taken(api, name):
    assert upload(api, asked.chats(), name=name).status_code == 400


def test_a_name_is_only_a_name(api):
    upload(api, asked.chats(), name="../../etc/rows.jsonl")
    assert Dataset.objects.get().filename == "rows.jsonl"


@pytest.mark.parametrize(
    "body", [{}, {"signature": "x"}, {"file": "x", "signature": "0x", "timestamp": "now"}]
)
def test_what_is_missing_is_named(api, body):
    reply = api().post(DATASET, body, format="multipart")
    assert reply.status_code == 400
    assert list(reply.json()) == ["error"]


def test_json_is_no_file(api):
    assert api().post(DATASET, {"a": 1}).status_code == 415


# --- The result --------------------------------------------------------------------------------------------


@pytest.fixture
def done(api: Any, alice: Any) -> Job:
    """A wallet's task that has a result of two files."""
    dataset = asked.upload(alice, asked.chats())
    body = wallets.task(model_hash="toy", dataset_hash=f"0x{dataset.keccak256}")
    asked.model("toy")
    assert api().post(f"/v1/user/{ADDRESS}/task", body).status_code == 201
    job = Job.objects.get()
    found = {
        name: files.keep_all([content], limit=10**8)
        for name, content in {"adapter_model.safetensors": b"w" * 3000, "adapter_config.json": b"{}"}.items()
    }
    result = results.Made(files=found, kind=RevisionKind.ADAPTER, metrics={}, is_better=True)
    assert attempts.succeed(made.begin(job).token, result, now=timezone.now())
    job.refresh_from_db()
    return job


def ask(api: Any, job: Job, *, key: str = KEY, age: int = 0, address: str = ADDRESS) -> Any:
    at = int(timezone.now().timestamp()) - age
    body = {"signature": sign(signatures.download_hash(job.uid, at), key), "timestamp": at}
    return api().post(f"/v1/user/{address}/task/{job.uid}/lora", body)


def opened(content: bytes, key: bytes, *, part: int) -> bytes:
    """As the published client decrypts it."""
    head, rest, plain, tags = content[:77], content[77:], b"", b""
    nonce = int.from_bytes(head[65:], "big")
    while rest:
        here, rest = rest[: part + 16], rest[part + 16 :]
        plain += AES.new(key, AES.MODE_GCM, nonce=nonce.to_bytes(12, "big")).decrypt_and_verify(
            here[:-16], here[-16:]
        )
        tags += here[-16:]
        nonce += 1
    signer = Signature(head[:65]).recover_public_key_from_msg_hash(signatures.hash_of(tags))
    assert signer.to_checksum_address() == signing.signer()
    return plain


def test_only_the_wallet_can_read_its_result(done, api):
    reply = ask(api, done)
    content = b"".join(reply.streaming_content)

    assert reply.status_code == 200
    assert int(reply.headers["Content-Length"]) == len(content)
    assert f"lora_encrypted_{done.uid}.data" in reply.headers["Content-Disposition"]
    secret = bytes.fromhex(reply.headers["X-Encrypted-Secret"])
    assert len(secret) == 129
    plain = opened(content, ecies.decrypt(KEY, secret), part=sealing.PART)
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        assert archive.testzip() is None
        assert archive.read("adapter_model.safetensors") == b"w" * 3000
        assert archive.namelist() == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_result_of_several_parts(done, monkeypatch):
    for part in (1, 100, 1000, 10**6):
        monkeypatch.setattr(sealing, "PART", part if part > 1 else 7)
        sealed = sealing.seal(done)
        content = b"".join(sealed.pieces())
        assert len(content) == sealed.size
        plain = opened(content, sealed.key, part=sealing.PART)
        assert plain == b"".join(sealed.plain())


def test_a_result_is_sealed_the_same_to_the_byte(done):
    first, again = (b"".join(sealing.seal(done).pieces()) for _ in range(2))
    assert first == again


def test_whoever_has_not_signed_just_now_gets_nothing(done, api, charlie):
    Wallet.objects.create(client=charlie, address=OTHER.lower())
    assert ask(api, done, key=OTHER_KEY).status_code == 401
    assert ask(api, done, age=301).status_code == 401
    assert ask(api, done, key=OTHER_KEY, address=OTHER).status_code == 404
    path = f"/v1/user/{ADDRESS}/task/{done.uid}/lora"
    assert api().post(path, {}).status_code == 400
    assert api().post(path, {"signature": "0x", "timestamp": "soon"}).status_code == 400


def test_what_has_no_result_is_a_409(done, api):
    Job.objects.update(status="failed", reason="It broke.")
    reply = ask(api, done)
    assert reply.status_code == 409
    assert "It broke." in reply.json()["error"]


def test_an_archive_is_as_long_as_it_says(done):
    found = {file.path: file.blob for file in done.result.files.select_related("blob")}
    assert sum(map(len, packages.tar(found, folder="x" * 150))) == packages.tar_size(found, folder="x" * 150)


def test_ids_of_other_tasks_are_not_found(api):
    at = int(timezone.now().timestamp())
    uid = UUID("71c84e9f-fa0e-4ef5-8d7e-8ffc1f281442")
    body = {"signature": sign(signatures.download_hash(uid, at)), "timestamp": at}
    assert api().post(f"/v1/user/{ADDRESS}/task/{uid}/lora", body).status_code == 404
