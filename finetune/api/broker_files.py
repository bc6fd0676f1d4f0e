"""`/v1/user/{address}/dataset` and `…/task/{id}/lora`: files from a wallet and to it, as clients of 2026 have it."""

from __future__ import annotations

import posixpath
from typing import Any

from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from finetune import brokerage, datasets, sealing, signatures
from finetune.api.broker import TextField, check_address, task_uid
from finetune.datasets import About
from finetune.models import DatasetStatus
from inference import signing
from inference.api.downloads import streamed
from marketplace import storage
from marketplace.errors import InvalidRequest

MOST_BYTES = 100 * 1024 * 1024
ENDINGS = (".jsonl", ".json")
_TIMESTAMP = {
    "min_value": 0,
    "max_value": 10**12,
    "help_text": "Seconds since 1970; at most five minutes ago.",
}


class DatasetUpload(serializers.Serializer[Any]):
    file = serializers.FileField(allow_empty_file=True, help_text=".jsonl or .json, at most 100 MiB.")
    signature = serializers.CharField(
        max_length=200, help_text="Over keccak256(address + timestamp) (EIP-191)."
    )
    timestamp = serializers.IntegerField(**_TIMESTAMP)  # type: ignore[arg-type]


class Uploaded(serializers.Serializer[Any]):
    datasetHash = serializers.CharField(help_text="keccak256 of the file: datasetHash of a task.")
    message = serializers.CharField()


class BrokerDatasetView(APIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)
    parser_classes = (MultiPartParser,)
    throttle_scope = "broker"

    @swagger_auto_schema(
        operation_id="v1_user_dataset_create",
        tags=["broker"],
        request_body=DatasetUpload,
        responses={
            200: Uploaded,
            401: "The signature is not that of the wallet, or too old.",
            403: "The wallet is linked to no account.",
        },
    )
    def post(self, request: Request, address: str) -> Response:
        """Upload a dataset, signed by a wallet. Each line is checked; the first ones that are wrong are named."""
        check_address(address)
        form = DatasetUpload(data=request.data)
        form.is_valid(raise_exception=True)
        said, now = form.validated_data, timezone.now()
        owner = brokerage.uploader(address, signature=said["signature"], timestamp=said["timestamp"], now=now)
        name = posixpath.basename(said["file"].name.replace("\\", "/"))[:200]
        if not name.lower().endswith(ENDINGS):
            raise InvalidRequest(f"The file's name must end in {' or '.join(ENDINGS)}.", param="file")
        about = About(name=name, filename=name)
        with storage.spool(storage.chunks_of(said["file"]), limit=MOST_BYTES) as spooled:
            content = datasets.read(spooled, about, owner=owner)
        made = datasets.add(content, about, owner=owner, now=now)
        checked = "" if made.status == DatasetStatus.READY else " It is being checked."
        return Response(
            {
                "datasetHash": f"0x{made.keccak256}",
                "message": f"Dataset uploaded as {made.uid}.{checked}",
            }
        )


class DownloadRequest(serializers.Serializer[Any]):
    signature = TextField(
        max_length=200, help_text="Over keccak256(the id without dashes + timestamp) (EIP-191)."
    )
    timestamp = serializers.IntegerField(**_TIMESTAMP)  # type: ignore[arg-type]


class LoraView(APIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_scope = "broker"

    @swagger_auto_schema(
        operation_id="v1_user_task_lora",
        tags=["broker"],
        request_body=DownloadRequest,
        responses={
            200: openapi.Response(
                "signature[65] nonce[12], then (ciphertext, tag[16]) for each 64 MiB of a zip archive; AES-256-GCM. "
                "`X-Encrypted-Secret` has the key, encrypted for the wallet (ECIES, hexadecimal); `X-Signer` whose "
                "signature it is, over keccak256 of all tags.",
                openapi.Schema(type=openapi.TYPE_FILE),
            ),
            401: "The signature is not that of the wallet, or too old.",
            409: "There is no result (yet).",
        },
    )
    def post(self, request: Request, address: str, task: str) -> HttpResponseBase:
        """A task's result, encrypted for the wallet that has signed the task."""
        check_address(address)
        form = DownloadRequest(data=request.data)
        form.is_valid(raise_exception=True)
        uid = task_uid(task)
        job = brokerage.deliver(uid, address=address, **form.validated_data, now=timezone.now())
        sealed = sealing.seal(job)
        said = job.said
        wallet = signatures.check_task(
            said["signature"], address=said["userAddress"], nonce=int(said["nonce"]), fee=int(said["fee"]),
            dataset_hash=said["datasetHash"],
        )  # fmt: skip
        name = f"lora_encrypted_{job.uid}.data"
        found = streamed(request, sealed.pieces(), size=sealed.size, filename=name)
        found["X-Encrypted-Secret"] = sealed.key_for(wallet.public_key).hex()
        found["X-Signer"] = signing.signer()
        return found
