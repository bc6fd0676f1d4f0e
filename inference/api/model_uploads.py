"""`/ai/models/upload`: a model of one's own, in one request. In parts: `model_parts`."""

from __future__ import annotations

import binascii
from binascii import a2b_base64
from collections.abc import Mapping
from contextlib import ExitStack
from typing import IO, Any, cast

import orjson
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.parsers import BaseParser, DataAndFiles
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api import uploading
from clients.api.documentation import errors
from clients.api.uploading import FILE, FileMissing, SpooledUpload
from clients.authentication import caller
from inference import bringing
from inference.bringing import SINGLE, About
from inference.models import Revision
from marketplace import storage
from marketplace.errors import InvalidRequest, PayloadTooLarge
from marketplace.parsing import JSONParser, Strict
from marketplace.storage import Spool, Spooled

SUCCESS = "Model successfully uploaded"
_MOST_CONFIG = 16_384


class ConfigField(serializers.JSONField):
    """A JSON object; in forms its text."""

    class Meta:
        swagger_schema_fields = {"type": "object", "additionalProperties": True}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        try:
            found = orjson.loads(data) if isinstance(data, str) else data
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict) or len(repr(found)) > _MOST_CONFIG or "\\x00" in repr(found):
            raise serializers.ValidationError(f"Expected an object of at most {_MOST_CONFIG} characters.")
        return found


class AboutModel(Strict, serializers.Serializer[Any]):
    """What can be said of a model."""

    model_name = serializers.CharField(
        max_length=255,
        help_text="It becomes `your-user-name/model_name`; the same again makes a new revision.",
    )
    description = serializers.CharField(max_length=10_000, required=False, allow_blank=True)
    config = ConfigField(required=False, help_text='{"framework", "version"} and what else there is to say.')
    base_model = serializers.CharField(
        max_length=255,
        required=False,
        help_text="What a LoRA adapter lies over, if its own files do not say.",
    )
    host = serializers.BooleanField(
        required=False,
        default=True,
        help_text="Have a node serve it; you alone may use it until you publish it.",
    )

    def about(self) -> About:
        """What was validated, in the domain's words."""
        said = self.validated_data
        return About(
            name=said["model_name"],
            description=said.get("description", ""),
            config=said.get("config", {}),
            base=said.get("base_model", ""),
            host=said["host"],
        )


class ModelUploadRequest(AboutModel):
    """A model as JSON."""

    file = serializers.CharField(
        trim_whitespace=False, help_text="In base64: a zip of the model's folder, or one .safetensors file."
    )

    class Meta:
        ref_name = "ModelUpload"


class UploadedModel(serializers.Serializer[Any]):
    model_id = serializers.CharField()
    status = serializers.CharField(help_text=f"A sentence: “{SUCCESS}”, and what to know beyond.")
    revision = serializers.IntegerField()
    digest = serializers.CharField(help_text="SHA-256 of the list of its files.")
    kind = serializers.CharField(help_text="full, or adapter")
    family = serializers.CharField(help_text="causal, embedding, or other: kept, but served by nobody")
    base_model = serializers.CharField(allow_null=True)


def uploaded(revision: Revision) -> dict[str, Any]:
    """The reply to whoever has brought a revision."""
    return {
        "model_id": revision.model.name,
        "status": SUCCESS,
        "revision": revision.number,
        "digest": revision.digest,
        "kind": revision.kind,
        "family": revision.family,
        "base_model": revision.base.model.name if revision.base else None,
    }


