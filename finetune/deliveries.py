"""What goes to a node that trains, and what comes back: by signed links, checked before anything believes it.

A node is somebody's machine. It gets what its attempt needs and nothing else; what it sends is bounded by the size of
the base, belongs to its attempt alone, and becomes a result only when it is whole and nothing but weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core import signing
from django.db import transaction

from clients import files
from clients.models import Blob
from finetune import attempts, quotes, results, sayings, workshop
from finetune.models import Attempt, AttemptOutcome, Checkpoint, SentFile
from gpus.models import Node
from inference import revisions, weights
from inference.models import Revision
from inference.weights import BadWeights
from marketplace import storage
from marketplace.errors import Conflict, Forbidden, InvalidRequest, NotFound
from marketplace.storage import TooLarge

CHECKPOINT = "checkpoint.tar"
LINK_LIFE = timedelta(hours=6)
# A state holds the weights, their gradients' averages and more; a result the weights, at most in a larger type.
_STATES, _RESULTS, _SLACK = 8, 3, 256 * 1024 * 1024
_MORE_CHECKPOINTS = 20
_SALT = "finetune.deliveries"
_RECEIVED = "received_bytes"


class AttemptNotFound(NotFound):
    code, message = "attempt_not_found", "This node has no such training."


class AttemptOver(Conflict):
    code, message = "attempt_over", "This training was ended, or goes on elsewhere. Stop it."


class LinkRefused(Forbidden):
    code, message = "link_refused", "This link is not valid, or no longer."


class NotSent(InvalidRequest):
    code = "file_not_sent"


class WrongContent(InvalidRequest):
    """What came is not what was announced."""

    code = "wrong_content"


class TooMuch(InvalidRequest):
    code = "too_much_sent"


def find(token: UUID, node: Node) -> Attempt:
    """A node's attempt, whether it has ended or not. Raises AttemptNotFound, also for another node's."""
    found = Attempt.objects.select_related("job__base__model").filter(token=token, node_id=node.pk).first()
    if found is None:
        raise AttemptNotFound
    return found


def find_open(token: UUID, node: Node) -> Attempt:
    """Raises AttemptNotFound, AttemptOver."""
    found = find(token, node)
    if found.ended_at is not None:
        raise AttemptOver
    return found


# --- What it gets -----------------------------------------------------------------------------------------


def briefing(attempt: Attempt, *, now: datetime) -> dict[str, Any]:
    """All that a node needs to train, and to go on where its program was before."""
    job, until = attempt.job, now + LINK_LIFE
    full, *adapters = revisions.chain(job.base)
    assert job.dataset.rows is not None
    validation = job.validation.rows if job.validation is not None else None
    newest = attempts.newest_checkpoint(job)
    ends_at = attempt.started_at + timedelta(hours=settings.TRAINING_MAX_HOURS)
    return {
        "attempt": str(attempt.token),
        "spec": {
            "method": job.method, "format": job.dataset.format, "parameters": job.parameters, "seed": job.seed,
            "title": results.name_of(job), "labels": {"base": job.base.model.name, "dataset": job.dataset.name},
            "most_tokens": quotes.most_tokens(job),
        },
        "base": _revision(full, until),
        "adapter": _revision(adapters[0], until) if adapters else None,
        "rows": _file(job.dataset.rows, until),
        "validation": _file(validation, until) if validation is not None else None,
        "checkpoint": {"step": newest.step, **_file(newest.blob, until)} if newest and newest.blob else None,
        "next_event": attempt.event_number + 1,
        "limit_s": max(1.0, (ends_at - now).total_seconds()),
        "lost_after_s": settings.TRAINING_LOST_AFTER_S,
    }  # fmt: skip


def _revision(revision: Revision, until: datetime) -> dict[str, Any]:
    found = revisions.files_of(revision)
    return {
        "digest": revision.digest,
        "files": [{"path": path, **_file(blob, until)} for path, blob in found.items()],
    }


def _file(blob: Blob, until: datetime) -> dict[str, Any]:
    return {"sha256": blob.sha256, "size": blob.size, "url": files.link(blob, expires_at=until)}


# --- What it sends ----------------------------------------------------------------------------------------


def invite(attempt: Attempt, *, path: str, sha256: str, size: int, now: datetime) -> str | None:
    """The token of a link to which the node may send a file; None where it has sent that already.

    Raises BadWeights for a name that no result may have, TooLarge, TooMuch.
    """
    if attempt.files.filter(path=path, blob_id=sha256).exists():
        return None
    if path != CHECKPOINT:
        weights.check_name(path)
        if attempt.files.exclude(path=path).count() > weights.MOST_FILES:
            raise TooMuch(f"A result has at most {weights.MOST_FILES} files.")
    _check_room(attempt, path, size)
    said = {
        "attempt": attempt.pk,
        "path": path,
        "sha256": sha256,
        "size": size,
        "until": int((now + LINK_LIFE).timestamp()),
    }
    return signing.dumps(said, salt=_SALT)


def _check_room(attempt: Attempt, path: str, size: int) -> None:
    state, result = _most(attempt)
    others = sum(attempt.files.exclude(path__in=(path, CHECKPOINT)).values_list("blob__size", flat=True))
    limit = min(state if path == CHECKPOINT else result - others, settings.MAX_FILE_BYTES)
    if size > limit:
        raise TooLarge(max(0, limit))
    _check_sum(attempt, size)


def _most(attempt: Attempt) -> tuple[int, int]:
    """Bytes of a checkpoint, and of a result."""
    base = sum(each.size for each in revisions.chain(attempt.job.base))
    return _STATES * base + _SLACK, _RESULTS * base + _SLACK


def _check_sum(attempt: Attempt, size: int) -> None:
    """Raises TooMuch."""
    state, result = _most(attempt)
    in_all = state * _most_checkpoints(attempt) + result
    if int(attempt.facts.get(_RECEIVED, 0)) + size > in_all:
        raise TooMuch(f"One attempt may send {in_all} bytes in all.")


def _most_checkpoints(attempt: Attempt) -> int:
    return int(attempt.job.parameters.get("checkpoints") or 0) * 2 + _MORE_CHECKPOINTS


def check_link(token: str, *, now: datetime) -> dict[str, Any]:
    """What a link to send a file to says. Raises LinkRefused."""
    try:
        said: dict[str, Any] = signing.loads(token, salt=_SALT)
    except signing.BadSignature:
        raise LinkRefused from None
    if said["until"] < now.timestamp():
        raise LinkRefused
    return said


def receive(token: str, chunks: Iterable[bytes], *, now: datetime) -> SentFile:
    """Take what comes by a link. Raises LinkRefused, AttemptOver, TooMuch, WrongContent, TooLarge."""
    said = check_link(token, now=now)
    _count(said)
    with storage.spool(chunks, limit=said["size"]) as spooled:
        if (spooled.size, spooled.sha256) != (said["size"], said["sha256"]):
            raise WrongContent(
                f"{spooled.size} bytes with SHA-256 {spooled.sha256} have come; announced were {said['size']} "
                f"with {said['sha256']}."
            )
        blob = files.keep(spooled)
    with transaction.atomic():
        attempt = _locked(said)
        attempt.heard_at = now
        attempt.save(update_fields=["heard_at"])
        sent, _ = SentFile.objects.update_or_create(
            attempt=attempt, path=said["path"], defaults={"blob": blob}
        )
    return sent


@transaction.atomic
def _count(said: Mapping[str, Any]) -> None:
    """Count a file that is about to come: many links may be out, and each may be used at the same time."""
    attempt = _locked(said)
    _check_sum(attempt, said["size"])
    attempt.facts[_RECEIVED] = int(attempt.facts.get(_RECEIVED, 0)) + said["size"]
    attempt.save(update_fields=["facts"])


def _locked(said: Mapping[str, Any]) -> Attempt:
    """The attempt that a link is for. Raises AttemptOver."""
    open_ones = Attempt.objects.select_for_update(no_key=True).filter(pk=said["attempt"], ended_at=None)
    attempt = open_ones.first()
    if attempt is None:
        raise AttemptOver
    return attempt


def keep_checkpoint(attempt: Attempt, *, step: int, sha256: str, metrics: Any, now: datetime) -> None:
    """Make what was sent a state to go on from. Repeats safely. Raises NotSent, AttemptOver, TooMuch."""
    if Checkpoint.objects.filter(attempt=attempt, step=step, blob_id=sha256).exists():
        return
    sent = attempt.files.filter(path=CHECKPOINT, blob_id=sha256).select_related("blob").first()
    if sent is None:
        raise NotSent(f"No {CHECKPOINT} with this SHA-256 was sent.")
    if attempt.checkpoints.exclude(step=step).count() >= _most_checkpoints(attempt):
        raise TooMuch("This attempt has written more checkpoints than it was to.")
    with transaction.atomic():
        if not attempts.keep_checkpoint(
            attempt.token, sent.blob, step=step, metrics=sayings.numbers(metrics), now=now
        ):
            raise AttemptOver
        SentFile.objects.filter(pk=sent.pk).delete()


def finish(
    attempt: Attempt, *, listed: Sequence[Mapping[str, str]], said: Mapping[str, Any], now: datetime
) -> None:
    """Take a result: the job has succeeded, and the node's owner is paid. Repeats safely.

    Raises NotSent, BadWeights (the attempt has failed by that), AttemptOver.
    """
    if attempt.outcome == AttemptOutcome.SUCCEEDED:
        return
    if attempt.ended_at is not None:
        raise AttemptOver
    sent = {each.path: each.blob for each in attempt.files.exclude(path=CHECKPOINT).select_related("blob")}
    wanted = {each["path"]: each["sha256"] for each in listed}
    for path, sha256 in wanted.items():
        if path not in sent or sent[path].sha256 != sha256:
            raise NotSent(f"No {path} with this SHA-256 was sent.")
    made = {path: sent[path] for path in wanted}
    try:
        _check_result(attempt, made, said)
    except BadWeights as error:
        attempts.fail(
            attempt.token,
            code="bad_result",
            reason=f"What the node has made is no good: {error}",
            retry=True,
            now=now,
        )
        raise
    try:
        taken = attempts.succeed(attempt.token, workshop.made_of(made, _word(said)), now=now)
    except Node.DoesNotExist:
        raise AttemptOver("The node has left the marketplace.") from None
    if not taken:
        raise AttemptOver


def fail(attempt: Attempt, *, code: str, reason: str, retry: bool, now: datetime) -> None:
    """End an attempt that has failed by its node's word. That it can succeed nowhere is believed of two providers."""
    assert attempt.node is not None
    others = Attempt.objects.filter(job=attempt.job, run=attempt.run, outcome=AttemptOutcome.FAILED)
    is_confirmed = attempt.node.trusted or others.exclude(node__owner=attempt.node.owner_id).exists()
    attempts.fail(attempt.token, code=code, reason=reason, retry=retry or not is_confirmed, now=now)


