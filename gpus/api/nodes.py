"""`/llm_models/nodes/`: what a provider sees of their nodes, and how they stop and let them go again."""

from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from drf_yasg.utils import no_body, swagger_auto_schema
from rest_framework import serializers, status
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from clients.authentication import caller
from gpus import nodes, states
from gpus.api.fields import HARDWARE, MetricsField
from gpus.liveness import Liveness
from gpus.models import Heartbeat, Node, NodeState, Offer
from marketplace.paging import BareArrayPagination


class OfferSerializer(serializers.ModelSerializer[Offer]):
    name = serializers.CharField(source="model")
    kinds = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = Offer
        fields = ("name", "kinds", "context_length", "concurrency", "revision", "description", "min_vram_mib")


class HeartbeatSerializer(serializers.ModelSerializer[Heartbeat]):
    metrics = MetricsField(help_text="What the agent measured: temperatures, memory, utilisation.")

    class Meta:
        model = Heartbeat
        fields = ("at", "active_requests", "metrics")


class NodeSerializer(serializers.ModelSerializer[Node]):
    """A node as it stands now. The context's `found` has the state of each node by id."""

    user = serializers.IntegerField(source="owner_id", read_only=True)
    state = serializers.SerializerMethodField()
    reason = serializers.SerializerMethodField(help_text="Why it is in this state.")
    fix = serializers.SerializerMethodField(help_text="What its owner can do about it.")
    takes_work = serializers.SerializerMethodField()
    heartbeat = HeartbeatSerializer(read_only=True, allow_null=True)
    models = OfferSerializer(source="active_offers", many=True, read_only=True)

    class Meta:
        model = Node
        fields = (
            *("id", "user", "name", "machine_id", "token_prefix", "state", "reason", "fix", "takes_work"),
            *("state_since", "delivery", "push_url", "region", "trusted", "agent_version", "engine"),
            *(
                "drain_requested_at",
                "suspended_at",
                "message",
                *HARDWARE,
                "heartbeat",
                "models",
                "created_at",
            ),
        )
        read_only_fields = fields

    def get_state(self, node: Node) -> str:
        return self._found(node).state

    def get_reason(self, node: Node) -> str:
        return self._found(node).reason

    def get_fix(self, node: Node) -> str:
        return self._found(node).fix

    def get_takes_work(self, node: Node) -> bool:
        return self._found(node).takes_work

    def _found(self, node: Node) -> Liveness:
        found: dict[int, Liveness] = self.context["found"]
        return found.get(node.pk) or Liveness(NodeState.PENDING, "It is being removed.")


class NodeViewSet(ListModelMixin, RetrieveModelMixin, GenericViewSet[Node]):
    """Each provider their own nodes, operators all of them."""

    serializer_class = NodeSerializer
    pagination_class = BareArrayPagination
    queryset = (
        Node.objects.select_related("heartbeat")
        .prefetch_related(Prefetch("offers", Offer.objects.filter(active=True), to_attr="active_offers"))
        .order_by("id")
    )

    def get_queryset(self) -> QuerySet[Node]:
        rows, me = super().get_queryset(), self.request.user
        return rows if me.is_staff else rows.filter(owner_id=me.pk)

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        rows: list[Node] = [] if not args else args[0] if kwargs.get("many") else [args[0]]
        found = states.assess_all([node.pk for node in rows], now=timezone.now())
        return NodeSerializer(*args, **kwargs, context={"found": found})

    @swagger_auto_schema(
        operation_description="Ask the node to finish what runs and to take nothing new.",
        request_body=no_body,
        responses={200: NodeSerializer},
    )
    def drain(self, request: Request, pk: int) -> Response:
        nodes.request_drain(node_id=self.get_object().pk, by=caller(request), now=timezone.now())
        return self.retrieve(request, pk=pk)

    @swagger_auto_schema(
        operation_description="Let a node that was asked to drain take work again.",
        request_body=no_body,
        responses={200: NodeSerializer},
    )
    def resume(self, request: Request, pk: int) -> Response:
        nodes.cancel_drain(node_id=self.get_object().pk, by=caller(request), now=timezone.now())
        return self.retrieve(request, pk=pk)

    @swagger_auto_schema(
        operation_description="Remove the node; its token is void at once.", responses={204: ""}
    )
    def destroy(self, request: Request, pk: int) -> Response:
        nodes.deregister(node_id=self.get_object().pk, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
