"""`/llm_models/errands/`: what the marketplace wants of a node besides answers, and how far the node is with it."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from clients.api.documentation import errors
from finetune import supervision
from finetune.api.training import NodeView
from inference import hosting
from inference.models import Family, HostingState, RevisionKind

MOST_AT_ONCE = 1000


class FileSerializer(serializers.Serializer[Any]):
    path = serializers.CharField(help_text="Within the model's folder.")
    sha256 = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    url = serializers.CharField(help_text="Relative to the marketplace; it needs no credential and expires.")

    class Meta:
        ref_name = "ErrandFile"


class BaseSerializer(serializers.Serializer[Any]):
    model = serializers.CharField()
    digest = serializers.CharField()
    files = FileSerializer(many=True)

    class Meta:
        ref_name = "ErrandBase"


class HostErrandSerializer(serializers.Serializer[Any]):
    """A model to serve. The digest is the SHA-256 of a line "SHA256 SIZE PATH" per file, sorted by path."""

    model = serializers.CharField(help_text="Offer it by this name.")
    name = serializers.CharField(help_text="For people.")
    revision = serializers.CharField(help_text="What offers call it: the beginning of the digest.")
    digest = serializers.CharField()
    kind = serializers.ChoiceField(RevisionKind.choices)
    family = serializers.ChoiceField(Family.choices)
    state = serializers.ChoiceField(HostingState.choices, help_text="As the marketplace knows it.")
    asked_at = serializers.DateTimeField()
    files = FileSerializer(many=True)
    base = BaseSerializer(allow_null=True, help_text="What an adapter lies over.")


class TrainErrandSerializer(serializers.Serializer[Any]):
    """A training to run: everything about it is at its path."""

    attempt = serializers.CharField()
    method = serializers.CharField()
    path = serializers.CharField()


class ErrandsSerializer(serializers.Serializer[Any]):
    """All that is wanted at present; what a node does besides is wanted no longer."""

    host = HostErrandSerializer(many=True)
    train = TrainErrandSerializer(many=True)


class HostedSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=255)
    revision = serializers.RegexField(r"^[0-9a-f]{64}$", help_text="The digest.")
    state = serializers.ChoiceField(
        [HostingState.LOADING.value, HostingState.SERVING.value, HostingState.FAILED.value],
        help_text="serving: it has answered a probe.",
    )
    reason = serializers.CharField(max_length=500, allow_blank=True, default="", help_text="Why it failed.")


class ReportSerializer(serializers.Serializer[Any]):
    host = HostedSerializer(many=True, required=False)

    class Meta:
        ref_name = "ErrandsReport"

    def validate_host(self, said: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(said) > MOST_AT_ONCE:
            raise serializers.ValidationError([f"A node hosts at most {MOST_AT_ONCE} models."])
        return said


class ErrandsView(NodeView):
    """A node's own: its token is the only credential here."""

    @swagger_auto_schema(
        operation_id="llm_models_errands_read",
        operation_description="What the node that shows its token is to host and to train. Ask when the number "
        "`errands` in a heartbeat's reply is another than before, or the connection says `errands`.",
        responses={200: ErrandsSerializer, **errors(401)},
        security=[{"Token": []}],
    )
    def get(self, request: Request) -> Response:
        node = self.node()
        return Response(
            {
                "host": hosting.errands(node, now=timezone.now()),
                "train": supervision.errands(node.pk),
            }
        )

    @swagger_auto_schema(
        operation_id="llm_models_errands_create",
        operation_description="How far the node is with what it hosts. Requests for a model go to it once it says "
        "`serving`, and offers the model with its heartbeat.",
        request_body=ReportSerializer,
        responses={204: "", **errors(400, 401, 413, 415)},
        security=[{"Token": []}],
    )
    def post(self, request: Request) -> Response:
        node = self.node()
        report = ReportSerializer(data=request.data)
        report.is_valid(raise_exception=True)
        hosting.heard(node.pk, report.validated_data.get("host", ()), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
