"""`/fine-tuning/quote` and `/fine-tuning/parameters`: what a training would cost, and what can be said of it."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from clients.authentication import caller
from finetune import ordering
from finetune.api import placing
from finetune.api.fields import ObjectField
from finetune.models import Method
from finetune.ordering import Wanted
from finetune.trainer import parameters
from marketplace.parsing import Strict


class QuoteRequest(Strict, serializers.Serializer[Any]):
    model = serializers.CharField(
        max_length=400, help_text="A model's id, NAME@REVISION, 0xHASH, or a job's id for its result."
    )
    dataset = serializers.CharField(
        max_length=100, help_text="A dataset's id, from /data/upload or /v1/files."
    )
    validation = serializers.CharField(max_length=100, required=False, allow_null=True)
    hyperparameters = ObjectField(required=False, allow_null=True)
    where = serializers.CharField(
        required=False, allow_null=True, max_length=20, help_text=placing.WHERE_TEXT
    )
    allocation_id = serializers.UUIDField(required=False, allow_null=True)


class QuoteAnswer(serializers.Serializer[Any]):
    model = serializers.CharField()
    revision = serializers.CharField()
    dataset = serializers.CharField()
    method = serializers.ChoiceField(Method.choices)
    rows = serializers.IntegerField()
    tokens = serializers.IntegerField(help_text="That one epoch reads, by the model's own tokenizer.")
    epochs = serializers.FloatField()
    trained_tokens = serializers.IntegerField(help_text="All epochs together.")
    price = serializers.CharField(help_text="What exactly would be charged, if it succeeds.")
    currency = serializers.CharField()
    estimated_minutes = serializers.FloatField()
    estimate_is_measured = serializers.BooleanField(
        help_text="Whether the time comes from earlier trainings of this model."
    )
    cheapest_place = serializers.CharField()
    hyperparameters = ObjectField(help_text="All of them, with what `auto` comes to.")


class QuoteView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_quote",
        tags=["fine-tuning"],
        request_body=QuoteRequest,
        manual_parameters=placing.PARAMETERS,
        responses={200: QuoteAnswer, **errors(400, 401, 404, 409, 413, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """What a training would cost and how long it may take. Nothing is begun or held."""
        form = QuoteRequest(data=request.data)
        form.is_valid(raise_exception=True)
        said = form.validated_data
        wanted = Wanted(
            owner=caller(request),
            model=said["model"],
            dataset=said["dataset"],
            validation=said.get("validation") or "",
            asked=said.get("hyperparameters") or {},
            **placing.policy(request, said),
            **ordering.limits_of(request.auth),
        )
        prepared = ordering.prepare(wanted, now=timezone.now())
        return Response(
            {
                "model": prepared.base.model.name,
                "revision": prepared.base.label,
                "dataset": prepared.dataset.uid,
                **prepared.quote.to_json(),
            }
        )


class ParametersView(APIView):
    """Everybody's."""

    permission_classes = (AllowAny,)

    @swagger_auto_schema(
        operation_id="fine-tuning_parameters",
        tags=["fine-tuning"],
        responses={
            200: openapi.Response(
                "By method: `schema` (JSON Schema of the hyper-parameters), `formats` of datasets, `losses` by format.",
                schema=openapi.Schema(
                    type=openapi.TYPE_OBJECT,
                    additional_properties=openapi.Schema(type=openapi.TYPE_OBJECT),
                ),
            )
        },
    )
    def get(self, request: Request) -> Response:
        """The hyper-parameters that each method takes: limits, defaults, and what they mean."""
        return Response({method: _described(method) for method in Method.values})


def _described(method: str) -> dict[str, Any]:
    formats = parameters.FORMATS_OF[method]
    losses = {
        kind: some for kind, some in parameters.LOSSES_OF.items() if kind.removeprefix("scored_") in formats
    }
    return {
        "title": Method(method).label,
        "schema": parameters.json_schema(method),
        "formats": formats,
        "losses": losses,
    }
