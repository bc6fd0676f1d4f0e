"""`/v1/files…`: datasets as OpenAI's clients know them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api import files as downloads
from clients.api import uploading
from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER
from clients.api.uploading import FormParser
from clients.authentication import caller
from finetune import datasets
from finetune.api import data
from finetune.datasets import PURPOSE, About, InvalidDataset
from finetune.models import Dataset, DatasetStatus
from marketplace.errors import InvalidRequest
from marketplace.parsing import Strict

LIST_MOST = 10_000
_EXPIRES = "expires_after"
_STATUSES = {
    DatasetStatus.VALIDATING: "uploaded",
    DatasetStatus.READY: "processed",
    DatasetStatus.INVALID: "error",
}


class ExpiresAfter(Strict, serializers.Serializer[Any]):
    anchor = serializers.ChoiceField(["created_at"])
    seconds = serializers.IntegerField(min_value=3600, max_value=2_592_000)


class CreateFile(Strict, serializers.Serializer[Any]):
    purpose = serializers.ChoiceField(
        [PURPOSE],
        error_messages={"invalid_choice": f"Only files with the purpose {PURPOSE!r} are kept here."},
    )
    expires_after = ExpiresAfter(required=False)


class FileObject(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.ChoiceField(["file"])
    bytes = serializers.IntegerField()
    created_at = serializers.IntegerField(help_text="Seconds since 1970.")
    expires_at = serializers.IntegerField(allow_null=True)
    filename = serializers.CharField()
    purpose = serializers.CharField()
    status = serializers.ChoiceField(
        list(_STATUSES.values()),
        help_text="uploaded: it is being looked at; processed: it can be used; error.",
    )
    status_details = serializers.CharField(allow_null=True, help_text="What is wrong with it.")

    class Meta:
        ref_name = "OpenAIFile"


class FileList(serializers.Serializer[Any]):
    object = serializers.ChoiceField(["list"])
    data = FileObject(many=True)  # type: ignore[assignment]  # a field
    has_more = serializers.BooleanField()
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True)

    class Meta:
        ref_name = "OpenAIFileList"


class FileDeleted(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.ChoiceField(["file"])
    deleted = serializers.BooleanField()

    class Meta:
        ref_name = "OpenAIFileDeleted"


def shown(dataset: Dataset) -> dict[str, Any]:
    """A dataset as OpenAI's file object."""
    return {
        "id": dataset.uid,
        "object": "file",
        "bytes": dataset.size,
        "created_at": int(dataset.created_at.timestamp()),
        "expires_at": int(dataset.expires_at.timestamp()) if dataset.expires_at else None,
        "filename": dataset.filename,
        "purpose": dataset.purpose,
        "status": _STATUSES[DatasetStatus(dataset.status)],
        "status_details": InvalidDataset(dataset.errors, dataset.error_count).message
        if dataset.error_count
        else None,
    }


