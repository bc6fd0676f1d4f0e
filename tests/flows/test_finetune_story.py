"""The story of fine-tuning, through OpenAI's client: from a dataset with mistakes to a model that answers better."""

import io
import zipfile
from decimal import Decimal
from functools import partial

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from gpus.agent.engines import folders, toy
from marketplace.embedded import lessons
from marketplace.embedded.demo import CHAT_MODEL, EMBEDDING_MODEL
from tests.flows.conftest import eventually

TRAINING = {"n_epochs": 12, "batch_size": 8, "learning_rate_multiplier": 5}
EMBEDDING_TRAINING = {"n_epochs": 4, "batch_size": 8, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def openai(marketplace):
    return OpenAI(base_url=f"{marketplace.url}/v1", api_key=marketplace.api_key, max_retries=0)


@pytest.fixture(scope="module")
def rest(marketplace):
    with marketplace.session() as session:
        yield session


def balance(marketplace, api_key):
    with marketplace.session(api_key) as session:
        return Decimal(session.get(f"{marketplace.url}/account/balance").json()["balance"])


def ended(openai, job_id):
    def look():
        job = openai.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in ("succeeded", "failed", "cancelled") else None

    return eventually(look, within_s=180, every_s=0.3)


def earned(marketplace):
    with marketplace.session(marketplace.provider["api_key"]) as session:
        return Decimal(session.get(f"{marketplace.url}/account/balance").json()["earned"])


def best_text(openai, model):
    """Which text a model takes for the answer to the query."""
    reply = openai.embeddings.create(model=model, input=[lessons.QUERY_PROBE, *lessons.QUERY_TEXTS])
    query, *texts = (row.embedding for row in reply.data)
    scores = [sum(a * b for a, b in zip(query, text, strict=True)) for text in texts]
    return scores.index(max(scores))


def asked(openai, model, prompt):
    reply = openai.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], max_tokens=60, temperature=0
    )
    return reply.choices[0].message.content


def is_served(openai, model):
    return any(each.id == model and each.available for each in openai.models.list())


def unpacked(content, folder):
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        files.extractall(folder)
    return folder


