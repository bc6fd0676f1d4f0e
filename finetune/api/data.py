"""`/data/…`: datasets, uploaded in one request, looked up, downloaded, deleted. In parts: `data_parts`."""

from __future__ import annotations

import binascii
from binascii import a2b_base64
from collections.abc import Callable
from typing import Any

from django.conf import settings
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
from clients.api.idempotency import KEY_PARAMETER, carry_out
from clients.api.uploading import FormParser
from clients.authentication import caller
from finetune import datasets
from finetune.api.fields import ObjectField
from finetune.datasets import About
from finetune.formats import KNOWN
from finetune.inspection import Told
from finetune.layouts import Layout
from finetune.models import Dataset, DatasetStatus, Format
from marketplace import storage
from marketplace.errors import InvalidRequest
from marketplace.paging import BareArrayPagination
from marketplace.parsing import JSONParser, Strict
from marketplace.storage import Spooled

SUCCESS = "Dataset successfully uploaded"
VALIDATING = "Dataset successfully uploaded; it is being validated"
SPLITS = ("train", "validation", "test")
_STATUSES = {
    DatasetStatus.READY: "available",
    DatasetStatus.VALIDATING: "validating",
    DatasetStatus.INVALID: "invalid",
}


class AboutRequest(Strict, serializers.Serializer[Any]):
    """What can be said of a dataset."""

    dataset_name = serializers.CharField(
        max_length=255, required=False, help_text="Without it: the file's name."
    )
    description = serializers.CharField(max_length=10_000, required=False, allow_blank=True)
    filename = serializers.CharField(
        max_length=255, required=False, help_text="Its ending helps to tell its layout."
    )
    format = serializers.ChoiceField(
        [*Format.values, *Layout], required=False,
        help_text=f"What the rows are ({', '.join(Format.values)}), or how they lie in the file ({', '.join(Layout)}). "
        "Without it both are recognised.",
    )  # fmt: skip
    split = serializers.ChoiceField(
        SPLITS,
        required=False,
        help_text="Of an archive that has several: which files to take. Without it: train.",
    )
    metadata = ObjectField(required=False, help_text="Kept, and given back.")

    def about(self, filename: str = "") -> About:
        """What was validated, in the domain's words."""
        said = self.validated_data
        filename = uploading.clean_name(said.get("filename", "")) or filename
        form = said.get("format")
        return About(
            name=said.get("dataset_name") or filename or "dataset",
            filename=filename,
            description=said.get("description", ""),
            metadata=said.get("metadata", {}),
            told=Told(
                format=Format(form) if form in Format.values else None,
                layout=Layout(form) if form in set(Layout) else None,
                split=said.get("split", ""),
            ),
        )


class UploadRequest(AboutRequest):
    """A dataset as JSON."""

    file = serializers.CharField(trim_whitespace=False, help_text="The file in base64.")

    class Meta:
        ref_name = "DatasetUpload"


class UploadReply(serializers.Serializer[Any]):
    dataset_id = serializers.CharField()
    status = serializers.CharField(help_text=f"A sentence: “{SUCCESS}”.")

    class Meta:
        ref_name = "DatasetUploaded"


class DatasetError(serializers.Serializer[Any]):
    line = serializers.IntegerField(help_text="From 1; 0: the file as a whole.")
    field = serializers.CharField()
    message = serializers.CharField()
    fix = serializers.CharField()
    file = serializers.CharField(required=False, help_text="In an archive: which file.")


class DatasetMetadata(serializers.Serializer[Any]):
    """What there is to know of a dataset."""

    dataset_id = serializers.CharField()
    dataset_name = serializers.CharField()
    description = serializers.CharField()
    format = serializers.CharField(help_text="Empty until it is known.")
    size_bytes = serializers.IntegerField()
    checksum = serializers.CharField(help_text="SHA-256 of the file, hexadecimal.")
    dataset_hash = serializers.CharField(
        help_text="0x…, keccak256 of the file: its name in the broker's API."
    )
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    status = serializers.ChoiceField(list(_STATUSES.values()))
    filename = serializers.CharField()
    purpose = serializers.CharField()
    summary = serializers.DictField(help_text="rows, tokens (estimated), duplicates, longest, bytes, scored.")
    errors = DatasetError(many=True, help_text="The first of them.")  # type: ignore[assignment]  # a field
    error_count = serializers.IntegerField()
    metadata = serializers.DictField(help_text="What its owner said.")


def shown(dataset: Dataset) -> dict[str, Any]:
    """A dataset's metadata."""
    inner = ("told", "tries", "tokens_by")
    return {
        "dataset_id": dataset.uid,
        "dataset_name": dataset.name,
        "description": dataset.description,
        "format": dataset.format,
        "size_bytes": dataset.size,
        "checksum": dataset.sha256,
        "dataset_hash": f"0x{dataset.keccak256}",
        "created_at": dataset.created_at,
        "expires_at": dataset.expires_at,
        "status": _STATUSES[DatasetStatus(dataset.status)],
        "filename": dataset.filename,
        "purpose": dataset.purpose,
        "summary": {name: value for name, value in dataset.summary.items() if name not in inner},
        "errors": dataset.errors,
        "error_count": dataset.error_count,
        "metadata": dataset.metadata,
    }


