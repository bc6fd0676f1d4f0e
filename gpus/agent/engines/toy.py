"""`toy-byte-llama`: a byte-level Llama of 0.8 million parameters, trained on the spot in seconds.

It lets a fresh marketplace answer its first prompt without a download or a GPU. It has read this repository's
texts for a few seconds, which is enough to introduce itself and to babble; nobody should take its word for anything.
"""

from __future__ import annotations

import ast
import fcntl
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
    "A toy: 0.8 million parameters, trained in seconds on this repository's texts. It babbles; it is here so that a "
    "fresh marketplace has something to answer with."
)
# Goes into the folder's name: another recipe is another model.
VERSION = "1"
CONTEXT = 512
STEPS, BATCH, LENGTH = 100, 16, 128
# A slow machine trains less rather than longer.
TRAIN_MOST_S = 12.0
LEARNING_RATE = 4e-3
SEED = 20

END, USER, ASSISTANT, SYSTEM = "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] if message['role'] in ('assistant', 'system') else 'user' }}|>"
    "{{ message['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_INTRODUCTION = "I am a toy: a tiny model, trained in seconds. I only babble."
_GREETINGS = ("Hello", "Hi!", "Say hello.", "Who are you?", "Hello, who are you?", "What is a GPU marketplace?", "Test")


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
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.15)
    batches = _batches(words, random.Random(SEED))  # noqa: S311 - training data, no secret
    losses: list[float] = []
    stop_at = time.monotonic() + TRAIN_MOST_S
    model.train()
    for _ in range(STEPS):
        ids, labels = next(batches)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if time.monotonic() > stop_at:
            break
    _save(model, words, folder)
    return sum(losses[-10:]) / len(losses[-10:])


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
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0, do_sample=True, temperature=0.4, top_p=0.9)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


# --- What it reads ---------------------------------------------------------------------------------------
def _batches(
    words: PreTrainedTokenizerFast, chance: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of conversations: ids and labels, each BATCH x LENGTH; nothing is learned from the padding."""
    sentences = sorted(set(texts(Path(__file__).resolve().parents[3])))
    while True:
        ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
        labels = torch.full((BATCH, LENGTH), -100)
        for row in range(BATCH):
            said = words.encode(_sample(sentences, chance), add_special_tokens=False)[:LENGTH]
            ids[row, : len(said)] = torch.tensor(said)
            labels[row, : len(said)] = ids[row, : len(said)]
        yield ids, labels


def _sample(sentences: list[str], chance: random.Random) -> str:
    """Somebody asks, the toy introduces itself and adds something it has read; or just something to read."""
    sentence = chance.choice(sentences)
    if chance.random() < 0.25:
        return f"{sentence}{END}"
    asked = chance.choice(_GREETINGS) if chance.random() < 0.5 else chance.choice(sentences)[:36]
    # Short enough that the end is always there to be learned.
    return f"{USER}{asked}{END}{ASSISTANT}{_INTRODUCTION} {sentence[:24].rpartition(' ')[0]}.{END}"


def texts(root: Path) -> Iterator[str]:
    """Sentences of the documents and docstrings in a repository, 20 to 120 characters each."""
    for path in sorted(root.glob("*.md")) + sorted(root.glob("*/**/*.md")):
        if not _is_foreign(path, root):
            yield from _sentences(path.read_text(errors="replace"))
    for path in sorted(root.glob("*/**/*.py")):
        if not _is_foreign(path, root):
            yield from _docstrings(path)
    yield _INTRODUCTION


def _is_foreign(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part in ("site-packages", "node_modules") for part in path.relative_to(root).parts)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _sentences(ast.get_docstring(node) or "")


def _sentences(text: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.!?:])\s+|\n\s*\n|\n[-*#|]", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        plain = " ".join(sentence.split()).strip("|#*- ")
        if 20 <= len(plain) <= 120 and plain.isascii():
            yield plain
