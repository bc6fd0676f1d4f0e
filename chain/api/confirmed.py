"""`/api/tasks/{address}`: the response that a task's client has confirmed, as the document's clients ask for it."""

from __future__ import annotations

from typing import Any

from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chain import models, registry
from chain.api.fields import WhichOne
from clients.api.documentation import errors


class ConfirmedTaskSerializer(serializers.Serializer[Any]):
    address = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # a field
    config = serializers.CharField(help_text="As it stands on the chain: a link to JSON.")
    expiryTime = serializers.CharField(help_text="Seconds since 1970, in digits.")
    payment = serializers.CharField(help_text="Base units, in digits.")
    status = serializers.IntegerField(help_text="5: finalized.")


class ConfirmedResponseSerializer(serializers.Serializer[Any]):
    """Amounts in base units, in digits; numbers of statuses as on the chain."""

    address = serializers.CharField(help_text="The response's.")
    data = serializers.CharField(help_text="As it stands on the chain: mostly a link to JSON.")  # type: ignore[assignment]  # a field
    provider = serializers.CharField()
    payment = serializers.CharField(help_text="Base units, in digits.")
    status = serializers.IntegerField(help_text="1: confirmed.")
    timestamp = serializers.IntegerField(help_text="When it was submitted: seconds since 1970.")
    confirmed = serializers.BooleanField()
    final = serializers.BooleanField(help_text="Whether that has as many confirmations as are wanted here.")
    transaction = serializers.CharField(help_text="What has confirmed it.")
    network = serializers.CharField()
    task = ConfirmedTaskSerializer()


class ConfirmedAnswer(serializers.Serializer[Any]):
    data = ConfirmedResponseSerializer()  # type: ignore[assignment]  # a field


class ConfirmedView(APIView):
    """For everybody; a credential is not looked at."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @swagger_auto_schema(
        operation_id="api_tasks_read",
        tags=["chain"],
        operation_description="The confirmed response of a task, by the task's address in any case.",
        security=[],
        query_serializer=WhichOne,
        responses={
            200: ConfirmedAnswer,
            404: openapi.Response("The task is not known (yet), or none of its responses is confirmed."),
            **errors(400),
        },
    )
    def get(self, request: Request, address: str) -> Response:
        asked = WhichOne.of(request)
        found = registry.confirmed_response(address, network=asked.network_row())
        return Response({"data": _shown(found)})


def _shown(response: models.Response) -> dict[str, Any]:
    task = response.task
    return {
        "address": response.address,
        "data": response.data,
        "provider": response.provider,
        "payment": str(response.payment),
        "status": response.status,
        "timestamp": int(response.submitted_at.timestamp()),
        "confirmed": True,
        "final": response.is_finally_confirmed,
        "transaction": response.confirmed_transaction,
        "network": response.network.name,
        "task": {
            "address": task.address,
            "source": task.source.address,
            "config": task.config_url,
            "expiryTime": str(int(task.expiry_time)),
            "payment": str(task.payment),
            "status": task.status,
        },
    }
