"""Training on the marketplace's own worker: the desk of a session, and the files it needs on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone

from clients import files
from clients.models import Blob
from finetune import attempts, results
from finetune.models import Attempt, Job
from finetune.trainer import packing
from finetune.trainer.session import STOP, Session
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

    def keep_checkpoint(self, archive: Path, *, step: int, metrics: dict[str, Any]) -> None:
        blob = patiently(lambda: _kept(archive))
        patiently(
            lambda: attempts.keep_checkpoint(
                self._token, blob, step=step, metrics=metrics, now=timezone.now()
            )
        )

    def finish(self, folder: Path, said: dict[str, Any]) -> None:
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        try:
            weights.check_folder(folder)
        except weights.BadWeights as error:
            self.fail(code="bad_result", reason=str(error), retry=False)
            return
        found = {name: patiently(lambda path=path: _kept(path)) for name, path in paths.items()}  # type: ignore[misc]
        made = made_of(found, said)
        patiently(lambda: attempts.succeed(self._token, made, now=timezone.now()))

    def fail(self, *, code: str, reason: str, retry: bool) -> None:
        patiently(
            lambda: attempts.fail(self._token, code=code, reason=reason, retry=retry, now=timezone.now())
        )

    def stopped(self) -> None:
        patiently(lambda: attempts.stopped(self._token, now=timezone.now()))


def _kept(path: Path) -> Blob:
    with path.open("rb") as file:
        return files.keep_all(storage.chunks_of(file), limit=settings.MAX_FILE_BYTES)


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
    folder = Path(settings.MARKETPLACE_HOME) / "training" / f"{job.pk}-{job.run}-{attempt.number}"
    shutil.rmtree(folder, ignore_errors=True)
    session = Session(
        spec_for(attempt, folder), OwnDesk(attempt), gpus=_gpus(), limit_s=settings.TRAINING_MAX_HOURS * 3600
    )
    try:
        session.run()
    finally:
        session.clean_up()


def spec_for(attempt: Attempt, folder: Path) -> Spec:
    """What the trainer is told, with everything it names in place."""
    job: Job = attempt.job
    full, *adapters = revisions.chain(job.base)
    folder.mkdir(parents=True)
    if attempt.resumed_from is not None and attempt.resumed_from.blob is not None:
        archive = _local(attempt.resumed_from.blob, folder / "resumed.tar")
        step = attempt.resumed_from.step
        packing.unpack(
            archive, folder / CHECKPOINTS / f"checkpoint-{step}", most_bytes=settings.MAX_FILE_BYTES
        )
    assert job.dataset.rows is not None
    validation = job.validation.rows if job.validation is not None else None
    return Spec(
        method=job.method, base=str(materialised(full)), adapter=str(materialised(adapters[0])) if adapters else "",
        rows=str(_local(job.dataset.rows, folder / "rows.jsonl")), format=job.dataset.format,
        validation=str(_local(validation, folder / "validation.jsonl")) if validation is not None else "",
        parameters=job.parameters, seed=job.seed, folder=str(folder), title=results.name_of(job),
        labels={"base": job.base.model.name, "dataset": job.dataset.name},
    )  # fmt: skip


def materialised(revision: Revision) -> Path:
    """A folder with a revision's files, kept for the next time."""
    folder = Path(settings.MARKETPLACE_HOME) / "revisions" / revision.digest
    if folder.exists():
        return folder
    new = folder.with_name(f"{revision.digest}.{os.getpid()}.{time.monotonic_ns()}")
    for name, blob in revisions.files_of(revision).items():
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(blob, target)
    try:
        new.rename(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)  # another thread was quicker
    return folder


def _local(blob: Blob, otherwise: Path) -> Path:
    """A content as a file on this machine."""
    found = storage.local_path(blob.name)
    if found is not None:
        return found
    _copy(blob, otherwise)
    return otherwise


def _copy(blob: Blob, target: Path) -> None:
    found = storage.local_path(blob.name)
    if found is not None:
        try:
            target.hardlink_to(found)
            return
        except OSError:
            pass  # another file system
    with target.open("wb") as file:
        for chunk in files.chunks(blob):
            file.write(chunk)


def _gpus() -> int:
    return len([each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]) or 1


__all__ = ["STOP", "WORKER", "OwnDesk", "made_of", "materialised", "patiently", "run", "spec_for"]
