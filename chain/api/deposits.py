"""`/chain/deposits/`: money that comes in from a chain."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from chain import networks, registry
from chain.api.fields import Pages, Which, confirmations, rendered
from chain.ethereum import encoded
from chain.models import Deposit, DepositStatus, Network
from clients import ledger
from clients.api.documentation import errors
from clients.authentication import caller
from clients.models import AccountKind, Client
from marketplace.money import AmountField


class DepositSerializer(serializers.ModelSerializer[Deposit]):
    """Money that was sent to the Treasury for you."""

    network = serializers.CharField(source="network.name")
    amount = AmountField()
    currency = serializers.SerializerMethodField()
    status = serializers.ChoiceField(DepositStatus.choices)
    reason = serializers.CharField()
    confirmations = serializers.SerializerMethodField(
        help_text="So many blocks, its own included, are on it; 0: it is in no block any more."
    )
    wanted_confirmations = serializers.IntegerField(source="network.confirmations")

    class Meta:
        model = Deposit
        fields = (
            *(
                "id",
                "network",
                "transaction_hash",
                "block_number",
                "sender",
                "amount",
                "currency",
                "status",
                "reason",
            ),
            *("confirmations", "wanted_confirmations", "at", "credited_at"),
        )
        read_only_fields = ("id", "transaction_hash", "block_number", "sender", "at", "credited_at")

    def get_currency(self, deposit: Deposit) -> str:
        return settings.CURRENCY

    def get_confirmations(self, deposit: Deposit) -> int:
        number = deposit.block_number
        return 0 if number is None else confirmations(deposit.network, number)


class DepositFilter(Which):
    """Which deposits."""

    status = serializers.ChoiceField(DepositStatus.choices, required=False)


class DepositsViewSet(ListModelMixin, RetrieveModelMixin, GenericViewSet[Deposit]):
    """Each person's own."""

    queryset = Deposit.objects.none()
    serializer_class = DepositSerializer
    pagination_class = Pages

    def get_queryset(self) -> QuerySet[Deposit]:
        if getattr(self, "swagger_fake_view", False):
            return Deposit.objects.none()
        return registry.own_deposits(caller(self.request)).select_related("network")

    def filter_queryset(self, queryset: QuerySet[Deposit, Any]) -> QuerySet[Deposit, Any]:
        if self.action != "list":
            return queryset
        asked = DepositFilter.of(self.request)
        rows, said = asked.narrow(queryset), asked.validated_data
        return rows.filter(status=said["status"]) if "status" in said else rows

    @swagger_auto_schema(
        operation_id="chain_deposits_list",
        operation_description="Your deposits, the newest first.",
        query_serializer=DepositFilter,
        responses={200: DepositSerializer(many=True), **errors(400, 401)},
    )
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().list(request, *args, **kwargs)

    @swagger_auto_schema(
        operation_id="chain_deposits_read",
        operation_description="One of your deposits.",
        responses={200: DepositSerializer, **errors(401, 404)},
    )
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().retrieve(request, *args, **kwargs)


class DepositWay(serializers.Serializer[Any]):
    """How to send money here over one chain: call `deposit(account)` of the Treasury with the money as its value."""

    network = serializers.CharField()
    chain_id = serializers.IntegerField()
    treasury = serializers.CharField(help_text="The contract's address: what a transaction goes to.")
    account_number = serializers.IntegerField(
        help_text="Your account, which the call names: whoever sends it, you get it."
    )
    data = serializers.CharField(  # type: ignore[assignment]  # a field
        help_text="The call `deposit(account_number)`, ready as a transaction's data."
    )
    wallets = serializers.ListField(
        child=serializers.CharField(),
        help_text="From these linked wallets a plain sending to the Treasury, without data, is yours as well.",
    )
    minimum = serializers.CharField(help_text="There is none.")
    confirmations = serializers.IntegerField(help_text="After so many blocks it is credited.")
    currency = serializers.CharField(help_text="One coin of the chain is one of these.")


class DepositAddressView(APIView):
    @swagger_auto_schema(
        operation_id="chain_deposits_address",
        operation_description="How to put money into your account from a chain: one way for each network that has a "
        "Treasury. One coin of the chain is one token. What a wallet sends without naming an account is for who has "
        "linked that wallet (/client/wallets/); from a wallet that nobody has linked it waits until somebody does.",
        responses={200: openapi.Response("The ways.", DepositWay(many=True)), **errors(401)},
    )
    def get(self, request: Request) -> Response:
        owner = caller(request)
        return Response(
            [_way(network, owner) for network in networks.followed() if network.address("TREASURY")]
        )


def _way(network: Network, owner: Client) -> dict[str, Any]:
    account = ledger.account(owner.pk, AccountKind.SPENDABLE)
    said = {
        "network": network.name,
        "chain_id": network.chain_id,
        "treasury": network.address("TREASURY"),
        "account_number": account.pk,
        "data": encoded("Treasury", "deposit", account.pk),
        "wallets": registry.wallets(owner),
        "minimum": "0",
        "confirmations": network.confirmations,
        "currency": settings.CURRENCY,
    }
    return rendered(DepositWay(said))
