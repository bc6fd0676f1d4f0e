"""`/llm_models/nodes/{id}/prices/`: what a provider asks on a node."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import terms
from clients.api.documentation import errors
from clients.authentication import caller
from clients.models import Terms
from gpus import prices
from gpus.models import Node, Offer, Price
from gpus.offers import MAX_MODELS
from gpus.prices import HOUR, PARTS, TRAINING, Wish, Wishes
from marketplace import money
from marketplace.errors import InvalidRequest
from marketplace.money import AmountField
from marketplace.paging import BareArrayPagination
from marketplace.parsing import Strict


class PriceParts(Strict, serializers.Serializer[Any]):
    """A model's price; what is left out stays as it is."""

    input_price = AmountField(required=False, help_text="Per million prompt tokens.")
    output_price = AmountField(required=False, help_text="Per million completion tokens.")
    request_price = AmountField(required=False, help_text="Per request.")


class ModelPriceParts(PriceParts):
    name = serializers.CharField(max_length=255)


class ChangePrices(Strict, serializers.Serializer[Any]):
    """What changes: for single models, for all others that the node offers, and per GPU and hour."""

    models = ModelPriceParts(many=True, required=False)
    all_models = PriceParts(required=False)
    hour_price = AmountField(required=False, help_text="Per GPU and hour, for allocations.")
    training_price = AmountField(required=False, help_text="Per million tokens trained on.")

    def validate_models(self, models: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(models) > MAX_MODELS:
            raise serializers.ValidationError([f"A node offers at most {MAX_MODELS} models."])
        return models

    def wishes(self) -> Wishes:
        """What was validated, in the domain's words."""
        said = self.validated_data
        models = {each["name"]: _wish(each) for each in said.get("models", ())}
        return Wishes(_wish(said.get("all_models", {})), models, said.get(HOUR), said.get(TRAINING))


def _wish(said: dict[str, Any]) -> Wish:
    return Wish(**{part: said[part] for part in PARTS if part in said})


class ModelPrice(serializers.Serializer[Any]):
    """What a model costs here now. `asked` differs where the operator's limits have changed since."""

    name = serializers.CharField()
    input_price = AmountField(help_text="Per million prompt tokens.")
    output_price = AmountField(help_text="Per million completion tokens.")
    request_price = AmountField(help_text="Per request.")
    asked = PriceParts(allow_null=True, help_text="null: the marketplace's default applies.")
    since = serializers.DateTimeField(allow_null=True)


class Limit(serializers.Serializer[Any]):
    min = AmountField(allow_null=True)
    max = AmountField(allow_null=True)


class Limits(serializers.Serializer[Any]):
    """What may be asked; null does not limit."""

    input_price = Limit()
    output_price = Limit()
    request_price = Limit()
    hour_price = Limit()
    training_price = Limit()

    class Meta:
        ref_name = "PriceLimits"


class NodePrices(serializers.Serializer[Any]):
    """What a node costs now, and between which limits its owner can set that."""

    currency = serializers.CharField()
    fee_bps = serializers.IntegerField(help_text="The marketplace's share of what is charged; 100 is 1 %.")
    hour_price = AmountField(help_text="Per GPU and hour, for allocations.")
    hour_price_asked = AmountField(allow_null=True, help_text="null: the marketplace's default applies.")
    training_price = AmountField(
        allow_null=True,
        help_text="Per million tokens trained on. null: trainings cost what their hours cost.",
    )
    training_price_asked = AmountField(allow_null=True, help_text="null: none was asked.")
    models = ModelPrice(many=True)
    limits = Limits()


class PastPrice(serializers.ModelSerializer[Price]):
    """A price from `at` on. `model` is empty for the price of a GPU-hour, and for that of training."""

    input_price = AmountField()
    output_price = AmountField()
    request_price = AmountField()
    hour_price = AmountField()
    training_price = AmountField()

    class Meta:
        model = Price
        fields = ("id", "model", *PARTS, HOUR, TRAINING, "at")
        read_only_fields = fields


def _own_node(request: Request, pk: int) -> Node:
    me, rows = caller(request), Node.objects.select_related("hour_price", "training_price")
    found: Node = get_object_or_404(rows if me.is_staff else rows.filter(owner_id=me.pk), pk=pk)
    return found


class PricesView(APIView):
    """The owner's, and operators'."""

    @swagger_auto_schema(
        operation_id="llm_models_nodes_prices_read",
        operation_description="What your node costs now.",
        responses={200: NodePrices, **errors(401, 404, 429)},
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(_shown(_own_node(request, pk)))

    @swagger_auto_schema(
        operation_id="llm_models_nodes_prices_update",
        operation_description="Ask other prices from now on. What is left out stays as it is, and requests that run "
        "keep the price that they began with.",
        request_body=ChangePrices,
        responses={200: NodePrices, **errors(400, 401, 403, 404, 413, 415, 429)},
    )
    def put(self, request: Request, pk: int) -> Response:
        node = _own_node(request, pk)
        asked = ChangePrices(data=request.data)
        asked.is_valid(raise_exception=True)
        if not asked.validated_data:
            raise InvalidRequest(
                fields={"models": ["Say what is to change: models, all_models, hour_price, training_price."]}
            )
        prices.change(node_id=node.pk, wishes=asked.wishes(), now=timezone.now())
        return Response(_shown(_own_node(request, pk)))


def _shown(node: Node) -> dict[str, Any]:
    told = terms.current()
    offers = Offer.objects.filter(node=node, active=True).select_related("price").order_by("model")
    asked = None if node.hour_price is None else node.hour_price.hour_price
    return {
        "currency": settings.CURRENCY,
        "fee_bps": told.fee_bps,
        "hour_price": money.render(prices.hour_rate(asked, told)),
        "hour_price_asked": _rendered(asked),
        **_training(node, told),
        "models": [_model(offer, told) for offer in offers],
        "limits": {
            part: {end: _rendered(getattr(told, f"{end}_{part}")) for end in ("min", "max")}
            for part in (*PARTS, HOUR, TRAINING)
        },
    }


def _training(node: Node, told: Terms) -> dict[str, str | None]:
    asked = None if node.training_price is None else node.training_price.training_price
    by_the_hour = asked is None and node.hour_price is not None
    return {
        "training_price": None if by_the_hour else money.render(prices.training_rate(asked, told)),
        "training_price_asked": _rendered(asked),
    }


def _model(offer: Offer, told: Terms) -> dict[str, Any]:
    rates, price = prices.of(offer.price, told), offer.price
    return {
        "name": offer.model,
        **{part: money.render(rate) for part, rate in zip(PARTS, rates[:3], strict=True)},
        "asked": None if price is None else {part: money.render(getattr(price, part)) for part in PARTS},
        "since": None if price is None else price.at,
    }


def _rendered(amount: int | None) -> str | None:
    return None if amount is None else money.render(amount)


class PriceHistoryView(APIView):
    pagination_class = BareArrayPagination

    @swagger_auto_schema(
        operation_id="llm_models_nodes_prices_history",
        operation_description="All prices that were ever asked on your node, the newest first.",
        manual_parameters=BareArrayPagination().parameters(),
        responses={200: PastPrice(many=True), **errors(400, 401, 404, 429)},
    )
    def get(self, request: Request, pk: int) -> Response:
        pages = BareArrayPagination()
        page = pages.paginate_queryset(prices.history(node_id=_own_node(request, pk).pk), request)
        return pages.get_paginated_response(PastPrice(page, many=True).data)
