"""`/llm_models/training/{attempt}/…`: what a node calls while it trains.

The node shows its own token and names the attempt by the attempt's token; another node's attempt is not found. After
the attempt has ended, nothing is written any more: events are answered with the order "stop", the rest with 409.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from finetune import attempts, deliveries
from finetune.models import Attempt
from gpus import nodes
from gpus.models import Node
from marketplace import storage
from marketplace.errors import Unauthenticated
from marketplace.parsing import Strict

MOST_AT_ONCE = 500
MOST_FILES = 500
_LARGEST = 2**63 - 1
_STEPS = 2**31 - 1
FILES = "/llm_models/training/files/"


class JSONObject(serializers.JSONField):
    """A JSON object, nothing else."""

    class Meta:
        swagger_schema_fields: ClassVar = {"type": openapi.TYPE_OBJECT}

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError("Expected an object.")
        return data


class Sha256Field(serializers.RegexField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(r"^[0-9a-f]{64}$", help_text="Hexadecimal, lower case.", **kwargs)


class LinkedFile(serializers.Serializer[Any]):
    """A file to fetch. The link needs no credential and holds for some hours; ask again for a new one."""

    sha256 = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    url = serializers.CharField(help_text="Perhaps relative to the marketplace.")


class LinkedPath(LinkedFile):
    path = serializers.CharField(help_text="Within the model's folder.")


class LinkedModel(serializers.Serializer[Any]):
    digest = serializers.CharField(help_text="SHA-256 of the list of files.")
    files = LinkedPath(many=True)


class LinkedCheckpoint(LinkedFile):
    step = serializers.IntegerField()


class Briefing(serializers.Serializer[Any]):
    """All that is needed to train."""

    attempt = serializers.UUIDField()
    spec = JSONObject(
        help_text="method, format, parameters, seed, title, labels, most_tokens: of the trainer's specification."
    )
    base = LinkedModel()
    adapter = LinkedModel(allow_null=True, help_text="A LoRA adapter over the base to go on from.")
    rows = LinkedFile()
    validation = LinkedFile(allow_null=True)
    checkpoint = LinkedCheckpoint(allow_null=True, help_text="A tar archive with the state to go on from.")
    next_event = serializers.IntegerField(help_text="The number that the next event to be reported gets.")
    limit_s = serializers.FloatField(help_text="How long it may take from now on.")
    lost_after_s = serializers.FloatField(help_text="A node that is silent for longer is given up.")


class EventsRequest(Strict, serializers.Serializer[Any]):
    """What the trainer has said since. An empty list says that the node lives."""

    first = serializers.IntegerField(
        min_value=1, max_value=_STEPS - MOST_AT_ONCE, help_text="The number of the first of these events."
    )
    events = serializers.ListField(child=JSONObject(), max_length=MOST_AT_ONCE)


class OrderReply(serializers.Serializer[Any]):
    order = serializers.ChoiceField([attempts.GO_ON, attempts.PAUSE, attempts.STOP], source="word")
    why = serializers.CharField()

    class Meta:
        ref_name = "TrainingOrder"


class FileRequest(Strict, serializers.Serializer[Any]):
    """A file that is to be sent."""

    path = serializers.CharField(
        max_length=255, help_text=f"Within the result's folder, or {deliveries.CHECKPOINT}."
    )
    sha256 = Sha256Field()
    size = serializers.IntegerField(min_value=0, max_value=_LARGEST)


class FileReply(serializers.Serializer[Any]):
    url = serializers.CharField(allow_null=True, help_text="Where to PUT it; null where it is here already.")


class SentReply(serializers.Serializer[Any]):
    path = serializers.CharField()
    sha256 = serializers.CharField(source="blob_id")
    size = serializers.IntegerField(source="blob.size")


class CheckpointRequest(Strict, serializers.Serializer[Any]):
    step = serializers.IntegerField(min_value=0, max_value=_STEPS)
    sha256 = Sha256Field()
    metrics = JSONObject(required=False)


class ResultFile(Strict, serializers.Serializer[Any]):
    path = serializers.CharField(max_length=255)
    sha256 = Sha256Field()

    class Meta:
        ref_name = "TrainingResultFile"


class FinishRequest(Strict, serializers.Serializer[Any]):
    files = ResultFile(many=True, allow_empty=False)
    said = JSONObject(help_text="The trainer's last word (`finished`).")

    def validate_files(self, files: list[dict[str, str]]) -> list[dict[str, str]]:
        if len(files) > MOST_FILES:
            raise serializers.ValidationError(f"A result has at most {MOST_FILES} files.")
        return files


class FailRequest(Strict, serializers.Serializer[Any]):
    code = serializers.RegexField(r"^[a-z0-9_]{1,50}$")
    reason = serializers.CharField(max_length=1000)
    retry = serializers.BooleanField(
        default=False, help_text="Whether the same may succeed elsewhere or later."
    )


class NoFields(Strict, serializers.Serializer[Any]):
    class Meta:
        ref_name = "Nothing"


class NodeView(APIView):
    """A node's token is the credential; the account that owns the node is not asked for."""

    authentication_classes = ()
    permission_classes = ()
    swagger_faults: ClassVar = {401: "The node's token is missing or not valid any more."}

    def node(self) -> Node:
        """Raises Unauthenticated."""
        scheme, _, token = self.request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() not in ("token", "bearer") or not token.strip():
            raise Unauthenticated("Show the node's token: `Authorization: Bearer <node token>`.")
        try:
            return nodes.by_token(token.strip())
        except nodes.NodeNotFound as error:
            raise Unauthenticated(error.message) from None

    def attempt(self, token: UUID) -> Attempt:
        """Raises Unauthenticated, AttemptNotFound, AttemptOver."""
        return deliveries.find_open(token, self.node())


