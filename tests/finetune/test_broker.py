"""/v1/user/{address}/task: tasks that a wallet has signed."""

import re
import threading
from typing import Any

import orjson
import pytest
from django.db import connection
from eth_account import Account as Signer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from clients.models import Hold, Wallet
from clients.throttling import ScopedThrottle
from finetune import signatures
from finetune.models import Job
from inference.models import Family
from tests.finetune import asked, made
from tests.finetune.test_tasks import finish
from tests.finetune.wallets import ADDRESS, OTHER, OTHER_KEY, error, sign
from tests.finetune.wallets import TASKS as PATH

FIELDS = (
    "userAddress", "preTrainedModelHash", "datasetHash", "trainingParams", "fee", "nonce", "signature",
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("wallet", "charlie")


# --- Creating ----------------------------------------------------------------------------------------------


def test_a_signed_task_begins_and_the_wallets_owner_pays(post, task, alice):
    body = task()
    reply = post(body)

    assert reply.status_code == 201, reply.json()
    job = Job.objects.get()
    assert reply.json() == {"id": str(job.uid)}
    assert reply.headers["Location"] == f"{PATH}/{job.uid}"
    assert (job.owner, job.face, job.wallet) == (alice, "broker", ADDRESS.lower())
    assert job.nonce == int(body["nonce"])
    assert Hold.objects.get().amount == job.price > 0
    assert (job.parameters["n_epochs"], job.parameters["batch_size"]) == (1.0, 2)


def test_clients_of_2026_sign_no_fee_and_leave_it_to_the_quote(post, task, api):
    assert post(task(fee=0, covers_fee=False, wait=False)).status_code == 201
    assert api().get(PATH).json()[0]["fee"] == str(Job.objects.get().price)


def test_the_documents_answer_without_a_body_is_there_for_who_asks(post, task):
    reply = post(task(), Prefer="return=minimal")
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["Location"] == f"{PATH}/{Job.objects.get().uid}"


def test_the_case_of_addresses_does_not_matter(post, task):
    assert (
        post(task(userAddress=ADDRESS.lower()), path=f"/v1/user/0x{ADDRESS[2:].upper()}/task").status_code
        == 201
    )


def test_the_model_may_be_named(post, task):
    assert post(task(model_hash="toy")).status_code == 201


def test_a_hash_that_clients_have_built_in_stands_for_its_model(post, task):
    known = "0xb4f76a886b8655c92bb021922d60b5e4d9271a5c9da98b6cb10937a06c2c75a7"
    assert post(task(model_hash=known)).status_code == 404
    asked.model("Qwen/Qwen2.5-0.5B-Instruct")
    assert post(task(model_hash=known)).status_code == 201


def test_a_signature_whose_hash_begins_with_zero_is_taken(post, task):
    for nonce in range(10**15, 10**15 + 5000):
        body = {"nonce": nonce}
        inner = signatures.task_hash(
            address=ADDRESS, nonce=nonce, dataset_hash=task()["datasetHash"], fee=10**24
        )
        if inner[0] == 0:
            break
    assert post(task(**body, signature=sign(inner.lstrip(b"\0")))).status_code == 201


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [None, "", 5, [], {"a": 1}, "x" * 70_000, "a\0b"])
def test_a_field_that_is_missing_or_no_text_is_named(post, task, name, value):
    reply = post({**task(), name: value})
    assert reply.status_code == 400
    assert name in error(reply)
    body = task()
    del body[name]
    assert name in error(post(body))
    assert not Job.objects.exists()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"null"])
def test_what_is_no_object_is_refused(api, body):
    reply = api().post(PATH, body, content_type="application/json")
    assert reply.status_code == 400
    assert error(reply)


def test_a_wrong_signature_begins_nothing(post, task):
    body = task()
    for wrong in (
        {**body, "fee": "1"},
        {**body, "nonce": str(int(body["nonce"]) + 1)},
        {**body, "datasetHash": "0x" + "1" * 64},
        {**body, "signature": sign(b"\1" * 32)},
        {**body, "signature": task(key=OTHER_KEY)["signature"]},
    ):
        reply = post(wrong)
        assert reply.status_code == 401
        assert "signature verification failed" in error(reply)
    assert not Job.objects.exists()


