"""`/chain/networks/` and `/chain/services/…`: what clients must know before they speak to a chain. Public."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from chain import networks, services
from chain.models import Network
from clients.api.documentation import errors


class NetworkSerializer(serializers.Serializer[Any]):
    """A manifest, as `chain.client` reads it (CHAIN_NETWORK), and how far this marketplace has read the chain."""

    name = serializers.CharField()
    chain_id = serializers.IntegerField()
    rpc_url = serializers.CharField(
        help_text="A node that everybody may ask; empty: bring your own (CHAIN_RPC_URL)."
    )
    contracts = serializers.DictField(child=serializers.CharField(), help_text="Addresses by name: NEXUS, …")
    start_block = serializers.IntegerField()
    confirmations = serializers.IntegerField(
        help_text="So many blocks make what happened in the first of them final."
    )
    file_url = serializers.CharField(help_text="Where to leave what sources and tasks point to.")
    api_url = serializers.CharField()
    is_default = serializers.BooleanField(help_text="Whether it is meant where nobody says which.")
    head = serializers.IntegerField(help_text="The newest block that is known; -1: none yet.")
    cursor = serializers.IntegerField(help_text="All blocks up to this one are read.")
    lag = serializers.IntegerField(help_text="How many are known and not read.")
    final_block = serializers.IntegerField()
    paused = serializers.BooleanField()
    failing_since = serializers.DateTimeField(
        allow_null=True, help_text="Since when the chain cannot be read; null: it can."
    )

    class Meta:
        ref_name = "ChainNetwork"


class NetworksViewSet(ViewSet):
    """For everybody; a credential is not looked at."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @swagger_auto_schema(
        operation_id="chain_networks_list",
        operation_description="The chains that this marketplace follows; the first is the default.",
        security=[],
        responses={200: NetworkSerializer(many=True)},
    )
    def list(self, request: Request) -> Response:
        return Response([_shown(network) for network in networks.followed()])

    @swagger_auto_schema(
        operation_id="chain_networks_read",
        operation_description="One of them, by name or chain id.",
        security=[],
        responses={200: NetworkSerializer, 404: openapi.Response("No such chain is followed.")},
    )
    def retrieve(self, request: Request, name: str) -> Response:
        if not networks.manifests():
            raise networks.UnknownNetwork(networks.NoNetwork.message)
        return Response(_shown(networks.named(name)))


class ServiceView(APIView):
    """For everybody; a credential is not looked at."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @swagger_auto_schema(
        operation_id="chain_services_read",
        operation_description="What a source's metadata can point to that wants a model of this marketplace to work "
        "for it: the functions that tasks may name, with the JSON schemas of their inputs, and what a task should pay.",
        security=[],
        responses={
            200: openapi.Response("The service document.", openapi.Schema(type=openapi.TYPE_OBJECT)),
            **errors(404),
        },
    )
    def get(self, request: Request, model: str) -> Response:
        return Response(services.document(model))


def _shown(network: Network) -> dict[str, Any]:
    manifest = networks.manifest_of(network)
    said = {
        "name": network.name,
        "chain_id": network.chain_id,
        "rpc_url": manifest.public_url,
        "contracts": network.contracts,
        "start_block": network.start_block,
        "confirmations": network.confirmations,
        "file_url": f"{settings.PUBLIC_URL}/file/create",
        "api_url": settings.PUBLIC_URL,
        "is_default": networks.manifests()[0].chain_id == network.chain_id,
        "head": network.head_block,
        "cursor": network.cursor_block,
        "lag": network.lag,
        "final_block": network.final_block,
        "paused": network.is_paused,
        "failing_since": network.failing_since,
    }
    return NetworkSerializer(said).data
