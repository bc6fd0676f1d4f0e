"""What the chains' endpoints share: addresses, filters, pages, and where something stands on a chain."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Self, TypeVar, cast

from django.db.models import Model, QuerySet
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request

from chain import registry
from chain.models import Network, Placed, Transaction
from marketplace.paging import BareArrayPagination

Row = TypeVar("Row", bound=Model)

METHODS = ("MANUAL_CONFIRMATION", "FIRST_RESPONSE")
# Beyond this a number of seconds is no date.
_LAST_SECOND = 253_402_300_799


class Pages(BareArrayPagination):
    default_limit = 100


def page_of(view: GenericAPIView[Any], rows: QuerySet[Row]) -> list[Row]:
    """The page of some rows that a view's request asks for."""
    return cast(list[Row], view.paginate_queryset(cast(Any, rows)))


def rendered(serializer: serializers.Serializer[Any]) -> dict[str, Any]:
    """What a serializer makes of what it was given, also where one of its fields is called `data`."""
    return dict(cast(Any, serializer).data)


class AddressField(serializers.CharField):
    """An address, in any case of its digits; with its checksum (EIP-55) inside."""

    default_error_messages = {"address": "This is not an Ethereum address: 0x and 40 hexadecimal digits."}

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_length": 42, **options})

    def to_internal_value(self, data: Any) -> str:
        found = registry.address_of(super().to_internal_value(data))
        if found is None:
            self.fail("address")
        return found


class _Query(serializers.Serializer[Any]):
    @classmethod
    def of(cls, request: Request) -> Self:
        """What a request's query asks for. Raises ValidationError."""
        asked = cls(data=request.query_params)
        asked.is_valid(raise_exception=True)
        return asked

    def network_row(self) -> Network | None:
        """Raises UnknownFilter."""
        return registry.network_named(self.validated_data.get("network"))


class Which(_Query):
    """What every list can be narrowed to."""

    network = serializers.CharField(
        max_length=40, required=False, help_text="A network's name or chain id; all of them if left out."
    )

    def narrow(self, rows: QuerySet[Row]) -> QuerySet[Row]:
        """The rows on its network. Raises UnknownFilter."""
        network = self.network_row()
        return rows.filter(network=network) if network else rows


class WhichOne(_Query):
    network = serializers.CharField(
        max_length=40,
        required=False,
        help_text="A network's name or chain id. Left out: whichever has this address, the default network first.",
    )


class PlaceSerializer(serializers.Serializer[Any]):
    """Where an event is on its chain."""

    block_number = serializers.IntegerField()
    log_index = serializers.IntegerField()
    transaction_hash = serializers.CharField()
    confirmations = serializers.IntegerField(help_text="So many blocks, its own included, are on it.")
    is_final = serializers.BooleanField(
        help_text="Whether that is as many as this marketplace wants on this network."
    )


class SentSerializer(serializers.Serializer[Any]):
    """A transaction that this marketplace sends."""

    status = serializers.CharField(
        help_text="queued, signed, sent, mined, confirmed; reverted, refused or cancelled."
    )
    hash = serializers.CharField(help_text="Empty until it is signed.")
    reason = serializers.CharField(help_text="Why it failed, or what it waits for.")
    block_number = serializers.IntegerField(allow_null=True)


def placed(row: Placed) -> dict[str, Any]:
    """Where a row's event is."""
    return {
        "block_number": row.block_number,
        "log_index": row.log_index,
        "transaction_hash": row.transaction_hash,
        "confirmations": confirmations(row.network, row.block_number),
        "is_final": row.is_final,
    }


def confirmations(network: Network, block_number: int) -> int:
    return max(network.head_block - block_number + 1, 0)


def sent(row: Transaction | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"status": row.status, "hash": row.hash, "reason": row.reason, "block_number": row.block_number}


def method(value: int) -> str:
    """A delivery method by its name in the document."""
    return METHODS[value]


def moment(seconds: int) -> datetime | None:
    """Seconds since 1970 as a date; None where nobody's calendar goes so far."""
    return datetime.fromtimestamp(seconds, UTC) if 0 <= seconds <= _LAST_SECOND else None
