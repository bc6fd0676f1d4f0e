"""`/data/upload/parts/…`: a large dataset in parts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import uploads
from clients.api import parts, uploading
from clients.api.documentation import errors
from finetune import datasets
from finetune.api import data
from finetune.api.data import AboutRequest, UploadReply
from finetune.datasets import Content

PURPOSE = "dataset"


class BeginRequest(parts.Announcement):
    name = serializers.CharField(
        max_length=255, help_text="The file's name. Its ending helps to tell its layout."
    )

    class Meta:
        ref_name = "DatasetUploadBegin"


class PartsView(APIView):
    @swagger_auto_schema(
        operation_id="data_upload_parts_create",
        operation_description="Begin to upload a dataset in parts.",
        request_body=BeginRequest,
        responses={201: parts.PartsReply, **errors(400, 401, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        form = BeginRequest(data=request.data)
        form.is_valid(raise_exception=True)
        said: dict[str, Any] = form.validated_data
        said["filename"] = uploading.clean_name(said.pop("name")) or "dataset"
        return Response(parts.shown(parts.begin(request, purpose=PURPOSE, **said)), status=201)


class OnePartsView(parts.UploadView):
    purpose = PURPOSE


class PartView(parts.PartView):
    purpose = PURPOSE


class CompleteView(APIView):
    @swagger_auto_schema(
        operation_id="data_upload_parts_complete",
        operation_description="Put the parts together. The dataset is looked at afterwards: see its metadata. "
        "Completing once more gives the same answer.",
        request_body=AboutRequest,
        responses={201: UploadReply, **errors(400, 401, 403, 404, 409, 413, 415, 429)},
    )
    def post(self, request: Request, upload_id: UUID) -> Response:
        upload = parts.find(request, upload_id, purpose=PURPOSE)
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
