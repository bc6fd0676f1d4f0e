"""`/inference/`: the records of a client's requests. Asking is the hot path's (marketplace.asgi)."""

from typing import Any, cast

from django.db.models import QuerySet
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers, status
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from inference import records
from inference.models import Inference, Status
from marketplace.errors import Forbidden
from marketplace.paging import BareArrayPagination


class NotYourClient(Forbidden):
    code, message = "not_your_client", "`client` must be the account whose credential you send."


def check_client(client_id: int, caller_id: int) -> None:
    """Raise NotYourClient unless a request's `client` is the caller."""
    if client_id != caller_id:
        raise NotYourClient


class InferenceRequestSerializer(serializers.Serializer[Any]):
    """What a client asks. `client` may be a text of digits. Needs no database."""

    client = serializers.IntegerField(
        min_value=1, max_value=2**63 - 1, help_text="Your own account's number."
    )
    question_text = serializers.CharField(trim_whitespace=False)
    desired_model = serializers.CharField(
        max_length=255, help_text="A model's id, from /llm_models/all-models/."
    )

    def validate_question_text(self, text: str) -> str:
        if not text.strip():
            raise serializers.ValidationError("This field may not be blank.", code="blank")
        return text


class InferenceSerializer(serializers.ModelSerializer[Inference]):
    """A request and its answer. The texts are empty where the request came through another API."""

    client = serializers.IntegerField(source="client_id")
    client_username = serializers.CharField(source="client.username", read_only=True)
    question_text = serializers.CharField(allow_blank=True)
    answer_text = serializers.CharField(allow_blank=True, read_only=True)
    node = serializers.CharField(
        source="node.name", read_only=True, default=None, allow_null=True, help_text="The node that answered."
    )

    usage_source = serializers.CharField(read_only=True, help_text="engine, tokenizer or estimate.")

    class Meta:
        model = Inference
        fields = (
            *(
                "id",
                "client",
                "client_username",
                "question_text",
                "answer_text",
                "desired_model",
                "created_at",
            ),
            *("status", "code", "reason", "node", "face", "kind", "streamed", "prompt_tokens"),
            *(
                "completion_tokens",
                "usage_source",
                "queued_ms",
                "first_token_ms",
                "latency_ms",
                "finished_at",
            ),
            "request_id",
        )
        read_only_fields = fields


class InferenceFilter(serializers.Serializer[Any]):
    """Which records a list shall hold."""

    status = serializers.ChoiceField(Status.choices, required=False)
    model = serializers.CharField(max_length=255, required=False, help_text="The exact name.")
    face = serializers.CharField(max_length=20, required=False, help_text="The endpoint they came through.")


class InferenceViewSet(ListModelMixin, RetrieveModelMixin, GenericViewSet[Inference]):
    """Own records, newest first; operators see everybody's."""

    serializer_class = InferenceSerializer
    pagination_class = BareArrayPagination
    queryset = Inference.objects.none()

    def get_queryset(self) -> QuerySet[Inference]:
        me = self.request.user
        return records.of(me.pk or 0, everybody=me.is_staff)

    def filter_queryset(self, queryset: QuerySet[Inference, Any]) -> QuerySet[Inference, Any]:
        if self.action != "list":
            return queryset
        asked = InferenceFilter(data=self.request.query_params)
        asked.is_valid(raise_exception=True)
        wanted = cast(dict[str, str], asked.validated_data)
        names = {"status": "status", "model": "desired_model", "face": "face"}
        return queryset.filter(**{names[name]: value for name, value in wanted.items()})

    @swagger_auto_schema(query_serializer=InferenceFilter)
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().list(request, *args, **kwargs)

    @swagger_auto_schema(
        operation_description="Changes the text that the record shows; the model stays as it was.",
        request_body=InferenceRequestSerializer,
        responses={200: InferenceSerializer, 409: records.ModelIsFixed.message},
    )
    def update(self, request: Request, pk: int, partial: bool = False) -> Response:
        record = self.get_object()
        asked = InferenceRequestSerializer(data=request.data, partial=partial)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        check_client(wanted.get("client", record.client_id), record.client_id)
        changed = records.rename(
            record,
            question_text=wanted.get("question_text"),
            desired_model=wanted.get("desired_model"),
        )
        return Response(InferenceSerializer(changed).data)

    @swagger_auto_schema(
        operation_description="Like PUT; what is left out stays.",
        request_body=InferenceRequestSerializer,
        responses={200: InferenceSerializer, 409: records.ModelIsFixed.message},
    )
    def partial_update(self, request: Request, pk: int) -> Response:
        return self.update(request, pk=pk, partial=True)

    @swagger_auto_schema(
        operation_description="Deletes the texts and takes the record from your lists.",
        responses={204: "", 409: records.StillRunning.message},
    )
    def destroy(self, request: Request, pk: int) -> Response:
        records.delete(self.get_object(), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
