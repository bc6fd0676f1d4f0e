"""Why a training ends without a result. Each kind has the code that its `failed` carries."""

from __future__ import annotations


class TrainingError(Exception):
    """The base of them. `retry`: whether the same may succeed elsewhere or later."""

    code, retry = "training_failed", False


class BadData(TrainingError):
    """Nothing can be learned from these rows in this form."""

    code = "bad_data"


class BadModel(TrainingError):
    """The base, or the adapter over it, cannot be loaded."""

    code = "bad_model"


class NotFinite(TrainingError):
    """The loss is no number any more."""

    code = "loss_not_finite"


class OutOfMemory(TrainingError):
    """Even the smallest batch does not fit."""

    code, retry = "out_of_memory", True


class Stopped(Exception):
    """Somebody wants the training to rest; the state to go on from, if there is one, has been written."""
