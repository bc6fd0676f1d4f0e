"""`/data/upload/parts/…`: a large dataset in parts, each of which may be sent again until the upload is completed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import files, quotas, uploads
from clients.api import uploading
from clients.api.documentation import errors
from clients.authentication import caller
from clients.models import Upload, UploadPart
from finetune import datasets
from finetune.api import data
from finetune.api.data import AboutRequest, UploadReply
from finetune.datasets import Content
from marketplace.parsing import Strict

PURPOSE = "dataset"
PART_BYTES = 64 * 1024 * 1024


class BeginRequest(Strict, serializers.Serializer[Any]):
    name = serializers.CharField(
        max_length=255, help_text="The file's name. Its ending helps to tell its layout."
    )
    size = serializers.IntegerField(min_value=1, max_value=2**63 - 1, help_text="Bytes of the whole file.")
    sha256 = serializers.RegexField(
        r"^[0-9a-fA-F]{64}$", required=False, help_text="Of the whole file, hexadecimal; checked at the end."
    )

    class Meta:
        ref_name = "DatasetUploadBegin"


class PartReply(serializers.Serializer[Any]):
    part_number = serializers.IntegerField(source="number", help_text="From 0.")
    size = serializers.IntegerField(source="blob.size", help_text="Bytes.")
    sha256 = serializers.CharField(source="blob_id", help_text="Hexadecimal.")

    class Meta:
        ref_name = "DatasetUploadPart"


class PartsReply(serializers.Serializer[Any]):
    """An upload, and which parts of it are there."""

    upload_id = serializers.UUIDField(source="upload.id")
    name = serializers.CharField(source="upload.filename")
    size = serializers.IntegerField(source="upload.size", help_text="Bytes, as announced.")
    status = serializers.CharField(source="upload.status", help_text="open, completed, cancelled")
    dataset_id = serializers.CharField(source="upload.result", help_text="What it has become; else empty.")
    received_bytes = serializers.IntegerField()
    parts = PartReply(many=True)
    part_bytes = serializers.IntegerField(
        help_text="How large parts may well be; none may be larger than max_part_bytes."
    )
    max_part_bytes = serializers.IntegerField()
    expires_at = serializers.DateTimeField(
        source="upload.expires_at", help_text="Unless a further part comes."
    )

    class Meta:
        ref_name = "DatasetUpload"


def _shown(upload: Upload) -> dict[str, Any]:
    parts = uploads.parts(upload)
    found = {
        "upload": upload,
        "parts": parts,
        "received_bytes": sum(part.blob.size for part in parts),
        "part_bytes": min(PART_BYTES, settings.MAX_UPLOAD_BYTES),
        "max_part_bytes": settings.MAX_UPLOAD_BYTES,
    }
    return dict(PartsReply(found).data)


class PartsView(APIView):
    @swagger_auto_schema(
        operation_id="data_upload_parts_create",
        operation_description="Begin to upload a dataset in parts.",
        request_body=BeginRequest,
        responses={201: PartsReply, **errors(400, 401, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        form = BeginRequest(data=request.data)
        form.is_valid(raise_exception=True)
        said = form.validated_data
        quotas.check(caller(request), said["size"])
        upload = uploads.begin(
            owner=caller(request), filename=uploading.clean_name(said["name"]) or "dataset", purpose=PURPOSE,
            size=said["size"], sha256=said.get("sha256", ""), now=timezone.now(),
        )  # fmt: skip
        return Response(_shown(upload), status=201)


def _find(request: Request, upload_id: UUID) -> Upload:
    return uploads.find(upload_id, owner=caller(request), purpose=PURPOSE)


class OnePartsView(APIView):
    @swagger_auto_schema(
        operation_id="data_upload_parts_read",
        operation_description="Which parts have arrived: what is missing is to be sent (again).",
        responses={200: PartsReply, **errors(401, 404, 429)},
    )
    def get(self, request: Request, upload_id: UUID) -> Response:
        return Response(_shown(_find(request, upload_id)))

    @swagger_auto_schema(
        operation_id="data_upload_parts_delete",
        operation_description="Call an upload off.",
        responses={204: "It is called off.", **errors(401, 403, 404, 409, 429)},
    )
    def delete(self, request: Request, upload_id: UUID) -> Response:
        uploads.cancel(_find(request, upload_id))
        return Response(status=204)


class PartView(APIView):
    @swagger_auto_schema(
        operation_id="data_upload_parts_update",
        operation_description="Send a part, as the body itself. Parts are put together by their numbers, which begin "
        "at 0; what is sent again under the same number takes the place of what was there.",
        request_body=openapi.Schema(type=openapi.TYPE_STRING, format=openapi.FORMAT_BINARY),
        consumes=["application/octet-stream"],
        responses={200: PartReply, **errors(400, 401, 403, 404, 409, 413, 429)},
    )
    def put(self, request: Request, upload_id: UUID, number: int) -> Response:
        part = receive(request, _find(request, upload_id), number)
        return Response(PartReply(part).data)


def receive(request: Request, upload: Upload, number: int) -> UploadPart:
    """Take the request's body as a part. Raises what `uploads.add` does, quotas.StorageFull."""
    uploads.check_open(upload)
    quotas.check(caller(request), 0)
    blob = files.keep_all(uploading.body_of(request), limit=settings.MAX_UPLOAD_BYTES)
    return uploads.add(upload, blob, number=number, now=timezone.now())


class CompleteView(APIView):
    @swagger_auto_schema(
        operation_id="data_upload_parts_complete",
        operation_description="Put the parts together. The dataset is looked at afterwards: see its metadata. "
        "Completing once more gives the same answer.",
        request_body=AboutRequest,
        responses={201: UploadReply, **errors(400, 401, 403, 404, 409, 413, 415, 429)},
    )
    def post(self, request: Request, upload_id: UUID) -> Response:
        upload = _find(request, upload_id)
        form = AboutRequest(data=request.data)
        form.is_valid(raise_exception=True)
        if not upload.result:
            about = form.about(upload.filename)
            blob = uploads.assemble(upload)
            with transaction.atomic():
                # First, so that its parts are not counted beside the whole.
                uploads.complete(upload)
                dataset = datasets.add(Content(blob), about, owner=upload.owner, now=timezone.now())
                uploads.name_result(upload, dataset.uid)
        return Response({"dataset_id": upload.result, "status": data.VALIDATING}, status=201)
