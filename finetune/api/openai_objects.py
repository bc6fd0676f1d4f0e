"""OpenAI's objects of fine-tuning: jobs, their events and checkpoints, as its clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from rest_framework import serializers

from finetune import records
from finetune.api.fields import LabelsField, ObjectField
from finetune.models import Checkpoint, Event, Job, JobStatus, Method
from finetune.results import name_of
from finetune.trainer import events as said
from marketplace import money

JOB, EVENT, CHECKPOINT, RESULT_FILE = "ftjob-", "ftevent-", "ftckpt-", "file-result-"
# What OpenAI's clients know; the others are said as they are.
STATUSES = {
    JobStatus.PENDING: "queued",
    JobStatus.CANCELLED: "cancelled",
    JobStatus.REFUSED: "failed",
}
_THREE = ("batch_size", "learning_rate_multiplier", "n_epochs")


def status_of(job: Job) -> str:
    return str(STATUSES.get(JobStatus(job.status), job.status))


def job_id(job: Job) -> str:
    return f"{JOB}{job.uid.hex}"


def uid_of(text: str, prefix: str) -> UUID | None:
    """The UUID in an id; None where it is none. Ids without their prefix, as other APIs have them, are understood."""
    try:
        return UUID(text.removeprefix(prefix))
    except ValueError:
        return None


def job_object(job: Job) -> dict[str, Any]:
    """A job. All of OpenAI's keys, and ours under `marketplace`."""
    has_succeeded = job.status == JobStatus.SUCCEEDED
    three = {name: _whole(job.parameters.get(name)) for name in _THREE}
    return {
        "object": "fine_tuning.job",
        "id": job_id(job),
        "model": job.base.model.name,
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(job.finished_at),
        "fine_tuned_model": job.result.model.name if job.result is not None else None,
        "organization_id": f"org-{job.owner_id}",
        "result_files": [f"{RESULT_FILE}{job.uid.hex}"] if has_succeeded else [],
        "status": status_of(job),
        "validation_file": job.validation.uid if job.validation is not None else None,
        "training_file": job.dataset.uid,
        "hyperparameters": three,
        "trained_tokens": int(job.tokens * job.epochs) if has_succeeded else None,
        "error": _error(job),
        "user_provided_suffix": job.suffix or None,
        "seed": job.seed,
        "estimated_finish": _estimated_finish(job),
        "integrations": [],
        "metadata": {name: _text(value) for name, value in job.metadata.items()},
        "usage_metrics": None,
        "shared_with_openai": False,
        "method": {"type": "supervised", "supervised": {"hyperparameters": dict(job.parameters)}},
        "marketplace": own(job),
    }


def own(job: Job) -> dict[str, Any]:
    """What this marketplace says of a job besides, in all APIs that have room for it."""
    return {
        "method": job.method,
        "status": job.status,
        "code": job.code,
        "reason": job.reason,
        "price": money.render(job.price),
        "charged": money.render(job.charged),
        "provider_share": money.render(job.provider_share),
        "marketplace_share": money.render(job.charged - job.provider_share),
        "currency": settings.CURRENCY,
        "where": job.where,
        "allocation_id": str(job.allocation_id) if job.allocation_id else None,
        "run": job.run,
        "progress": job.progress,
        "metrics": job.metrics,
        "is_better": job.is_better,
    }


def event_object(event: Event) -> dict[str, Any]:
    """An event: of type `metrics` where something was measured, else a message."""
    data, kind = dict(event.data), "message"
    if event.kind == said.PROGRESS:
        kind = "metrics"
        data = {
            "step": data.get("step"), "total_steps": data.get("steps"), "train_loss": data.get("loss"), **data
        }  # fmt: skip
    elif event.kind == said.EVALUATED:
        kind = "metrics"
        data = {"step": data.get("step"), **records.valid(data.get("metrics")), **data}
    return {
        "object": "fine_tuning.job.event",
        "id": f"{EVENT}{event.pk}",
        "created_at": _seconds(event.at),
        "level": event.level,
        "message": event.message,
        "data": data,
        "type": kind,
    }