@pytest.mark.parametrize("signature", ["0x", "x", "0x12", "0x" + "g" * 130])
def test_what_is_no_signature_is_told_so(post, task, signature):
    reply = post(task(signature=signature))
    assert reply.status_code == 400
    assert "invalid signature" in error(reply)


def test_the_address_of_the_path_must_be_the_bodys(post, task):
    reply = post(task(), path=f"/v1/user/{OTHER}/task")
    assert reply.status_code == 400
    assert "userAddress" in error(reply)


@pytest.mark.parametrize("address", ["x", "0x12", "..%2f..%2fetc", ADDRESS[2:], ADDRESS + "0"])
def test_what_is_no_address_is_refused(api, task, address):
    assert api().post(f"/v1/user/{address}/task", task()).status_code in (400, 404)
    assert api().get(f"/v1/user/{address}/task").status_code in (400, 404)


def test_a_wallet_that_is_linked_to_nobody_is_told_how_to_be(post, task):
    reply = post(task(key=OTHER_KEY), path=f"/v1/user/{OTHER}/task")
    assert reply.status_code == 403
    assert "/client/wallets/" in error(reply)


def test_nonces_only_go_up(post, task):
    first = task()
    assert post(first).status_code == 201
    for nonce in (int(first["nonce"]), int(first["nonce"]) - 1):
        reply = post(task(nonce=nonce))
        assert reply.status_code == 400
        assert f"invalid nonce: expected more than {first['nonce']}, got {nonce}" in error(reply)
    assert Job.objects.count() == 1


def test_a_nonce_stays_used_when_the_wallet_has_another_owner(post, task, charlie):
    first = task()
    post(first)
    Wallet.objects.all().delete()
    Wallet.objects.create(client=charlie, address=ADDRESS.lower())
    made.fund(charlie, 10)
    theirs = "0x" + asked.upload(charlie, asked.chats()).keccak256
    assert "invalid nonce" in error(post(task(nonce=int(first["nonce"]), dataset_hash=theirs)))
    assert post(task(dataset_hash=theirs)).status_code == 201


@pytest.mark.parametrize("nonce", ["0", "-1", "0x10", "1.0", "1e3", " 5", "٣", str(2**256), "9" * 79])
def test_what_can_be_no_nonce_is_refused(post, task, nonce):
    reply = post({**task(), "nonce": nonce})
    assert reply.status_code in (400, 401)
    assert error(reply)


def test_the_largest_nonce_is_one(post, task):
    assert post(task(nonce=2**256 - 1)).status_code == 201
    assert Job.objects.get().nonce == 2**256 - 1
    assert "invalid nonce" in error(post(task()))


@pytest.mark.parametrize("covers_fee", [True, False])
def test_a_fee_below_the_quote_is_refused(post, task, covers_fee):
    reply = post(task(fee=1, covers_fee=covers_fee))
    assert reply.status_code == 400
    assert re.match(r"insufficient task fee: expected \d+, got 1 ", error(reply))


def test_who_signs_that_it_shall_cost_nothing_pays_nothing(post, task):
    assert "insufficient task fee" in error(post(task(fee=0, covers_fee=True)))


def test_a_larger_fee_is_not_charged(post, task):
    post(task(fee=10**30))
    job = Job.objects.get()
    assert job.price < 10**30
    assert finish(job).charged == job.price


def test_who_cannot_pay_begins_nothing_and_uses_no_nonce(post, task, operator):
    asked.ask(operator, 10**6 * asked.PRICE)
    body = task(fee=0, covers_fee=False)
    assert post(body).status_code == 402
    asked.ask(operator, asked.PRICE)
    assert post(body).status_code == 201


def test_an_unknown_model_or_dataset_is_a_404(post, task, charlie):
    assert post(task(model_hash="0x" + "1" * 64)).status_code == 404
    assert post(task(dataset_hash="0x" + "1" * 64)).status_code == 404
    assert post(task(dataset_hash="0x" + asked.upload(charlie, asked.chats()).keccak256)).status_code == 404


def test_a_dataset_that_does_not_fit_is_refused_before_anything_costs(post, task, alice):
    other = asked.model("encoder", Family.EMBEDDING)
    assert post(task(model_hash=other.revision.model_hash)).status_code == 400
    assert not Hold.objects.exists()


