"""What a training will cost, how long it may take, and with which hyper-parameters: before anything costs money."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from clients.models import Client
from finetune import places, tokens
from finetune.models import Attempt, AttemptOutcome, Dataset, DatasetStatus, Job, Method, Where
from finetune.places import Place, Wish
from finetune.trainer import parameters as trainer
from finetune.trainer.parameters import WrongParameters
from inference.models import Family, Revision
from marketplace import money
from marketplace.errors import Conflict, InvalidRequest, Unavailable

# Where nothing has been measured yet: floating-point operations per second, a core or two, and a GPU.
_CPU_FLOPS, _GPU_FLOPS = 2e10, 2e13
# Loading, measuring before and after, and packing up.
_AROUND_S = 15.0
# How many tokens more than were counted a template may add: to short messages, and to each row.
_MARKS_TIMES, _MARKS = 4, 256
# Tokens per second. Nothing that trains is slower, whatever a node says.
_SLOWEST = 0.01


class DatasetNotReady(Conflict):
    code = "dataset_not_ready"


class DatasetUnusable(InvalidRequest):
    """The dataset's rows are not what this model can be taught with."""

    code = "dataset_unusable"


class NotTrainable(InvalidRequest):
    code = "model_not_trainable"


class NoPlace(Unavailable):
    """Nobody could train this."""

    code = "no_place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A price in base units, and what it is for. `tokens` are those of one epoch."""

    method: Method
    parameters: dict[str, Any]
    rows: int
    tokens: int
    epochs: float
    price: int
    seconds: float
    is_measured: bool
    place: str

    @property
    def trained_tokens(self) -> int:
        return int(self.tokens * self.epochs)

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "rows": self.rows,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "trained_tokens": self.trained_tokens,
            "price": money.render(self.price),
            "currency": settings.CURRENCY,
            "estimated_minutes": round(self.seconds / 60, 2),
            "estimate_is_measured": self.is_measured,
            "cheapest_place": self.place,
            "hyperparameters": self.parameters,
        }


def make(
    *,
    owner: Client,
    base: Revision,
    dataset: Dataset,
    asked: Mapping[str, Any],
    now: datetime,
    validation: Dataset | None = None,
    where: Where = Where.ANY,
    allocation_id: UUID | None = None,
) -> Quote:
    """Work out a quote.

    Raises NotTrainable, DatasetNotReady, DatasetUnusable, TokenizerUnusable, InvalidRequest, NoPlace.
    """
    method = method_of(base)
    for each in filter(None, (dataset, validation)):
        check_dataset(each, method)
    full = resolve(method, asked, dataset)
    found = places.find(
        Wish(owner_id=owner.pk, method=method, base=base, where=where, allocation_id=allocation_id), now=now
    )
    if not found.places:
        raise NoPlace(found.why_none(), retry_after=30)
    count = tokens.count(dataset, base)
    epochs, trials = _epochs(full, dataset), max(1, int(full["search_trials"]))
    total = int(count * epochs * trials)
    offers = []
    for place in found.places:
        seconds, is_measured = _seconds(base, total, place)
        offers.append((place.price(total, seconds), seconds, is_measured, place))
    price, seconds, is_measured, place = min(offers, key=lambda each: (each[0], each[1]))
    return Quote(
        method=method, parameters=full, rows=int(dataset.summary["rows"]), tokens=count, epochs=epochs * trials,
        price=price, seconds=seconds, is_measured=is_measured, place=place.name,
    )  # fmt: skip


def method_of(base: Revision) -> Method:
    """How a model is trained. Raises NotTrainable."""
    if not base.files.exists():
        raise NotTrainable("The model that it starts from has been deleted.")
    if base.family == Family.OTHER:
        raise NotTrainable(f"{base.model.name} is no model that can be trained here.")
    return Method(base.family)


def check_dataset(dataset: Dataset, method: Method) -> None:
    """Raises DatasetNotReady, DatasetUnusable."""
    if dataset.status == DatasetStatus.VALIDATING:
        raise DatasetNotReady(
            f"{dataset.uid} is still being looked at. Try again in a moment.", retry_after=5
        )
    if dataset.status == DatasetStatus.INVALID or dataset.rows is None:
        what = "has been deleted" if dataset.deleted_at else "has errors; see its metadata"
        raise DatasetUnusable(f"{dataset.uid} {what}.")
    fitting = trainer.FORMATS_OF[method]
    if dataset.format not in fitting:
        raise DatasetUnusable(
            f"{dataset.uid} holds {dataset.get_format_display()}; this model is taught with {' or '.join(fitting)}."
        )


def resolve(method: Method, asked: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """All hyper-parameters. Raises InvalidRequest with the fields that are wrong."""
    kind = "scored_pairs" if dataset.summary.get("scored") else dataset.format
    try:
        return trainer.resolve(method, asked, rows=int(dataset.summary["rows"]), kind=kind)
    except WrongParameters as error:
        raise InvalidRequest(
            str(error), code="invalid_hyperparameters", fields={"hyperparameters": error.fields}
        ) from None


def _epochs(full: Mapping[str, Any], dataset: Dataset) -> float:
    """How often the rows are read: in whole steps, and fewer where their number is limited."""
    rows, per_step = int(dataset.summary["rows"]), full["batch_size"] * full["gradient_accumulation"]
    per_epoch = math.ceil(rows / per_step)
    steps = math.ceil(per_epoch * full["n_epochs"])
    if full["max_steps"] > 0:
        steps = min(steps, full["max_steps"])
    whole, rest = divmod(steps, per_epoch)
    return whole + rest * per_step / rows


def most_tokens(job: Job) -> int:
    """What a trainer may make of a language model's rows: somebody's own template can add any text to each of them."""
    return _MARKS_TIMES * job.tokens + _MARKS * int(job.dataset.summary["rows"])


def seconds(job: Job, place: Place | None = None) -> float:
    """How long a job may take, at a place."""
    return _seconds(job.base, int(job.tokens * job.epochs), place)[0]


def _seconds(base: Revision, total: int, place: Place | None) -> tuple[float, bool]:
    """How long so many tokens may take, and whether that comes from trainings of this model."""
    past = Attempt.objects.filter(
        job__base=base, outcome=AttemptOutcome.SUCCEEDED, facts__tokens_per_s__gte=_SLOWEST
    )
    if place is not None:
        past = past.filter(node=None) if place.node_id is None else past.filter(node_id=place.node_id)
    speeds = [row["tokens_per_s"] for row in past.order_by("-id").values_list("facts", flat=True)[:10]]
    if speeds:
        return _AROUND_S + total / (sum(speeds) / len(speeds)), True
    flops = _GPU_FLOPS if place is not None and place.device.startswith(("cuda", "mps")) else _CPU_FLOPS
    return _AROUND_S + total * 6 * (base.size / 4) / flops, False
