"""From events to sources, tasks, attempts and responses: in bulk, and such that repeating it changes nothing.

What a row says is what the last event about it says. So after a rollback it can be said again from the events that
are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F, Model, QuerySet
from django.db.models.functions import Now

from chain.models import (
    Attempt,
    Log,
    Network,
    Response,
    ResponseStatus,
    Source,
    SourceStatus,
    Task,
    TaskStatus,
)

ROWS_AT_ONCE = 2_000

Said = Mapping[str, Mapping[str, Any]]


def apply(network: Network, logs: Sequence[Log], said: Said) -> None:
    """Bring the rows up to date with new events, in the chain's order, within the caller's transaction.

    `said` has what new contracts say about themselves, by address.
    """
    named: dict[str, list[Log]] = {}
    for log in logs:
        named.setdefault(log.name, []).append(log)
    tasks = named.get("TaskPublished", [])
    _add(_source(network, log) for log in logs if "sourceParams" in log.arguments and log.name in _BEGINNINGS)
    _add(_tasks(network, tasks, said))
    _add(_attempts(network, named.get("Attempted", [])))
    _add(_responses(network, named.get("ResponseSubmitted", []), said))
    for name, argument, change in _CHANGES:
        if name in named:
            change(network, _last(named[name], argument))


def touched(logs: Iterable[Log]) -> dict[str, set[str]]:
    """The addresses whose rows these events have changed, by the event's name."""
    found: dict[str, set[str]] = {name: set() for name, _, _ in _CHANGES}
    arguments = {name: argument for name, argument, _ in _CHANGES}
    for log in logs:
        if log.name in found:
            found[log.name].add(log.arguments[arguments[log.name]])
    return found


def restore(network: Network, addresses: Mapping[str, set[str]]) -> None:
    """Have these rows say what the events that are left say. `addresses` as `touched` has them."""
    for name, argument, change in _CHANGES:
        wanted = addresses.get(name)
        if wanted:
            _FORGET[name](network, wanted)
            left = Log.objects.filter(
                network=network, name=name, **{f"arguments__{argument}__in": list(wanted)}
            )
            change(network, _last(left.order_by("block_number", "log_index"), argument))


def _last(logs: Iterable[Log], argument: str) -> list[Log]:
    """The last one for each address."""
    return list({log.arguments[argument]: log for log in logs}.values())


def _add(rows: Iterable[Model]) -> None:
    """Where an event tells of something for the second time, the first time counts."""
    made = list(rows)
    if made:
        type(made[0])._default_manager.bulk_create(made, batch_size=ROWS_AT_ONCE, ignore_conflicts=True)


def _place(log: Log) -> dict[str, Any]:
    return {
        "network_id": log.network_id,
        "block_number": log.block_number,
        "log_index": log.log_index,
        "transaction_hash": log.transaction_hash,
    }


# Sources

_BEGINNINGS = ("SourcePublished", "TaskPublished")


def _source(network: Network, log: Log) -> Source:
    return Source(
        address=log.arguments["source"],
        status=int(log.arguments["sourceStatus"]),
        published_at=log.at,
        **_params(log),
        **_place(log),
    )


def _params(log: Log) -> dict[str, Any]:
    params = log.arguments["sourceParams"]
    return {
        "client": params["client"],
        "metadata_url": params["imageMetadataUrl"],
        "environments": int(params["imageEnvironments"]),
        "min_payment": int(params["minPayment"]),
        "min_available_lockup": int(params["minAvailableLockup"]),
        "max_expiry_duration": int(params["maxExpiryDuration"]),
        "privacy_enabled": params["privacyEnabled"],
        "optional_params_url": params["optionalParamsUrl"],
        "delivery_method": int(params["deliveryMethod"]),
    }


def _change_sources(network: Network, logs: Iterable[Log]) -> None:
    """They are few, and each has much to say."""
    for log in logs:
        _say_of_source(network, log, updated_at=log.at)


def _forget_source_changes(network: Network, addresses: set[str]) -> None:
    for log in _first_of_sources(network, addresses):
        _say_of_source(network, log, updated_at=None)


def _say_of_source(network: Network, log: Log, *, updated_at: datetime | None) -> None:
    rows = Source.objects.filter(
        network=network, address=log.arguments["source"], block_number__lte=log.block_number
    )
    params = _params(log)
    # What stands behind another link is to be fetched at once.
    rows.exclude(metadata_url=params["metadata_url"]).update(fetch_tries=0, fetch_at=Now())
    rows.update(**params, updated_at=updated_at)


def _first_of_sources(network: Network, addresses: set[str]) -> QuerySet[Log]:
    """The events that keep what a source was at first."""
    return Log.objects.filter(
        network=network,
        name__in=_BEGINNINGS,
        arguments__source__in=list(addresses),
        arguments__has_key="sourceParams",
    )


def _change_source_statuses(network: Network, logs: Iterable[Log]) -> None:
    for status in SourceStatus:
        addresses = [log.arguments["source"] for log in logs if log.arguments["status"] == str(status.value)]
        if addresses:
            Source.objects.filter(network=network, address__in=addresses).update(status=status)