def take(
    request: Request, spooled: Spooled, about: About, render: Callable[[Dataset], Response]
) -> HttpResponseBase:
    """Make a dataset of a file that has come; with an Idempotency-Key, once."""
    with spooled:
        content = datasets.read(spooled, about, owner=caller(request))
        said = repr((about, spooled.sha256)).encode()

    def made() -> Response:
        return render(datasets.add(content, about, owner=caller(request), now=timezone.now()))

    return carry_out(request, made, said=lambda: said)


def _uploaded(dataset: Dataset) -> Response:
    is_ready = dataset.status == DatasetStatus.READY
    return Response({"dataset_id": dataset.uid, "status": SUCCESS if is_ready else VALIDATING}, status=201)


class UploadView(APIView):
    parser_classes = (JSONParser, FormParser)

    @swagger_auto_schema(
        operation_id="data_upload",
        operation_description="Upload a dataset: as JSON with the file in base64, or as `multipart/form-data` with "
        f"the field `file` and the other fields beside it. A file of up to {datasets.QUICK_BYTES} bytes is looked at "
        "line by line before it is kept; where something is wrong, the answer has the first errors with line, field "
        "and fix. "
        "Larger ones, and those sent in parts, are looked at afterwards; their metadata says what was found.\n\n"
        f"Rows: {KNOWN}. As JSON lines, a JSON list, CSV or TSV with a header, lines of text, or a zip file of these "
        "or of the folder that Hugging Face's `save_to_disk` makes.",
        request_body=UploadRequest,
        consumes=["application/json", "multipart/form-data"],
        manual_parameters=[KEY_PARAMETER],
        responses={201: UploadReply, **errors(400, 401, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> HttpResponseBase:
        is_form = (request.content_type or "").startswith(FormParser.media_type)
        form = (AboutRequest if is_form else UploadRequest)(
            data=_fields(request) if is_form else request.data
        )
        if is_form:
            spooled, filename = uploading.file_of(request)
        form.is_valid(raise_exception=True)
        if not is_form:
            spooled, filename = _decoded(form.validated_data["file"]), ""
        return take(request, spooled, form.about(filename), _uploaded)


def _fields(request: Request) -> dict[str, Any]:
    """The fields of a form beside its file. `metadata` is JSON there."""
    said: Any = request.data
    return {name: value for name, value in said.items() if name not in request.FILES}


def _decoded(text: str) -> Spooled:
    try:
        content = a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidRequest(fields={"file": ["This is not base64."]}) from None
    return storage.spool([content], limit=settings.MAX_UPLOAD_BYTES)


_STATUS = openapi.Parameter(
    "status", openapi.IN_QUERY, type=openapi.TYPE_STRING, enum=list(_STATUSES.values()), required=False
)


class DatasetsView(APIView):
    @swagger_auto_schema(
        operation_id="data_list",
        operation_description="Your datasets, the newest first.",
        manual_parameters=[_STATUS, *BareArrayPagination().parameters()],
        responses={200: DatasetMetadata(many=True), **errors(400, 401, 429)},
    )
    def get(self, request: Request) -> Response:
        found = datasets.visible_to(caller(request))
        wanted = request.query_params.get("status")
        if wanted is not None:
            status = next((each for each, word in _STATUSES.items() if word == wanted), None)
            if status is None:
                raise InvalidRequest(fields={"status": [f"Expected one of {', '.join(_STATUSES.values())}."]})
            found = found.filter(status=status)
        pages = BareArrayPagination()
        page = pages.paginate_queryset(found, request)
        return pages.get_paginated_response(DatasetMetadata([shown(each) for each in page], many=True).data)


class MetadataView(APIView):
    @swagger_auto_schema(
        operation_id="data_metadata",
        operation_description="What there is to know of one of your datasets: whether it can be used, and if not, why.",
        responses={200: DatasetMetadata, **errors(401, 404, 429)},
    )
    def get(self, request: Request, dataset_id: str) -> Response:
        return Response(DatasetMetadata(shown(datasets.find(dataset_id, owner=caller(request)))).data)


class DownloadView(APIView):
    @swagger_auto_schema(
        operation_id="data_download",
        operation_description="The file as it was uploaded.",
        manual_parameters=downloads.RANGE_PARAMETERS,
        responses={**downloads.CONTENT, **errors(401, 404, 429)},
    )
    def get(self, request: Request, dataset_id: str) -> HttpResponseBase:
        return download(request, dataset_id)


def download(request: Request, uid: str) -> HttpResponseBase:
    """A dataset's file for its owner. Raises DatasetNotFound."""
    dataset = datasets.find(uid, owner=caller(request))
    assert dataset.blob is not None
    return downloads.reply(request, dataset.blob, filename=dataset.filename or dataset.uid)


class DatasetView(APIView):
    @swagger_auto_schema(
        operation_id="data_delete",
        operation_description="Delete a dataset. Not while a job uses it.",
        responses={204: "It is deleted.", **errors(401, 403, 404, 409, 429)},
    )
    def delete(self, request: Request, dataset_id: str) -> Response:
        datasets.delete(datasets.find(dataset_id, owner=caller(request)), now=timezone.now())
        return Response(status=204)
