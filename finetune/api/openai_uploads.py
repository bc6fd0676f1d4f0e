"""`/v1/uploads…`: large files in parts, as OpenAI's clients send them."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import files, quotas, uploads
from clients.api import parts, uploading
from clients.api.documentation import errors
from clients.api.uploading import FormParser
from clients.authentication import caller
from clients.models import Blob, Upload, UploadStatus
from clients.uploads import UploadIncomplete, UploadNotFound
from finetune import datasets
from finetune.api.openai_files import FileObject
from finetune.api.openai_files import shown as shown_file
from finetune.datasets import PURPOSE, About, Content, DatasetNotFound
from marketplace.errors import InvalidRequest
from marketplace.parsing import Strict

UPLOAD, PART = "upload_", "part_"
_WORDS = {
    UploadStatus.OPEN: "pending",
    UploadStatus.COMPLETED: "completed",
    UploadStatus.CANCELLED: "cancelled",
}


class CreateUpload(Strict, serializers.Serializer[Any]):
    bytes = serializers.IntegerField(min_value=1, max_value=2**63 - 1, help_text="Of the whole file.")
    filename = serializers.CharField(max_length=255)
    mime_type = serializers.CharField(
        max_length=255, help_text="Not used: the file's content and name say what it is."
    )
    purpose = serializers.ChoiceField(
        [PURPOSE],
        error_messages={"invalid_choice": f"Only files with the purpose {PURPOSE!r} are kept here."},
    )


class CompleteUpload(Strict, serializers.Serializer[Any]):
    part_ids = serializers.ListField(
        child=serializers.CharField(max_length=100),
        min_length=1,
        max_length=10_000,
        help_text="In their order.",
    )
    md5 = serializers.RegexField(
        r"^[0-9a-fA-F]{32}$", required=False, help_text="Of the whole file, hexadecimal."
    )


class UploadObject(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.ChoiceField(["upload"])
    bytes = serializers.IntegerField()
    created_at = serializers.IntegerField(help_text="Seconds since 1970.")
    expires_at = serializers.IntegerField(help_text="Unless a further part comes.")
    filename = serializers.CharField()
    purpose = serializers.CharField()
    status = serializers.ChoiceField(list(_WORDS.values()))
    file = FileObject(allow_null=True)

    class Meta:
        ref_name = "OpenAIUpload"


class PartObject(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.ChoiceField(["upload.part"])
    created_at = serializers.IntegerField()
    upload_id = serializers.CharField()

    class Meta:
        ref_name = "OpenAIUploadPart"


def _shown(upload: Upload) -> dict[str, Any]:
    return {
        "id": f"{UPLOAD}{upload.pk.hex}",
        "object": "upload",
        "bytes": upload.size,
        "created_at": int(upload.created_at.timestamp()),
        "expires_at": int(upload.expires_at.timestamp()),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": _WORDS[UploadStatus(upload.status)],
        "file": _file(upload),
    }


def _file(upload: Upload) -> dict[str, Any] | None:
    if not upload.result:
        return None
    try:
        return shown_file(datasets.find(upload.result, owner=upload.owner))
    except DatasetNotFound:
        return None


def _find(request: Request, text: str) -> Upload:
    number = _uuid(text, UPLOAD)
    if number is None:
        raise UploadNotFound
    return parts.find(request, number, purpose=PURPOSE)


def _uuid(text: str, prefix: str) -> UUID | None:
    try:
        return UUID(hex=text.removeprefix(prefix))
    except ValueError:
        return None


class UploadsView(APIView):
    @swagger_auto_schema(
        operation_id="v1_uploads_create",
        operation_description="Begin to upload a file in parts.",
        request_body=CreateUpload,
        responses={200: UploadObject, **errors(400, 401, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        form = CreateUpload(data=request.data)
        form.is_valid(raise_exception=True)
        said = form.validated_data
        filename = uploading.clean_name(said["filename"]) or "file"
        upload = parts.begin(request, filename=filename, size=said["bytes"], purpose=PURPOSE)
        upload.refresh_from_db()
        return Response(_shown(upload))


class UploadView(APIView):
    @swagger_auto_schema(
        operation_id="v1_uploads_read",
        operation_description="One of your uploads.",
        responses={200: UploadObject, **errors(401, 404, 429)},
    )
    def get(self, request: Request, upload_id: str) -> Response:
        return Response(_shown(_find(request, upload_id)))


class PartsView(APIView):
    parser_classes = (FormParser,)

    @swagger_auto_schema(
        operation_id="v1_uploads_parts_create",
        operation_description="Add a part.",
        manual_parameters=[openapi.Parameter("data", openapi.IN_FORM, type=openapi.TYPE_FILE, required=True)],
        responses={200: PartObject, **errors(400, 401, 403, 404, 409, 413, 415, 429)},
    )
    def post(self, request: Request, upload_id: str) -> Response:
        upload = _find(request, upload_id)
        uploads.check_open(upload)
        quotas.check(caller(request), 0)
        with uploading.file_of(request, "data")[0] as spooled:
            blob = files.keep(spooled)
        part = uploads.add(upload, blob, number=None, now=timezone.now())
        part.refresh_from_db()
        return Response(
            {
                "id": f"{PART}{part.pk.hex}",
                "object": "upload.part",
                "created_at": int(part.created_at.timestamp()),
                "upload_id": f"{UPLOAD}{upload.pk.hex}",
            }
        )


class CompleteView(APIView):
    @swagger_auto_schema(
        operation_id="v1_uploads_complete",
        operation_description="Put the parts together. The file is looked at afterwards: see its `status`.",
        request_body=CompleteUpload,
        responses={200: UploadObject, **errors(400, 401, 403, 404, 409, 413, 415, 429)},
    )
    def post(self, request: Request, upload_id: str) -> Response:
        form = CompleteUpload(data=request.data)
        form.is_valid(raise_exception=True)
        upload, order = _find(request, upload_id), []
        for text in form.validated_data["part_ids"]:
            number = _uuid(text, PART)
            if number is None:
                raise InvalidRequest(f"{text[:50]!r} is no id of a part.", param="part_ids")
            order.append(number)
        blob = uploads.assemble(upload, order=order)
        _check_md5(blob, form.validated_data.get("md5"))
        about = About(name=upload.filename, filename=upload.filename)
        with transaction.atomic():
            uploads.complete(upload)
            dataset = datasets.add(Content(blob), about, owner=upload.owner, now=timezone.now())
            uploads.name_result(upload, dataset.uid)
        return Response(_shown(upload))


def _check_md5(blob: Blob, expected: str | None) -> None:
    if expected is None:
        return
    found = hashlib.md5(usedforsecurity=False)
    for piece in files.chunks(blob):
        found.update(piece)
    if found.hexdigest() != expected.lower():
        raise UploadIncomplete(
            f"The file's MD5 is {found.hexdigest()}, not the one that was said.", param="md5"
        )


class CancelView(APIView):
    @swagger_auto_schema(
        operation_id="v1_uploads_cancel",
        operation_description="Call an upload off; its parts go.",
        request_body=openapi.Schema(type=openapi.TYPE_OBJECT),
        responses={200: UploadObject, **errors(401, 403, 404, 409, 429)},
    )
    def post(self, request: Request, upload_id: str) -> Response:
        return Response(_shown(uploads.cancel(_find(request, upload_id))))
