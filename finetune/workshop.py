"""Training on the marketplace's own worker: the desk of a session, and the files it needs on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone

from clients import files
from clients.models import Blob
from finetune import attempts, quotes, results
from finetune.models import Attempt, Job
from finetune.trainer import packing
from finetune.trainer.session import STOP, CalledOff, Session, Wanted
from finetune.trainer.spec import CHECKPOINTS, Spec
from inference import revisions, weights
from inference.models import Revision, RevisionKind
from marketplace import storage

logger = logging.getLogger(__name__)
T = TypeVar("T")

# How long a database may be away before a training is given up.
AWAY_FOR_S = 600.0
WORKER = f"{socket.gethostname()}:{os.getpid()}"
# Set when this process is asked to stop: what it trains is written down, and goes on wherever there is a place.
closing = threading.Event()


def patiently(call: Callable[[], T]) -> T:
    """Make a call that repeats safely, again and again while the database is away."""
    gives_up_at, pause = time.monotonic() + AWAY_FOR_S, 0.1
    while True:
        try:
            close_old_connections()
            return call()
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > gives_up_at:
                raise
            logger.warning("The database is away: %s", str(error).split("\n")[0])
            time.sleep(pause)
            pause = min(pause * 2, 2.0)


class OwnDesk:
    """A session's desk in the same process as the database's verbs."""

    def __init__(self, attempt: Attempt) -> None:
        self._token, self._job_id = attempt.token, attempt.job_id
        self._number = 1

    def order(self) -> str:
        word = patiently(lambda: attempts.watch(self._token, worker=WORKER, now=timezone.now()).word)
        return attempts.PAUSE if word == attempts.GO_ON and closing.is_set() else word

    def report(self, heard: Sequence[dict[str, Any]]) -> None:
        first, self._number = self._number, self._number + len(heard)
        patiently(lambda: attempts.hear(self._token, heard, first_number=first, now=timezone.now()))

    def keep_checkpoint(self, archive: Path, *, step: int, metrics: dict[str, Any], wanted: Wanted) -> None:
        blob = patiently(lambda: _kept(archive, wanted))
        patiently(
            lambda: attempts.keep_checkpoint(
                self._token, blob, step=step, metrics=metrics, now=timezone.now()
            )
        )

    def finish(self, folder: Path, said: dict[str, Any], *, wanted: Wanted) -> None:
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        try:
            weights.check_folder(folder)
        except weights.BadWeights as error:
            self.fail(code="bad_result", reason=str(error), retry=False)
            return
        found = {name: patiently(partial(_kept, path, wanted)) for name, path in paths.items()}
        made = made_of(found, said)
        patiently(lambda: attempts.succeed(self._token, made, now=timezone.now()))

    def fail(self, *, code: str, reason: str, retry: bool) -> None:
        patiently(
            lambda: attempts.fail(self._token, code=code, reason=reason, retry=retry, now=timezone.now())
        )

    def stopped(self) -> None:
        patiently(lambda: attempts.stopped(self._token, now=timezone.now()))


def _kept(path: Path, wanted: Wanted) -> Blob:
    """Raises CalledOff."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            for chunk in storage.chunks_of(file):
                if not wanted():
                    raise CalledOff
                yield chunk

    return files.keep_all(chunks(), limit=settings.MAX_FILE_BYTES)


def made_of(found: Mapping[str, Blob], said: Mapping[str, Any]) -> results.Made:
    """A result from its files and the trainer's last word."""
    metrics = {name: said.get(name) for name in ("main", "before", "after", "tokens", "seconds")}
    return results.Made(
        files=found,
        kind=RevisionKind(said.get("kind") or RevisionKind.FULL),
        metrics=metrics,
        is_better=bool(said.get("is_better")),
    )


# --- Files ------------------------------------------------------------------------------------------------


