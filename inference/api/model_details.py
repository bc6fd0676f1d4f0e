"""`/ai/models/{id}`: what is known of a model; for its owner also its revisions, their files, and how it is served."""

from __future__ import annotations

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
from clients.api.documentation import errors
from clients.authentication import caller
from inference import bringing, catalogue, hosting, packages, revisions
from inference.api.downloads import streamed
from inference.api.models import AiModelSerializer, who
from inference.bringing import InUse
from inference.models import Hosting, Model, Revision, RevisionFile
from inference.revisions import RevisionNotFound
from marketplace.errors import NotFound
from marketplace.paging import BareArrayPagination
from marketplace.parsing import Strict

TAR, ZIP = "tar", "zip"


class FileNotFound(NotFound):
    code, message = "file_not_found", "The revision has no such file."


class ModelFile(serializers.Serializer[Any]):
    path = serializers.CharField()
    size = serializers.IntegerField(source="blob.size", help_text="Bytes.")
    sha256 = serializers.CharField(source="blob_id", help_text="Hexadecimal.")

    class Meta:
        ref_name = "ModelFile"


class ModelRevision(serializers.Serializer[Any]):
    """The files of a model at one time."""

    number = serializers.IntegerField()
    revision = serializers.CharField(source="label", help_text="As offers, records and receipts call it.")
    digest = serializers.CharField(help_text="SHA-256 of the list of its files.")
    model_hash = serializers.CharField(help_text="0x…, its name in the broker's API.")
    kind = serializers.CharField(help_text="full, or adapter")
    family = serializers.CharField(help_text="causal, embedding or other")
    base_model = serializers.CharField(source="base.model.name", default=None, allow_null=True)
    size_bytes = serializers.IntegerField(source="size")
    origin = serializers.CharField(source="source", help_text="upload, training or import")
    config = serializers.DictField()
    created_at = serializers.DateTimeField()
    is_current = serializers.SerializerMethodField(help_text="Whether nodes are to serve it.")

    def get_is_current(self, revision: Revision) -> bool:
        return revision.model.revision_id == revision.pk

    class Meta:
        ref_name = "ModelRevision"


class ModelHosting(serializers.Serializer[Any]):
    """A node that serves it, or is to."""

    node = serializers.CharField(source="node.name")
    state = serializers.CharField(help_text="wanted, loading, serving or failed.")
    reason = serializers.CharField()
    revision = serializers.CharField(source="revision.label")
    since = serializers.DateTimeField(source="changed_at")


class AiModelDetails(AiModelSerializer):
    """A model as `/ai/models` lists it, and what else there is to know; null where that is for its owner alone."""

    owner = serializers.CharField(source="owner_name")
    kinds = serializers.ListField(child=serializers.CharField(), help_text="chat, completion, embedding")
    context_length = serializers.IntegerField(allow_null=True)
    published = serializers.BooleanField(help_text="Whether everybody may use it.")
    stands_for = serializers.CharField(
        source="target", help_text="What the name leads to, where it is an alias."
    )
    revision = ModelRevision(allow_null=True)
    hosted = serializers.BooleanField(source="is_hosted", help_text="Whether nodes are asked to serve it.")
    hosting = ModelHosting(many=True, allow_null=True)


class ChangeModel(Strict, serializers.Serializer[Any]):
    """What changes; what is left out stays as it is."""

    title = serializers.CharField(max_length=255, required=False, allow_blank=True)
    description = serializers.CharField(max_length=10_000, required=False, allow_blank=True)
    published = serializers.BooleanField(required=False, help_text="true: everybody may use it.")
    hosted = serializers.BooleanField(
        required=False, help_text="true: have nodes serve it; false: let them stop."
    )


class NothingToHost(InUse):
    code = "nothing_to_host"


def _own(request: Request, name: str) -> Model:
    """A model of the caller's; operators may have all. Raises ModelNotFound, for somebody else's too."""
    me = caller(request)
    rows = Model.objects.select_related("owner", "revision__base__model")
    model = (rows if me.is_staff else rows.filter(owner_id=me.pk)).filter(name=name.rstrip("/")).first()
    if model is None:
        # As it is answered for what does not exist, whoever asks.
        raise catalogue.ModelNotFound(name, [])
    return model


def _details(request: Request, name: str) -> dict[str, Any]:
    me = caller(request)
    entry = catalogue.load().resolve(name, **who(request))
    model = Model.objects.select_related("revision__base__model").filter(name=entry.name).first()
    is_own = model is not None and (model.owner_id == me.pk or me.is_staff)
    found = dict(AiModelSerializer(entry).data)
    found |= {
        "owner": entry.owner_name,
        "kinds": entry.kinds,
        "context_length": entry.context_length,
        "published": entry.published or entry.owner_id is None,
        "stands_for": entry.target,
        "hosted": entry.is_hosted,
        "revision": None,
        "hosting": None,
    }
    if model is not None and is_own:
        rows = Hosting.objects.filter(model=model).select_related("node", "revision")
        found["hosting"] = ModelHosting(rows, many=True).data
        if model.revision is not None:
            found["revision"] = ModelRevision(model.revision).data
    return found


