"""`/v1/user/{address}/task…` and its neighbours: the broker's API, for wallets.

Creating and cancelling are proved by the wallet's signature, and need no credential. Reading is open, as the protocol
has it and its clients need it, unless BROKER_OPEN_READS says otherwise.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.http import HttpResponse
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.models import Wallet
from clients.wallets import NotAnAddress
from finetune import attestation, brokerage, records, signatures
from finetune.brokerage import Said
from finetune.models import Job, JobStatus
from marketplace.errors import InvalidRequest, Unauthenticated
from marketplace.parsing import is_yes

WALLET_SIGNATURE, WALLET_TIMESTAMP = "X-Wallet-Signature", "X-Wallet-Timestamp"
MOST_LISTED = 1000
TEXT = "text/plain; charset=utf-8"
PROGRESS = {
    JobStatus.PENDING: "InProgress",
    JobStatus.RUNNING: "InProgress",
    JobStatus.PAUSED: "InProgress",
    JobStatus.SUCCEEDED: "Finished",
}
_READING = (
    "Open to everybody. Where the operator has closed that: the credential of the account that the wallet is linked "
    f"to, or {WALLET_SIGNATURE} and {WALLET_TIMESTAMP} (seconds since 1970): personal_sign over the 32 bytes "
    "keccak256('read tasks of ADDRESS at TIMESTAMP'), the address in lower case."
)
_READ_HEADERS = [
    openapi.Parameter(
        WALLET_SIGNATURE, openapi.IN_HEADER, "Where reading is closed.", type=openapi.TYPE_STRING
    ),
    openapi.Parameter(
        WALLET_TIMESTAMP, openapi.IN_HEADER, "Where reading is closed.", type=openapi.TYPE_STRING
    ),
]


class MustRead(Unauthenticated):
    code = "reading_is_closed"


class TextField(serializers.CharField):
    """A text as it is: numbers are not taken for one, and nothing is cut off."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("Expected a text, in quotation marks.")
        return super().to_internal_value(data)


class CreateTask(serializers.Serializer[Any]):
    """A task, signed. Numbers are texts in decimal digits."""

    userAddress = TextField(max_length=42, help_text="The wallet, as in the path.")
    preTrainedModelHash = TextField(
        max_length=400, help_text="A model's hash as GET /v1/model has it; its name is understood too."
    )
    datasetHash = TextField(
        max_length=100,
        help_text="keccak256 (or SHA-256) of a dataset that the wallet's account has uploaded.",
    )
    trainingParams = TextField(max_length=65_536, help_text='JSON as a text: {"num_train_epochs": 3}')
    fee = TextField(
        max_length=80, help_text="The most you pay, in 1e-18 of a token; `0` unsigned leaves it to the quote."
    )
    nonce = TextField(max_length=80, help_text="Larger than in all tasks of this wallet before.")
    signature = TextField(max_length=200)
    wait = serializers.BooleanField(
        required=False, allow_null=True, help_text="Every task waits for its turn here."
    )

    class Meta:
        ref_name = "BrokerTaskRequest"


class TaskObject(serializers.Serializer[Any]):
    """A task, in the document's fields and order, and what later clients look for."""

    id = serializers.UUIDField()
    createdAt = serializers.DateTimeField()
    updatedAt = serializers.DateTimeField()
    userAddress = serializers.CharField()
    preTrainedModelHash = serializers.CharField()
    datasetHash = serializers.CharField()
    trainingParams = serializers.CharField(allow_blank=True)
    fee = serializers.CharField()
    nonce = serializers.CharField()
    signature = serializers.CharField()
    progress = serializers.ChoiceField(["InProgress", "Finished", "Failed"])
    deliverIndex = serializers.IntegerField()
    deliverTime = serializers.IntegerField(help_text="Seconds since 1970, 0 until it is finished.")
    modelType = serializers.IntegerField()
    wait = serializers.BooleanField()
    reason = serializers.CharField(allow_blank=True, help_text="Why it is as it is.")

    class Meta:
        ref_name = "BrokerTask"


def task_object(job: Job) -> dict[str, Any]:
    said = job.said
    return {
        "id": str(job.uid),
        "createdAt": records.stamp(job.created_at),
        "updatedAt": records.stamp(job.changed_at),
        "userAddress": said["userAddress"],
        "preTrainedModelHash": said["preTrainedModelHash"],
        "datasetHash": said["datasetHash"],
        "trainingParams": said["trainingParams"],
        # As it was said; whoever left it to the quote sees the quote.
        "fee": said["fee"] if said["fee"].strip("+-0") else str(job.price),
        "nonce": said["nonce"],
        "signature": said["signature"],
        "progress": PROGRESS.get(JobStatus(job.status), "Failed"),
        "deliverIndex": 0,
        "deliverTime": int(job.finished_at.timestamp()) if job.finished_at else 0,
        "modelType": 0,
        "wait": False,
        "reason": job.reason,
    }


