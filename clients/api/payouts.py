"""/account/payouts: having what was earned paid out."""

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from clients import payouts
from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, once
from clients.authentication import ReadsOrIsLoggedIn, caller
from clients.models import Payout, PayoutStatus
from marketplace.money import AmountField
from marketplace.paging import BareArrayPagination


class PayoutSerializer(serializers.ModelSerializer[Payout]):
    payout_id = serializers.IntegerField(source="pk", read_only=True)
    amount = AmountField(allow_zero=False, help_text="Of what you earned; held from the request on.")
    currency = serializers.SerializerMethodField()
    destination = serializers.CharField(
        max_length=200, help_text="Where to: a wallet address, or bank details."
    )
    status = serializers.ChoiceField(PayoutStatus.choices, read_only=True)
    reason = serializers.CharField(
        read_only=True, allow_blank=True, help_text="How it was paid, or why it was refused."
    )

    class Meta:
        model = Payout
        fields = (
            "payout_id", "amount", "currency", "destination", "status", "reason", "requested_at", "decided_at",
        )  # fmt: skip
        read_only_fields = ("requested_at", "decided_at")

    def get_currency(self, payout: Payout) -> str:
        return settings.CURRENCY


class OwnPayouts(GenericAPIView[Payout]):
    queryset = Payout.objects.none()
    serializer_class = PayoutSerializer
    permission_classes = (ReadsOrIsLoggedIn,)
    pagination_class = BareArrayPagination
    lookup_field = "id"

    def get_queryset(self) -> QuerySet[Payout]:
        if getattr(self, "swagger_fake_view", False):
            return Payout.objects.none()
        return payouts.of(caller(self.request))


class Payouts(OwnPayouts):
    @swagger_auto_schema(
        operation_id="account_payouts_list",
        tags=["account"],
        responses={200: PayoutSerializer(many=True), **errors(400, 401)},
    )
    def get(self, request: Request) -> Response:
        """Your payouts, newest first."""
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(PayoutSerializer(page, many=True).data)

    @swagger_auto_schema(
        operation_id="account_payouts_create",
        tags=["account"],
        manual_parameters=[KEY_PARAMETER],
        request_body=PayoutSerializer,
        responses={
            201: PayoutSerializer,
            **errors(400, 401, 403, 409, 415),
            402: openapi.Response("You have not earned so much, or it is held for other payouts."),
        },
    )
    @once
    def post(self, request: Request) -> Response:
        """Ask for earnings to be paid out; an operator decides. Only a person can do this, not an API key."""
        form = PayoutSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        return Response(
            PayoutSerializer(payouts.request(caller(request), **form.validated_data)).data, status=201
        )


class OnePayout(OwnPayouts):
    @swagger_auto_schema(
        operation_id="account_payouts_read",
        tags=["account"],
        responses={200: PayoutSerializer, **errors(401, 404)},
    )
    def get(self, request: Request, id: int) -> Response:
        """One of your payouts."""
        return Response(PayoutSerializer(self.get_object()).data)

    @swagger_auto_schema(
        operation_id="account_payouts_delete",
        tags=["account"],
        responses={
            204: "It is cancelled, and its money is free again.",
            **errors(401, 403, 404),
            409: openapi.Response("It is paid, refused or cancelled already."),
        },
    )
    def delete(self, request: Request, id: int) -> Response:
        """Take a request back that nobody has decided yet."""
        payouts.cancel(self.get_object(), now=timezone.now())
        return Response(status=204)
