"""Fine-tuning in front of the user, over HTTP like anybody's: from a dataset with mistakes to a better answer.

Once for chat on the marketplace's own worker, once for embeddings on the provider's node.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from typing import Any

from marketplace.embedded import lessons
from marketplace.embedded.consumer import Consumer, Unanswered

# By this the next start finds what this one has made, and clears it away.
MARK = {"story": "local"}
TRAINED_WITHIN_S, SERVED_WITHIN_S, LOOK_AGAIN_S = 600, 120, 0.3
SHOWN_TIMES = 5
CHAT_TRAINING = {"n_epochs": 12, "batch_size": 8, "learning_rate_multiplier": 5}
EMBEDDING_TRAINING = {"n_epochs": 4, "batch_size": 8, "learning_rate": 1e-4}

# Both print what the downloaded model says; its folder, the models of this machine and the probe are their arguments.
_CHAT_PROGRAM = """
import sys
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, models, probe = sys.argv[1:]
base = max(Path(models).glob("toy-[0-9]*/model.safetensors"), key=lambda file: file.stat().st_mtime).parent
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
said = [{"role": "user", "content": probe}]
asked = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**asked, max_new_tokens=60, do_sample=False)[0][asked["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""
_EMBEDDING_PROGRAM = """
import sys
from sentence_transformers import SentenceTransformer
folder, models, probe = sys.argv[1:]
vector = SentenceTransformer(folder, device="cpu").encode(probe)
print([round(float(number), 3) for number in vector[:3]])
"""


def tell(consumer: Consumer, *, chat: str, embedding: str) -> None:
    """Both trainings, with what each is good for. Raises Unanswered."""
    clear_away(consumer)
    print(f"\n  teach   {chat}: how a bicycle shop answers", flush=True)
    show_errors(consumer)
    tuned = trained(consumer, chat, lessons.chats(), CHAT_TRAINING, where="here")
    show_answers(consumer, chat, tuned)
    show_weights(consumer, tuned, _CHAT_PROGRAM, lessons.CHAT_PROBE)
    print(f"\n  teach   {embedding}: what the shop's people call their things", flush=True)
    tuned = trained(consumer, embedding, lessons.pairs(), EMBEDDING_TRAINING, where="nodes")
    show_ranking(consumer, embedding, tuned)
    show_weights(consumer, tuned, _EMBEDDING_PROGRAM, lessons.QUERY_PROBE)


def clear_away(consumer: Consumer) -> None:
    """Delete what the last start has left: the models, then the datasets that they were trained on."""
    for job in consumer.get("/v1/fine_tuning/jobs?limit=100")["data"]:
        if job["metadata"] == MARK:
            if job["fine_tuned_model"]:
                consumer.delete(f"/ai/models/{job['fine_tuned_model']}")
            consumer.delete(f"/data/{job['training_file']}")


def show_errors(consumer: Consumer) -> None:
    """A dataset with two wrong lines is refused, and it is said why."""
    refused = consumer.upload("/data/upload", "chats.jsonl", lessons.chats_with_errors())
    if refused.status_code != 400:
        raise Unanswered(
            f"A dataset with mistakes was not refused: {refused.status_code} {refused.text[:500]}"
        )
    for error in refused.json()["error"]["details"]["errors"]:
        place = ", ".join(filter(None, (f"line {error['line']}", error["field"])))
        print(f"          {place}: {error['message']} {error['fix']}")


def trained(consumer: Consumer, base: str, rows: bytes, parameters: Mapping[str, Any], *, where: str) -> str:
    """Upload, quote, job, and its end; the name of the model that came out."""
    uploaded = consumer.answered(consumer.upload("/data/upload", "lessons.jsonl", rows)).json()
    file = uploaded["dataset_id"]
    asked = {"model": base, "dataset": file, "hyperparameters": dict(parameters), "where": where}
    quote = consumer.post("/fine-tuning/quote", asked).json()
    print(
        f"          dataset {file}: {quote['rows']} rows, {quote['tokens']} tokens\n"
        f"          quote {quote['price']} {quote['currency']} for {quote['trained_tokens']} tokens, "
        f"about {quote['estimated_minutes']:.1f} minutes, on {quote['cheapest_place']}",
        flush=True,
    )
    order = {
        "model": base,
        "training_file": file,
        "suffix": "shop",
        "seed": 7,
        "metadata": MARK,
        "method": {"type": "supervised", "supervised": {"hyperparameters": dict(parameters)}},
    }
    job = consumer.post("/v1/fine_tuning/jobs", order, {"X-Where": where}).json()
    job = followed(consumer, job["id"])
    own = job["marketplace"]
    if own["charged"] != quote["price"]:
        raise Unanswered(f"{own['charged']} was charged, and {quote['price']} was quoted.")
    metrics = own["metrics"]
    name = metrics["main"]
    print(
        f"          {name} on held-out rows: {metrics['before'][name]:.3g} before, {metrics['after'][name]:.3g} after\n"
        f"          charged {own['charged']} {own['currency']}, as quoted: provider {own['provider_share']}, "
        f"marketplace {own['marketplace_share']}",
        flush=True,
    )
    return str(job["fine_tuned_model"])


def followed(consumer: Consumer, job_id: str) -> dict[str, Any]:
    """The job, once it has ended; how far it is, is shown a few times."""
    ends_at, show_from = time.monotonic() + TRAINED_WITHIN_S, 1.0
    while True:
        job = consumer.get(f"/v1/fine_tuning/jobs/{job_id}")
        progress = job["marketplace"]["progress"]
        if progress.get("step", 0) >= show_from:
            show_from = progress["step"] + progress["steps"] / SHOWN_TIMES
            print(
                f"          step {progress['step']}/{progress['steps']}, loss {progress['loss']:.3f}",
                flush=True,
            )
        if job["status"] == "succeeded":
            return job
        if job["status"] in ("failed", "cancelled") or time.monotonic() > ends_at:
            raise Unanswered(f"The training is {job['status']}: {job['marketplace']['reason']}")
        time.sleep(LOOK_AGAIN_S)


def served(consumer: Consumer, model: str) -> float:
    """Wait until a node serves a model; for how long, in seconds."""
    began = time.monotonic()
    while not any(each["id"] == model and each["available"] for each in consumer.models()):
        if time.monotonic() - began > SERVED_WITHIN_S:
            raise Unanswered(f"No node serves {model}.")
        time.sleep(LOOK_AGAIN_S)
    return time.monotonic() - began


def show_answers(consumer: Consumer, base: str, tuned: str) -> None:
    """The same prompt to the base and to the tuned model."""
    print(f"          served {served(consumer, tuned):.1f} s after its end")
    print(f"\n  prompt  {lessons.CHAT_PROBE}")
    for model in (base, tuned):
        body = {
            "model": model,
            "messages": [{"role": "user", "content": lessons.CHAT_PROBE}],
            "max_tokens": 60,
            "temperature": 0,
        }
        answer = consumer.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
        print(f"  {model}  {answer}", flush=True)
    if not answer.startswith(lessons.RIGHT_ANSWER):
        raise Unanswered(f"{tuned} has not learned its lesson.")


def show_ranking(consumer: Consumer, base: str, tuned: str) -> None:
    """The text that each model takes for the answer to the same query."""
    print(f"          served {served(consumer, tuned):.1f} s after its end")
    print(f"\n  query   {lessons.QUERY_PROBE}")
    for model in (base, tuned):
        body = {"model": model, "input": [lessons.QUERY_PROBE, *lessons.QUERY_TEXTS]}
        rows = sorted(consumer.post("/v1/embeddings", body).json()["data"], key=lambda row: row["index"])
        query, *texts = (row["embedding"] for row in rows)
        scores = [sum(a * b for a, b in zip(query, text, strict=True)) for text in texts]
        best = scores.index(max(scores))
        print(f"  {model}  {lessons.QUERY_TEXTS[best]}", flush=True)
    if best != lessons.QUERY_RIGHT:
        raise Unanswered(f"{tuned} has not learned its lesson.")


def show_weights(consumer: Consumer, model: str, program: str, probe: str) -> None:
    """What was trained is its owner's: download it, and use it with nothing of ours."""
    archive = consumer.download(f"/ai/models/{model}/revisions/1/archive?form=zip")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            files.extractall(folder)
        done = subprocess.run(
            [sys.executable, "-c", program, folder, os.environ["MODELS_DIR"], probe],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise Unanswered(f"The weights cannot be loaded: {done.stderr[-500:]}")
    size = f"{len(archive) / 1e6:.1f} MB"
    print(
        f"          weights downloaded, {size}, loaded without the marketplace: {done.stdout.strip()}",
        flush=True,
    )
