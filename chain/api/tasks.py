"""`/chain/tasks/`: tasks on the chains, and having some published without a wallet of one's own."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import no_body, swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from chain import orders, registry
from chain.api.fields import AddressField, Pages, Which, WhichOne, moment, page_of
from chain.api.task_answers import STATUSES, TaskSerializer, shown
from chain.models import Source, Task, TaskOrder
from chain.registry import TaskView
from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, body_of, carry_out, once
from clients.authentication import caller
from clients.credentials import Principal
from marketplace.money import AmountField
from marketplace.parsing import Strict

_LATEST = 253_402_300_799


class TaskFilter(Which):
    """Which tasks."""

    source = AddressField(required=False)  # type: ignore[assignment]  # a field
    status = serializers.ChoiceField([*STATUSES], required=False)
    mine = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Only those that were published for you here, also those that are still on their way to the chain.",
    )


class TaskRequest(Strict, serializers.Serializer[Any]):
    """A task to publish. The payment is held at once, and taken when a response is confirmed."""

    source = AddressField(help_text="Of the source that is to work.")  # type: ignore[assignment]  # a field
    network = serializers.CharField(
        max_length=40,
        required=False,
        help_text="Where the source is; the first network that has it if left out.",
    )
    function_name = serializers.CharField(max_length=100, help_text="What the source is to do.")
    data = serializers.JSONField(help_text="The function's input: an object.")  # type: ignore[assignment]  # a field
    payment = AmountField(allow_zero=False)
    expires_in = serializers.IntegerField(
        required=False,
        min_value=int(orders.SHORTEST.total_seconds()),
        max_value=int(orders.LONGEST.total_seconds()),
        help_text=f"Seconds; {int(orders.USUAL.total_seconds())} if nothing is said.",
    )
    expiry_time = serializers.IntegerField(
        required=False, min_value=1, max_value=_LATEST, help_text="Instead of it: seconds since 1970."
    )

    class Meta:
        ref_name = "ChainTaskRequest"

    def validate_data(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("Expected an object.")
        return data

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "expires_in" in attrs and "expiry_time" in attrs:
            raise serializers.ValidationError({"expiry_time": ["Say this or expires_in, not both."]})
        return attrs

    def expiry(self, now: datetime) -> datetime:
        said = self.validated_data
        found = moment(said["expiry_time"]) if "expiry_time" in said else None
        return found or now + timedelta(seconds=said.get("expires_in", orders.USUAL.total_seconds()))


_TASK = openapi.Parameter(
    "task", openapi.IN_PATH, "An address, or the number of one of your orders.", type=openapi.TYPE_STRING
)


class TasksViewSet(GenericViewSet[Task]):
    """Everybody who is signed in reads what is on the chains. Orders are their owners' (and operators' to read)."""

    queryset = Task.objects.none()
    serializer_class = TaskSerializer
    pagination_class = Pages

    @property
    def throttle_scope(self) -> str | None:
        return "chain" if self.action in ("create", "cancel") else None

    @swagger_auto_schema(
        operation_id="chain_tasks_list",
        operation_description="Tasks on the chains, the newest first.",
        query_serializer=TaskFilter,
        responses={200: TaskSerializer(many=True), **errors(400, 401)},
    )
    def list(self, request: Request) -> Response:
        asked = TaskFilter.of(request)
        viewer, said = caller(request), asked.validated_data
        if said["mine"]:
            page = page_of(self, _orders(asked, orders.of(viewer)))
            views = registry.ordered_tasks(page, viewer)
        else:
            views = registry.tasks(page_of(self, _tasks(asked)), viewer)
        return self.get_paginated_response([shown(view, caller(request).is_staff) for view in views])

    @swagger_auto_schema(
        operation_id="chain_tasks_read",
        operation_description="One task, by its address or by the number of your order.",
        manual_parameters=[_TASK],
        query_serializer=WhichOne,
        responses={200: TaskSerializer, **errors(400, 401, 404)},
    )
    def retrieve(self, request: Request, task: str) -> Response:
        asked = WhichOne.of(request)
        return self._answer(self._find(request, task, asked))

    @swagger_auto_schema(
        operation_id="chain_tasks_create",
        operation_description="Have a task published and paid on the chain out of your account, without a wallet. "
        "The payment is held from now on. It leaves your account when a response is confirmed; if the task is "
        "cancelled, expires or cannot be published, it is free again once the chain has given it back. What a task "
        "says can be read by everybody. A payment counts in the day's limit of withdrawals (`over_daily_limit`); one "
        "that an operator would have to approve as a withdrawal is refused (403 `approval_needed`). A source that was "
        "published or changed a moment ago takes no orders until that is final (409 `not_final`): try again then.",
        manual_parameters=[KEY_PARAMETER],
        request_body=TaskRequest,
        responses={
            201: TaskSerializer,
            **errors(400, 401, 402, 403, 409, 413, 415, 503),
            429: openapi.Response("Too many tasks, or the API key's or the account's budget is used up."),
        },
    )
    def create(self, request: Request) -> HttpResponseBase:
        body = body_of(request)
        form = TaskRequest(data=request.data)
        form.is_valid(raise_exception=True)
        said, now = form.validated_data, timezone.now()
        config_url = orders.pin(function=said["function_name"], data=said["data"], now=now)

        def publish() -> Response:
            source = _source(said)
            orders.check_work(source, function=said["function_name"], data=said["data"])
            made = orders.publish(
                caller(request),
                source=source,
                function=said["function_name"],
                config_url=config_url,
                payment=said["payment"],
                expires_at=form.expiry(now),
                now=now,
                api_key_id=request.auth.api_key_id if isinstance(request.auth, Principal) else None,
            )
            (view,) = registry.ordered_tasks([made], caller(request))
            return Response(shown(view), status=201)

        return carry_out(request, publish, said=lambda: body)

    @swagger_auto_schema(
        operation_id="chain_tasks_cancel",
        operation_description="Take back a task that was published for you, and that no provider has begun.",
        manual_parameters=[_TASK, KEY_PARAMETER],
        request_body=no_body,
        responses={
            200: TaskSerializer,
            **errors(400, 401, 403, 404, 429),
            409: openapi.Response(
                "It has ended, or a provider has begun, or it is being published right now."
            ),
        },
    )
    @once
    def cancel(self, request: Request, task: str) -> Response:
        view = self._find(request, task, None)
        if view.order is None or view.order.owner_id != caller(request).pk:
            raise orders.UnknownOrder
        order = orders.cancel(view.order)
        return self._answer(registry.ordered_tasks([order], caller(request))[0])

    def _find(self, request: Request, text: str, asked: WhichOne | None) -> TaskView:
        """By address or order number. Raises NotOnChain, UnknownOrder."""
        viewer = caller(request)
        if text.isascii() and text.isdecimal():
            rows = TaskOrder.objects.all() if viewer.is_staff else orders.of(viewer)
            return registry.ordered_tasks([_numbered(rows, text)], viewer)[0]
        network = asked.network_row() if asked else None
        task = registry.at(Task.objects.select_related("source"), text, network=network)
        return registry.tasks([task], viewer)[0]

    def _answer(self, view: TaskView) -> Response:
        return Response(shown(view, caller(self.request).is_staff))


def _numbered(rows: QuerySet[TaskOrder], text: str) -> TaskOrder:
    order = rows.select_related("network").filter(pk=int(text)).first() if len(text) < 19 else None
    if order is None:
        raise orders.UnknownOrder
    return order


def _source(said: dict[str, Any]) -> Source:
    """The source of a new task. Raises UnknownSource, UnknownFilter."""
    network = registry.network_named(said.get("network"))
    try:
        return registry.at(Source.objects.all(), said["source"], network=network)
    except registry.NotOnChain:
        says = f"No source is known at {said['source']} (yet)."
        raise orders.UnknownSource(says, fields={"source": [says]}) from None


def _tasks(asked: TaskFilter) -> QuerySet[Task]:
    rows, said = asked.narrow(Task.objects.select_related("network", "source")), asked.validated_data
    if "source" in said:
        rows = rows.filter(source__address=said["source"])
    if "status" in said:
        rows = rows.filter(status=STATUSES[said["status"]])
    return rows


def _orders(asked: TaskFilter, rows: QuerySet[TaskOrder]) -> QuerySet[TaskOrder]:
    said = asked.validated_data
    rows = asked.narrow(
        rows.select_related("network", "deposit", "publication", "confirmation", "cancellation")
    )
    if "source" in said:
        rows = rows.filter(source_address=said["source"])
    if "status" in said:
        there = Task.objects.filter(status=STATUSES[said["status"]])
        rows = rows.filter(task_address__in=there.values("address"))
    return rows
