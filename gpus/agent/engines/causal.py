"""A causal language model in this process: prompt in, text out, one token at a time."""

from __future__ import annotations

import inspect
import weakref
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpus.agent.engines import asked as asking
from gpus.agent.engines.adapters import Adapters
from gpus.agent.engines.asked import Asked, BadRequest

# /v1/completions generates this much where nothing is said; chat goes on until the model ends it.
DEFAULT_COMPLETION_TOKENS = 16
FALLBACK_CONTEXT = 2048
_REPLACEMENT = "\ufffd"


class Causal:
    """A model from a folder, or an adapter over one. Everything but making it runs in the engine's computing thread."""

    def __init__(self, folder: Path, *, device: str, base: Causal | None = None) -> None:
        self._base = base
        # Its adapter's name there; empty for the weights as they are.
        self._adapter = ""
        self._weights: Adapters = Adapters(_load(folder, device)) if base is None else base._weights
        self.tokenizer: Any = _tokenizer(folder) if base is None or _has_tokenizer(folder) else base.tokenizer
        self.device = device
        self._folder = folder
        self.kinds = ("chat", "completion") if self.tokenizer.chat_template else ("completion",)
        self.context_length = int(
            getattr(self.model.config, "max_position_embeddings", 0) or FALLBACK_CONTEXT
        )
        takes = inspect.signature(self.model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def lay(self) -> None:
        """Lay the adapter over its base, in the computing thread: others may be at work there."""
        self._adapter = self._weights.add(self._folder)
        weakref.finalize(self, self._weights.forget, self._adapter)

    @property
    def model(self) -> Any:
        """The weights, with whichever adapter was used last."""
        return self._weights.model

    def prepare(self, path: str, request: dict[str, Any]) -> tuple[list[int], Asked]:
        """The prompt's token ids, and how to go on from there. Raises BadRequest."""
        chat = path.endswith("/chat/completions")
        wanted = asking.read(request, default_max_tokens=None if chat else DEFAULT_COMPLETION_TOKENS)
        ids = self._chat_ids(request) if chat else self._prompt_ids(request)
        explicit = request.get("max_completion_tokens") or request.get("max_tokens") or 1
        if not ids or len(ids) + explicit > self.context_length:
            raise self._does_not_fit(len(ids), explicit)
        return ids, wanted

    def _does_not_fit(self, prompt: int, completion: int) -> BadRequest:
        if not prompt:
            return BadRequest("The prompt is empty.")
        return BadRequest(
            f"This model's maximum context length is {self.context_length} tokens. You asked for "
            f"{prompt + completion}: {prompt} in the prompt, {completion} in the completion.",
            code="context_length_exceeded",
        )

    def _chat_ids(self, request: dict[str, Any]) -> list[int]:
        messages = asking.messages(request)
        try:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise BadRequest(
                f"The model's chat template does not take it: {error}", param="messages"
            ) from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _prompt_ids(self, request: dict[str, Any]) -> list[int]:
        prompts = asking.texts(request.get("prompt"), param="prompt")
        if len(prompts) != 1:
            raise BadRequest("This node's engine takes one prompt per request.", param="prompt")
        if isinstance(prompts[0], str):
            ids: list[int] = self.tokenizer.encode(prompts[0])
            return ids
        if not all(0 <= each < len(self.tokenizer) for each in prompts[0]):
            raise BadRequest("prompt holds numbers that are no tokens of this model.", param="prompt")
        return prompts[0]

    def start(self, ids: list[int], wanted: Asked) -> Generation:
        return Generation(self, ids, wanted)

    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        found: set[int] = set()
        for each in (self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id):
            found.update(each if isinstance(each, list) else [each])
        return frozenset(each for each in found if isinstance(each, int))

    def forward(self, ids: list[int], cache: Any) -> tuple[torch.Tensor, Any]:
        """The next token's logits after these, and the cache to go on with."""
        self._weights.use(self._adapter)
        return self._forward(ids, cache)

    @torch.inference_mode()
    def _forward(self, ids: list[int], cache: Any) -> tuple[torch.Tensor, Any]:
        tensor = torch.tensor([ids], device=self.device)
        out = self.model(input_ids=tensor, past_key_values=cache, use_cache=True, **self._last_only)
        return out.logits[0, -1].float(), out.past_key_values


def _load(folder: Path, device: str) -> Any:
    # safetensors only: pickled weights could run code, and so could Python that a model brings with it.
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, dtype="auto", trust_remote_code=False
    )
    return model.to(device).eval()


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _has_tokenizer(folder: Path) -> bool:
    """Whether an adapter brings one of its own."""
    words = any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
    return words and (folder / "tokenizer_config.json").exists()


