"""Before anything is sent or done: what a task wants is fetched, and whether we can do that for its payment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chain import documents, functions, gas_costs, services
from chain.documents import NotFetched
from chain.fulfilment import asking, rows, training
from chain.fulfilment.rows import Impossible, Later, TooLate
from chain.functions import Function, Request
from chain.models import Fulfilment, FulfilmentStatus, Service, Serving, Task
from clients import house, terms
from finetune.results import short_owner
from inference import catalogue
from inference.catalogue import Entry
from marketplace import money
from marketplace.errors import MarketplaceError

# What is left of a task's time when we take it on, at the least; and what is kept for the answer's way to the chain.
LEAST_LEFT_S, ANSWERING_S = 20.0, 5.0
# How often a link that cannot be followed is tried.
MOST_FETCHES = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a task asks for, checked. `model` answers; `kinds` is what that can do."""

    function: Function
    data: Mapping[str, Any]
    model: str
    kinds: frozenset[str]

    @property
    def is_training(self) -> bool:
        return self.function.kind == functions.TRAINING

    @property
    def request(self) -> Request:
        return functions.request(self.function, self.data, model=self.model, kinds=self.kinds)

    def answer(self, reply: dict[str, Any]) -> dict[str, Any]:
        """What the task is answered, from what the API has answered."""
        return functions.result(self.function, self.request.kind, reply)


def check(held: Fulfilment, *, now: datetime) -> None:
    """Accept a fulfilment that was found. Raises Impossible, Later, TooLate, TakenAway."""
    task = rows.open_task_of(held)
    service = services.of_source(held.network, held.source_address)
    if service is None or service.status != Serving.SERVED:
        raise Impossible("not_served", "Our nodes do not work for this source any longer.")
    check_time(held, now=now)
    if held.payment < task.source.min_payment:
        raise Impossible(
            "payment_too_low",
            f"The source asks {money.render(task.source.min_payment)} at least; the task pays "
            f"{money.render(held.payment)}.",
        )
    config = _config(held, task)
    rows.note(held, config=config, function=str(config.get("function_name", ""))[:100])
    wanted = wanted_by(held)
    budget = _left_for_work(held, task)
    if wanted.is_training:
        training.prepare(held, wanted.data, wanted.model, budget=budget, now=now)
    else:
        asking.foresee(wanted.request, budget=budget)
    rows.move(held, FulfilmentStatus.CHECKED, now=now)


def check_time(held: Fulfilment, *, now: datetime) -> None:
    """Raise TooLate where too little is left to begin."""
    left = (held.expires_at - now).total_seconds()
    if left < LEAST_LEFT_S:
        raise TooLate(
            "too_little_time",
            f"It expires in {max(left, 0):.0f} seconds; {LEAST_LEFT_S:.0f} are needed at least.",
        )


def check_registered(held: Fulfilment) -> None:
    """Raise Later while our provider is not registered with the source, which `chain.registrations` looks after."""
    service = services.of_source(held.network, held.source_address)
    if service is None or service.registered_at is None:
        why = service.obstacle if service is not None else ""
        raise Later(
            "not_registered",
            f"Our provider is not registered with the source at the moment. {why}",
            after_s=5,
        )


def budget_of(fulfilment: Fulfilment) -> int:
    """What the payment leaves for whoever does the work, in base units."""
    return fulfilment.payment - money.share(fulfilment.payment, terms.current().fee_bps)


def _left_for_work(held: Fulfilment, task: Task) -> int:
    """What the payment leaves after the fee and the gas of our two transactions. Raises Impossible."""
    budget, ours = budget_of(held), gas_costs.for_task(held.network, task.delivery_method)
    if budget < ours:
        raise Impossible(
            "payment_too_low",
            f"Our attempt and our answer cost {money.named(ours)} of gas at the moment; of the payment "
            f"{money.named(budget)} are left for that and the work.",
        )
    return budget - ours


def wanted_by(fulfilment: Fulfilment) -> Wanted:
    """What the config that was fetched asks for. Raises Impossible."""
    service = services.of_source(fulfilment.network, fulfilment.source_address)
    if service is None:
        raise Impossible("not_served", "Nothing was decided about this source.")
    config = fulfilment.config if isinstance(fulfilment.config, dict) else {}
    try:
        function = functions.find(config.get("function_name"), service.functions)
        data = config.get("data")
        functions.check(function, data)
    except MarketplaceError as error:
        raise Impossible(error.code, error.message) from None
    assert isinstance(data, dict)
    model = _model(service, functions.model_of(data) if not function.prompt else "")
    return Wanted(function, data, model.name, frozenset(model.kinds))


def _config(held: Fulfilment, task: Task) -> dict[str, Any]:
    if isinstance(held.config, dict) and held.config_url == task.config_url:
        return held.config  # fetched before; a link of a task never changes
    try:
        said = documents.fetch_json(task.config_url)
    except NotFetched as failure:
        if failure.may_pass and held.tries + 1 < MOST_FETCHES:
            raise Later(failure.code, failure.message) from None
        raise Impossible(failure.code, failure.message) from None
    if not isinstance(said, dict):
        raise Impossible("invalid_config", "The config is no JSON object with function_name and data.")
    if "function_name" not in said or not isinstance(said.get("data"), dict):
        raise Impossible(
            "invalid_config", "The config must have function_name, a text, and data, an object of its input."
        )
    return said


def _model(service: Service, named: str) -> Entry:
    """The model that answers: the source's, or one that the task names if that was trained for a chain."""
    name = named or service.model
    if not name:
        raise Impossible("no_model", "data.model: the source serves no model of its own; name one.")
    who = house.account()
    entry = catalogue.load().entries.get(name)
    if entry is None or not entry.is_for(who.pk):
        raise Impossible("model_not_found", f"data.model: there is no model {name[:100]!r} here.")
    # Names of what was trained here: ft:BASE:OWNER:…
    is_ours = entry.owner_id == who.pk or name.split(":")[2:3] == [short_owner(who)]
    if service.model and name != service.model and not is_ours:
        raise Impossible("model_not_served", f"data.model: this source is answered by {service.model}.")
    return entry