def check_address(address: str) -> str:
    """Raise NotAnAddress unless it is one."""
    if not signatures.is_address(address):
        raise NotAnAddress("The user address must be 0x and 40 hexadecimal digits.", param="userAddress")
    return address


def check_reader(request: Request, address: str) -> None:
    """Raise MustRead unless whoever asks may read this wallet's tasks; NotAnAddress where it is none."""
    check_address(address)
    if settings.BROKER_OPEN_READS or (request.user and request.user.is_staff):
        return
    signature = request.headers.get(WALLET_SIGNATURE)
    if signature is not None:
        timestamp = _whole(request.headers.get(WALLET_TIMESTAMP, ""))
        signatures.check_time(timestamp, now=timezone.now())
        inner = signatures.reading_hash(address, timestamp)
        signatures.check(signature, inner, address=address, subject="the request")
    elif not (
        request.user
        and request.user.is_authenticated
        and Wallet.objects.filter(client=request.user, address=address.lower()).exists()
    ):
        raise MustRead(
            "Tasks can be read here only by the account that the wallet is linked to (Authorization), or with "
            f"{WALLET_SIGNATURE} and {WALLET_TIMESTAMP}."
        )


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise InvalidRequest("A timestamp is the seconds since 1970.", param="timestamp")
    return int(text)


def task_uid(text: str) -> UUID:
    """Raises InvalidRequest."""
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequest(
            f"parse task id: invalid UUID {text[:60]!r}. A task's id looks like "
            "71c84e9f-fa0e-4ef5-8d7e-8ffc1f281442.",
            param="taskID",
        ) from None


class Open(APIView):
    """Everybody's; who has a credential may send it."""

    permission_classes = (AllowAny,)


class TasksView(Open):
    throttle_scope = "broker"

    @swagger_auto_schema(
        operation_id="v1_user_task_create",
        tags=["broker"],
        request_body=CreateTask,
        manual_parameters=[
            openapi.Parameter(
                "Prefer", openapi.IN_HEADER, "`return=minimal`: a 204 without a body, as the document has it.",
                type=openapi.TYPE_STRING,
            )
        ],
        responses={
            201: openapi.Response(
                "The task's id; `Location` leads to it.",
                openapi.Schema(
                    type=openapi.TYPE_OBJECT, properties={"id": openapi.Schema(type=openapi.TYPE_STRING)}
                ),
            ),
            204: "As asked for by `Prefer: return=minimal`.",
            401: "The signature is not that of the wallet.",
            402: "The account that the wallet is linked to cannot pay the quote.",
            403: "The wallet is linked to no account.",
            404: "There is no such model, or no such dataset of the account.",
            409: "The dataset is still being looked at.",
            503: "Nobody can train this now.",
        },
    )  # fmt: skip
    def post(self, request: Request, address: str) -> Response:
        """Create a task that a wallet has signed. The account that the wallet is linked to pays the quote."""
        check_address(address)
        form = CreateTask(data=request.data)
        form.is_valid(raise_exception=True)
        said = form.validated_data
        if check_address(said["userAddress"]).lower() != address.lower():
            raise InvalidRequest(
                f"userAddress is {said['userAddress']}, the path says {address}: they must be the same wallet.",
                param="userAddress",
            )
        job = brokerage.create(Said(**{**said, "wait": bool(said.get("wait"))}), now=timezone.now())
        headers = {"Location": f"/v1/user/{said['userAddress']}/task/{job.uid}"}
        if "return=minimal" in request.headers.get("Prefer", "").replace(" ", ""):
            return Response(status=204, headers={**headers, "Preference-Applied": "return=minimal"})
        return Response({"id": str(job.uid)}, status=201, headers=headers)

    @swagger_auto_schema(
        operation_id="v1_user_task_list",
        tags=["broker"],
        operation_description=_READING,
        manual_parameters=[
            openapi.Parameter(
                "latest", openapi.IN_QUERY, "`true`: only the newest.", type=openapi.TYPE_STRING
            ),
            openapi.Parameter(
                "order", openapi.IN_QUERY, "`desc` (the newest first) or `asc`.", type=openapi.TYPE_STRING
            ),
            *_READ_HEADERS,
        ],
        responses={200: TaskObject(many=True), 400: "The address is none.", 401: "Reading is closed."},
    )
    def get(self, request: Request, address: str) -> Response:
        check_reader(request, address)
        rows = brokerage.of(address)
        order = request.query_params.get("order", "desc").lower()
        if order not in ("asc", "desc"):
            raise InvalidRequest("order must be asc or desc.", param="order")
        if request.query_params.get("latest") == "true":
            return Response([task_object(job) for job in rows[:1]])
        found = rows.order_by("id" if order == "asc" else "-id")[:MOST_LISTED]
        return Response([task_object(job) for job in found])


