"""`/v1/model…`: what the broker's API says of models that can be trained. Everybody may read it."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import orjson
from django.http import HttpResponse
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from finetune import bases
from finetune.api.broker import Open
from finetune.models import Method
from finetune.trainer import parameters
from inference.catalogue import ModelNotFound
from inference.models import Model, Revision

MOST_LISTED = 1000


class ModelObject(serializers.Serializer[Any]):
    name = serializers.CharField()
    hash = serializers.CharField(help_text="preTrainedModelHash of a task.")
    image = serializers.CharField(allow_blank=True)
    dataType = serializers.CharField()
    trainingScript = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    tokenizer = serializers.CharField()

    class Meta:
        ref_name = "BrokerModel"


def model_object(model: Model) -> dict[str, Any]:
    assert model.revision is not None
    return {
        "name": model.name,
        "hash": model.revision.model_hash,
        "image": "",
        "dataType": "text",
        "trainingScript": f"finetune.trainer ({model.revision.family})",
        "description": model.description or model.title,
        "tokenizer": model.name,
    }


def _find(said: str) -> Model:
    """Raises ModelNotFound."""
    found: Revision = bases.find(said, owner=None)
    model = bases.trainable(None).filter(pk=found.model_id).first()
    if model is None:
        raise ModelNotFound(said, [])
    return model


class ModelsView(Open):
    @swagger_auto_schema(
        operation_id="v1_model_list", tags=["broker"], responses={200: ModelObject(many=True)}
    )
    def get(self, request: Request) -> Response:
        """The models that everybody may have trained."""
        return Response([model_object(model) for model in bases.trainable(None)[:MOST_LISTED]])


class ModelView(Open):
    @swagger_auto_schema(
        operation_id="v1_model_read",
        tags=["broker"],
        responses={200: ModelObject, 400: "It cannot be trained."},
    )
    def get(self, request: Request, name: str) -> Response:
        """One model, by its name or its hash."""
        return Response(model_object(_find(name.rstrip("/"))))


class DescriptionView(Open):
    @swagger_auto_schema(
        operation_id="v1_model_description",
        tags=["broker"],
        responses={
            200: openapi.Response("A zip archive.", openapi.Schema(type=openapi.TYPE_FILE)),
            400: "It cannot be trained.",
        },
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """How a model is trained: formats of datasets, hyper-parameters, an example."""
        model = _find(name.rstrip("/"))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, text in _pages(model).items():
                archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), text)
        found = HttpResponse(file.getvalue(), content_type="application/zip")
        found["Content-Disposition"] = 'attachment; filename="model.zip"'
        return found


def _pages(model: Model) -> dict[str, bytes]:
    assert model.revision is not None
    method = Method(model.revision.family)
    formats = parameters.FORMATS_OF[method]
    text = (
        f"# {model.title or model.name}\n\n{model.description}\n\nhash: {model.revision.model_hash}\n\n"
        f"Trained by: {method.label}. Datasets: {', '.join(formats)}.\n"
        "`schema.json` has all hyper-parameters, `training.json` is an example.\n"
    )
    example = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.0002,
        "max_steps": -1,
    }
    if method == Method.CAUSAL:
        example["neftune_noise_alpha"] = 5
    indented = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return {
        "README.md": text.encode(),
        "schema.json": orjson.dumps(parameters.json_schema(method), option=indented),
        "training.json": orjson.dumps(example, option=indented),
    }