class Generation:
    """One answer in the making. `step` makes one token; between two steps nothing is computed."""

    def __init__(self, causal: Causal, ids: list[int], wanted: Asked) -> None:
        self.prompt_tokens = len(ids)
        self.completion_tokens = 0
        self.finish_reason: str | None = None
        self._causal = causal
        self._next = ids
        self._cache: Any = None
        room = causal.context_length - len(ids)
        self._most = min(wanted.max_tokens or room, room)
        self._eos = causal.eos_ids()
        self._sampler = Sampler(causal, wanted)
        self._text = TextPieces(causal.tokenizer, wanted.stop)

    def step(self) -> str:
        """Make one token. The text that is certain by now, often none; the last sets `finish_reason`."""
        logits, self._cache = self._causal.forward(self._next, self._cache)
        token = self._sampler.choose(logits)
        self.completion_tokens += 1
        self._next = [token]
        if token in self._eos:
            return self._finish("stop")
        piece = self._text.add(token)
        if self._text.stopped:
            self.finish_reason = "stop"
        elif self.completion_tokens >= self._most:
            return piece + self._finish("length")
        return piece

    def _finish(self, reason: str) -> str:
        rest = self._text.rest()
        self.finish_reason = "stop" if self._text.stopped else reason
        return rest


class Sampler:
    """Chooses tokens as the request says, else as the model's generation configuration says."""

    def __init__(self, causal: Causal, wanted: Asked) -> None:
        own = causal.model.generation_config
        self._temperature = _first(wanted.temperature, own.temperature, 1.0)
        self._top_p = _first(wanted.top_p, own.top_p, 1.0)
        self._top_k = int(own.top_k or 0) if wanted.top_p is None else 0
        self._presence, self._frequency = wanted.presence_penalty, wanted.frequency_penalty
        self._seen: dict[int, int] = {}
        self._generator: torch.Generator | None = None
        if wanted.seed is not None:
            self._generator = torch.Generator(causal.device).manual_seed(wanted.seed)

    @torch.inference_mode()
    def choose(self, logits: torch.Tensor) -> int:
        if self._presence or self._frequency:
            for token, count in self._seen.items():
                logits[token] -= self._presence + self._frequency * count
        token = self._greedy(logits) if self._temperature <= 0 else self._sample(logits / self._temperature)
        self._seen[token] = self._seen.get(token, 0) + 1
        return token

    @staticmethod
    def _greedy(logits: torch.Tensor) -> int:
        return int(logits.argmax())

    def _sample(self, logits: torch.Tensor) -> int:
        if 0 < self._top_k < logits.numel():
            logits = logits.masked_fill(logits < logits.topk(self._top_k).values[-1], float("-inf"))
        likely, tokens = logits.softmax(-1).sort(descending=True)
        if self._top_p < 1:
            # Keep the first token, and each that begins below the threshold.
            likely = likely.masked_fill(likely.cumsum(-1) - likely > self._top_p, 0)
            likely[0] = max(float(likely[0]), 1e-9)
        return int(tokens[torch.multinomial(likely, 1, generator=self._generator)])


class TextPieces:
    """Turns tokens into text as they come: whole characters, and nothing that may begin a stop text."""

    def __init__(self, tokenizer: Any, stops: tuple[str, ...]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens: list[int] = []
        # Tokens before `_start` are out; those up to `_read` are decoded again: some tokenizers write a word
        # differently at the beginning of a text.
        self._start = self._read = 0
        self._held = ""

    def add(self, token: int) -> str:
        self._tokens.append(token)
        text = self._decode(self._start, len(self._tokens))
        if text.endswith(_REPLACEMENT):
            return ""  # in the middle of a character
        return self._cut(self._advance(text))

    def rest(self) -> str:
        """What was held back, at the end."""
        held = self._held + self._advance(self._decode(self._start, len(self._tokens)))
        self._held = ""
        at = self._first_stop(held)
        if at is None:
            return held
        self.stopped = True
        return held[:at]

    def _decode(self, start: int, end: int) -> str:
        text: str = self._tokenizer.decode(self._tokens[start:end], skip_special_tokens=True)
        return text

    def _advance(self, text: str) -> str:
        new = text[len(self._decode(self._start, self._read)) :]
        self._start, self._read = self._read, len(self._tokens)
        return new

    def _cut(self, new: str) -> str:
        text = self._held + new
        at = self._first_stop(text)
        if at is not None:
            self.stopped = True
            self._held = ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _first_stop(self, text: str) -> int | None:
        return min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text could be the beginning of the stop text."""
    return next(
        (size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0
    )


def _first(*values: float | None) -> float:
    return next(float(value) for value in values if value is not None)
