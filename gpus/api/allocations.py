"""`/compute/allocate` and `/compute/allocations`: nodes for oneself alone, for hours."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, once
from clients.authentication import caller
from clients.credentials import Principal
from gpus import allocations, leases
from gpus.candidates import Wanted
from gpus.models import Allocation, Lease
from gpus.models.allocations import TaskType
from marketplace import money
from marketplace.money import AmountField
from marketplace.paging import BareArrayPagination

# More than this is never one machine room.
MOST_GPUS = 10_000


class HoursField(serializers.FloatField):
    """A time in hours, with fractions; whole seconds inside."""

    class Meta:
        swagger_schema_fields = {"minimum": 0, "exclusiveMinimum": True, "example": 1.5}

    def to_internal_value(self, data: Any) -> int:
        try:
            hours = super().to_internal_value(data)
        except OverflowError:
            hours = math.inf
        if isinstance(data, bool) or not 0 < hours <= settings.ALLOCATION_MAX_HOURS:
            raise serializers.ValidationError(
                f"Expected a number of hours, more than 0 and at most {settings.ALLOCATION_MAX_HOURS:g}."
            )
        return max(1, round(hours * 3600))


class AllocateRequest(serializers.Serializer[Any]):
    """What is wanted. Each node is reserved with all of its GPUs, so that there may be more than `gpu_count`."""

    task_type = serializers.ChoiceField(TaskType.choices)
    gpu_count = serializers.IntegerField(min_value=1, max_value=MOST_GPUS, default=1)
    duration_hours = HoursField(source="seconds", help_text="Fractions are allowed.")
    gpu_type = serializers.CharField(
        max_length=255,
        required=False,
        allow_blank=True,
        help_text='Words that the name of each GPU must have, such as "RTX 3080".',
    )
    model_id = serializers.CharField(
        source="model",
        max_length=255,
        required=False,
        allow_blank=True,
        help_text="A model that each node must offer.",
    )
    dataset_id = serializers.CharField(max_length=100, required=False, allow_blank=True)
    region = serializers.CharField(max_length=50, required=False, allow_blank=True)
    trusted_only = serializers.BooleanField(required=False)
    max_hour_price = AmountField(required=False, help_text="The most per GPU and hour.")


class ExtendRequest(serializers.Serializer[Any]):
    duration_hours = HoursField(source="seconds", help_text="How much longer than now agreed.")


class LeaseSerializer(serializers.ModelSerializer[Lease]):
    """One node of an allocation."""

    node = serializers.CharField(source="node_name")
    hour_price = AmountField(help_text="For all of its GPUs.")
    charged = AmountField(help_text="Paid so far; about every half minute, and at the end to the second.")
    code = serializers.CharField(source="end_code", allow_blank=True, help_text="Why it ended, for programs.")
    reason = serializers.CharField(source="end_reason", allow_blank=True, help_text="… and for people.")

    class Meta:
        model = Lease
        fields = (
            *("node", "gpus", "hour_price", "charged", "started_at", "paid_until", "expires_at", "ended_at"),
            *("code", "reason"),
        )
        read_only_fields = fields


class AllocationSerializer(serializers.Serializer[Any]):
    """An allocation: what was asked for, what it got, and its money."""

    allocation_id = serializers.UUIDField(source="id", help_text="Requests name it in `X-Allocation`.")
    status = serializers.ChoiceField(["allocated", "released", "expired", "failed"])
    task_type = serializers.ChoiceField(TaskType.choices)
    gpu_type = serializers.CharField(allow_blank=True, help_text="The GPUs that were found.")
    gpu_count = serializers.IntegerField(help_text="Of all its nodes.")
    model_id = serializers.CharField(allow_blank=True, help_text="The model that was asked for.")
    dataset_id = serializers.CharField(allow_blank=True)
    nodes = serializers.ListField(child=serializers.CharField(), help_text="The names of its nodes.")
    cost = AmountField(help_text="For all of the time.")
    charged = AmountField(help_text="Paid so far.")
    refunded = AmountField(help_text="What was given back at the end.")
    currency = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField(allow_blank=True, help_text="Why it ended.")
    leases = LeaseSerializer(many=True, help_text="Node by node.")

    def to_representation(self, instance: Allocation) -> dict[str, Any]:
        mine = list(instance.leases.all())
        cost = sum(leases.price_until(lease, lease.expires_at) for lease in mine)
        charged = sum(lease.charged for lease in mine)
        over = [
            leases.price_until(lease, lease.expires_at) - lease.charged for lease in mine if lease.ended_at
        ]
        return {
            "allocation_id": str(instance.pk),
            "status": _status(instance, mine),
            "task_type": instance.task_type,
            "gpu_type": instance.gpu_type,
            "gpu_count": sum(lease.gpus for lease in mine),
            "model_id": instance.model,
            "dataset_id": instance.dataset_id,
            "nodes": [lease.node_name for lease in mine],
            "cost": money.render(cost),
            "charged": money.render(charged),
            "refunded": money.render(sum(over)),
            "currency": settings.CURRENCY,
            "created_at": instance.created_at,
            "expires_at": instance.expires_at,
            "ended_at": instance.ended_at,
            "reason": instance.end_reason,
            "leases": LeaseSerializer(mine, many=True).data,
        }


def _status(allocation: Allocation, mine: list[Lease]) -> str:
    if allocation.ended_at is None:
        return "allocated"
    codes = {lease.end_code for lease in mine}
    return next((code for code in (leases.RELEASED, leases.EXPIRED) if code in codes), "failed")


class AllocateView(APIView):
    @swagger_auto_schema(
        operation_id="compute_allocate_create",
        operation_description="Reserve the cheapest nodes that fit. While the allocation runs they answer only "
        "requests with its id in `X-Allocation`, and these cost nothing more. The price of all of the time is held, "
        "and paid to the providers as it passes; what is not used is given back, to the second: when you release "
        "it early, and for nodes that fail.",
        manual_parameters=[KEY_PARAMETER],
        request_body=AllocateRequest,
        responses={201: AllocationSerializer, **errors(400, 401, 402, 403, 409, 413, 415, 429, 503)},
    )
    @once
    def post(self, request: Request) -> Response:
        asked = AllocateRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        principal = request.auth
        made = allocations.allocate(
            client_id=caller(request).pk,
            api_key_id=principal.api_key_id if isinstance(principal, Principal) else None,
            wanted=Wanted(**asked.validated_data),
            now=timezone.now(),
        )
        return Response(AllocationSerializer(made).data, status=status.HTTP_201_CREATED)


class Pages(BareArrayPagination):
    default_limit = 50
    max_limit = 100


class AllocationsView(APIView):
    pagination_class = Pages

    @swagger_auto_schema(
        operation_id="compute_allocations_list",
        operation_description="Your allocations, the newest first, a page at a time; the total is in X-Total-Count.",
        manual_parameters=Pages().parameters(),
        responses={200: AllocationSerializer(many=True), **errors(400, 401, 429)},
    )
    def get(self, request: Request) -> Response:
        pages = Pages()
        page = pages.paginate_queryset(allocations.visible_to(caller(request).pk), request)
        return pages.get_paginated_response(AllocationSerializer(page, many=True).data)


class AllocationView(APIView):
    @swagger_auto_schema(
        operation_description="One of your allocations.",
        responses={200: AllocationSerializer, **errors(401, 404, 429)},
    )
    def get(self, request: Request, allocation_id: UUID) -> Response:
        found = allocations.get(allocation_id=allocation_id, client_id=caller(request).pk)
        return Response(AllocationSerializer(found).data)

    @swagger_auto_schema(
        operation_description="Release it now. The answer says what was charged and what was given back. What has "
        "ended already is answered as it ended.",
        responses={200: AllocationSerializer, **errors(401, 403, 404, 429)},
    )
    def delete(self, request: Request, allocation_id: UUID) -> Response:
        ended = allocations.release(
            allocation_id=allocation_id, client_id=caller(request).pk, now=timezone.now()
        )
        return Response(AllocationSerializer(ended).data)


class ExtendView(APIView):
    @swagger_auto_schema(
        operation_id="compute_allocations_extend",
        operation_description="Keep the nodes for longer, at the price that they have.",
        manual_parameters=[KEY_PARAMETER],
        request_body=ExtendRequest,
        responses={200: AllocationSerializer, **errors(400, 401, 402, 403, 404, 409, 413, 415, 429)},
    )
    @once
    def post(self, request: Request, allocation_id: UUID) -> Response:
        asked = ExtendRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        extended = allocations.extend(
            allocation_id=allocation_id,
            client_id=caller(request).pk,
            seconds=asked.validated_data["seconds"],
            now=timezone.now(),
        )
        return Response(AllocationSerializer(extended).data)
