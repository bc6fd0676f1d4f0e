"""How tasks are shown: what the chain says, one's order, and how far our own work is."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from chain.api.fields import METHODS, PlaceSerializer, SentSerializer, method, moment, placed, rendered, sent
from chain.models import Fulfilment, OrderStatus, Task, TaskOrder, TaskStatus
from chain.registry import TaskView
from marketplace import money

STATUSES = {status.name.lower(): status for status in TaskStatus}


class OrderSerializer(serializers.Serializer[Any]):
    """What this marketplace does for you about a task: it publishes and pays it out of your account."""

    id = serializers.IntegerField()
    status = serializers.ChoiceField(OrderStatus.choices)
    reason = serializers.CharField()
    function = serializers.CharField()
    held = serializers.CharField(help_text="What is reserved of your account for it now.")
    paid = serializers.CharField(allow_null=True, help_text="What the confirmed response was paid.")
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    deposit = SentSerializer(allow_null=True)
    publication = SentSerializer(allow_null=True)
    confirmation = SentSerializer(allow_null=True)
    cancellation = SentSerializer(allow_null=True)

    class Meta:
        ref_name = "ChainTaskOrder"


class FulfilmentSerializer(serializers.Serializer[Any]):
    """How far this marketplace's own nodes are with it. Why, and who, is told to those whom it concerns."""

    status = serializers.CharField()
    code = serializers.CharField()
    reason = serializers.CharField()
    response = serializers.CharField(help_text="The address of our response; empty until there is one.")
    node = serializers.IntegerField(allow_null=True, help_text="For its owner and for operators.")
    provider = serializers.IntegerField(allow_null=True, help_text="Likewise.")

    class Meta:
        ref_name = "ChainFulfilment"


class TaskSerializer(serializers.Serializer[Any]):
    """A task on a chain. While it is on its way there, `address` and `place` are null; `order` says how far it is."""

    network = serializers.CharField()
    address = serializers.CharField(allow_null=True)
    source = serializers.CharField()  # type: ignore[assignment]  # a field
    client = serializers.CharField(help_text="The address that pays; empty where it is not known.")
    config_url = serializers.CharField()
    payment = serializers.CharField()
    expiry_time = serializers.CharField(help_text="Seconds since 1970, in digits.")
    expires_at = serializers.DateTimeField(allow_null=True, help_text="The same as a date, if it can be one.")
    delivery_method = serializers.ChoiceField(METHODS, allow_null=True)
    status = serializers.ChoiceField([*STATUSES], allow_null=True, help_text="On the chain.")
    status_at = serializers.DateTimeField(allow_null=True)
    published_at = serializers.DateTimeField(allow_null=True)
    place = PlaceSerializer(allow_null=True)
    order = OrderSerializer(allow_null=True, help_text="Yours, if it was published for you here.")
    fulfilment = FulfilmentSerializer(allow_null=True, help_text="null: none of our nodes works on it.")

    class Meta:
        ref_name = "ChainTask"


def shown(view: TaskView, is_staff: bool = False) -> dict[str, Any]:
    """A task's representation."""
    task, order = view.task, view.order
    if task is not None:
        facts = _facts(task)
    else:
        assert order is not None
        facts = _facts_of_order(order, view.delivery_method)
    said = {
        "network": view.network.name,
        "client": view.client or (order.publisher if order else ""),
        **facts,
        "order": _order(order) if order else None,
        "fulfilment": _fulfilment(view, view.fulfilment, is_staff) if view.fulfilment else None,
    }
    return rendered(TaskSerializer(said))


def _facts(task: Task) -> dict[str, Any]:
    return {
        "address": task.address,
        "source": task.source.address,
        "config_url": task.config_url,
        "payment": money.render(task.payment),
        "expiry_time": str(int(task.expiry_time)),
        "expires_at": moment(int(task.expiry_time)),
        "delivery_method": method(task.delivery_method),
        "status": TaskStatus(task.status).name.lower(),
        "status_at": task.status_at,
        "published_at": task.published_at,
        "place": placed(task),
    }


def _facts_of_order(order: TaskOrder, delivery_method: int | None) -> dict[str, Any]:
    """Of a task that is not on the chain, or not read yet."""
    return {
        "address": order.task_address or None,
        "source": order.source_address,
        "config_url": order.config_url,
        "payment": money.render(order.payment),
        "expiry_time": str(int(order.expires_at.timestamp())),
        "expires_at": order.expires_at,
        "delivery_method": None if delivery_method is None else method(delivery_method),
        "status": None,
        "status_at": None,
        "published_at": None,
        "place": None,
    }


def _order(order: TaskOrder) -> dict[str, Any]:
    return {
        "id": order.pk,
        "status": order.status,
        "reason": order.reason,
        "function": order.function,
        "held": money.render(0 if order.has_ended else order.payment),
        "paid": None if order.paid is None else money.render(order.paid),
        "created_at": order.created_at,
        "ended_at": order.ended_at,
        "deposit": sent(order.deposit),
        "publication": sent(order.publication),
        "confirmation": sent(order.confirmation),
        "cancellation": sent(order.cancellation),
    }


def _fulfilment(view: TaskView, work: Fulfilment, is_staff: bool) -> dict[str, Any]:
    knows = view.is_concerned
    is_theirs = is_staff or view.is_provider
    return {
        "status": work.status,
        "code": work.code if knows else "",
        "reason": work.reason if knows else "",
        "response": work.response_address,
        "node": work.node_id if is_theirs else None,
        "provider": work.provider_id if is_theirs else None,
    }