class TaskView(Open):
    @swagger_auto_schema(
        operation_id="v1_user_task_read",
        tags=["broker"],
        operation_description=_READING,
        manual_parameters=_READ_HEADERS,
        responses={200: TaskObject, 400: "The address or the id is none.", 401: "Reading is closed."},
    )
    def get(self, request: Request, address: str, task: str) -> Response:
        check_reader(request, address)
        return Response(task_object(brokerage.find(task_uid(task), address=address)))


class LogView(Open):
    @swagger_auto_schema(
        operation_id="v1_user_task_log",
        tags=["broker"],
        operation_description=f"The progress.log, or a part of it by `Range`. It holds no training data. {_READING}",
        manual_parameters=[
            openapi.Parameter(
                "Range", openapi.IN_HEADER, "`bytes=1024-`: what is new.", type=openapi.TYPE_STRING
            ),
            *_READ_HEADERS,
        ],
        responses={
            200: openapi.Response("The log.", openapi.Schema(type=openapi.TYPE_FILE)),
            206: openapi.Response("The part that was asked for.", openapi.Schema(type=openapi.TYPE_FILE)),
            400: "The address or the id is none.",
            401: "Reading is closed.",
            416: "There is nothing (yet) from there on.",
        },
    )
    def get(self, request: Request, address: str, task: str) -> HttpResponse:
        check_reader(request, address)
        job = brokerage.find(task_uid(task), address=address)
        return text_part(request, records.log(job).encode())


def text_part(request: Request, text: bytes) -> HttpResponse:
    """A text, or what follows a place in it (`Range: bytes=N-` or `bytes=N-M`)."""
    headers = {"Accept-Ranges": "bytes"}
    said = request.headers.get("Range", "").replace(" ", "")
    first, _, last = said.removeprefix("bytes=").partition("-")
    numbers = first.isascii() and first.isdecimal() and len(first) < 19 and (not last or last.isdecimal())
    if not said.startswith("bytes=") or not numbers or len(last) >= 19:
        return HttpResponse(text, content_type=TEXT, headers=headers)
    start, end = int(first), min(int(last or len(text)), len(text) - 1)
    if start > end:
        headers["Content-Range"] = f"bytes */{len(text)}"
        body = orjson.dumps({"error": f"The log has {len(text)} bytes."})
        return HttpResponse(body, status=416, content_type="application/json", headers=headers)
    headers["Content-Range"] = f"bytes {start}-{end}/{len(text)}"
    return HttpResponse(text[start : end + 1], status=206, content_type=TEXT, headers=headers)


class SignatureRequest(serializers.Serializer[Any]):
    signature = TextField(max_length=200, help_text="Over keccak256 of the id's 16 bytes (EIP-191).")


class CancelView(APIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_scope = "broker"

    @swagger_auto_schema(
        operation_id="v1_user_task_cancel",
        tags=["broker"],
        request_body=SignatureRequest,
        responses={
            200: openapi.Response("`task … cancelled`", openapi.Schema(type=openapi.TYPE_STRING)),
            401: "The signature is not that of the wallet.",
            409: "It has ended.",
        },
    )
    def post(self, request: Request, address: str, task: str) -> HttpResponse:
        """Cancel a task that has not ended; nothing is charged."""
        check_address(address)
        form = SignatureRequest(data=request.data)
        form.is_valid(raise_exception=True)
        uid = task_uid(task)
        job = brokerage.cancel(
            uid, address=address, signature=form.validated_data["signature"], now=timezone.now()
        )
        return HttpResponse(f"task {job.uid} cancelled", content_type=TEXT)


class PendingView(Open):
    @swagger_auto_schema(
        operation_id="v1_task_pending",
        tags=["broker"],
        responses={200: openapi.Response("A number.", openapi.Schema(type=openapi.TYPE_STRING))},
    )
    def get(self, request: Request) -> HttpResponse:
        """How many tasks wait or run, as a text."""
        return HttpResponse(str(brokerage.pending()), content_type=TEXT)


class QuoteView(Open):
    throttle_scope = "broker"

    @swagger_auto_schema(
        operation_id="v1_quote",
        tags=["broker"],
        manual_parameters=[
            openapi.Parameter("legacy", openapi.IN_QUERY, "Changes nothing here.", type=openapi.TYPE_BOOLEAN)
        ],
        responses={
            200: openapi.Response(
                "JSON as a text: `quote` (hexadecimal), `provider_signer`, `report_data` (base64), and `attestation`: "
                '"tdx" for a quote of the hardware, "software" for the marketplace\'s own signed word, which proves '
                "nothing of the machine.",
                openapi.Schema(type=openapi.TYPE_STRING),
            ),
            503: "The TDX agent does not answer.",
        },
    )
    def get(self, request: Request) -> HttpResponse:
        """What vouches for the key that signs results."""
        if "legacy" in request.query_params:
            is_yes(request.query_params["legacy"], param="legacy")
        return HttpResponse(json.dumps(attestation.quote()), content_type=TEXT)
