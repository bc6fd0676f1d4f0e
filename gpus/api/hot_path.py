"""What Swagger shows of the heartbeat. It is answered by `gpus.heartbeats`, not here."""

from typing import Any

from django.urls import path
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gpus.api.fields import HostingField, MetricsField, ModelsField, TrainingField
from gpus.models import NodeState
from marketplace.money import AmountField


class HeartbeatRequest(serializers.Serializer[Any]):
    """What an agent says every few seconds. Only the token is needed; what is left out stays as it was."""

    node_token = serializers.CharField(help_text="Or in the header: `Authorization: Token <node token>`.")
    models = ModelsField(required=False)
    status = serializers.ChoiceField(["online", "busy", "draining", "maintenance"], required=False)
    active_requests = serializers.IntegerField(required=False, min_value=0, max_value=2**31 - 1)
    agent_version = serializers.CharField(required=False, max_length=50)
    engine = serializers.CharField(required=False, max_length=200)
    training = TrainingField(help_text="As it registered; null: it trains no longer.")
    training_price = AmountField(required=False, help_text="Per million tokens trained on.")
    hosting = HostingField(help_text="As it registered; null: it hosts no longer.")
    metrics = MetricsField(required=False, help_text="gpu_utilization, vram_used_mb, temperature_c, …")


class HeartbeatReply(serializers.Serializer[Any]):
    """What the marketplace wants the agent to know."""

    status = serializers.CharField(help_text="ok")
    last_seen = serializers.DateTimeField()
    next_heartbeat_in = serializers.FloatField(help_text="Seconds.")
    state = serializers.ChoiceField(NodeState.choices)
    reason = serializers.CharField(help_text="Why the node is in this state.")
    fix = serializers.CharField(allow_blank=True, help_text="What its owner can do about it.")
    drain = serializers.BooleanField(help_text="Finish what runs, then stop.")
    suspended = serializers.BooleanField()
    maintenance = serializers.BooleanField()
    minimum_agent_version = serializers.CharField()
    messages = serializers.ListField(child=serializers.CharField(), help_text="For the owner to read.")
    errands = serializers.IntegerField(
        help_text="When it is another number than before, there is something at GET /llm_models/errands/."
    )


class HeartbeatView(APIView):
    """Never called: the hot path has answered before Django is asked."""

    authentication_classes = ()
    permission_classes = ()
    swagger_faults = {404: "No node has this token.", 503: "The database is away; call again."}

    @swagger_auto_schema(
        operation_id="llm_models_heartbeat_create",
        operation_description="A node's sign of life. Authenticates by node_token.",
        request_body=HeartbeatRequest,
        responses={200: HeartbeatReply},
    )
    def post(self, request: Request) -> Response:
        raise NotImplementedError


patterns = [path("llm_models/heartbeat/", HeartbeatView.as_view())]
