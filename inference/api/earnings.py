"""`/llm_models/earnings/` and `/llm_models/missed/`: what a provider's nodes brought in, and what they did not get."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.authentication import caller
from clients.models import Client
from inference import earnings, missed
from inference.earnings import GROUPS, Line, Report, Scope
from inference.missed import FIXES, TITLES, Missed
from marketplace.errors import Forbidden
from marketplace.money import AmountField

USUAL_PERIOD = timedelta(days=30)
_ROW_ID: dict[str, Any] = {"min_value": 1, "max_value": 2**63 - 1, "required": False}


class ForOperators(Forbidden):
    code, message = "operators_only", "Only operators may ask for other providers' earnings."


class EarningsQuery(serializers.Serializer[Any]):
    """Which earnings."""

    since = serializers.DateTimeField(
        input_formats=["iso-8601", "%Y-%m-%d"],
        required=False,
        help_text="From the hour that this is in; thirty days ago if left out. A date, or an instant.",
    )
    until = serializers.DateTimeField(
        input_formats=["iso-8601", "%Y-%m-%d"],
        required=False,
        help_text="To the end of the hour that this is in; now if left out.",
    )
    group = serializers.ChoiceField(
        list(GROUPS), default="node", help_text="What to have a line for. `provider` is for operators."
    )
    node = serializers.IntegerField(**_ROW_ID, help_text="Only this node.")
    provider = serializers.IntegerField(**_ROW_ID, help_text="For operators: whose; yours if left out.")


class LineSerializer(serializers.Serializer[Line]):
    key = serializers.SerializerMethodField(
        help_text="The node's number, the model, the day, or the provider's number."
    )
    name = serializers.CharField(
        allow_blank=True, help_text="The node's name; empty where it is not about one node."
    )
    requests = serializers.IntegerField(help_text="That were paid.")
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    charged = AmountField(help_text="What consumers paid for requests.")
    fee = AmountField(help_text="The marketplace's part of that.")
    refunded = AmountField(help_text="What operators gave back of the provider's part.")
    lease_income = AmountField(help_text="What allocations brought in, after the fee.")
    training_income = AmountField(
        help_text="What trainings brought in, after the fee, less what operators gave back."
    )
    task_income = AmountField(
        help_text="Likewise what tasks from chains brought in; `requests` and tokens do not count these."
    )
    net = serializers.SerializerMethodField(help_text="All that is left to the provider.")
    busy_s = serializers.SerializerMethodField(help_text="Seconds that requests took, added up.")
    leased_s = serializers.SerializerMethodField(help_text="Seconds that nodes were allocated and paid.")
    utilisation = serializers.FloatField(
        allow_null=True,
        help_text="From 0 to 1: the time that requests and allocations took, of the time online times the requests "
        "that the nodes answer at once, as they are set up now.",
    )
    gpu_hours = serializers.FloatField(help_text="GPU-hours that were busy or allocated.")
    price_per_gpu_hour = serializers.SerializerMethodField(
        help_text="What requests and allocations brought in after fees in such an hour; null where there was none."
    )

    def get_key(self, line: Line) -> str | None:
        return None if line.key is None else str(line.key)

    def get_net(self, line: Line) -> str:
        return _amount(line.net)

    def get_busy_s(self, line: Line) -> float:
        return line.busy_ms / 1000

    def get_leased_s(self, line: Line) -> float:
        return line.leased_ms / 1000

    def get_price_per_gpu_hour(self, line: Line) -> str | None:
        return None if line.per_gpu_hour is None else _amount(line.per_gpu_hour)


def _amount(value: int) -> str:
    return AmountField().to_representation(value)


class EarningsAnswer(serializers.Serializer[Report]):
    since = serializers.DateTimeField(source="scope.since")
    until = serializers.DateTimeField(source="scope.until")
    group = serializers.CharField()
    currency = serializers.SerializerMethodField()
    total = LineSerializer()
    lines = LineSerializer(many=True)

    def get_currency(self, report: Report) -> str:
        return settings.CURRENCY


class EarningsView(APIView):
    @swagger_auto_schema(
        operation_id="llm_models_earnings",
        tags=["llm_models"],
        query_serializer=EarningsQuery,
        responses={
            200: EarningsAnswer,
            403: ForOperators.message,
            404: "The node is not yours.",
        },
    )
    def get(self, request: Request) -> Response:
        """What your nodes have brought in, up to this moment."""
        asked = EarningsQuery(data=request.query_params)
        asked.is_valid(raise_exception=True)
        wanted, now = asked.validated_data, timezone.now()
        scope = Scope.of(
            provider_id=_whose(caller(request), wanted),
            since=wanted.get("since", now - USUAL_PERIOD),
            until=wanted.get("until", now),
            node_id=wanted.get("node"),
        )
        return Response(EarningsAnswer(earnings.report(scope, group=wanted["group"], now=now)).data)


def _whose(me: Client, wanted: dict[str, Any]) -> int | None:
    """The provider that is asked about; None: all of them. Raises ForOperators."""
    provider_id: int | None = wanted.get("provider", me.pk)
    if not me.is_staff and (provider_id != me.pk or wanted["group"] == "provider"):
        raise ForOperators
    return wanted.get("provider") if wanted["group"] == "provider" else provider_id


class MissedQuery(serializers.Serializer[Any]):
    hours = serializers.IntegerField(min_value=1, max_value=24 * 31, default=24, help_text="How far back.")
    node = serializers.IntegerField(**_ROW_ID, help_text="Only this node.")


class MissedModelSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(allow_blank=True)
    requests = serializers.IntegerField()
    served = serializers.IntegerField(help_text="How many of them other nodes have answered.")


class MissedReasonSerializer(serializers.Serializer[Any]):
    reason = serializers.CharField(help_text="A word for programs.")
    title = serializers.CharField()
    requests = serializers.IntegerField()
    share = serializers.FloatField(help_text="Of all that were missed, from 0 to 1.")
    fix = serializers.CharField(help_text="What you can do about it.")


class MissedSerializer(serializers.Serializer[Missed]):
    node = serializers.IntegerField(source="node_id", allow_null=True)
    name = serializers.CharField(allow_blank=True, help_text="Empty for all nodes together.")
    summary = serializers.CharField(source="sentence", help_text="All in one sentence.")
    requests = serializers.IntegerField()
    reasons = serializers.SerializerMethodField()
    models = serializers.SerializerMethodField(help_text="The models asked for most that are missing here.")

    @staticmethod
    def get_reasons(missed: Missed) -> list[dict[str, Any]]:
        return [
            {
                "reason": reason.name.lower(),
                "title": TITLES[reason],
                "requests": count,
                "share": round(missed.share(reason), 4),
                "fix": FIXES[reason],
            }
            for reason, count in missed.most_first()
        ]

    @staticmethod
    def get_models(missed: Missed) -> list[dict[str, Any]]:
        return [
            {"model": model, "requests": count, "served": served}
            for model, (count, served) in missed.models.items()
        ]


class MissedAnswer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    summary = serializers.CharField(source="together.sentence")
    together = MissedSerializer(help_text="What none of your nodes got, though one of them might have.")
    nodes = MissedSerializer(many=True)


class MissedView(APIView):
    @swagger_auto_schema(
        operation_id="llm_models_missed",
        tags=["llm_models"],
        query_serializer=MissedQuery,
        responses={200: MissedAnswer, 404: "The node is not yours."},
    )
    def get(self, request: Request) -> Response:
        """The requests that your nodes did not get, by reason, as the nodes are set up now."""
        asked = MissedQuery(data=request.query_params)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        since = _hour(timezone.now() - timedelta(hours=wanted["hours"]))
        together, nodes = missed.by(caller(request).pk, since=since, node_id=wanted.get("node"))
        return Response(MissedAnswer({"since": since, "together": together, "nodes": nodes}).data)


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)
