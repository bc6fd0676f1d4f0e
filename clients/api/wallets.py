"""/client/wallets/: Ethereum addresses that are yours."""

from typing import Any

from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import wallets
from clients.api.documentation import errors
from clients.authentication import IsLoggedIn, ReadsOrIsLoggedIn, caller
from clients.models import Wallet


class WalletSerializer(serializers.ModelSerializer[Wallet]):
    class Meta:
        model = Wallet
        fields = ("id", "address", "linked_at")
        read_only_fields = fields


class ChallengeRequest(serializers.Serializer[Any]):
    address = serializers.CharField(max_length=42, help_text="0x and 40 hexadecimal digits.")
    chain_id = serializers.IntegerField(min_value=1, max_value=2**53 - 1, default=1)


class ChallengeAnswer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="To be signed as it is, by `personal_sign` (EIP-191).")
    expires_in = serializers.IntegerField(help_text="Seconds.")


class LinkRequest(serializers.Serializer[Any]):
    message = serializers.CharField(max_length=2000, trim_whitespace=False, help_text="As you got it.")
    signature = serializers.CharField(max_length=132, help_text="0x and 130 hexadecimal digits.")


class Challenge(APIView):
    permission_classes = (IsLoggedIn,)
    throttle_scope = "wallet"

    @swagger_auto_schema(
        operation_id="client_wallets_challenge",
        tags=["client"],
        request_body=ChallengeRequest,
        responses={200: ChallengeAnswer, **errors(400, 401, 403, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Get a message (EIP-4361) to sign with the wallet that you want to link. It is good once."""
        form = ChallengeRequest(data=request.data)
        form.is_valid(raise_exception=True)
        message = wallets.challenge(caller(request), **form.validated_data, now=timezone.now())
        return Response({"message": message, "expires_in": int(wallets.CHALLENGE_LIFE.total_seconds())})


class Wallets(APIView):
    permission_classes = (ReadsOrIsLoggedIn,)

    @swagger_auto_schema(
        operation_id="client_wallets_list",
        tags=["client"],
        responses={200: WalletSerializer(many=True), **errors(401)},
    )
    def get(self, request: Request) -> Response:
        """Your wallets. Others can send you money by their addresses."""
        return Response(WalletSerializer(wallets.of(caller(request)), many=True).data)

    @swagger_auto_schema(
        operation_id="client_wallets_create",
        tags=["client"],
        request_body=LinkRequest,
        responses={201: WalletSerializer, **errors(400, 401, 403, 409, 415, 503)},
    )
    def post(self, request: Request) -> Response:
        """Link the wallet that has signed a challenge's message."""
        form = LinkRequest(data=request.data)
        form.is_valid(raise_exception=True)
        wallet = wallets.link(caller(request), **form.validated_data)
        return Response(WalletSerializer(wallet).data, status=201)


class OneWallet(GenericAPIView[Wallet]):
    queryset = Wallet.objects.none()
    serializer_class = WalletSerializer
    permission_classes = (IsLoggedIn,)
    lookup_field = "id"

    @swagger_auto_schema(
        operation_id="client_wallets_delete",
        tags=["client"],
        responses={204: "The wallet is not linked any more.", **errors(401, 403, 404)},
    )
    def delete(self, request: Request, id: int) -> Response:
        """Unlink one of your wallets."""
        wallets.unlink(caller(request), wallet_id=id)
        return Response(status=204)
