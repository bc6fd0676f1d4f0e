"""A sentence-transformers model in this process: texts in, vectors out."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import orjson
from sentence_transformers import SentenceTransformer

from gpus.agent.engines import Usage, Whole
from gpus.agent.engines import asked as asking
from gpus.agent.engines.asked import BadRequest

MAX_INPUTS = 2048
# Between two batches a request can be called off.
BATCH = 32


class Embedder:
    """A model from a folder. Everything here runs in the engine's computing thread."""

    kinds = ("embedding",)

    def __init__(self, folder: Path, *, device: str) -> None:
        self.model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        self.context_length = int(self.model.max_seq_length or 512)

    def prepare(self, request: dict[str, Any]) -> tuple[list[str], int]:
        """The texts, and how many tokens they have together. Raises BadRequest."""
        asking.refuse_unsupported(request)
        if request.get("encoding_format") not in (None, "float", "base64"):
            raise BadRequest("encoding_format must be float or base64.", param="encoding_format")
        inputs = asking.texts(request.get("input"), param="input")
        texts = [each for each in inputs if isinstance(each, str)]
        if len(texts) != len(inputs):
            raise BadRequest("This node's engine takes texts, not token ids.", param="input")
        if len(texts) > MAX_INPUTS or not all(texts):
            raise BadRequest(f"input must be 1 to {MAX_INPUTS} texts, none of them empty.", param="input")
        return texts, self._count(texts)

    def _count(self, texts: list[str]) -> int:
        # Without truncation, so that a text that is too long is noticed instead of cut.
        counts = [
            len(ids) for ids in self.model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        ]
        if max(counts) > self.context_length:
            index = counts.index(max(counts))
            raise BadRequest(
                f"This model's maximum context length is {self.context_length} tokens; "
                f"input {index} has {counts[index]}.",
                param="input",
                code="context_length_exceeded",
            )
        return sum(counts)

    def encode(self, texts: list[str]) -> Iterator[numpy.ndarray]:
        """Vectors (float32), batch by batch."""
        for at in range(0, len(texts), BATCH):
            batch = self.model.encode(texts[at : at + BATCH], batch_size=BATCH, show_progress_bar=False)
            yield numpy.ascontiguousarray(batch, dtype=numpy.float32)


def answer(request: dict[str, Any], vectors: list[numpy.ndarray], tokens: int) -> Whole:
    """OpenAI's list of embeddings."""
    as_text = request.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode() if as_text else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    reply = {"object": "list", "data": data, "model": request["model"], "usage": usage}
    return Whole(orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY), usage=Usage(usage, "engine"))
