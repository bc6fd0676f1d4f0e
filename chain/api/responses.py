"""`/chain/responses/`: answers to tasks on the chains, and confirming one."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from drf_yasg import openapi
from drf_yasg.utils import no_body, swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from chain import models, orders, registry
from chain.api.fields import AddressField, Pages, PlaceSerializer, Which, WhichOne, page_of, placed, rendered
from chain.api.task_answers import TaskSerializer, shown
from chain.models import ResponseStatus
from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, once
from clients.authentication import caller
from marketplace import money

_STATUSES = {status.name.lower(): status for status in ResponseStatus}


class ResponseSerializer(serializers.Serializer[Any]):
    """A provider's answer, as it stands on the chain."""

    network = serializers.CharField()
    address = serializers.CharField()
    task = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # a field
    provider = serializers.CharField()
    data = serializers.CharField(help_text="Mostly a link to JSON.")  # type: ignore[assignment]  # a field
    payment = serializers.CharField(help_text="What the provider asks for.")
    status = serializers.ChoiceField([*_STATUSES])
    submitted_at = serializers.DateTimeField()
    confirmed_at = serializers.DateTimeField(allow_null=True)
    confirmed_transaction = serializers.CharField()
    confirmed_for_good = serializers.BooleanField(
        help_text="Whether its confirmation has as many confirmations by blocks as are wanted here."
    )
    place = PlaceSerializer()

    class Meta:
        ref_name = "ChainResponse"


class ResponseFilter(Which):
    """Which responses."""

    task = AddressField(required=False)
    source = AddressField(required=False)  # type: ignore[assignment]  # a field
    status = serializers.ChoiceField([*_STATUSES], required=False)
    mine = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Only those to tasks that were published for you here, and those that your nodes have given.",
    )


class ResponsesViewSet(GenericViewSet[models.Response]):
    """Everybody who is signed in reads them; whoever has ordered the task confirms one."""

    queryset = models.Response.objects.none()
    serializer_class = ResponseSerializer
    pagination_class = Pages

    @property
    def throttle_scope(self) -> str | None:
        return "chain" if self.action == "confirm" else None

    @swagger_auto_schema(
        operation_id="chain_responses_list",
        operation_description="Responses on the chains, the newest first.",
        query_serializer=ResponseFilter,
        responses={200: ResponseSerializer(many=True), **errors(400, 401)},
    )
    def list(self, request: Request) -> Response:
        asked = ResponseFilter.of(request)
        rows, said = asked.narrow(_rows().order_by("-pk")), asked.validated_data
        if "task" in said:
            rows = rows.filter(task__address=said["task"])
        if "source" in said:
            rows = rows.filter(task__source__address=said["source"])
        if "status" in said:
            rows = rows.filter(status=_STATUSES[said["status"]])
        if said["mine"]:
            rows = rows.filter(registry.own_responses(caller(request)))
        return self.get_paginated_response([_shown(row) for row in page_of(self, rows)])

    @swagger_auto_schema(
        operation_id="chain_responses_read",
        operation_description="One response, by its address.",
        query_serializer=WhichOne,
        responses={200: ResponseSerializer, **errors(400, 401, 404)},
    )
    def retrieve(self, request: Request, address: str) -> Response:
        return Response(_shown(_find(request, address)))

    @swagger_auto_schema(
        operation_id="chain_responses_confirm",
        operation_description="Accept a response to a task that was published for you here. Its provider is paid on "
        "the chain, and the payment leaves your account once that is final. The answer is the task.",
        manual_parameters=[KEY_PARAMETER],
        query_serializer=WhichOne,
        request_body=no_body,
        responses={
            200: TaskSerializer,
            **errors(400, 401, 403, 404, 429),
            409: openapi.Response(
                "It is confirmed already, or the task has ended, or something else is on its way; or the response "
                "is not final yet (`not_final`): try again in a moment."
            ),
        },
    )
    @once
    def confirm(self, request: Request, address: str) -> HttpResponseBase:
        found, viewer = _find(request, address), caller(request)
        order = orders.of(viewer).filter(network=found.network, task_address=found.task.address).first()
        if order is None:
            raise orders.UnknownOrder("You have not had the task of this response published here.")
        confirmed = orders.confirm(order, found)
        return Response(shown(registry.ordered_tasks([confirmed], viewer)[0], viewer.is_staff))


def _rows() -> QuerySet[models.Response]:
    return models.Response.objects.select_related("network", "task__source")


def _find(request: Request, address: str) -> models.Response:
    """Raises NotOnChain, UnknownFilter."""
    asked = WhichOne.of(request)
    return registry.at(_rows(), address, network=asked.network_row())


def _shown(response: models.Response) -> dict[str, Any]:
    said = {
        "network": response.network.name,
        "address": response.address,
        "task": response.task.address,
        "source": response.task.source.address,
        "provider": response.provider,
        "data": response.data,
        "payment": money.render(response.payment),
        "status": ResponseStatus(response.status).name.lower(),
        "submitted_at": response.submitted_at,
        "confirmed_at": response.confirmed_at,
        "confirmed_transaction": response.confirmed_transaction,
        "confirmed_for_good": response.is_finally_confirmed,
        "place": placed(response),
    }
    return rendered(ResponseSerializer(said))
