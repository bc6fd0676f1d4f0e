"""Teaching: datasets, jobs and what has happened to them, deployments."""

from finetune.models.datasets import Dataset, DatasetStatus, Format
from finetune.models.deployments import Deployment, DeploymentStatus
from finetune.models.jobs import (
    Attempt,
    AttemptOutcome,
    Checkpoint,
    Event,
    Face,
    Job,
    JobStatus,
    Method,
    SentFile,
    Where,
)

__all__ = [
    "Attempt",
    "AttemptOutcome",
    "Checkpoint",
    "Dataset",
    "DatasetStatus",
    "Deployment",
    "DeploymentStatus",
    "Event",
    "Face",
    "Format",
    "Job",
    "JobStatus",
    "Method",
    "SentFile",
    "Where",
]
