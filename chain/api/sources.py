"""`/chain/sources/`: services on the chains, and having one published without a wallet of one's own."""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from chain import networks, registry, services, sources
from chain.api.fields import (
    METHODS,
    Pages,
    PlaceSerializer,
    SentSerializer,
    Which,
    WhichOne,
    method,
    page_of,
    placed,
    rendered,
    sent,
)
from chain.models import DeliveryMethod, Serving, Source, SourceOrder, SourceStatus
from chain.registry import SourceView
from chain.sources import About, Conditions
from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, body_of, carry_out
from clients.authentication import caller
from marketplace import money
from marketplace.money import AmountField
from marketplace.parsing import Strict

_STATUSES = {status.name.lower(): status for status in SourceStatus}


class SourceOrderSerializer(serializers.Serializer[Any]):
    """How far a source is that this marketplace publishes for you."""

    id = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    publication = SentSerializer()

    class Meta:
        ref_name = "ChainSourceOrder"


class ServingSerializer(serializers.Serializer[Any]):
    """Whether this marketplace's nodes work for a source."""

    status = serializers.ChoiceField(Serving.choices)
    model = serializers.CharField(help_text="Which model answers; empty: the one that a task names.")
    reason = serializers.CharField(help_text="For whom it concerns.")
    registered = serializers.BooleanField(
        help_text="Whether our provider is registered with it on the chain."
    )

    class Meta:
        ref_name = "ChainServing"


class SourceSerializer(serializers.Serializer[Any]):
    """A source on a chain. While it is on its way there, `address` and `place` are null."""

    network = serializers.CharField()
    address = serializers.CharField(allow_null=True)
    client = serializers.CharField(help_text="The address that has published it.")
    name = serializers.CharField(help_text="From its metadata, as its publisher has written it.")
    description = serializers.CharField(help_text="Likewise.")
    metadata_url = serializers.CharField()
    optional_params_url = serializers.CharField()
    environments = serializers.ListField(child=serializers.ChoiceField([*sources.ENVIRONMENTS]))
    min_payment = serializers.CharField(allow_null=True)
    min_available_lockup = serializers.CharField(allow_null=True)
    max_expiry_duration = serializers.CharField(allow_null=True, help_text="Seconds, in digits; 0: any.")
    privacy_enabled = serializers.BooleanField()
    delivery_method = serializers.ChoiceField(METHODS)
    status = serializers.ChoiceField([*_STATUSES], allow_null=True)
    published_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField(allow_null=True)
    place = PlaceSerializer(allow_null=True)
    order = SourceOrderSerializer(allow_null=True, help_text="Yours, if it was published for you here.")
    service = ServingSerializer(allow_null=True, help_text="null: nobody has thought of serving it yet.")

    class Meta:
        ref_name = "ChainSource"


class SourceFilter(Which):
    """Which sources."""

    status = serializers.ChoiceField([*_STATUSES], required=False)
    mine = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Only those that were published for you here or by a linked wallet of yours. Those on their way to "
        "the chain are found by the numbers of their orders.",
    )


class SourceRequest(Strict, serializers.Serializer[Any]):
    """A source to publish."""

    name = serializers.CharField(max_length=200)
    description = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    logo_url = serializers.URLField(max_length=500, required=False, allow_blank=True, default="")
    model = serializers.CharField(
        max_length=255,
        required=False,
        help_text="A model of this marketplace that shall answer: its service document stands where the docker-compose "
        "files would.",
    )
    cpu = serializers.URLField(
        max_length=500, required=False, allow_blank=True, default="", help_text="Of a docker-compose file."
    )
    nvidia = serializers.URLField(max_length=500, required=False, allow_blank=True, default="")
    amd = serializers.URLField(max_length=500, required=False, allow_blank=True, default="")
    min_payment = AmountField(required=False, default=0)
    min_available_lockup = AmountField(required=False, default=0)
    max_expiry_duration = serializers.IntegerField(
        required=False, default=86400, min_value=60, max_value=30 * 86400, help_text="Seconds."
    )
    delivery_method = serializers.ChoiceField(METHODS, required=False, default=METHODS[0])
    network = serializers.CharField(max_length=40, required=False, help_text="The default one if left out.")

    class Meta:
        ref_name = "ChainSourceRequest"

    def about(self) -> About:
        """What was validated, in the domain's words. Raises ModelNotFound."""
        said = self.validated_data
        urls = {name: said[name] for name in sources.ENVIRONMENTS}
        if "model" in said:
            url = services.document(said["model"])["url"]
            urls |= {name: urls[name] or url for name in ("cpu", "nvidia")}
        return About(name=said["name"], description=said["description"], logo_url=said["logo_url"], **urls)

    def conditions(self) -> Conditions:
        said = self.validated_data
        return Conditions(
            delivery_method=DeliveryMethod(METHODS.index(said["delivery_method"])),
            min_payment=said["min_payment"],
            min_available_lockup=said["min_available_lockup"],
            max_expiry_s=said["max_expiry_duration"],
        )


_SOURCE = openapi.Parameter(
    "source", openapi.IN_PATH, "An address, or the number of one of your orders.", type=openapi.TYPE_STRING
)


