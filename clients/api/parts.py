"""Large files in parts, each of which may be sent again until the upload is completed; `clients.uploads` over HTTP.

An app subclasses the views with its own `purpose`, begins uploads by `begin`, and says what completing one makes.
"""

from __future__ import annotations

from typing import Any, ClassVar
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
from clients.models import Upload, UploadPart
from marketplace.parsing import Strict

PART_BYTES = 64 * 1024 * 1024


class Announcement(Strict, serializers.Serializer[Any]):
    """A file that is to come; subclasses add its `name`."""

    size = serializers.IntegerField(min_value=1, max_value=2**63 - 1, help_text="Bytes of the whole file.")
    sha256 = serializers.RegexField(
        r"^[0-9a-fA-F]{64}$", required=False, help_text="Of the whole file, hexadecimal; checked at the end."
    )


class PartReply(serializers.Serializer[Any]):
    part_number = serializers.IntegerField(source="number", help_text="From 0.")
    size = serializers.IntegerField(source="blob.size", help_text="Bytes.")
    sha256 = serializers.CharField(source="blob_id", help_text="Hexadecimal.")

    class Meta:
        ref_name = "UploadPart"


class PartsReply(serializers.Serializer[Any]):
    """An upload, and which parts of it are there."""

    upload_id = serializers.UUIDField(source="upload.id")
    name = serializers.CharField(source="upload.filename")
    size = serializers.IntegerField(source="upload.size", help_text="Bytes, as announced.")
    status = serializers.CharField(source="upload.status", help_text="open, completed, cancelled")
    result = serializers.CharField(
        source="upload.result",
        help_text="What it has become: a dataset's id, or a model's name; empty until then.",
    )
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
        ref_name = "UploadParts"


def shown(upload: Upload) -> dict[str, Any]:
    """The reply about an upload."""
    parts = uploads.parts(upload)
    found = {
        "upload": upload,
        "parts": parts,
        "received_bytes": sum(part.blob.size for part in parts),
        "part_bytes": min(PART_BYTES, settings.MAX_UPLOAD_BYTES),
        "max_part_bytes": settings.MAX_UPLOAD_BYTES,
    }
    return dict(PartsReply(found).data)


def begin(request: Request, *, filename: str, size: int, purpose: str, sha256: str = "") -> Upload:
    """Announce a file of the caller's. Raises quotas.StorageFull, and what `uploads.begin` does."""
    quotas.check(caller(request), size)
    return uploads.begin(
        owner=caller(request),
        filename=filename,
        purpose=purpose,
        size=size,
        sha256=sha256,
        now=timezone.now(),
    )


def find(request: Request, upload_id: UUID, *, purpose: str) -> Upload:
    """The caller's. Raises uploads.UploadNotFound."""
    return uploads.find(upload_id, owner=caller(request), purpose=purpose)


class UploadView(APIView):
    """What has arrived of an upload, and calling it off."""

    purpose: ClassVar[str]

    @swagger_auto_schema(
        operation_description="Which parts have arrived: what is missing is to be sent (again).",
        responses={200: PartsReply, **errors(401, 404, 429)},
    )
    def get(self, request: Request, upload_id: UUID) -> Response:
        return Response(shown(find(request, upload_id, purpose=self.purpose)))

    @swagger_auto_schema(
        operation_description="Call an upload off.",
        responses={204: "It is called off.", **errors(401, 403, 404, 409, 429)},
    )
    def delete(self, request: Request, upload_id: UUID) -> Response:
        uploads.cancel(find(request, upload_id, purpose=self.purpose))
        return Response(status=204)


class PartView(APIView):
    """One part of an upload."""

    purpose: ClassVar[str]

    @swagger_auto_schema(
        operation_description="Send a part, as the body itself. Parts are put together by their numbers, which begin "
        "at 0; what is sent again under the same number takes the place of what was there.",
        request_body=openapi.Schema(type=openapi.TYPE_STRING, format=openapi.FORMAT_BINARY),
        consumes=["application/octet-stream"],
        responses={200: PartReply, **errors(400, 401, 403, 404, 409, 413, 429)},
    )
    def put(self, request: Request, upload_id: UUID, number: int) -> Response:
        part = _receive(request, find(request, upload_id, purpose=self.purpose), number)
        return Response(PartReply(part).data)


def _receive(request: Request, upload: Upload, number: int) -> UploadPart:
    uploads.check_open(upload)
    quotas.check(caller(request), 0)
    blob = files.keep_all(uploading.body_of(request), limit=settings.MAX_UPLOAD_BYTES)
    return uploads.add(upload, blob, number=number, now=timezone.now())