def checkpoint_object(checkpoint: Checkpoint, job: Job, measured: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint, and what was measured at its step (a row of `records.steps`).

    Its model's name is a name only: a job goes on from it, nodes serve finished models.
    """
    metrics = checkpoint.metrics if isinstance(checkpoint.metrics, dict) else {}
    valid = {**measured, **records.valid(metrics)}
    loss = metrics.get("loss", metrics.get("train_loss", measured.get("train_loss")))
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"{CHECKPOINT}{checkpoint.uid.hex}",
        "created_at": _seconds(checkpoint.created_at),
        "fine_tuned_model_checkpoint": f"{name_of(job)}:ckpt-step-{checkpoint.step}",
        "fine_tuning_job_id": job_id(job),
        "metrics": {
            "step": checkpoint.step,
            "train_loss": loss,
            "train_mean_token_accuracy": metrics.get("mean_token_accuracy"),
            "valid_loss": valid.get("valid_loss"),
            "valid_mean_token_accuracy": valid.get("valid_mean_token_accuracy"),
            "full_valid_loss": valid.get("valid_loss"),
            "full_valid_mean_token_accuracy": valid.get("valid_mean_token_accuracy"),
        },
        "step_number": checkpoint.step,
    }


def _error(job: Job) -> dict[str, Any] | None:
    if job.status not in (JobStatus.FAILED, JobStatus.REFUSED):
        return None
    return {"code": job.code or "failed", "message": job.reason, "param": None}


def _estimated_finish(job: Job) -> int | None:
    left = job.progress.get("left_s")
    if job.status != JobStatus.RUNNING or not isinstance(left, int | float):
        return None
    return _seconds(timezone.now() + timedelta(seconds=min(float(left), 10**8)))


def _seconds(at: datetime | None) -> Any:
    return None if at is None else int(at.timestamp())


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


# --- What Swagger says of them -----------------------------------------------------------------------------


class HyperparametersObject(serializers.Serializer[Any]):
    batch_size = serializers.IntegerField()
    learning_rate_multiplier = serializers.FloatField()
    n_epochs = serializers.FloatField()


class JobErrorObject(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    param = serializers.CharField(allow_null=True)


class OwnObject(serializers.Serializer[Any]):
    """What OpenAI's object has no place for."""

    method = serializers.ChoiceField(Method.choices)
    status = serializers.ChoiceField(JobStatus.choices)
    code = serializers.CharField(allow_blank=True, help_text="Why it is as it is, for programs.")
    reason = serializers.CharField(allow_blank=True, help_text="Why it is as it is.")
    price = serializers.CharField(help_text="Quoted and held; this is charged when it succeeds.")
    charged = serializers.CharField()
    provider_share = serializers.CharField(help_text="Of what was charged: the part of the node's owner.")
    marketplace_share = serializers.CharField(
        help_text="And ours: the fee, or all of it where we have trained."
    )
    currency = serializers.CharField()
    where = serializers.CharField()
    allocation_id = serializers.CharField(allow_null=True)
    run = serializers.IntegerField()
    progress = ObjectField(help_text="step, steps, epoch, loss, tokens, tokens_per_s, left_s")
    metrics = ObjectField(help_text="On held-out rows, before and after.")
    is_better = serializers.BooleanField(allow_null=True)


class JobObject(serializers.Serializer[Any]):
    """OpenAI's fine-tuning job."""

    object = serializers.CharField()
    id = serializers.CharField()
    model = serializers.CharField()
    created_at = serializers.IntegerField(help_text="Seconds since the epoch.")
    finished_at = serializers.IntegerField(allow_null=True)
    fine_tuned_model = serializers.CharField(allow_null=True)
    organization_id = serializers.CharField()
    result_files = serializers.ListField(
        child=serializers.CharField(), help_text="A CSV of its steps: GET /v1/files/{id}/content."
    )
    status = serializers.CharField(help_text="queued, running, paused, succeeded, failed or cancelled.")
    validation_file = serializers.CharField(allow_null=True)
    training_file = serializers.CharField()
    hyperparameters = HyperparametersObject()
    trained_tokens = serializers.IntegerField(allow_null=True)
    error = JobErrorObject(allow_null=True)
    user_provided_suffix = serializers.CharField(allow_null=True)
    seed = serializers.IntegerField()
    estimated_finish = serializers.IntegerField(allow_null=True)
    integrations = serializers.ListField(child=serializers.CharField())
    metadata = LabelsField()
    method = ObjectField(help_text="All hyper-parameters as they are used.")
    marketplace = OwnObject()


class JobListObject(serializers.Serializer[Any]):
    object = serializers.CharField()
    data: Any = JobObject(many=True)
    has_more = serializers.BooleanField()


class EventObject(serializers.Serializer[Any]):
    object = serializers.CharField()
    id = serializers.CharField()
    created_at = serializers.IntegerField()
    level = serializers.ChoiceField(["info", "warn", "error"])
    message = serializers.CharField(allow_blank=True)
    data: Any = ObjectField()
    type = serializers.ChoiceField(["message", "metrics"])

    class Meta:
        ref_name = "FineTuningEvent"


class EventListObject(serializers.Serializer[Any]):
    object = serializers.CharField()
    data: Any = EventObject(many=True)
    has_more = serializers.BooleanField()


class CheckpointObject(serializers.Serializer[Any]):
    object = serializers.CharField()
    id = serializers.CharField()
    created_at = serializers.IntegerField()
    fine_tuned_model_checkpoint = serializers.CharField()
    fine_tuning_job_id = serializers.CharField()
    metrics = ObjectField()
    step_number = serializers.IntegerField()


class CheckpointListObject(serializers.Serializer[Any]):
    object = serializers.CharField()
    data: Any = CheckpointObject(many=True)
    has_more = serializers.BooleanField()
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)
