"""What operators see and do about fine-tuning."""

from finetune.admin import datasets, deployments, jobs, records

__all__ = ["datasets", "deployments", "jobs", "records"]
