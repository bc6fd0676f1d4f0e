"""/client/limits/: what the account may spend and send; and the fields that API keys share with it."""

from collections.abc import Mapping
from typing import Any

from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import allowances
from clients.api.documentation import errors
from clients.authentication import ReadsOrIsLoggedIn, caller
from clients.models import Allowance
from marketplace.money import AmountField
from marketplace.parsing import Strict

_MOST = 2**31 - 1
_PER = {"input": "per million input tokens", "output": "per million output tokens", "request": "per request"}


def _price(per: str) -> Any:
    return AmountField(
        source=f"allowance.max_{per}_price",
        required=False,
        allow_null=True,
        help_text=f"The dearest that a node may be {_PER[per]}. null means any price.",
    )


def _budget(period: str, words: str) -> Any:
    return AmountField(
        source=f"allowance.budget_{period}",
        required=False,
        allow_null=True,
        help_text=f"The most that may be spent {words}. null means no limit.",
    )


def _rate(name: str, words: str) -> Any:
    return serializers.IntegerField(
        source=f"allowance.{name}",
        min_value=1,
        max_value=_MOST,
        required=False,
        allow_null=True,
        help_text=f"{words} null means no limit.",
    )


class UsedSerializer(serializers.Serializer[Allowance]):
    """Spent, or held for what still runs."""

    day = AmountField(read_only=True, help_text="Today (UTC).")
    month = AmountField(read_only=True, help_text="This month (UTC).")
    total = AmountField(read_only=True)

    def to_representation(self, allowance: Allowance) -> dict[str, Any]:
        return super().to_representation(allowances.used(allowance, now=timezone.now()))  # type: ignore[arg-type]


class LimitsSerializer(Strict, serializers.Serializer[Any]):
    """Limits of whatever has an `allowance`. What is left out stays as it is."""

    max_input_price = _price("input")
    max_output_price = _price("output")
    max_request_price = _price("request")
    budget_day = _budget("day", "per day (UTC)")
    budget_month = _budget("month", "per month (UTC)")
    budget_total = _budget("total", "altogether")
    requests_per_minute = _rate("requests_per_minute", "Requests per minute.")
    tokens_per_minute = _rate("tokens_per_minute", "Input and output tokens per minute.")
    concurrency = _rate("concurrency", "Requests at the same time.")
    used = UsedSerializer(
        source="allowance",
        read_only=True,
        allow_null=True,
        help_text="What counts against the budgets. null: no limit was ever set, and nothing is counted.",
    )


LIMIT_FIELDS = (*allowances.LIMITS, "used")


def changes(validated: Mapping[str, Any]) -> dict[str, Any]:
    """What a valid form sets: the limits beside whatever else it has."""
    return {
        **{name: value for name, value in validated.items() if name != "allowance"},
        **validated.get("allowance", {}),
    }


class Limits(APIView):
    permission_classes = (ReadsOrIsLoggedIn,)

    @swagger_auto_schema(
        operation_id="client_limits_read",
        tags=["client"],
        responses={200: LimitsSerializer, **errors(401)},
    )
    def get(self, request: Request) -> Response:
        """The limits of your account, and what is used of its budgets. Each API key may have limits of its own."""
        return _shown(allowances.of_account(caller(request)))

    @swagger_auto_schema(
        operation_id="client_limits_partial_update",
        tags=["client"],
        request_body=LimitsSerializer,
        responses={200: LimitsSerializer, **errors(400, 401, 403, 415)},
    )
    def patch(self, request: Request) -> Response:
        """Limit your account, all API keys and logins together; it takes effect at once.

        null takes a limit away. Only a person can do this, not an API key.
        """
        form = LimitsSerializer(data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        allowance = allowances.change(client_id=caller(request).pk, limits=changes(form.validated_data))
        return _shown(allowance)


def _shown(allowance: Allowance) -> Response:
    said = LimitsSerializer({"allowance": allowance}).data
    return Response(said if allowance.pk is not None else {**said, "used": None})