class SourcesViewSet(GenericViewSet[Source]):
    """Everybody who is signed in reads them; approved providers and operators have some published."""

    queryset = Source.objects.none()
    serializer_class = SourceSerializer
    pagination_class = Pages

    @property
    def throttle_scope(self) -> str | None:
        return "chain" if self.action == "create" else None

    @swagger_auto_schema(
        operation_id="chain_sources_list",
        operation_description="Sources on the chains, the newest first.",
        query_serializer=SourceFilter,
        responses={200: SourceSerializer(many=True), **errors(400, 401)},
    )
    def list(self, request: Request) -> Response:
        asked = SourceFilter.of(request)
        rows, said = asked.narrow(Source.objects.select_related("network")), asked.validated_data
        if "status" in said:
            rows = rows.filter(status=_STATUSES[said["status"]])
        if said["mine"]:
            rows = rows.filter(registry.own_sources(caller(request)))
        views = registry.sources(page_of(self, rows), caller(request))
        return self.get_paginated_response([shown(view) for view in views])

    @swagger_auto_schema(
        operation_id="chain_sources_read",
        operation_description="One source, by its address or by the number of your order.",
        manual_parameters=[_SOURCE],
        query_serializer=WhichOne,
        responses={200: SourceSerializer, **errors(400, 401, 404)},
    )
    def retrieve(self, request: Request, source: str) -> Response:
        asked = WhichOne.of(request)
        viewer = caller(request)
        if source.isascii() and source.isdecimal():
            return Response(shown(_ordered(request, source)))
        found = registry.at(Source.objects.all(), source, network=asked.network_row())
        return Response(shown(registry.sources([found], viewer)[0]))

    @swagger_auto_schema(
        operation_id="chain_sources_create",
        operation_description="Have a source published; the marketplace pays the gas and is the source's client on the "
        "chain. For approved providers and operators.",
        manual_parameters=[KEY_PARAMETER],
        request_body=SourceRequest,
        responses={201: SourceSerializer, **errors(400, 401, 403, 404, 409, 413, 415, 429, 503)},
    )
    def create(self, request: Request) -> HttpResponseBase:
        body, owner = body_of(request), caller(request)
        form = SourceRequest(data=request.data)
        form.is_valid(raise_exception=True)
        sources.check_owner(owner)
        name = form.validated_data.get("network")
        network = networks.named(name) if name else networks.default()
        about, now = form.about(), timezone.now()
        metadata_url = sources.pin(about, now=now)

        def publish() -> Response:
            made = sources.publish(
                owner, network, about=about, metadata_url=metadata_url, conditions=form.conditions(), now=now
            )
            return Response(shown(SourceView(made.network, order=made, is_concerned=True)), status=201)

        return carry_out(request, publish, said=lambda: body)


def _ordered(request: Request, text: str) -> SourceView:
    """By an order's number. Raises UnknownSourceOrder."""
    viewer = caller(request)
    rows = SourceOrder.objects.all() if viewer.is_staff else sources.of(viewer)
    order = (
        rows.select_related("network", "publication").filter(pk=int(text)).first() if len(text) < 19 else None
    )
    if order is None:
        raise sources.UnknownSourceOrder
    there = Source.objects.filter(network=order.network, address=order.source_address).first()
    if there is None:
        return SourceView(order.network, order=order, is_concerned=True)
    return registry.sources([there], viewer)[0]


def shown(view: SourceView) -> dict[str, Any]:
    """A source's representation."""
    source, order = view.source, view.order
    if source is not None:
        facts = _facts(source)
    else:
        assert order is not None
        facts = _facts_of_order(order)
    said = {
        "network": view.network.name,
        **facts,
        "order": _order(order) if order else None,
        "service": _service(view),
    }
    return rendered(SourceSerializer(said))


def _facts(source: Source) -> dict[str, Any]:
    return {
        "address": source.address,
        "client": source.client,
        "name": source.name,
        "description": source.description,
        "metadata_url": source.metadata_url,
        "optional_params_url": source.optional_params_url,
        "environments": [name for name, bit in sources.ENVIRONMENTS.items() if source.environments & bit],
        "min_payment": money.render(source.min_payment),
        "min_available_lockup": money.render(source.min_available_lockup),
        "max_expiry_duration": str(int(source.max_expiry_duration)),
        "privacy_enabled": source.privacy_enabled,
        "delivery_method": method(source.delivery_method),
        "status": SourceStatus(source.status).name.lower(),
        "published_at": source.published_at,
        "updated_at": source.updated_at,
        "place": placed(source),
    }


def _facts_of_order(order: SourceOrder) -> dict[str, Any]:
    """Of a source that is not on the chain, or not read yet."""
    return {
        "address": order.source_address or None,
        "client": order.publication.sender,
        "name": order.name,
        "description": "",
        "metadata_url": order.metadata_url,
        "optional_params_url": "",
        "environments": [],
        "min_payment": None,
        "min_available_lockup": None,
        "max_expiry_duration": None,
        "privacy_enabled": False,
        "delivery_method": method(order.delivery_method),
        "status": None,
        "published_at": None,
        "updated_at": None,
        "place": None,
    }


def _order(order: SourceOrder) -> dict[str, Any]:
    return {"id": order.pk, "created_at": order.created_at, "publication": sent(order.publication)}


def _service(view: SourceView) -> dict[str, Any] | None:
    service = view.service
    if service is None:
        return None
    return {
        "status": service.status,
        "model": service.model,
        "reason": service.reason if view.is_concerned else "",
        "registered": service.registered_at is not None,
    }
