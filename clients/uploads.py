"""Large files in parts: begun, sent piece by piece (again where a piece was lost), completed or called off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max, Sum

from clients import files, quotas
from clients.models import Blob, Client, Upload, UploadPart, UploadStatus
from marketplace.errors import Conflict, InvalidRequest, NotFound
from marketplace.storage import TooLarge

# How long an upload may rest before it is forgotten.
LIFE = timedelta(days=1)


class UploadNotFound(NotFound):
    code, message = "upload_not_found", "There is no such upload."


class UploadClosed(Conflict):
    code = "upload_closed"


class UploadIncomplete(InvalidRequest):
    """What is there is not what was announced. The details say how much there is."""

    code = "upload_incomplete"


def begin(
    *, owner: Client, filename: str, purpose: str, size: int | None, sha256: str = "", now: datetime
) -> Upload:
    """Announce a file. Raises TooLarge at once where its size cannot be taken."""
    if size is not None and size > settings.MAX_FILE_BYTES:
        raise TooLarge(settings.MAX_FILE_BYTES)
    return Upload.objects.create(
        owner=owner,
        filename=filename,
        purpose=purpose,
        size=size,
        sha256=sha256.lower(),
        expires_at=now + LIFE,
    )


def find(upload_id: UUID, *, owner: Client, purpose: str) -> Upload:
    """Raises UploadNotFound, also for somebody else's, and for one that is to become something else."""
    found = Upload.objects.filter(pk=upload_id, owner=owner, purpose=purpose).first()
    if found is None:
        raise UploadNotFound
    return found


def check_open(upload: Upload) -> None:
    """Raises UploadClosed."""
    if upload.status != UploadStatus.OPEN:
        raise UploadClosed(f"This upload is {upload.status}.")


def parts(upload: Upload) -> Sequence[UploadPart]:
    """The parts that have arrived, in order."""
    return list(upload.parts.select_related("blob"))


def add(upload: Upload, blob: Blob, *, number: int | None, now: datetime) -> UploadPart:
    """Note a part that has arrived: at its place, where it replaces what was there, or (None) behind the last.

    Raises UploadClosed, TooLarge, quotas.StorageFull, InvalidRequest for a place that cannot be.
    """
    for _ in range(100):
        try:
            with transaction.atomic():
                return _add(upload, blob, number, now)
        except IntegrityError:
            # Somebody else's part has taken the place behind the last.
            if number is not None:
                raise
    raise UploadClosed("Too many parts arrive at the same time; send this one again.")


def _add(upload: Upload, blob: Blob, number: int | None, now: datetime) -> UploadPart:
    _locked(upload)
    others = upload.parts.exclude(number=number) if number is not None else upload.parts.all()
    if number is None:
        number = (others.aggregate(last=Max("number"))["last"] or 0) + 1 if others.exists() else 0
    if not 0 <= number < UploadPart.MOST:
        raise InvalidRequest(f"Parts have numbers from 0 to {UploadPart.MOST - 1}.", param="part_number")
    # Also exact where many parts arrive at once.
    there = upload.parts.filter(number=number).aggregate(total=Sum("blob__size"))["total"] or 0
    quotas.check(upload.owner, blob.size - there)
    limit = settings.MAX_FILE_BYTES if upload.size is None else upload.size
    if (others.aggregate(total=Sum("blob__size"))["total"] or 0) + blob.size > limit:
        raise TooLarge(limit)
    part, _ = UploadPart.objects.update_or_create(upload=upload, number=number, defaults={"blob": blob})
    Upload.objects.filter(pk=upload.pk).update(expires_at=now + LIFE)
    return part


def assemble(upload: Upload, *, order: Sequence[UUID] | None = None) -> Blob:
    """The whole file of an open upload: its parts by number, or in this order of their ids.

    Must not run in a transaction. Raises UploadClosed, UploadIncomplete.
    """
    check_open(upload)
    there = parts(upload)
    if order is None:
        _check_numbers(there)
    else:
        by_id = {part.pk: part for part in there}
        if len(set(order)) != len(order) or not all(each in by_id for each in order):
            raise UploadIncomplete("part_ids names parts that are not there, or one twice.", param="part_ids")
        there = [by_id[each] for each in order]
    size = sum(part.blob.size for part in there)
    if not there or (upload.size is not None and size != upload.size):
        raise UploadIncomplete(
            f"{size} bytes have arrived; {upload.size or 'more than none'} were announced.",
            details={"received_bytes": size, "announced_bytes": upload.size},
        )
    whole = (
        there[0].blob if len(there) == 1 else files.keep_all(_contents(there), limit=settings.MAX_FILE_BYTES)
    )
    if upload.sha256 and whole.sha256 != upload.sha256:
        raise UploadIncomplete(
            f"The file's SHA-256 is {whole.sha256}, not the {upload.sha256} that was announced.",
            details={"sha256": whole.sha256, "announced_sha256": upload.sha256},
        )
    return whole


def _check_numbers(there: Sequence[UploadPart]) -> None:
    missing = sorted(set(range(len(there))) - {part.number for part in there})
    if missing:
        raise UploadIncomplete(f"Part {missing[0]} is missing.", details={"missing_parts": missing[:100]})


def _contents(there: Sequence[UploadPart]) -> Iterator[bytes]:
    for part in there:
        yield from files.chunks(part.blob)


def complete(upload: Upload, *, result: str = "") -> None:
    """Close an upload that has become something. In the transaction that makes it. Raises UploadClosed."""
    if not Upload.objects.filter(pk=upload.pk, status=UploadStatus.OPEN).update(
        status=UploadStatus.COMPLETED, result=result
    ):
        raise UploadClosed("This upload has been completed or cancelled meanwhile.")
    upload.parts.all().delete()
    upload.status, upload.result = UploadStatus.COMPLETED, result


def name_result(upload: Upload, result: str) -> None:
    """Say what a completed upload has become, where that was not known before. In the same transaction."""
    Upload.objects.filter(pk=upload.pk, status=UploadStatus.COMPLETED).update(result=result)
    upload.result = result


def cancel(upload: Upload) -> Upload:
    """Call an upload off; its parts go. Raises UploadClosed where it is completed."""
    with transaction.atomic():
        if _locked(upload, still_open=False).status == UploadStatus.COMPLETED:
            raise UploadClosed("This upload is completed.")
        Upload.objects.filter(pk=upload.pk).update(status=UploadStatus.CANCELLED)
        upload.parts.all().delete()
    upload.refresh_from_db()
    return upload


def sweep(*, now: datetime) -> int:
    """Forget uploads that have rested for too long, and those that have ended long ago; how many."""
    return Upload.objects.filter(expires_at__lt=now).delete()[0]


def _locked(upload: Upload, *, still_open: bool = True) -> Upload:
    found = Upload.objects.select_for_update().get(pk=upload.pk)
    if still_open:
        check_open(found)
    return found
