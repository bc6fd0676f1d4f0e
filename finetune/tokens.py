"""How many tokens a dataset has, by a model's own tokenizer: what trainings are priced by."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
from tokenizers import Tokenizer

from clients import files
from clients.models import Blob
from finetune.models import Dataset
from inference import revisions
from inference.models import Revision

# Of larger datasets a part is counted, and the rest estimated by its size.
COUNTED_BYTES = 32 * 1024 * 1024
_BATCH = 500
TOKENIZER = "tokenizer.json"


def count(dataset: Dataset, base: Revision) -> int:
    """Tokens of all rows. Counted once for each tokenizer; without a tokenizer, a token is taken for four bytes."""
    assert dataset.rows is not None
    blob = tokenizer_of(base)
    key = blob.sha256[:16] if blob is not None else "estimate"
    known = dataset.summary.get("tokens_by", {})
    if key not in known:
        found = _estimated(dataset.rows) if blob is None else _counted(dataset.rows, blob)
        dataset.summary = {**dataset.summary, "tokens_by": {**known, key: found}}
        Dataset.objects.filter(pk=dataset.pk).update(summary=dataset.summary)
    return int(dataset.summary["tokens_by"][key])


def tokenizer_of(base: Revision) -> Blob | None:
    """The tokenizer's file of a model, or of what its adapter belongs to."""
    for each in revisions.chain(base):
        file = each.files.filter(path=TOKENIZER).select_related("blob").first()
        if file is not None:
            return file.blob
    return None


def _estimated(rows: Blob) -> int:
    return max(1, rows.size // 4)


def _counted(rows: Blob, tokenizer_file: Blob) -> int:
    with files.opened(tokenizer_file) as file:
        tokenizer = Tokenizer.from_buffer(file.read())
    tokenizer.no_truncation()
    # Some models' tokenizers fill every text up to one length.
    tokenizer.no_padding()
    read = found = 0
    with files.opened(rows) as file:
        lines = iter(file)
        while batch := list(islice(lines, _BATCH)):
            texts = [text for line in batch for text in _texts(orjson.loads(line))]
            found += sum(
                len(each.ids) for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            )
            read += sum(map(len, batch))
            if read >= COUNTED_BYTES:
                break
    return max(1, found if read >= rows.size else round(found * rows.size / read))


def _texts(value: Any) -> Iterator[str]:
    """All texts in a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
