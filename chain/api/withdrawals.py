"""`/chain/withdrawals/`: money that goes out to a wallet."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema, swagger_serializer_method
from rest_framework import serializers
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from chain import allowances, networks, withdrawals
from chain.api.fields import AddressField, Pages, SentSerializer, Which, sent
from chain.models import Withdrawal, WithdrawalStatus
from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, once
from clients.authentication import ReadsOrIsLoggedIn, caller
from clients.models import AccountKind
from marketplace.money import AmountField
from marketplace.parsing import Strict

_KINDS = (AccountKind.SPENDABLE.value, AccountKind.EARNED.value)


class WithdrawalSerializer(serializers.ModelSerializer[Withdrawal]):
    """Money on its way to your wallet."""

    id = serializers.IntegerField(source="number")
    network = serializers.CharField(source="network.name")
    account = serializers.ChoiceField(_KINDS, source="account_kind", help_text="What it is taken from.")
    amount = AmountField()
    currency = serializers.SerializerMethodField()
    status = serializers.ChoiceField(WithdrawalStatus.choices)
    reason = serializers.CharField()
    transaction = serializers.SerializerMethodField()
    claimable = serializers.BooleanField(
        source="is_claimable",
        help_text="The wallet refused the money; the Treasury keeps it: call claim(address) there.",
    )

    class Meta:
        model = Withdrawal
        fields = (
            *("id", "network", "account", "address", "amount", "currency", "status", "reason", "transaction"),
            *("claimable", "requested_at", "decided_at", "ended_at"),
        )
        read_only_fields = ("address", "requested_at", "decided_at", "ended_at")

    def get_currency(self, withdrawal: Withdrawal) -> str:
        return settings.CURRENCY

    @swagger_serializer_method(serializer_or_field=SentSerializer(allow_null=True))
    def get_transaction(self, withdrawal: Withdrawal) -> dict[str, Any] | None:
        return sent(withdrawal.transaction)


class WithdrawalRequest(Strict, serializers.Serializer[Any]):
    """What to withdraw, and where to."""

    amount = AmountField(allow_zero=False)
    address = AddressField(help_text="One of your linked wallets (/client/wallets/).")
    network = serializers.CharField(max_length=40, required=False, help_text="The default one if left out.")

    class Meta:
        ref_name = "WithdrawalRequest"

    def get_fields(self) -> dict[str, Any]:
        # Words of Python cannot be written as attributes.
        source = serializers.ChoiceField(_KINDS, default=_KINDS[0], help_text="What it is taken from.")
        return super().get_fields() | {"from": source}


class WithdrawalFilter(Which):
    """Which withdrawals."""

    status = serializers.ChoiceField(WithdrawalStatus.choices, required=False)


class LimitsSerializer(serializers.Serializer[allowances.Limits]):
    """What you can withdraw now."""

    spendable = AmountField(
        help_text="Of what you can spend: what you have deposited or earned and not withdrawn, as far as it is free. "
        "Granted credit, and what others have sent you, can only be spent."
    )
    earned = AmountField(help_text="Of what you have earned.")
    minimum = AmountField(help_text="A withdrawal is of so much or more.")
    daily = AmountField(
        allow_null=True, help_text="So much on a day (UTC), altogether; null: as much as there is."
    )
    used_today = AmountField()
    approval_above = AmountField(
        allow_null=True, help_text="Larger withdrawals wait for an operator; null: none does."
    )
    is_frozen = serializers.BooleanField(help_text="Whether nothing is sent at the moment.")
    currency = serializers.SerializerMethodField()

    class Meta:
        ref_name = "WithdrawalLimits"

    def get_currency(self, limits: allowances.Limits) -> str:
        return settings.CURRENCY


class LimitsView(APIView):
    @swagger_auto_schema(
        operation_id="chain_withdrawals_limits",
        operation_description="How much you can withdraw now, and what else holds for withdrawals.",
        responses={200: LimitsSerializer, **errors(401)},
    )
    def get(self, request: Request) -> Response:
        return Response(LimitsSerializer(allowances.limits_of(caller(request), now=timezone.now())).data)


class WithdrawalsViewSet(ListModelMixin, RetrieveModelMixin, GenericViewSet[Withdrawal]):
    """Each person's own. Only a person asks for one, not an API key."""

    queryset = Withdrawal.objects.none()
    serializer_class = WithdrawalSerializer
    permission_classes = (ReadsOrIsLoggedIn,)
    pagination_class = Pages

    @property
    def throttle_scope(self) -> str | None:
        return "chain" if self.action == "create" else None

    def get_queryset(self) -> QuerySet[Withdrawal]:
        if getattr(self, "swagger_fake_view", False):
            return Withdrawal.objects.none()
        return withdrawals.of(caller(self.request)).select_related("network", "transaction")

    def filter_queryset(self, queryset: QuerySet[Withdrawal, Any]) -> QuerySet[Withdrawal, Any]:
        if self.action != "list":
            return queryset
        asked = WithdrawalFilter.of(self.request)
        rows, said = asked.narrow(queryset), asked.validated_data
        return rows.filter(status=said["status"]) if "status" in said else rows

    @swagger_auto_schema(
        operation_id="chain_withdrawals_list",
        operation_description="Your withdrawals, the newest first.",
        query_serializer=WithdrawalFilter,
        responses={200: WithdrawalSerializer(many=True), **errors(400, 401)},
    )
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().list(request, *args, **kwargs)

    @swagger_auto_schema(
        operation_id="chain_withdrawals_read",
        operation_description="One of your withdrawals.",
        responses={200: WithdrawalSerializer, **errors(401, 404)},
    )
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().retrieve(request, *args, **kwargs)

    @swagger_auto_schema(
        operation_id="chain_withdrawals_create",
        operation_description="Have money sent to one of your linked wallets; it is held from now on. Large ones wait "
        "for an operator. Only a person can do this, not an API key.",
        manual_parameters=[KEY_PARAMETER],
        request_body=WithdrawalRequest,
        responses={
            201: WithdrawalSerializer,
            **errors(400, 401, 403, 404, 409, 413, 415, 429, 503),
            402: openapi.Response("The account has not so much that is free and can be withdrawn."),
        },
    )
    @once
    def create(self, request: Request) -> Response:
        form = WithdrawalRequest(data=request.data)
        form.is_valid(raise_exception=True)
        said = form.validated_data
        network = networks.named(said["network"]) if "network" in said else networks.default()
        made = withdrawals.request(
            caller(request),
            amount=said["amount"],
            address=said["address"],
            network=network,
            account_kind=AccountKind(said["from"]),
            now=timezone.now(),
        )
        return Response(WithdrawalSerializer(made).data, status=201)

    @swagger_auto_schema(
        operation_id="chain_withdrawals_delete",
        operation_description="Take one back that is not on its way to the chain yet.",
        responses={
            204: "It is cancelled, and its money is free again.",
            **errors(401, 403, 404),
            409: openapi.Response("It is on its way, or has ended."),
        },
    )
    def destroy(self, request: Request, pk: int) -> Response:
        withdrawals.cancel(self.get_object(), now=timezone.now())
        return Response(status=204)
