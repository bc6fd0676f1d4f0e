"""`/file/create` and `/ipfs/{cid}`: small files for sources, tasks and responses to point to. For everybody, as the
published clients of the document's network use it.
"""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chain import pins
from clients.api import files as downloads
from clients.api import uploading
from clients.api.documentation import errors
from clients.api.uploading import FormParser

# What a browser may show; all else is a download. None of these runs anything.
_SHOWN = ("application/json", "text/plain", "image/png", "image/jpeg", "image/gif", "image/webp")
# The content belongs to its name: it never changes, and it is a stranger's, so that nothing in it may act here.
_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class PinSerializer(serializers.Serializer[Any]):
    link = serializers.CharField(help_text="Where everybody can read it.")
    cid = serializers.CharField(help_text="Its name by its content: version 1, raw, SHA-256, in base32.")
    size = serializers.IntegerField(help_text="Bytes.")

    class Meta:
        ref_name = "Pin"


class CreateFile(APIView):
    """A credential is not needed; with one, tries are counted by account instead of by address."""

    permission_classes = (AllowAny,)
    parser_classes = (FormParser,)
    throttle_scope = "pin"

    @swagger_auto_schema(
        operation_id="file_create",
        tags=["chain"],
        operation_description="Keep a small file under the name of its content, for sources, tasks and responses to "
        "point to. The same content is the same file. It is dropped after some weeks, unless something on a chain "
        "points to it.",
        manual_parameters=[
            openapi.Parameter("file", openapi.IN_FORM, type=openapi.TYPE_FILE, required=True),
        ],
        responses={201: PinSerializer, **errors(400, 401, 403, 413, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        spooled, filename = uploading.file_of(request)
        content_type = request.FILES[uploading.FILE].content_type or ""
        with spooled:
            pins.check_size(spooled.size)
            content = spooled.path.read_bytes()
        pin = pins.take(content, filename=filename, content_type=content_type, now=timezone.now())
        return Response({"link": pins.url(pin), "cid": pin.cid, "size": pin.size}, status=201)


class Ipfs(APIView):
    """For everybody; a credential is not looked at."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @swagger_auto_schema(
        operation_id="ipfs_read",
        tags=["chain"],
        security=[],
        operation_description="A file by its content's name. It never changes.",
        manual_parameters=downloads.RANGE_PARAMETERS,
        responses={**downloads.CONTENT, **errors(404)},
    )
    def get(self, request: Request, cid: str) -> HttpResponseBase:
        pin = pins.find(cid)
        kind = pin.content_type.partition(";")[0].strip().lower()
        is_shown = kind in _SHOWN
        answer = downloads.reply(
            request,
            pin.blob,
            filename=pin.filename or pin.cid,
            content_type=kind if is_shown else downloads.BINARY,
        )
        for name, value in _HEADERS.items():
            answer[name] = value
        if is_shown:
            answer["Content-Disposition"] = "inline"
        return answer
