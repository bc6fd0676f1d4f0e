"""`/llm_models/register/` and `/llm_models/deregister/`: how a machine joins and leaves."""

from dataclasses import replace
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.authentication import caller
from clients.models import Client
from gpus import nodes, push_urls
from gpus.api.fields import HARDWARE, HardwareSerializer, HostingField, ModelsField, TrainingField, UserField
from gpus.models import Delivery, NodeState
from gpus.nodes import Joining, Registered
from gpus.offers import ModelSpec
from gpus.protocol import CONNECT_PATH
from marketplace.errors import InvalidRequest
from marketplace.money import AmountField


class RegisterSerializer(HardwareSerializer):
    """The document's fields, and what else an agent can say of its machine."""

    gpu_info = serializers.CharField(
        max_length=1000, allow_blank=True, help_text='GPU names, joined with "; ".'
    )
    user = UserField(required=False, help_text="The owner's account, by default the caller's.")
    model_name = serializers.CharField(
        max_length=255, required=False, help_text="What the node serves, where `models` is not given."
    )
    models = ModelsField(required=False, help_text="By default one, from `model_name`: chat and completion.")
    machine_id = serializers.CharField(
        max_length=128,
        required=False,
        help_text="The same id gives the same node again, with a new token. "
        "By default it follows from owner, hardware and models.",
    )
    name = serializers.CharField(max_length=100, required=False)
    delivery = serializers.ChoiceField(
        Delivery.choices, required=False, help_text="By default push where `push_url` is given, else pull."
    )
    push_url = serializers.CharField(max_length=push_urls.MAX_LENGTH, required=False, allow_blank=True)
    region = serializers.CharField(max_length=50, required=False, allow_blank=True)
    agent_version = serializers.CharField(max_length=50, required=False, allow_blank=True)
    engine = serializers.CharField(max_length=200, required=False, allow_blank=True)
    hour_price = AmountField(required=False, help_text="Per GPU and hour, for allocations.")
    training = TrainingField(help_text="If it trains models too: what, how many at once, on which device.")
    training_price = AmountField(required=False, help_text="Per million tokens trained on.")
    hosting = HostingField(help_text="If it serves models that the marketplace keeps, when asked to.")

    class Meta(HardwareSerializer.Meta):
        fields = (
            *("user", "model_name", *HARDWARE, "machine_id", "name", "delivery", "push_url", "region"),
            *("agent_version", "engine", "hour_price", "training", "training_price", "hosting", "models"),
        )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs.get("model_name") and not attrs.get("models"):
            raise serializers.ValidationError({"model_name": ["This field is required."]})
        return attrs

    def joining(self) -> Joining:
        """What was validated, in the domain's words."""
        said = dict(self.validated_data)
        named = said.pop("models", None) or [said["model_name"]]
        said.pop("model_name", None)
        said.pop("user", None)
        hardware = {name: said.pop(name) for name in HARDWARE}
        models = [
            replace(model, only_price=False) if isinstance(model, ModelSpec) else ModelSpec(model)
            for model in named
        ]
        return Joining(hardware=hardware, models=models, **said)


class RegisteredSerializer(serializers.Serializer[Registered]):
    """The reply to a machine that has joined. The token is shown this once."""

    node_token = serializers.CharField(source="token")
    node_id = serializers.IntegerField(source="node.pk")
    name = serializers.CharField(source="node.name")
    state = serializers.ChoiceField(NodeState.choices, source="found.state")
    reason = serializers.CharField(source="found.reason")
    fix = serializers.CharField(source="found.fix", allow_blank=True)
    delivery = serializers.ChoiceField(Delivery.choices, source="node.delivery")
    connect_url = serializers.SerializerMethodField(
        help_text="Where an agent that pulls opens its WebSocket."
    )
    push_secret = serializers.SerializerMethodField(
        help_text="What the marketplace shows when it calls the node; null where the node pulls."
    )
    heartbeat_interval_s = serializers.SerializerMethodField()
    minimum_agent_version = serializers.SerializerMethodField()
    messages = serializers.ListField(child=serializers.CharField())

    def get_push_secret(self, joined: Registered) -> str | None:
        return nodes.push_secret(joined.node) if joined.node.delivery == Delivery.PUSH else None

    def get_connect_url(self, _joined: Registered) -> str:
        # The address under which the agent has just reached us: behind proxies and tunnels the only one sure to work.
        return "ws" + self.context["request"].build_absolute_uri(CONNECT_PATH).removeprefix("http")

    def get_heartbeat_interval_s(self, _joined: Registered) -> float:
        return settings.HEARTBEAT_INTERVAL_S

    def get_minimum_agent_version(self, _joined: Registered) -> str:
        return settings.MINIMUM_AGENT_VERSION


class RegisterView(APIView):
    @swagger_auto_schema(
        operation_id="llm_models_register_create",
        operation_description="A machine joins, or joins again. Whoever is no provider yet asks to be one "
        "by this; the node gets work when an operator has approved its owner.",
        request_body=RegisterSerializer,
        responses={201: RegisteredSerializer},
    )
    def post(self, request: Request) -> Response:
        asked = RegisterSerializer(data=request.data, context={"request": request})
        asked.is_valid(raise_exception=True)
        owner = _owner(asked.validated_data.get("user"), caller(request))
        joined = nodes.register(owner=owner, joining=asked.joining(), now=timezone.now())
        return Response(
            RegisteredSerializer(joined, context={"request": request}).data, status=status.HTTP_201_CREATED
        )


def _owner(user: int | None, me: Client) -> Client:
    return me if user in (None, me.pk) else Client.objects.get(pk=user)


class TokenMissing(InvalidRequest):
    # The clients of this API look for exactly this sentence, under exactly this key.
    code, message = "node_token_missing", "node_token is required for de-registration."

    def __init__(self) -> None:
        super().__init__(fields={"error": self.message})


class DeregisterView(APIView):
    """The node's token is the only credential here; the owner's account is not asked for."""

    authentication_classes = ()
    permission_classes = ()
    swagger_faults = {
        400: TokenMissing.message,
        404: nodes.NodeNotFound.message,
        413: "The request body is too large.",
        415: "The content type is not supported; send application/json.",
    }

    @swagger_auto_schema(
        operation_id="llm_models_deregister_delete",
        operation_description="De-registers a GPU node by deleting it from the database. Authenticates by "
        "node_token, in the body, as a query parameter, or as `Authorization: Token <node token>`.",
        manual_parameters=[openapi.Parameter("node_token", openapi.IN_QUERY, type=openapi.TYPE_STRING)],
        responses={204: ""},
        security=[{"Token": []}, {}],
    )
    def delete(self, request: Request) -> Response:
        node = nodes.by_token(_node_token(request))
        nodes.deregister(node_id=node.pk, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


def _node_token(request: Request) -> str:
    body = request.data if request.META.get("CONTENT_LENGTH") not in (None, "", "0") else {}
    said = body.get("node_token") if isinstance(body, dict) else None
    token = said or request.query_params.get("node_token") or _from_header(request)
    if not isinstance(token, str) or not token:
        raise TokenMissing
    return token


def _from_header(request: Request) -> str | None:
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token.strip() if scheme.lower() in ("token", "bearer") else None
