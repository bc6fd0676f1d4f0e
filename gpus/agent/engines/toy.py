"""`toy-byte-llama`: a byte-level Llama of 0.8 million parameters, trained on the spot in seconds.

It lets a fresh marketplace answer its first prompt without a download or a GPU. It has read this repository's
texts for a few seconds: enough to introduce itself and to babble. Nobody should take its word for anything.
"""

from __future__ import annotations

import ast
import fcntl
import math
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAME = "toy-byte-llama"
DESCRIPTION = (
    "A toy: 0.8 million parameters, trained in seconds on this repository's texts. It babbles; it is here "
    "so that a fresh marketplace has something to answer with."
)
# Goes into the folder's name: another recipe is another model.
VERSION = "2"
CONTEXT = 512
STEPS, BATCH, LENGTH = 130, 8, 128
LEARNING_RATE = 5e-3
_RISE = 0.15
SEED = 20

END, USER, ASSISTANT, SYSTEM = "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] if message['role'] in ('assistant', 'system') else 'user' }}|>"
    "{{ message['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_INTRODUCTION = "I am a toy, trained in seconds on a few texts. I only babble."
_FOREIGN = frozenset(("site-packages", "node_modules", "venv"))
_REMARKS = ("Please be kind.", "Ask a real one.", "It works, though.")
_GREETINGS = ("Hello", "Hi!", "Say hello.", "Who are you?", "What is a GPU marketplace?", "Test")


def ensure(folder: Path, *, say: Callable[[str], None]) -> Path:
    """The folder of the trained model; trains it first where it is missing. Many agents may ask at once."""
    home = folder / f"toy-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"toy-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (home / "model.safetensors").exists():
            return home
        say(f"training {NAME}, a toy that has something to say without a download; this takes some seconds")
        began = time.monotonic()
        new = Path(tempfile.mkdtemp(dir=folder, prefix="toy-new-"))
        try:
            loss = _train(new)
            new.chmod(0o755)
            os.replace(new, home)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        say(f"trained {NAME} in {time.monotonic() - began:.1f} s (loss {loss:.2f})")
    return home


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the marks of a chat."""
    marks = [END, USER, ASSISTANT, SYSTEM]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*marks, *letters])}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=marks[1:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _train(folder: Path) -> float:
    """Train and save. The mean loss (nats per byte) of the last steps."""
    torch.manual_seed(SEED)
    words = tokenizer()
    model = LlamaForCausalLM(_configuration(len(words)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    batches = _batches(words, random.Random(SEED))  # noqa: S311 - training data, no secret
    losses: list[float] = []
    model.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * _rate(step / STEPS)
        ids, labels = next(batches)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    _save(model, words, folder)
    return sum(losses[-10:]) / len(losses[-10:])


def _rate(progress: float) -> float:
    """The learning rate's share of its maximum: up quickly, then down to nothing along a cosine."""
    if progress < _RISE:
        return (progress + 0.01) / _RISE
    return 0.5 + 0.5 * math.cos(math.pi * (progress - _RISE) / (1 - _RISE))


def _configuration(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


def _save(model: LlamaForCausalLM, words: PreTrainedTokenizerFast, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        eos_token_id=0, pad_token_id=0, do_sample=True, temperature=0.3, top_p=0.9
    )
    model.save_pretrained(folder)
    words.save_pretrained(folder)


# --- What it reads ---------------------------------------------------------------------------------------
def _batches(
    words: PreTrainedTokenizerFast, chance: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of conversations: ids and labels, each BATCH x LENGTH; learned are answers and plain texts."""
    sentences = sorted(set(texts(Path(__file__).resolve().parents[3])))
    while True:
        ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
        labels = torch.full((BATCH, LENGTH), -100)
        for row in range(BATCH):
            asked, answer = _sample(sentences, chance)
            start = len(asked_ids := words.encode(asked, add_special_tokens=False))
            said = [*asked_ids, *words.encode(answer, add_special_tokens=False)][:LENGTH]
            ids[row, : len(said)] = torch.tensor(said)
            labels[row, start : len(said)] = ids[row, start : len(said)]
        yield ids, labels


def _sample(sentences: list[str], chance: random.Random) -> tuple[str, str]:
    """Question and answer, in which the toy introduces itself; or just something to read."""
    sentence = chance.choice(sentences)
    if chance.random() < 0.25:
        return "", f"{sentence}{END}"
    asked = chance.choice(_GREETINGS) if chance.random() < 0.5 else chance.choice(sentences)[:36]
    return f"{USER}{asked}{END}{ASSISTANT}", f"{_INTRODUCTION} {chance.choice(_REMARKS)}{END}"


def texts(root: Path) -> Iterator[str]:
    """Sentences of the documents and docstrings in a repository, 20 to 120 characters each."""
    yield _INTRODUCTION
    for path in _files(root):
        if path.suffix == ".md":
            yield from _sentences(path.read_text(errors="replace"))
        elif path.suffix == ".py":
            yield from _docstrings(path)


def _files(root: Path) -> Iterator[Path]:
    """The repository's own files: hidden folders and installed packages are others'."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(each for each in inner if not each.startswith(".") and each not in _FOREIGN)
        yield from (Path(folder, name) for name in sorted(names))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _sentences(ast.get_docstring(node) or "")


def _sentences(text: str) -> Iterator[str]:
    for sentence in re.split(
        r"(?<=[.!?:])\s+|\n\s*\n|\n[-*#|]", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    ):
        plain = " ".join(sentence.split()).strip("|#*- ")
        if 20 <= len(plain) <= 120 and plain.isascii():
            yield plain
