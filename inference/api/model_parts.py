"""`/ai/models/upload/parts/…`: large models in parts.

An upload is one file: a zip of the whole model, or one of several that are completed together.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import files, uploads
from clients.api import parts
from clients.api.documentation import errors
from clients.authentication import caller
from clients.models import Upload
from inference import bringing, weights
from inference.api.model_uploads import AboutModel, UploadedModel, uploaded
from inference.archives import is_zip
from inference.models import Model
from marketplace import storage
from marketplace.errors import InvalidRequest
from marketplace.storage import Spooled

PURPOSE = "model"
_ANY_ZIP = ".zip"


class BeginModelUpload(parts.Announcement):
    name = serializers.CharField(
        max_length=255,
        help_text="The file's path in the model, such as model.safetensors; or a zip of the whole model.",
    )


class CompleteModelUpload(AboutModel):
    uploads = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        max_length=weights.MOST_FILES,
        help_text="Further uploads, whose files belong to the same model.",
    )


class ModelPartsView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_upload_parts_create",
        operation_description="Begin to upload a model's file in parts.",
        request_body=BeginModelUpload,
        responses={201: parts.PartsReply, **errors(400, 401, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        form = BeginModelUpload(data=request.data)
        form.is_valid(raise_exception=True)
        said: dict[str, Any] = form.validated_data
        said["filename"] = said.pop("name")
        if not said["filename"].lower().endswith(_ANY_ZIP):
            weights.check_name(said["filename"])
        return Response(parts.shown(parts.begin(request, purpose=PURPOSE, **said)), status=201)


class ModelUploadPartsView(parts.UploadView):
    purpose = PURPOSE


class ModelPartView(parts.PartView):
    purpose = PURPOSE


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
        found = [parts.find(request, each, purpose=PURPOSE) for each in ids]
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
