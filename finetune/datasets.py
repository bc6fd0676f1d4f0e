"""Datasets: taken in, looked at row by row, found, and deleted.

validating ──▶ ready │ invalid        a small one is looked at before it is kept, and is not kept where it is wrong
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from clients import files, quotas
from clients.models import Blob, Client
from finetune.formats import Fault
from finetune.inspection import Inspection, TakesLonger, Told
from finetune.layouts import Layout
from finetune.models import Dataset, DatasetStatus, Format, Job
from marketplace import storage
from marketplace.errors import Conflict, InvalidRequest, NotFound
from marketplace.storage import Spooled

logger = logging.getLogger(__name__)

# A file up to so large is looked at in the request that brings it, if that does not take longer.
QUICK_BYTES = 16 * 1024 * 1024
QUICK_S = 10.0
PURPOSE = "fine-tune"
# How often a worker begins with a file before it is given up: something in it ends workers.
_MOST_TRIES = 3
# A file that waits for so long has been forgotten by the broker.
FORGOTTEN = timedelta(seconds=30)
_KEPT = timedelta(days=1)
_TOLD, _TRIES = "told", "tries"
_SHOWN = 3


class DatasetNotFound(NotFound):
    code, message = "dataset_not_found", "There is no such dataset."


class DatasetInUse(Conflict):
    """The details name the jobs."""

    code = "dataset_in_use"


class InvalidDataset(InvalidRequest):
    """The details have the first errors (line, field, message, fix), and how many there are."""

    code = "invalid_dataset"

    def __init__(self, errors: list[dict[str, Any]], count: int) -> None:
        shown = " ".join(_sentence(each) for each in errors[:_SHOWN])
        more = f" And {count - _SHOWN} more." if count > _SHOWN else ""
        super().__init__(f"{shown}{more}", details={"errors": errors, "error_count": count})


def _sentence(error: Mapping[str, Any]) -> str:
    at = [f"{error['file']},"] if error.get("file") else []
    at += [f"line {error['line']}:"] if error["line"] else []
    name = [f"{error['field']}:"] if error["field"] and error["field"] not in error["message"] else []
    return " ".join([*at, *name, error["message"], error["fix"]])


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What its owner says of a dataset."""

    name: str
    filename: str = ""
    description: str = ""
    purpose: str = PURPOSE
    metadata: Mapping[str, Any] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    expires_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A file that is kept. `rows` and `inspection` where it was looked at already, and was good."""

    blob: Blob
    rows: Blob | None = None
    inspection: Inspection | None = None


def read(spooled: Spooled, about: About, *, owner: Client) -> Content:
    """Keep a file that has come in one request; a small one is looked at. Must not run in a transaction.

    Raises InvalidDataset, quotas.StorageFull.
    """
    quotas.check(owner, spooled.size)
    if spooled.size > QUICK_BYTES:
        return Content(files.keep(spooled))
    inspection = Inspection(about.told, ends_at=time.monotonic() + QUICK_S)
    try:
        rows = _inspect(inspection, spooled.path, name=about.filename or about.name)
    except TakesLonger:
        return Content(files.keep(spooled))
    return Content(files.keep(spooled), rows, inspection)


def _inspect(inspection: Inspection, path: Path, *, name: str) -> Blob:
    """Look at a file; its rows are kept. Raises InvalidDataset, TakesLonger."""
    with path.open("rb") as file:
        lines = inspection.canonical(file, name=name, size=path.stat().st_size, limit=settings.MAX_FILE_BYTES)
        with storage.spool(lines, limit=2 * settings.MAX_FILE_BYTES) as spooled:
            if not inspection.is_good:
                raise InvalidDataset(inspection.errors, inspection.error_count)
            return files.keep(spooled)


@transaction.atomic
def add(content: Content, about: About, *, owner: Client, now: datetime) -> Dataset:
    """Make a dataset of a file that is kept. What has not been looked at yet is `validating`.

    Raises quotas.StorageFull.
    """
    blob, seen = content.blob, content.inspection
    quotas.check(owner, blob.size)
    told: dict[str, Any] = {"layout": about.told.layout, "split": about.told.split}
    if seen is None:
        _ring()
    return Dataset.objects.create(
        uid=f"file-{secrets.token_hex(12)}", owner=owner, name=about.name, description=about.description,
        filename=about.filename or about.name, purpose=about.purpose, metadata=dict(about.metadata),
        blob=blob, rows=content.rows, size=blob.size, sha256=blob.sha256, keccak256=blob.keccak256,
        format=(seen.format if seen else about.told.format) or "",
        status=DatasetStatus.READY if seen else DatasetStatus.VALIDATING,
        summary=seen.summary() if seen else {_TOLD: told},
        created_at=now, expires_at=now + about.expires_after if about.expires_after else None,
    )  # fmt: skip


def _ring() -> None:
    """Have a worker look at datasets once this transaction is committed."""
    from finetune import tasks  # noqa: PLC0415 - tasks call verbs

    # Where nobody can be told, a sweep does it later.
    transaction.on_commit(lambda: tasks.ring(tasks.validate_datasets), robust=True)


def validate_next() -> bool:
    """Look at one of the datasets that wait for it, the smallest first; whether there was one that nobody is at."""
    waiting = _all_waiting().order_by("size", "id").values_list("pk", flat=True)[:100]
    return any(validate(dataset_id) for dataset_id in waiting)


def validate(dataset_id: int) -> bool:
    """Look at a dataset that waits for it; whether it was this process that did. Takes as long as it takes."""
    with _alone(dataset_id) as is_mine:
        dataset = Dataset.objects.select_related("blob").filter(pk=dataset_id).first() if is_mine else None
        if dataset is None or dataset.blob is None or dataset.status != DatasetStatus.VALIDATING:
            return False
        tries = int(dataset.summary.get(_TRIES, 0)) + 1
        if tries > _MOST_TRIES:
            _conclude(dataset, _wrong(_UNREADABLE))
            return True
        dataset.summary = {**dataset.summary, _TRIES: tries}
        _waiting(dataset).update(summary=dataset.summary)
        try:
            found = _found(dataset, dataset.blob)
        except OSError:
            # Not the file's fault: the storage is away, or the disk full.
            _waiting(dataset).update(summary={**dataset.summary, _TRIES: tries - 1})
            raise
        _conclude(dataset, found)
        return True


_UNREADABLE = Fault(
    "", "The file could not be read to its end.", "Send it again, in smaller files if it is large."
)


def _found(dataset: Dataset, blob: Blob) -> dict[str, Any]:
    """What looking at a dataset says about it, by the names of its fields."""
    told = dataset.summary.get(_TOLD, {})
    inspection = Inspection(
        Told(
            format=Format(dataset.format) if dataset.format else None,
            layout=Layout(told["layout"]) if told.get("layout") else None,
            split=told.get("split") or "",
        )
    )
    try:
        with files.on_disk(blob) as path:
            rows = _inspect(inspection, path, name=dataset.filename)
    except InvalidDataset:
        return {
            "status": DatasetStatus.INVALID,
            "format": inspection.format or "",
            "summary": inspection.summary(),
            "errors": inspection.errors,
            "error_count": inspection.error_count,
        }
    except FileNotFoundError:
        return _wrong(_UNREADABLE)
    return {
        "status": DatasetStatus.READY,
        "format": inspection.format,
        "summary": inspection.summary(),
        "rows": rows,
    }


def _wrong(fault: Fault) -> dict[str, Any]:
    error = {"line": 0, "field": fault.field, "message": fault.message, "fix": fault.fix}
    return {"status": DatasetStatus.INVALID, "summary": {}, "errors": [error], "error_count": 1}


def _waiting(dataset: Dataset) -> QuerySet[Dataset]:
    return _all_waiting().filter(pk=dataset.pk)


def _conclude(dataset: Dataset, found: Mapping[str, Any]) -> None:
    if not _waiting(dataset).update(**found):
        logger.info("%s was deleted while it was being looked at.", dataset.uid)


@contextmanager
def _alone(dataset_id: int) -> Iterator[bool]:
    """Whether no other process is at this dataset. The database lets go of it if this one dies."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_lock(hashtextextended('dataset:' || %s, 0))", [str(dataset_id)]
        )
        is_mine = bool(cursor.fetchone()[0])
    try:
        yield is_mine
    finally:
        if is_mine:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_advisory_unlock(hashtextextended('dataset:' || %s, 0))", [str(dataset_id)]
                )