_SECURITY: list[dict[str, list[str]]] = [{"Token": []}]


def _read(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    asked = serializer(data=request.data)
    asked.is_valid(raise_exception=True)
    found: dict[str, Any] = asked.validated_data
    return found


class BriefingView(NodeView):
    @swagger_auto_schema(
        operation_id="llm_models_training_read",
        operation_description="What to train, with links to all files. The node's token is the credential.",
        responses={200: Briefing, **errors(404, 409)},
        security=_SECURITY,
    )
    def get(self, request: Request, attempt: UUID) -> Response:
        return Response(Briefing(deliveries.briefing(self.attempt(attempt), now=timezone.now())).data)


class EventsView(NodeView):
    @swagger_auto_schema(
        operation_id="llm_models_training_events_create",
        operation_description="Events, numbered from 1, in order; what was said before is left out, so that a call can "
        "be repeated. The answer says what to do: go on, pause (write a checkpoint, then `stopped`), or stop at once.",
        request_body=EventsRequest,
        responses={200: OrderReply, **errors(400, 404)},
        security=_SECURITY,
    )
    def post(self, request: Request, attempt: UUID) -> Response:
        found, now = deliveries.find(attempt, self.node()), timezone.now()
        said = _read(EventsRequest, request)
        if said["events"]:
            order = attempts.hear(found.token, said["events"], first_number=said["first"], now=now)
        else:
            order = attempts.order_for(found.token, now=now)
        return Response(OrderReply(order).data)


class FilesView(NodeView):
    @swagger_auto_schema(
        operation_id="llm_models_training_files_create",
        operation_description="Announce a file; the answer is a link to PUT it to.",
        request_body=FileRequest,
        responses={200: FileReply, **errors(400, 404, 409, 413)},
        security=_SECURITY,
    )
    def post(self, request: Request, attempt: UUID) -> Response:
        found, said = self.attempt(attempt), _read(FileRequest, request)
        token = deliveries.invite(found, **said, now=timezone.now())
        return Response({"url": None if token is None else FILES + token})


class SendView(APIView):
    """The link is the credential."""

    authentication_classes = ()
    permission_classes = ()

    @swagger_auto_schema(
        operation_id="llm_models_training_files_update",
        operation_description="Send a file that was announced. The link is the credential.",
        request_body=openapi.Schema(type=openapi.TYPE_STRING, format=openapi.FORMAT_BINARY),
        responses={200: SentReply, **errors(400, 403, 409, 413)},
        security=[],
    )
    def put(self, request: Request, token: str) -> Response:
        sent = deliveries.receive(token, _body(request._request), now=timezone.now())
        return Response(SentReply(sent).data)


def _body(request: HttpRequest) -> Iterator[bytes]:
    """The body as it comes, never whole in memory."""
    while chunk := request.read(storage.CHUNK):
        yield chunk


class CheckpointsView(NodeView):
    @swagger_auto_schema(
        operation_id="llm_models_training_checkpoints_create",
        operation_description="Make the archive that was sent the state to go on from.",
        request_body=CheckpointRequest,
        responses={200: NoFields, **errors(400, 404, 409)},
        security=_SECURITY,
    )
    def post(self, request: Request, attempt: UUID) -> Response:
        found, said = self.attempt(attempt), _read(CheckpointRequest, request)
        deliveries.keep_checkpoint(
            found, step=said["step"], sha256=said["sha256"], metrics=said.get("metrics"), now=timezone.now()
        )
        return Response({})


class FinishView(NodeView):
    @swagger_auto_schema(
        operation_id="llm_models_training_finish_create",
        operation_description="Hand in the result: files that were sent. It is checked first; what is no good ends the "
        "attempt as failed.",
        request_body=FinishRequest,
        responses={200: NoFields, **errors(400, 404, 409)},
        security=_SECURITY,
    )
    def post(self, request: Request, attempt: UUID) -> Response:
        found, said = deliveries.find(attempt, self.node()), _read(FinishRequest, request)
        deliveries.finish(found, listed=said["files"], said=said["said"], now=timezone.now())
        return Response({})


class FailView(NodeView):
    @swagger_auto_schema(
        operation_id="llm_models_training_fail_create",
        operation_description="The training has failed.",
        request_body=FailRequest,
        responses={200: NoFields, **errors(400, 404, 409)},
        security=_SECURITY,
    )
    def post(self, request: Request, attempt: UUID) -> Response:
        found, said = self.attempt(attempt), _read(FailRequest, request)
        deliveries.fail(found, **said, now=timezone.now())
        return Response({}, status=status.HTTP_200_OK)


class StoppedView(NodeView):
    @swagger_auto_schema(
        operation_id="llm_models_training_stopped_create",
        operation_description="The training has stopped as it was told to, or because the node closes; "
        "it goes on elsewhere.",
        request_body=NoFields,
        responses={200: NoFields, **errors(404, 409)},
        security=_SECURITY,
    )
    def post(self, request: Request, attempt: UUID) -> Response:
        attempts.stopped(self.attempt(attempt).token, now=timezone.now())
        return Response({})
