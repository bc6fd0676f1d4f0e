"""The catalogue of models, what was asked and answered, and what that adds up to."""

from inference.models.catalogue import (
    Family,
    Hosting,
    HostingState,
    Kind,
    Model,
    Revision,
    RevisionFile,
    RevisionKind,
    Source,
)
from inference.models.requests import Inference, Running, Status, UsageSource
from inference.models.results import Demand, Earning, ReceiptBatch

__all__ = [
    "Demand",
    "Earning",
    "Family",
    "Hosting",
    "HostingState",
    "Inference",
    "Kind",
    "Model",
    "ReceiptBatch",
    "Revision",
    "RevisionFile",
    "RevisionKind",
    "Running",
    "Source",
    "Status",
    "UsageSource",
]