def visible_to(owner: Client) -> QuerySet[Dataset]:
    return Dataset.objects.filter(owner=owner, deleted_at=None)


def find(uid: str, *, owner: Client, param: str | None = None) -> Dataset:
    """`param`: where the caller has named it. Raises DatasetNotFound, also for somebody else's."""
    found = visible_to(owner).select_related("blob", "rows").filter(uid=uid.replace("\0", "")).first()
    if found is None:
        raise DatasetNotFound(f"There is no dataset {uid[:50]!r}.", param=param)
    return found


def by_hash(digest: str, *, owner: Client) -> Dataset:
    """The newest of the owner's datasets that is this file: by its keccak256 or sha256, with 0x or without.

    Raises DatasetNotFound.
    """
    plain = digest.lower().removeprefix("0x").replace("\0", "")
    same = visible_to(owner).select_related("blob", "rows").filter(Q(keccak256=plain) | Q(sha256=plain))
    found = same.filter(status=DatasetStatus.READY).first() or same.first()
    if found is None:
        raise DatasetNotFound(f"You have no dataset with the hash {digest[:70]!r}.")
    return found


@transaction.atomic
def delete(dataset: Dataset, *, now: datetime) -> None:
    """Delete a dataset; jobs that used it keep its name. Raises DatasetInUse, DatasetNotFound."""
    # Whoever begins a job with it at the same time waits for this, and the other way round.
    found = Dataset.objects.select_for_update().filter(pk=dataset.pk, deleted_at=None).first()
    if found is None:
        raise DatasetNotFound
    using = Job.objects.filter(Q(dataset=found) | Q(validation=found)).exclude(status__in=Job.ENDED)
    uids = [str(uid) for uid in using.values_list("uid", flat=True)[:10]]
    if uids:
        raise DatasetInUse(
            f"{found.uid} is used by a job that has not ended. Cancel the job first.", details={"jobs": uids}
        )
    Dataset.objects.filter(pk=found.pk).update(deleted_at=now, blob=None, rows=None)


def are_forgotten(*, now: datetime) -> bool:
    """Whether datasets have waited to be looked at for so long that nobody may know of them any more."""
    return _all_waiting().filter(created_at__lt=now - FORGOTTEN).exists()


def _all_waiting() -> QuerySet[Dataset]:
    return Dataset.objects.filter(status=DatasetStatus.VALIDATING, deleted_at=None)


def sweep(*, now: datetime) -> int:
    """Delete what has expired, unless it is in use, and forget what was deleted long ago; how many."""
    count = 0
    for dataset in Dataset.objects.filter(expires_at__lt=now, deleted_at=None)[:100]:
        try:
            delete(dataset, now=now)
            count += 1
        except (DatasetInUse, DatasetNotFound):
            continue
    used = Job.objects.filter(Q(dataset=OuterRef("pk")) | Q(validation=OuterRef("pk")))
    old = Dataset.objects.filter(~Exists(used), deleted_at__lt=now - _KEPT)
    return count + old.delete()[0]
