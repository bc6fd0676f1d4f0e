"""/account/balance and /account/transfer."""

from typing import Any

from django.conf import settings
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import transfers
from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, once
from clients.authentication import caller
from clients.credentials import Principal
from clients.models import AccountKind
from clients.transfers import Balances
from marketplace import money
from marketplace.money import AmountField


class BalanceAnswer(serializers.Serializer[Balances]):
    balance = AmountField(source="spendable", help_text="What you can spend now.")
    currency = serializers.SerializerMethodField()
    held = AmountField(help_text="Reserved for what still runs.")
    earned = AmountField(help_text="What your nodes earned and you can have paid out, or move to `balance`.")
    earned_held = AmountField(help_text="Reserved for payouts that an operator has not decided yet.")
    staked = AmountField()
    account_id = serializers.CharField(source="account.name", help_text="What others can send money to.")

    def get_currency(self, balances: Balances) -> str:
        return settings.CURRENCY


class TransferRequest(serializers.Serializer[Any]):
    recipient = serializers.CharField(
        max_length=254,
        required=False,
        help_text="A username, a user's number, an account (`acc_…`), a linked wallet (`0x…`), or an e-mail address "
        "that its owner has confirmed. `to` is the same. With `from: earned` your own account, if left out.",
    )
    amount = AmountField(allow_zero=False, help_text="Tokens, with up to 18 decimals.")
    memo = serializers.CharField(
        max_length=1024, required=False, allow_blank=True, default="", help_text="The recipient reads it."
    )

    def get_fields(self) -> dict[str, Any]:
        # Words of Python cannot be written as attributes.
        source = serializers.ChoiceField(
            [AccountKind.SPENDABLE.value, AccountKind.EARNED.value],
            default=AccountKind.SPENDABLE.value,
            help_text="What it is taken from.",
        )
        return super().get_fields() | {"from": source}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and "to" in data:
            if data.get("recipient", data["to"]) != data["to"]:
                raise serializers.ValidationError({"to": ["This is another one than `recipient`."]})
            data = {**data, "recipient": data["to"]}
        if isinstance(data, dict) and data.get("currency", settings.CURRENCY) != settings.CURRENCY:
            raise serializers.ValidationError({"currency": [f"Only {settings.CURRENCY} can be sent."]})
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "recipient" not in attrs and attrs["from"] != AccountKind.EARNED:
            raise serializers.ValidationError({"recipient": ["This field is required."]}, code="required")
        return attrs


class TransferAnswer(serializers.Serializer[Any]):
    transaction_id = serializers.CharField()
    status = serializers.ChoiceField(["completed"])
    recipient = serializers.CharField(help_text="As you named it.")
    amount = serializers.CharField()
    currency = serializers.CharField()
    memo = serializers.CharField(allow_blank=True)
    balance = serializers.CharField(help_text="What you can spend now.")


class Balance(APIView):
    @swagger_auto_schema(
        operation_id="account_balance_read", tags=["account"], responses={200: BalanceAnswer, **errors(401)}
    )
    def get(self, request: Request) -> Response:
        """What you have, in decimal strings of whole tokens."""
        return Response(BalanceAnswer(transfers.balances(caller(request))).data)


class Transfer(APIView):
    throttle_scope = "transfer"

    @swagger_auto_schema(
        operation_id="account_transfer_create",
        tags=["account"],
        manual_parameters=[KEY_PARAMETER],
        request_body=TransferRequest,
        responses={
            200: TransferAnswer,
            **errors(400, 401, 402, 403, 409, 415),
            404: openapi.Response("There is no such recipient, or the account is closed."),
            429: openapi.Response("Too many transfers, or the API key's or the account's budget is used up."),
        },
    )
    @once
    def post(self, request: Request) -> Response:
        """Send money, at once and for good. What an API key sends counts against its budgets."""
        form = TransferRequest(data=request.data)
        form.is_valid(raise_exception=True)
        said, payer = form.validated_data, caller(request)
        to = transfers.recipient(said["recipient"]) if "recipient" in said else payer
        made = transfers.send(
            payer=payer,
            to=to,
            amount=said["amount"],
            memo=said["memo"],
            source=AccountKind(said["from"]),
            api_key_id=request.auth.api_key_id if isinstance(request.auth, Principal) else None,
        )
        left = transfers.balances(payer)
        return Response(
            {
                "transaction_id": made.reference,
                "status": "completed",
                "recipient": said.get("recipient", left.account.name),
                "amount": money.render(made.amount),
                "currency": settings.CURRENCY,
                "memo": made.memo,
                "balance": money.render(left.spendable),
            }
        )
