"""The main job in front of the user, over HTTP like anybody's: a streamed prompt, an embedding, two trainings, and a
task on the chain.

`python -m marketplace.embedded.demo URL` with the consumer's key in `API_KEY`, the provider's in `PROVIDER_API_KEY`,
and in `MODELS_DIR` the node's folder of models. Exit status 0 if all of it was done.
"""

import os
import sys
import time
from typing import Any

import requests

from inference import verification
from marketplace.embedded import onchain, story
from marketplace.embedded.consumer import Consumer, Unanswered

PROMPT = "Hello, who are you?"
TEXT = "A marketplace for GPUs."
# What the agent serves when nobody tells it what to serve.
CHAT_MODEL = "toy-byte-llama"
EMBEDDING_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OWN_MODELS = (CHAT_MODEL, EMBEDDING_MODEL)
TRY_AGAIN_S = 0.3
# A node that has just connected is known to all web processes a moment later.
MODELS_WITHIN_S = 60


def models_of(consumer: Consumer) -> tuple[str, str]:
    """A model to chat with and one for embeddings, as soon as there are both; our own node's first."""
    deadline = time.monotonic() + MODELS_WITHIN_S
    while True:
        available = [model for model in consumer.models() if model["available"]]
        available.sort(key=lambda model: model["id"] in OWN_MODELS)
        kinds = {kind: model["id"] for model in available for kind in model["kinds"]}
        if "chat" in kinds and "embedding" in kinds:
            return kinds["chat"], kinds["embedding"]
        if time.monotonic() > deadline:
            raise Unanswered(f"No node offers a chat model and an embedding model; offered: {kinds}.")
        time.sleep(TRY_AGAIN_S)


def show_chat(consumer: Consumer, model: str) -> None:
    print(f"\n  prompt  {PROMPT}\n  {model}  ", end="", flush=True)
    began = time.monotonic()
    first: float | None = None
    usage: dict[str, Any] = {}
    reply, chunks = consumer.chat(model, PROMPT)
    for chunk in chunks:
        text = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        if text and first is None:
            first = time.monotonic() - began
        print(text.replace("\n", " "), end="", flush=True)
        usage = chunk.get("usage") or usage
    if first is None:
        raise Unanswered(f"{model} answered nothing.")
    took = time.monotonic() - began
    tokens = f"{usage.get('prompt_tokens', '?')} + {usage.get('completion_tokens', '?')} tokens"
    node = reply.headers.get("X-Node", "?")
    print(f"\n          node {node}, {tokens}, first after {_ms(first)}, all after {_ms(took)}")
    show_payment(consumer, reply)


def show_payment(consumer: Consumer, reply: requests.Response) -> None:
    """What an answer did cost and who got it, by its receipt, once that has been verified. Raises Unanswered."""
    if "X-Receipt" not in reply.headers:
        print("          free of charge")
        return
    document = consumer.get(reply.headers["X-Receipt"])
    try:
        verdict = verification.verify(document, signer=consumer.get("/receipts/key/")["address"])
    except verification.InvalidReceipt as error:
        raise Unanswered(f"The receipt of the answer is not valid: {error}") from None
    receipt = verdict.receipt
    price, currency = receipt["price"], receipt["currency"]
    print(
        f"          price {price['input']} {currency} per million prompt tokens, "
        f"{price['output']} per million completion tokens\n"
        f"          paid {receipt['charged']} {currency}: provider {receipt['provider_share']}, fee {receipt['fee']}\n"
        f"          receipt {reply.headers['X-Receipt']} verified, signed by {verdict.signer}"
    )


def show_embedding(consumer: Consumer, model: str) -> None:
    began = time.monotonic()
    reply = consumer.embed(model, TEXT)
    took, answer = time.monotonic() - began, reply.json()
    vector = answer["data"][0]["embedding"]
    numbers = ", ".join(f"{number:.3f}" for number in vector[:3])
    tokens = answer.get("usage", {}).get("prompt_tokens", "?")
    print(f"\n  embed   {TEXT}\n  {model}  [{numbers}, …] ({len(vector)} dimensions)")
    print(f"          node {reply.headers.get('X-Node', '?')}, {tokens} tokens, {_ms(took)}", flush=True)
    show_payment(consumer, reply)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def main() -> int:
    consumer = Consumer(sys.argv[1], os.environ["API_KEY"])
    try:
        chat, embedding = models_of(consumer)
        show_chat(consumer, chat)
        show_embedding(consumer, embedding)
        story.tell(consumer, chat=CHAT_MODEL, embedding=EMBEDDING_MODEL)
        provider = Consumer(sys.argv[1], os.environ["PROVIDER_API_KEY"])
        onchain.tell(consumer, provider, model=CHAT_MODEL)
    except (Unanswered, requests.RequestException) as error:
        print(f"\nIt did not work. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