class AiModelView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_read",
        operation_description="A model that you may use; its id may hold slashes.",
        responses={200: AiModelDetails, **errors(401, 404, 429)},
    )
    def get(self, request: Request, model: str) -> Response:
        return Response(_details(request, model.rstrip("/")))

    @swagger_auto_schema(
        operation_id="ai_models_update",
        operation_description="Change a model of yours: what it is called, whether everybody may use it, whether nodes "
        "serve it.",
        request_body=ChangeModel,
        responses={200: AiModelDetails, **errors(400, 401, 403, 404, 409, 413, 415, 429)},
    )
    def patch(self, request: Request, model: str) -> Response:
        found = _own(request, model)
        form = ChangeModel(data=request.data)
        form.is_valid(raise_exception=True)
        _change(found, form.validated_data)
        return Response(_details(request, found.name))

    @swagger_auto_schema(
        operation_id="ai_models_delete",
        operation_description="Delete a model of yours with all of its revisions. Not while a name leads to it, a job "
        "uses it, or another model was made from it.",
        responses={204: "It is deleted.", **errors(401, 403, 404, 409, 429)},
    )
    def delete(self, request: Request, model: str) -> Response:
        bringing.delete(_own(request, model))
        return Response(status=204)


def _change(model: Model, said: dict[str, Any]) -> None:
    now = timezone.now()
    texts = {key: said[key] for key in ("title", "description") if key in said}
    if texts:
        Model.objects.filter(pk=model.pk).update(**texts)
    if "published" in said:
        bringing.publish(model, published=said["published"], now=now)
    if said.get("hosted"):
        if model.revision is None or model.revision.family == "other":
            raise NothingToHost("The marketplace keeps no files of this model that nodes could serve.")
        hosting.want(model, now=now)
    elif "hosted" in said:
        hosting.drop(model)


class RevisionsView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_revisions_list",
        operation_description="The revisions of a model of yours, the newest first.",
        manual_parameters=BareArrayPagination().parameters(),
        responses={200: ModelRevision(many=True), **errors(400, 401, 404, 429)},
    )
    def get(self, request: Request, model: str) -> Response:
        rows = Revision.objects.filter(model=_own(request, model)).select_related("model", "base__model")
        pages = BareArrayPagination()
        page = pages.paginate_queryset(rows, request)
        return pages.get_paginated_response(ModelRevision(page, many=True).data)


def _revision(request: Request, model: str, number: int) -> Revision:
    """Raises ModelNotFound, RevisionNotFound."""
    found = Revision.objects.filter(model=_own(request, model), number=number).select_related("model").first()
    if found is None:
        raise RevisionNotFound
    return found


class ModelFilesView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_files_list",
        operation_description="The files of a revision of a model of yours.",
        responses={200: ModelFile(many=True), **errors(401, 404, 429)},
    )
    def get(self, request: Request, model: str, number: int) -> Response:
        rows: QuerySet[RevisionFile] = _revision(request, model, number).files.select_related("blob")
        return Response(ModelFile(rows, many=True).data)


class ModelFileView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_files_read",
        operation_description="A file of a revision of a model of yours.",
        manual_parameters=downloads.RANGE_PARAMETERS,
        responses={**downloads.CONTENT, **errors(401, 404, 429)},
    )
    def get(self, request: Request, model: str, number: int, path: str) -> HttpResponseBase:
        found = revisions.files_of(_revision(request, model, number)).get(path.rstrip("/"))
        if found is None:
            raise FileNotFound
        return downloads.reply(request, found, filename=path.rstrip("/").rsplit("/", 1)[-1])


class ModelArchiveView(APIView):
    @swagger_auto_schema(
        operation_id="ai_models_archive_read",
        operation_description="All files of a revision of a model of yours in one archive.",
        manual_parameters=[
            openapi.Parameter(
                "form",
                openapi.IN_QUERY,
                type=openapi.TYPE_STRING,
                enum=[TAR, ZIP],
                default=TAR,
                required=False,
            )
        ],
        responses={
            200: openapi.Response("The archive.", openapi.Schema(type=openapi.TYPE_FILE)),
            **errors(401, 404, 429),
        },
    )
    def get(self, request: Request, model: str, number: int) -> HttpResponseBase:
        revision = _revision(request, model, number)
        found = revisions.files_of(revision)
        folder = revision.model.name.rsplit("/", 1)[-1]
        if request.query_params.get("form") == ZIP:
            return streamed(request, packages.zip(found), size=None, filename=f"{folder}.zip")
        size = packages.tar_size(found, folder=folder)
        return streamed(request, packages.tar(found, folder=folder), size=size, filename=f"{folder}.tar")
