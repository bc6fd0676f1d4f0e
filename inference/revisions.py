"""The files of models that the marketplace keeps: a revision is a list of them, and never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from Crypto.Hash import keccak
from django.db import transaction
from django.db.models import Max

from clients.models import Blob, Client
from inference.models import Family, Model, Revision, RevisionFile, RevisionKind, Source
from marketplace.errors import NotFound


class RevisionNotFound(NotFound):
    code, message = "revision_not_found", "The model has no such revision."


def manifest(files: Mapping[str, Blob]) -> bytes:
    """A line per file: SHA-256, size, path; sorted by path. What a revision's digest and hash are of."""
    lines = (f"{blob.sha256} {blob.size} {path}\n" for path, blob in sorted(files.items()))
    return "".join(lines).encode()


@transaction.atomic
def add(
    model: Model,
    files: Mapping[str, Blob],
    *,
    kind: RevisionKind,
    family: Family,
    source: Source,
    base: Revision | None = None,
    by: Client | None = None,
    config: dict[str, Any] | None = None,
) -> Revision:
    """Make these files the model's newest revision, which nodes are to serve from now on.

    The same files once more are the revision that they were.
    """
    Model.objects.select_for_update(no_key=True).get(pk=model.pk)
    listed = manifest(files)
    digest = hashlib.sha256(listed).hexdigest()
    found = model.revisions.filter(digest=digest, base=base).first()
    if found is None:
        last = model.revisions.aggregate(last=Max("number"))["last"] or 0
        found = Revision.objects.create(
            model=model, number=last + 1, kind=kind, family=family, base=base, digest=digest,
            model_hash="0x" + keccak.new(digest_bits=256, data=listed).hexdigest(),
            size=sum(blob.size for blob in files.values()), source=source, by=by, config=config or {},
        )  # fmt: skip
        RevisionFile.objects.bulk_create(
            RevisionFile(revision=found, path=path, blob=blob) for path, blob in files.items()
        )
    model.revision = found
    model.save(update_fields=["revision"])
    return found


def files_of(revision: Revision) -> dict[str, Blob]:
    """Contents by path."""
    return {file.path: file.blob for file in revision.files.select_related("blob")}


def chain(revision: Revision) -> list[Revision]:
    """What is needed to load a revision: the full model first, then each adapter over it."""
    found = [revision]
    while found[0].kind == RevisionKind.ADAPTER and found[0].base is not None:
        found.insert(0, found[0].base)
    return found