class _Several(FileUploadHandler):
    """The files of a form, each written straight to where it is kept until it is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[SpooledUpload] = []
        self._spool: Spool | None = None

    def new_file(self, field_name: str, *args: Any, **kwargs: Any) -> None:
        super().new_file(field_name, *args, **kwargs)
        self._spool = Spool(limit=settings.MAX_UPLOAD_BYTES)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self._spool is not None
        self._spool.write(raw_data)

    def file_complete(self, file_size: int) -> UploadedFile:
        assert self._spool is not None
        spool, self._spool = self._spool, None
        self.done.append(SpooledUpload(spool.finish(), self.file_name or ""))
        return self.done[-1]

    def upload_interrupted(self) -> None:
        if self._spool is not None:
            self._spool.abandon()
        for each in self.done:
            each.close()


class FilesParser(BaseParser):
    """multipart/form-data with any number of files. Raises InvalidRequest, PayloadTooLarge."""

    media_type = "multipart/form-data"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> DataAndFiles[Any, Any]:
        request = (parser_context or {})["request"]
        handler, is_whole = _Several(), False
        try:
            meta = {**request.META, "CONTENT_TYPE": media_type}
            data, files = MultiPartParser(meta, cast(Any, stream), [handler], "utf-8").parse()
            is_whole = True
        except MultiPartParserError as error:
            raise InvalidRequest(f"The form cannot be read: {error}", code="invalid_form") from None
        except SuspiciousOperation as error:
            raise PayloadTooLarge(f"The form has too much in it: {error}") from None
        finally:
            if not is_whole:
                handler.upload_interrupted()
        return DataAndFiles(data, files)


class ModelUploadView(APIView):
    parser_classes = (JSONParser, FilesParser)

    @swagger_auto_schema(
        operation_id="ai_models_upload",
        operation_description="Upload a model: as JSON with a zip file (or one .safetensors file) in base64, or as "
        "`multipart/form-data` with a zip file or all files in the field `file`, and the other fields beside them; a "
        "file in a folder of the model has its path as the name of its field. Taken are safetensors weights with their "
        "configuration and tokenizer (transformers, sentence-transformers), and LoRA adapters (PEFT) over a model that "
        "the marketplace keeps; never pickles or code. It is yours alone until you publish it, and nodes are asked to "
        "serve it.",
        request_body=ModelUploadRequest,
        consumes=["application/json", "multipart/form-data"],
        responses={201: UploadedModel, **errors(400, 401, 403, 409, 413, 415, 429)},
    )
    def post(self, request: Request) -> HttpResponseBase:
        with ExitStack() as stack:
            if (request.content_type or "").startswith(FilesParser.media_type):
                sent = _sent(request, stack)
                said = cast(Mapping[str, Any], request.data)
                fields = {name: value for name, value in said.items() if name not in request.FILES}
                form = AboutModel(data=fields)
                form.is_valid(raise_exception=True)
            else:
                form = ModelUploadRequest(data=request.data)
                form.is_valid(raise_exception=True)
                sent = {SINGLE: stack.enter_context(_decoded(form.validated_data["file"]))}
            revision = bringing.bring(sent, form.about(), owner=caller(request), now=timezone.now())
        return Response(UploadedModel(uploaded(revision)).data, status=201)


def _sent(request: Request, stack: ExitStack) -> dict[str, Spooled]:
    """The files of a form by their names in the model. Raises FileMissing, InvalidRequest."""
    found: dict[str, Spooled] = {}
    for field, files in request.FILES.lists():
        for file in files:
            assert not isinstance(file, str)
            name = field if "/" in field or "." in field else uploading.clean_name(file.name or "")
            if isinstance(file, SpooledUpload):
                spooled = file.spooled
            else:
                # Django has read the form before: to look for the token that sessions need.
                spooled = stack.enter_context(storage.spool(file.chunks(), limit=settings.MAX_UPLOAD_BYTES))
            if name in found:
                raise InvalidRequest(fields={field: [f"{name} was sent twice."]})
            found[name] = spooled
    if not found:
        raise FileMissing(fields={FILE: ["Send the model's files in this field."]})
    return found


def _decoded(text: str) -> Spooled:
    try:
        content = a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidRequest(fields={"file": ["This is not base64."]}) from None
    return storage.spool([content], limit=settings.MAX_UPLOAD_BYTES)