class FilesView(APIView):
    def get_parsers(self) -> list[Any]:
        return [FormParser()] if self.request is None or self.request.method == "POST" else []

    @swagger_auto_schema(
        operation_id="v1_files_create",
        operation_description="Upload a dataset. It is looked at line by line; where something is wrong, the answer "
        "says in which lines, and what to do. The same formats as at `/data/upload`.",
        manual_parameters=[
            openapi.Parameter("file", openapi.IN_FORM, type=openapi.TYPE_FILE, required=True),
            openapi.Parameter("purpose", openapi.IN_FORM, type=openapi.TYPE_STRING, enum=[PURPOSE], required=True),
            openapi.Parameter(
                f"{_EXPIRES}[anchor]", openapi.IN_FORM, type=openapi.TYPE_STRING, enum=["created_at"], required=False
            ),
            openapi.Parameter(
                f"{_EXPIRES}[seconds]", openapi.IN_FORM, type=openapi.TYPE_INTEGER, required=False,
                description="From 3600 (an hour) to 2592000 (30 days).",
            ),
            KEY_PARAMETER,
        ],
        responses={200: FileObject, **errors(400, 401, 403, 409, 413, 415, 429)},
    )  # fmt: skip
    def post(self, request: Request) -> HttpResponseBase:
        form = CreateFile(data=_nested(request))
        form.is_valid(raise_exception=True)
        spooled, filename = uploading.file_of(request)
        about = About(
            name=filename or "file", filename=filename, expires_after=life(form.validated_data.get(_EXPIRES))
        )
        return data.take(request, spooled, about, lambda dataset: Response(shown(dataset)))

    @swagger_auto_schema(
        operation_id="v1_files_list",
        operation_description="Your files.",
        manual_parameters=[
            openapi.Parameter("purpose", openapi.IN_QUERY, type=openapi.TYPE_STRING),
            openapi.Parameter(
                "limit",
                openapi.IN_QUERY,
                type=openapi.TYPE_INTEGER,
                minimum=1,
                maximum=LIST_MOST,
                default=LIST_MOST,
            ),
            openapi.Parameter(
                "after", openapi.IN_QUERY, "The last id of the page before.", type=openapi.TYPE_STRING
            ),
            openapi.Parameter(
                "order", openapi.IN_QUERY, type=openapi.TYPE_STRING, enum=["asc", "desc"], default="desc"
            ),
        ],
        responses={200: FileList, **errors(400, 401, 404, 429)},
    )
    def get(self, request: Request) -> Response:
        rows, limit = _page(request)
        page = list(rows[: limit + 1])
        found = [shown(each) for each in page[:limit]]
        return Response(
            {
                "object": "list",
                "data": found,
                "has_more": len(page) > limit,
                "first_id": found[0]["id"] if found else None,
                "last_id": found[-1]["id"] if found else None,
            }
        )


def _nested(request: Request) -> dict[str, Any]:
    """The fields of a form; `expires_after[seconds]` is one in another one."""
    found: dict[str, Any] = {}
    said: Any = request.data
    for name, value in said.items():
        outer, _, inner = name.partition("[")
        if outer == _EXPIRES and inner.endswith("]"):
            found.setdefault(_EXPIRES, {})[inner[:-1]] = value
        elif name not in request.FILES:
            found[name] = value
    return found


def life(said: dict[str, Any] | None) -> timedelta | None:
    """How long a file is to be kept; None: until it is deleted."""
    return timedelta(seconds=said["seconds"]) if said else None


def _page(request: Request) -> tuple[QuerySet[Dataset], int]:
    """The files from where a page begins, and how many it has. Raises InvalidRequest, DatasetNotFound."""
    said = request.query_params
    text = said.get("limit", str(LIST_MOST))
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= LIST_MOST):
        raise InvalidRequest(f"Expected a whole number from 1 to {LIST_MOST}.", param="limit")
    order = said.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Expected asc or desc.", param="order")
    rows = datasets.visible_to(caller(request)).order_by("id" if order == "asc" else "-id")
    if "purpose" in said:
        rows = rows.filter(purpose=said["purpose"].replace("\0", ""))
    if said.get("after"):
        last = datasets.find(said["after"], owner=caller(request))
        rows = rows.filter(**{"id__gt" if order == "asc" else "id__lt": last.pk})
    return rows, int(text)


class FileView(APIView):
    @swagger_auto_schema(
        operation_id="v1_files_read",
        operation_description="One of your files.",
        responses={200: FileObject, **errors(401, 404, 429)},
    )
    def get(self, request: Request, file_id: str) -> Response:
        return Response(shown(datasets.find(file_id, owner=caller(request))))

    @swagger_auto_schema(
        operation_id="v1_files_delete",
        operation_description="Delete a file. Not while a job uses it.",
        responses={200: FileDeleted, **errors(401, 403, 404, 409, 429)},
    )
    def delete(self, request: Request, file_id: str) -> Response:
        dataset = datasets.find(file_id, owner=caller(request))
        datasets.delete(dataset, now=timezone.now())
        return Response({"id": dataset.uid, "object": "file", "deleted": True})


class ContentView(APIView):
    @swagger_auto_schema(
        operation_id="v1_files_content",
        operation_description="The file as it was uploaded.",
        manual_parameters=downloads.RANGE_PARAMETERS,
        responses={**downloads.CONTENT, **errors(401, 404, 429)},
    )
    def get(self, request: Request, file_id: str) -> HttpResponseBase:
        return data.download(request, file_id)
