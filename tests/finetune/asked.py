"""What the tests of the fine-tuning APIs ask for: models that can be trained, datasets, somebody who can pay."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from django.utils import timezone

from clients import terms
from clients.models import Client
from finetune import datasets
from finetune.datasets import About
from finetune.models import Dataset
from inference import imports, revisions
from inference.models import Family, Model, RevisionKind, Source
from marketplace import storage
from marketplace.money import TOKEN
from tests.finetune import made

PRICE = 1000 * TOKEN  # per million tokens
_numbers = itertools.count()


def model(
    name: str = "toy", family: Family = Family.CAUSAL, *, owner: Client | None = None, **fields: Any
) -> Model:
    """A model whose files are kept, which nobody has to read."""
    found, _ = Model.objects.get_or_create(name=name, defaults={"owner": owner, **fields})
    revisions.add(
        found,
        {"model.safetensors": made.blob(size=1000)},
        kind=RevisionKind.FULL,
        family=family,
        source=Source.IMPORT,
    )
    return found


def chats(count: int = 12) -> bytes:
    """Chats about colours, one a line; other ones at each call."""
    number = next(_numbers)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Which colour has number {number}-{each}?"},
                {"role": "assistant", "content": f"Blue, with {each} drops of red."},
            ]
        }
        for each in range(count)
    ]
    return lines(rows)


def clicks(count: int = 12) -> bytes:
    """Click sessions: a query, four results, of which the first was clicked."""
    number = next(_numbers)
    rows = [
        {
            "query": f"colour {number}-{each}",
            "results": [{"id": str(one), "text": f"colour {each}, shade {one}"} for one in range(4)],
            "clicked": ["0"],
        }
        for each in range(count)
    ]
    return lines(rows)


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(owner: Client, content: bytes, name: str = "rows.jsonl") -> Dataset:
    """A dataset as it is after an upload."""
    about = About(name=name, filename=name)
    with storage.spool([content], limit=10**8) as spooled:
        found = datasets.read(spooled, about, owner=owner)
    return datasets.add(found, about, owner=owner, now=timezone.now())


def ask(operator: Client, price: int = PRICE) -> None:
    """Training here costs so much for a million tokens."""
    terms.change(by=operator, reason="test", default_training_price=price)


def tiny(folder: Path, name: str = "tiny") -> Model:
    """A language model that can really be trained, within seconds: a byte-level Llama that knows nothing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from gpus.agent.engines import toy

    words = toy.tokenizer()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return imports.from_folder(folder, name=name).model
