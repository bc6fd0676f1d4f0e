"""How many tokens a dataset has, by a model's own tokenizer: what trainings are priced by."""

from __future__ import annotations

from clients import files
from clients.models import Blob
from finetune.models import Dataset
from finetune.trainer import counting
from finetune.trainer.counting import CannotCount
from inference import revisions
from inference.models import Revision
from marketplace.errors import InvalidRequest

# Of larger datasets a part is counted, and the rest estimated by its size.
COUNTED_BYTES = 32 * 1024 * 1024
TOKENIZER = "tokenizer.json"


class TokenizerUnusable(InvalidRequest):
    code = "tokenizer_unusable"
    message = (
        "The model's tokenizer.json cannot read these rows: it is broken, or makes far too much of them."
    )


def count(dataset: Dataset, base: Revision) -> int:
    """Tokens of all rows. Counted once for each tokenizer; without a tokenizer, a token is taken for four bytes.

    Raises TokenizerUnusable.
    """
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
    with files.on_disk(tokenizer_file) as tokenizer, files.on_disk(rows) as path:
        try:
            found, read = counting.count(tokenizer, path, most_bytes=COUNTED_BYTES)
        except CannotCount:
            raise TokenizerUnusable from None
    return max(1, found if read >= rows.size else round(found * rows.size / read))