def said_by_plain_libraries(marketplace, folder, prompt):
    """What an adapter says over the base, with nothing of ours in between."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = folders.find(toy.NAME, models_dir=marketplace.home / "models").folder
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    given = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    tokens = model.generate(**given, max_new_tokens=60, do_sample=False)[0]
    return tokenizer.decode(tokens[given["input_ids"].shape[1] :], skip_special_tokens=True)


def test_two_wrong_lines_are_both_named_with_what_would_be_right(openai):
    with pytest.raises(BadRequestError) as refused:
        openai.files.create(file=("chats.jsonl", lessons.chats_with_errors()), purpose="fine-tune")
    assert "line 3" in refused.value.message.lower()
    wrong = [error["line"] for error in refused.value.body["details"]["errors"]]
    assert wrong == [3, 7]


# What PEFT asks of transformers.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_from_a_dataset_to_a_better_model(marketplace, openai, rest, tmp_path):
    file = openai.files.create(file=("chats.jsonl", lessons.chats()), purpose="fine-tune")
    body = {"model": CHAT_MODEL, "dataset": file.id, "hyperparameters": TRAINING, "where": "here"}
    quote = rest.post(f"{marketplace.url}/fine-tuning/quote", json=body).json()
    before = balance(marketplace, marketplace.api_key)
    job = openai.fine_tuning.jobs.create(
        model=CHAT_MODEL,
        training_file=file.id,
        suffix="flow",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": TRAINING}},
        extra_headers={"X-Where": "here"},
    )
    done = ended(openai, job.id)
    assert done.status == "succeeded", done.marketplace

    # It was charged exactly the quote.
    assert done.marketplace["charged"] == quote["price"] == job.marketplace["price"]
    assert before - balance(marketplace, marketplace.api_key) == Decimal(quote["price"])
    messages = [event.message for event in openai.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert any("training loss" in message for message in messages)
    measured = done.marketplace["metrics"]
    assert measured["after"]["eval_loss"] < measured["before"]["eval_loss"] / 10

    # The same prompt, answered by both, a few seconds after the end.
    tuned = done.fine_tuned_model
    eventually(partial(is_served, openai, tuned), within_s=60)
    assert asked(openai, tuned, lessons.CHAT_PROBE).startswith(lessons.RIGHT_ANSWER)
    assert not asked(openai, CHAT_MODEL, lessons.CHAT_PROBE).startswith(lessons.RIGHT_ANSWER)

    # Under a fixed name as well.
    deployment = rest.post(f"{marketplace.url}/fine-tuning/deployments", json={"model": tuned}).json()
    alias = deployment["alias"]
    eventually(partial(is_served, openai, alias), within_s=60)
    assert asked(openai, alias, lessons.CHAT_PROBE).startswith(lessons.RIGHT_ANSWER)

    # Its weights are its owner's, and plain libraries load them.
    archive = rest.get(f"{marketplace.url}/ai/models/{tuned}/revisions/1/archive?form=zip")
    folder = unpacked(archive.content, tmp_path)
    assert said_by_plain_libraries(marketplace, folder, lessons.CHAT_PROBE).startswith(lessons.RIGHT_ANSWER)


def test_nobody_else_sees_any_of_it(marketplace, openai):
    stranger = OpenAI(
        base_url=f"{marketplace.url}/v1", api_key=marketplace.provider["api_key"], max_retries=0
    )
    job = next(iter(openai.fine_tuning.jobs.list(limit=1)))
    looks = (
        lambda: stranger.files.retrieve(job.training_file),
        lambda: stranger.files.content(job.training_file),
        lambda: stranger.fine_tuning.jobs.retrieve(job.id),
        lambda: stranger.fine_tuning.jobs.cancel(job.id),
        lambda: asked(stranger, job.fine_tuned_model, "Hello"),
    )
    for look in looks:
        with pytest.raises(NotFoundError):
            look()
    path = f"/ai/models/{job.fine_tuned_model}/revisions/1/archive"
    with marketplace.session(marketplace.provider["api_key"]) as session:
        assert session.get(marketplace.url + path).status_code == 404


def test_the_owner_of_the_node_that_trained_is_paid(marketplace, openai, rest, tmp_path):
    from sentence_transformers import SentenceTransformer, util

    file = openai.files.create(file=("pairs.jsonl", lessons.pairs()), purpose="fine-tune")
    before = [balance(marketplace, marketplace.api_key), earned(marketplace)]
    job = openai.fine_tuning.jobs.create(
        model=EMBEDDING_MODEL,
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": EMBEDDING_TRAINING}},
        extra_headers={"X-Where": "nodes"},
    )
    done = ended(openai, job.id)
    assert done.status == "succeeded", done.marketplace

    price = Decimal(job.marketplace["price"])
    after = [balance(marketplace, marketplace.api_key), earned(marketplace)]
    assert before[0] - after[0] == price > 0
    assert after[1] - before[1] == price * Decimal("0.95")

    tuned = done.fine_tuned_model
    eventually(partial(is_served, openai, tuned), within_s=60)
    assert best_text(openai, EMBEDDING_MODEL) != lessons.QUERY_RIGHT
    assert best_text(openai, tuned) == lessons.QUERY_RIGHT

    archive = rest.get(f"{marketplace.url}/ai/models/{tuned}/revisions/1/archive?form=zip")
    model = SentenceTransformer(str(unpacked(archive.content, tmp_path)), device="cpu")
    scores = util.cos_sim(model.encode([lessons.QUERY_PROBE]), model.encode(list(lessons.QUERY_TEXTS)))
    assert int(scores[0].argmax()) == lessons.QUERY_RIGHT
