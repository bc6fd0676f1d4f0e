"""`/ai/models/upload/parts/…`: large models in parts, each of which may be sent again until the upload is completed.

An upload is one file: a zip of the whole model, or one of several that are completed together.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from uuid import UUID

from django.conf import settings
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
from clients.models import Upload
from inference import bringing, weights
from inference.api.model_uploads import AboutModel, UploadedModel, uploaded
from inference.archives import is_zip
from inference.models import Model
from marketplace import storage
from marketplace.errors import InvalidRequest
from marketplace.parsing import Strict
from marketplace.storage import Spooled

PURPOSE = "model"
PART_BYTES = 64 * 1024 * 1024
_ANY_ZIP = ".zip"


class BeginModelUpload(Strict, serializers.Serializer[Any]):
    name = serializers.CharField(
        max_length=255,
        help_text="The file's path in the model, such as model.safetensors; or a zip of the whole model.",
    )
    size = serializers.IntegerField(min_value=1, max_value=2**63 - 1, help_text="Bytes of the whole file.")
    sha256 = serializers.RegexField(
        r"^[0-9a-fA-F]{64}$", required=False, help_text="Of the whole file, hexadecimal; checked at the end."
    )


class CompleteModelUpload(AboutModel):
    uploads = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        max_length=weights.MOST_FILES,
        help_text="Further uploads, whose files belong to the same model.",
    )


class ModelPart(serializers.Serializer[Any]):
    part_number = serializers.IntegerField(source="number", help_text="From 0.")
    size = serializers.IntegerField(source="blob.size", help_text="Bytes.")
    sha256 = serializers.CharField(source="blob_id", help_text="Hexadecimal.")


class ModelParts(serializers.Serializer[Any]):
    """An upload, and which parts of it are there."""

    upload_id = serializers.UUIDField(source="upload.id")
    name = serializers.CharField(source="upload.filename")
    size = serializers.IntegerField(source="upload.size", help_text="Bytes, as announced.")
    status = serializers.CharField(source="upload.status", help_text="open, completed, cancelled")
    model_id = serializers.CharField(source="upload.result", help_text="What it has become; else empty.")
    received_bytes = serializers.IntegerField()
    parts = ModelPart(many=True)
    part_bytes = serializers.IntegerField(help_text="How large parts may well be.")
    max_part_bytes = serializers.IntegerField()
    expires_at = serializers.DateTimeField(
        source="upload.expires_at", help_text="Unless a further part comes."
    )


def _shown(upload: Upload) -> dict[str, Any]:
    parts = uploads.parts(upload)
    found = {
        "upload": upload,
        "parts": parts,
        "received_bytes": sum(part.blob.size for part in parts),
        "part_bytes": min(PART_BYTES, settings.MAX_UPLOAD_BYTES),
        "max_part_bytes": settings.MAX_UPLOAD_BYTES,
    }
    return dict(ModelParts(found).data)


def _find(request: Request, upload_id: UUID) -> Upload:
    return uploads.find(upload_id, owner=caller(request), purpose=PURPOSE)


class ModelPartsView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_upload_parts_create",
        operation_description="Begin to upload a model's file in parts.",
        request_body=BeginModelUpload,
        responses={201: ModelParts, **errors(400, 401, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        form = BeginModelUpload(data=request.data)
        form.is_valid(raise_exception=True)
        said = form.validated_data
        if not said["name"].lower().endswith(_ANY_ZIP):
            weights.check_name(said["name"])
        quotas.check(caller(request), said["size"])
        upload = uploads.begin(
            owner=caller(request),
            filename=said["name"],
            purpose=PURPOSE,
            size=said["size"],
            sha256=said.get("sha256", ""),
            now=timezone.now(),
        )
        return Response(_shown(upload), status=201)


class ModelUploadPartsView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_upload_parts_read",
        operation_description="Which parts have arrived: what is missing is to be sent (again).",
        responses={200: ModelParts, **errors(401, 404, 429)},
    )
    def get(self, request: Request, upload_id: UUID) -> Response:
        return Response(_shown(_find(request, upload_id)))

    @swagger_auto_schema(
        operation_id="ai_models_upload_parts_delete",
        operation_description="Call an upload off.",
        responses={204: "It is called off.", **errors(401, 403, 404, 409, 429)},
    )
    def delete(self, request: Request, upload_id: UUID) -> Response:
        uploads.cancel(_find(request, upload_id))
        return Response(status=204)


class ModelPartView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_upload_parts_update",
        operation_description="Send a part, as the body itself. Parts are put together by their numbers, from 0; what "
        "is sent again under the same number takes the place of what was there.",
        request_body=openapi.Schema(type=openapi.TYPE_STRING, format=openapi.FORMAT_BINARY),
        consumes=["application/octet-stream"],
        responses={200: ModelPart, **errors(400, 401, 403, 404, 409, 413, 429)},
    )
    def put(self, request: Request, upload_id: UUID, number: int) -> Response:
        upload = _find(request, upload_id)
        uploads.check_open(upload)
        quotas.check(caller(request), 0)
        blob = files.keep_all(uploading.body_of(request), limit=settings.MAX_UPLOAD_BYTES)
        part = uploads.add(upload, blob, number=number, now=timezone.now())
        return Response(ModelPart(part).data)


class CompleteModelUploadView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_upload_parts_complete",
        operation_description="Make a model of the file, or of this and further uploads together. Completing once more "
        "gives the same answer.",
        request_body=CompleteModelUpload,
        responses={201: UploadedModel, **errors(400, 401, 403, 404, 409, 413, 415, 429)},
    )
    def post(self, request: Request, upload_id: UUID) -> Response:
        form = CompleteModelUpload(data=request.data)
        form.is_valid(raise_exception=True)
        ids = dict.fromkeys([upload_id, *form.validated_data.get("uploads", ())])
        found = [_find(request, each) for each in ids]
        if found[0].result:
            model = Model.objects.select_related("revision__base__model").get(name=found[0].result)
            assert model.revision is not None
            return Response(UploadedModel(uploaded(model.revision)).data, status=201)
        for upload in found:
            uploads.check_open(upload)
        with ExitStack() as stack:
            sent = {upload.filename: stack.enter_context(_whole(upload)) for upload in found}
            for name, spooled in sent.items():
                if not is_zip(spooled.path):
                    weights.check_name(name)
            if len(sent) < len(found):
                raise InvalidRequest("Two of the uploads have the same name.", param="uploads")
            revision = bringing.bring(sent, form.about(), owner=caller(request), now=timezone.now())
        for upload in found:
            uploads.complete(upload, result=revision.model.name)
        return Response(UploadedModel(uploaded(revision)).data, status=201)


def _whole(upload: Upload) -> Spooled:
    """An upload's file on this machine's disk, for as long as it is looked at."""
    return storage.spool(files.chunks(uploads.assemble(upload)), limit=settings.MAX_FILE_BYTES)