def _check_result(attempt: Attempt, made: Mapping[str, Blob], said: Mapping[str, Any]) -> None:
    """Raises BadWeights unless these files are what such a training makes, whole, and nothing else."""
    base = attempt.job.base
    kind, family = weights.kind_of(made)
    if kind != said.get("kind") or family != base.family:
        raise BadWeights(
            f"The files are a {family} model ({kind}); the training makes a {base.family} one ({said.get('kind')})."
        )
    for path, blob in made.items():
        weights.check_name(path)
        with files.opened(blob) as file:
            weights.check(path, file, blob.size)
        if path.endswith(".safetensors.index.json"):
            with files.opened(blob) as file:
                _check_index(path, weights.check_json(path, file), made)


def _check_index(path: str, content: Any, made: Mapping[str, Blob]) -> None:
    """Weights in several files: all of them must be there."""
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(
        isinstance(each, str) and each in made for each in named.values()
    ):
        raise BadWeights(f"{path} names files that are not there.")


def _word(said: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's last word, as far as it is kept."""
    found = sayings.cleaned({"event": "finished", **said})
    numbers = {name: sayings.numbers(found.get(name)) for name in ("before", "after")}
    plain = sayings.numbers({name: found.get(name) for name in ("tokens", "seconds")})
    return {
        **numbers, **plain, "main": str(found.get("main") or "")[:100], "kind": found.get("kind"),
        "is_better": found.get("is_better") is True,
    }  # fmt: skip