# --- trainingParams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '{"learning_rate": NaN}', "x" * 65_000])
def test_parameters_that_are_no_json_object_are_refused(post, task, text):
    assert "trainingParams" in error(post(task(trainingParams=text)))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"num_train_epochs": 0}', "num_train_epochs"),
        ('{"per_device_train_batch_size": "many"}', "per_device_train_batch_size"),
        ('{"learning_rate": -1}', "learning_rate"),
        ('{"max_steps": 1.5}', "max_steps"),
        ('{"warmup_steps": -1}', "warmup_steps"),
        ('{"warmup_steps": true}', "warmup_steps"),
        ('{"seed": "x"}', "seed"),
        ('{"lr_scheduler_type": "wild"}', "lr_scheduler_type"),
    ],
)
def test_a_parameter_that_is_wrong_is_called_as_it_was_said(post, task, text, name):
    reply = post(task(trainingParams=text))
    assert reply.status_code == 400
    assert f"trainingParams.{name}: " in error(reply)


def test_the_names_of_transformers_are_understood(post, task):
    text = (
        '{"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 2e-4, "weight_decay": 0.01,'
        ' "warmup_steps": 3, "max_length": 100, "neftune_noise_alpha": 5, "gradient_accumulation_steps": 2,'
        ' "lr_scheduler_type": "cosine", "lora_r": 4, "seed": 7}'
    )
    assert post(task(trainingParams=text)).status_code == 201
    job = Job.objects.get()
    assert job.parameters.items() >= {
        "n_epochs": 2, "batch_size": 4, "learning_rate": 2e-4, "weight_decay": 0.01, "max_length": 100,
        "neftune_noise_alpha": 5, "gradient_accumulation": 2, "schedule": "cosine", "lora_rank": 4,
    }.items()  # fmt: skip
    assert job.parameters["warmup_ratio"] == 0.75  # 3 of 4 steps
    assert job.seed == 7


def test_more_warmup_than_there_are_steps_is_all_of_them(post, task):
    post(task(trainingParams='{"warmup_steps": 500}'))
    assert Job.objects.get().parameters["warmup_ratio"] == 1


def test_what_means_nothing_is_ignored_and_the_log_says_so(post, task, api):
    text = '{"logging_steps": 10, "save_strategy": "steps", "num_train_epochs": 1}'
    id = post(task(trainingParams=text)).json()["id"]
    assert (
        "[WARN] Ignored in trainingParams: logging_steps, save_strategy."
        in api().get(f"{PATH}/{id}/log").content.decode()
    )


def test_clients_of_2026_are_told_at_once_what_means_nothing(post, task):
    reply = post(task(fee=0, covers_fee=False, trainingParams='{"logging_steps": 10}'))
    assert "logging_steps" in error(reply)


@pytest.mark.django_db(transaction=True)
def test_of_8_tasks_with_one_nonce_at_the_same_moment_one_begins(task):
    begin, replies, body = threading.Barrier(8), [], task()

    def send() -> None:
        begin.wait()
        replies.append(APIClient().post(PATH, body).status_code)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(replies) == [201] + [400] * 7
    assert (Job.objects.count(), Hold.objects.count()) == (1, 1)


@pytest.fixture
def unlimited(monkeypatch: Any) -> None:
    monkeypatch.setattr(ScopedThrottle, "allow_request", lambda *_: True)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(FIELDS), value=_JSON)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_of_any_field_breaks_it(unlimited, task, field, value):
    client = APIClient(raise_request_exception=False)
    try:
        body = orjson.dumps({**task(), field: value})
    except TypeError:
        return
    reply = client.post(PATH, body, content_type="application/json")
    assert reply.status_code in (201, 400, 401, 403, 404)


@given(text=st.text(max_size=200) | _JSON.map(str))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_training_parameters_break_it(unlimited, task, text):
    reply = APIClient(raise_request_exception=False).post(PATH, task(trainingParams=text))
    assert reply.status_code in (201, 400)


def test_another_key_is_another_wallet():
    assert Signer.from_key(OTHER_KEY).address == OTHER