def _forget_source_statuses(network: Network, addresses: set[str]) -> None:
    for log in _first_of_sources(network, addresses):
        rows = Source.objects.filter(network=network, address=log.arguments["source"])
        rows.update(status=int(log.arguments["sourceStatus"]))


# Tasks


def _tasks(network: Network, logs: Sequence[Log], said: Said) -> Iterable[Task]:
    sources = _ids(Source, network, {log.arguments["source"] for log in logs})
    for log in logs:
        address, source = log.arguments["task"], log.arguments["source"]
        if address in said and source in sources:
            about = said[address]
            yield Task(
                address=address,
                source_id=sources[source],
                config_url=about["config"],
                expiry_time=about["expiryTime"],
                payment=about["payment"],
                delivery_method=about["getDeliveryMethod"],
                published_at=log.at,
                status_at=log.at,
                **_place(log),
            )


def _ids(model: type[Model], network: Network, addresses: set[str]) -> dict[str, int]:
    if not addresses:
        return {}
    rows = model._default_manager.filter(network=network, address__in=addresses)
    return dict(rows.values_list("address", "pk"))


_SET_TASKS = """
    UPDATE chain_task SET status = found.status, status_at = found.at
    FROM unnest(%s::text[], %s::smallint[], %s::timestamptz[]) AS found (address, status, at)
    WHERE chain_task.network_id = %s AND chain_task.address = found.address
"""


def _change_tasks(network: Network, logs: Sequence[Log]) -> None:
    columns = (
        [log.arguments["task"] for log in logs],
        [int(log.arguments["status"]) for log in logs],
        [log.at for log in logs],
    )
    with connection.cursor() as cursor:
        cursor.execute(_SET_TASKS, [*columns, network.pk])


def _forget_task_changes(network: Network, addresses: set[str]) -> None:
    Task.objects.filter(network=network, address__in=addresses).update(
        status=TaskStatus.NEW, status_at=F("published_at")
    )


# Attempts


def _attempts(network: Network, logs: Sequence[Log]) -> Iterable[Attempt]:
    tasks = _ids(Task, network, {log.arguments["task"] for log in logs})
    for log in logs:
        if log.arguments["task"] in tasks:
            yield Attempt(
                task_id=tasks[log.arguments["task"]],
                provider=log.arguments["provider"],
                suggested_payment=int(log.arguments["suggestedPayment"]),
                attempted_at=log.at,
                **_place(log),
            )


# Responses


def _responses(network: Network, logs: Sequence[Log], said: Said) -> Iterable[Response]:
    tasks = _ids(Task, network, {log.arguments["task"] for log in logs})
    for log in logs:
        address, task = log.arguments["response"], log.arguments["task"]
        if address in said and task in tasks:
            about = said[address]
            yield Response(
                address=address,
                task_id=tasks[task],
                provider=about["provider"],
                data=about["data"],
                payment=about["payment"],
                submitted_at=log.at,
                **_place(log),
            )


_SET_RESPONSES = """
    UPDATE chain_response SET status = found.status, confirmed_at = found.at, confirmed_block = found.block,
        confirmed_transaction = found.hash
    FROM unnest(%s::text[], %s::smallint[], %s::timestamptz[], %s::bigint[], %s::text[])
        AS found (address, status, at, block, hash)
    WHERE chain_response.network_id = %s AND chain_response.address = found.address
"""


def _change_responses(network: Network, logs: Sequence[Log]) -> None:
    confirmed = [log.arguments["status"] == str(ResponseStatus.CONFIRMED.value) for log in logs]
    columns = (
        [log.arguments["response"] for log in logs],
        [int(log.arguments["status"]) for log in logs],
        [log.at if yes else None for log, yes in zip(logs, confirmed, strict=True)],
        [log.block_number if yes else None for log, yes in zip(logs, confirmed, strict=True)],
        [log.transaction_hash if yes else "" for log, yes in zip(logs, confirmed, strict=True)],
    )
    with connection.cursor() as cursor:
        cursor.execute(_SET_RESPONSES, [*columns, network.pk])


def _forget_response_changes(network: Network, addresses: set[str]) -> None:
    Response.objects.filter(network=network, address__in=addresses).update(
        status=ResponseStatus.SUBMITTED, confirmed_at=None, confirmed_block=None, confirmed_transaction=""
    )


# The event, the argument that names whose row it changes, and what the last of them does.
_CHANGES: tuple[tuple[str, str, Callable[[Network, list[Log]], None]], ...] = (
    ("SourceUpdated", "source", _change_sources),
    ("SourceStatusChanged", "source", _change_source_statuses),
    ("TaskStatusChanged", "task", _change_tasks),
    ("ResponseStatusChanged", "response", _change_responses),
)
# What a row was before the first of them.
_FORGET: dict[str, Callable[[Network, set[str]], None]] = {
    "SourceUpdated": _forget_source_changes,
    "SourceStatusChanged": _forget_source_statuses,
    "TaskStatusChanged": _forget_task_changes,
    "ResponseStatusChanged": _forget_response_changes,
}