def run(attempt: Attempt) -> None:
    """Train here, until the attempt is over."""
    job = attempt.job
    home = Path(settings.MARKETPLACE_HOME) / "training"
    _tidy(home)
    folder = home / _folder_name(attempt)
    shutil.rmtree(folder, ignore_errors=True)
    desk = OwnDesk(attempt)
    session = Session(
        lambda wanted: spec_for(attempt, folder, wanted), desk, gpus=_gpus(),
        limit_s=settings.TRAINING_MAX_HOURS * 3600,
    )  # fmt: skip
    try:
        session.run()
    except packing.BadArchive as error:
        desk.fail(code="bad_checkpoint", reason=str(error), retry=True)
    except OSError as error:
        # No room on the disk, a storage that does not answer: another time, or elsewhere.
        logger.exception("Attempt %s of job %s failed here", attempt.number, job.pk)
        desk.fail(code="worker_failed", reason=f"The worker could not go on: {error}.", retry=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder_name(attempt: Attempt) -> str:
    return f"{attempt.job_id}-{attempt.run}-{attempt.number}-{attempt.token.hex[:8]}"


def _tidy(home: Path) -> None:
    """Delete what attempts have left behind whose worker was killed."""
    there = {path.name: path for path in home.glob("*-*-*-*")} if home.exists() else {}
    if there:
        open_ones = Attempt.objects.filter(ended_at=None, node=None).select_related("job")
        for name in there.keys() - {_folder_name(each) for each in open_ones}:
            shutil.rmtree(there[name], ignore_errors=True)


def spec_for(attempt: Attempt, folder: Path, wanted: Wanted) -> Spec:
    """What the trainer is told, with everything it names in place. Raises CalledOff, BadArchive."""
    job: Job = attempt.job
    full, *adapters = revisions.chain(job.base)
    folder.mkdir(parents=True)
    if attempt.resumed_from is not None and attempt.resumed_from.blob is not None:
        archive = _local(attempt.resumed_from.blob, folder / "resumed.tar", wanted)
        step = attempt.resumed_from.step
        packing.unpack(
            archive, folder / CHECKPOINTS / f"checkpoint-{step}", most_bytes=settings.MAX_FILE_BYTES
        )
    assert job.dataset.rows is not None
    validation = job.validation.rows if job.validation is not None else None
    return Spec(
        method=job.method, base=str(materialised(full, wanted)),
        adapter=str(materialised(adapters[0], wanted)) if adapters else "",
        rows=str(_local(job.dataset.rows, folder / "rows.jsonl", wanted)), format=job.dataset.format,
        validation=str(_local(validation, folder / "validation.jsonl", wanted)) if validation is not None else "",
        parameters=job.parameters, seed=job.seed, folder=str(folder), title=results.name_of(job),
        labels={"base": job.base.model.name, "dataset": job.dataset.name}, most_tokens=quotes.most_tokens(job),
    )  # fmt: skip


def _always() -> bool:
    return True


def materialised(revision: Revision, wanted: Wanted = _always) -> Path:
    """A folder with a revision's files, kept for the next time. Raises CalledOff."""
    folder = Path(settings.MARKETPLACE_HOME) / "revisions" / revision.digest
    if folder.exists():
        return folder
    new = folder.with_name(f"{revision.digest}.{os.getpid()}.{time.monotonic_ns()}")
    for name, blob in revisions.files_of(revision).items():
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(blob, target, wanted)
    try:
        new.rename(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)  # another thread was quicker
    return folder


def _local(blob: Blob, otherwise: Path, wanted: Wanted) -> Path:
    """A content as a file on this machine."""
    found = storage.local_path(blob.name)
    if found is not None:
        return found
    _copy(blob, otherwise, wanted)
    return otherwise


def _copy(blob: Blob, target: Path, wanted: Wanted) -> None:
    found = storage.local_path(blob.name)
    if found is not None:
        try:
            target.hardlink_to(found)
            return
        except OSError:
            pass  # another file system
    with target.open("wb") as file:
        for chunk in files.chunks(blob):
            if not wanted():
                raise CalledOff
            file.write(chunk)


def _gpus() -> int:
    return len([each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]) or 1


__all__ = ["STOP", "WORKER", "OwnDesk", "made_of", "materialised", "patiently", "run", "spec_for"]
