"""The catalogue, as each API lists it: `/v1/models`, `/ai/models`, `/llm_models/all-models/`."""

from typing import Any

from django.conf import settings
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.authentication import caller
from clients.credentials import Principal
from inference import catalogue
from inference.catalogue import Entry, Pricing
from marketplace import money
from marketplace.money import AmountField
from marketplace.paging import BareArrayPagination


class PartsSerializer(serializers.Serializer[Any]):
    input_price = AmountField(help_text="Per million prompt tokens.")
    output_price = AmountField(help_text="Per million completion tokens.")
    request_price = AmountField(help_text="Per request.")


class PricingSerializer(PartsSerializer):
    """The lowest prices of nodes that can answer now, part by part, and the highest."""

    currency = serializers.CharField()
    highest = PartsSerializer()

    def to_representation(self, instance: Pricing) -> dict[str, Any]:
        lowest, highest = (
            {part: money.render(amount) for part, amount in parts.items()}
            for parts in (instance.lowest, instance.highest)
        )
        return {"currency": settings.CURRENCY, **lowest, "highest": highest}


class OpenAIModelSerializer(serializers.Serializer[Any]):
    """OpenAI's model object, and what a client of a marketplace wants to know besides."""

    id = serializers.CharField(source="name")
    object = serializers.ReadOnlyField(default="model")
    created = serializers.SerializerMethodField(help_text="Seconds since the epoch.")
    owned_by = serializers.CharField(source="owner_name")
    kinds = serializers.ListField(child=serializers.CharField(), help_text="chat, completion, embedding")
    context_length = serializers.IntegerField(allow_null=True, help_text="Tokens, where a node says so.")
    available = serializers.BooleanField(help_text="Whether a node could answer now.")
    pricing = PricingSerializer(allow_null=True, help_text="null where no node could answer now.")

    def get_created(self, entry: Entry) -> int:
        return int(entry.created_at.timestamp())

    def to_representation(self, instance: Entry) -> dict[str, Any]:
        return {**super().to_representation(instance), "object": "model"}


class OpenAIModelListSerializer(serializers.Serializer[Any]):
    object = serializers.CharField(default="list")
    data: Any = OpenAIModelSerializer(many=True)


class AiModelSerializer(serializers.Serializer[Any]):
    """A model as `/ai/models` lists it."""

    model_id = serializers.CharField(source="name")
    model_name = serializers.SerializerMethodField()
    framework = serializers.CharField(allow_blank=True)
    version = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    description = serializers.CharField(allow_blank=True)
    is_available = serializers.BooleanField(source="available")
    pricing = PricingSerializer(allow_null=True)

    def get_model_name(self, entry: Entry) -> str:
        return entry.title or entry.name


class LlmModelSerializer(serializers.Serializer[Any]):
    """A model as `/llm_models/all-models/` lists it."""

    model_id = serializers.CharField(source="name")
    name = serializers.SerializerMethodField()
    description = serializers.CharField(allow_blank=True)
    min_gpu_memory = serializers.SerializerMethodField(
        help_text="GB of GPU memory, null where no node says so."
    )
    is_available = serializers.BooleanField(source="available")
    pricing = PricingSerializer(allow_null=True)

    def get_name(self, entry: Entry) -> str:
        return entry.title or entry.name

    def get_min_gpu_memory(self, entry: Entry) -> float | None:
        return None if entry.min_vram_mib is None else round(entry.min_vram_mib / 1024, 1)


class ModelsView(APIView):
    @swagger_auto_schema(
        operation_id="v1_models_list",
        operation_description="The models you may use. OpenAI's list object.",
        responses={200: OpenAIModelListSerializer},
    )
    def get(self, request: Request) -> Response:
        found = OpenAIModelSerializer(_visible(request), many=True)
        return Response({"object": "list", "data": found.data})


class ModelView(APIView):
    @swagger_auto_schema(
        operation_id="v1_models_read",
        operation_description="One model; its id may hold slashes.",
        responses={200: OpenAIModelSerializer},
    )
    def get(self, request: Request, model: str) -> Response:
        entry = catalogue.load().resolve(model.rstrip("/"), **who(request))
        return Response(OpenAIModelSerializer(entry).data)


class AiPagination(BareArrayPagination):
    default_limit = 50
    max_limit = 100


class AiModelsView(APIView):
    pagination_class = AiPagination

    @swagger_auto_schema(
        operation_id="ai_models_list",
        operation_description="The models you may use, a page at a time; the total is in X-Total-Count.",
        manual_parameters=AiPagination().parameters(),
        responses={200: AiModelSerializer(many=True)},
    )
    def get(self, request: Request) -> Response:
        pages = AiPagination()
        page = pages.paginate_queryset(_visible(request), request)
        return pages.get_paginated_response(AiModelSerializer(page, many=True).data)


class AllModelsView(APIView):
    @swagger_auto_schema(
        operation_id="llm_models_all-models_list",
        operation_description="The models you may use.",
        responses={200: LlmModelSerializer(many=True)},
    )
    def get(self, request: Request) -> Response:
        return Response(LlmModelSerializer(_visible(request), many=True).data)


def _visible(request: Request) -> list[Entry]:
    return catalogue.load().visible_to(**who(request))


def who(request: Request) -> dict[str, Any]:
    """What the catalogue wants to know of the caller."""
    me = caller(request)
    allowed = request.auth.allowed_models if isinstance(request.auth, Principal) else ()
    return {"client_id": me.pk, "is_staff": me.is_staff, "allowed": allowed}
