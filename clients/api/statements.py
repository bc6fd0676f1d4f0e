"""/account/transactions: everything that came in and went out, as JSON or CSV."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from clients.authentication import caller
from clients.models import Account, TransferKind
from clients.models.ledger import CLIENT_KINDS
from clients.statements import CHUNK, Entry, Statement
from marketplace import money
from marketplace.money import AmountField
from marketplace.paging import TOTAL, BareArrayPagination


class EntrySerializer(serializers.Serializer[Entry]):
    transaction_id = serializers.CharField(source="transfer.reference")
    account = serializers.ChoiceField([kind.value for kind in CLIENT_KINDS], source="account.kind")
    kind = serializers.ChoiceField(TransferKind.choices, source="transfer.kind")
    amount = AmountField(help_text="What it changed: below zero for what went out.")
    fee = AmountField(source="transfer.fee", help_text="The marketplace's part of what the payer paid.")
    currency = serializers.SerializerMethodField()
    counterparty = serializers.CharField(
        source="counterparty_name",
        help_text="The other's account for transfers; else `provider`, `consumer`, `marketplace`, `outside`, "
        "or `own …`.",
    )
    memo = serializers.CharField(source="transfer.memo", allow_blank=True)
    created_at = serializers.DateTimeField(source="transfer.at")

    def get_currency(self, entry: Entry) -> str:
        return settings.CURRENCY


class Query(serializers.Serializer[Any]):
    account = serializers.MultipleChoiceField(choices=[kind.value for kind in CLIENT_KINDS], required=False)
    kind = serializers.MultipleChoiceField(choices=TransferKind.choices, required=False)
    since = serializers.DateTimeField(required=False, help_text="From then on.")
    until = serializers.DateTimeField(required=False, help_text="Before then.")
    format = serializers.ChoiceField(["json", "csv"], required=False)


_PARAMETERS = [
    openapi.Parameter(
        name, openapi.IN_QUERY, description, type=openapi.TYPE_ARRAY, collection_format="multi",
        items=openapi.Items(openapi.TYPE_STRING, enum=choices),
    )
    for name, description, choices in (
        ("account", "Only of these accounts.", [kind.value for kind in CLIENT_KINDS]),
        ("kind", "Only of these kinds.", TransferKind.values),
    )
] + [
    openapi.Parameter(name, openapi.IN_QUERY, description, type=openapi.TYPE_STRING, format="date-time")
    for name, description in (("since", "From then on."), ("until", "Before then."))
] + [
    openapi.Parameter(
        "format", openapi.IN_QUERY, "`csv`: all of it, whatever `limit` says. Or send `Accept: text/csv`.",
        type=openapi.TYPE_STRING, enum=["json", "csv"],
    )
]  # fmt: skip


class Transactions(APIView):
    @swagger_auto_schema(
        operation_id="account_transactions_list",
        tags=["account"],
        manual_parameters=[*_PARAMETERS, *BareArrayPagination().parameters()],
        produces=["application/json", "text/csv"],
        responses={200: EntrySerializer(many=True), **errors(400, 401)},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """What came in and went out, newest first; `X-Total-Count` says how many entries there are."""
        query = Query(data=_asked(request))
        query.is_valid(raise_exception=True)
        said = query.validated_data
        accounts = Account.objects.filter(client=caller(request))
        if said.get("account"):
            accounts = accounts.filter(kind__in=said["account"])
        statement = Statement(
            accounts, kinds=list(said.get("kind", ())), since=said.get("since"), until=said.get("until")
        )
        if said.get("format", _accepted(request)) == "csv":
            return _csv(request, statement)
        limit, offset = BareArrayPagination().window(request)
        page = statement.page(limit=limit, offset=offset)
        return Response(
            [EntrySerializer(entry).data for entry in page], headers={TOTAL: str(statement.count())}
        )


def _asked(request: Request) -> dict[str, Any]:
    query = request.query_params
    found: dict[str, Any] = {name: query[name] for name in ("since", "until", "format") if name in query}
    for name in ("account", "kind"):
        if name in query:
            found[name] = [part for text in query.getlist(name) for part in text.split(",")]
    return found


def _accepted(request: Request) -> str:
    return "csv" if request.headers.get("Accept", "").startswith("text/csv") else "json"


_COLUMNS = (
    "created_at", "transaction_id", "account", "kind", "amount", "fee", "currency", "counterparty", "memo",
)  # fmt: skip


def _csv(request: Request, statement: Statement) -> StreamingHttpResponse:
    return download(request._request, "transactions.csv", _COLUMNS, map(_row, statement.all()))


def download(
    request: HttpRequest, name: str, columns: Iterable[str], rows: Iterator[Iterable[Any]]
) -> StreamingHttpResponse:
    """A CSV file, sent while its rows are read."""
    pieces = _pieces(columns, rows)
    return StreamingHttpResponse(
        _sent_by_asgi(pieces) if isinstance(request, ASGIRequest) else pieces,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _pieces(columns: Iterable[str], rows: Iterator[Iterable[Any]]) -> Iterator[bytes]:
    yield _lines([columns])
    while some := list(islice(rows, CHUNK)):
        yield _lines(some)


async def _sent_by_asgi(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    # The database is read in the request's own thread.
    read = sync_to_async(lambda: next(pieces, None))
    while (piece := await read()) is not None:
        yield piece


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _row(entry: Entry) -> tuple[Any, ...]:
    transfer = entry.transfer
    return (
        transfer.at.isoformat(), transfer.reference, entry.account.kind, transfer.kind, money.render(entry.amount),
        money.render(transfer.fee), settings.CURRENCY, entry.counterparty_name, harmless(transfer.memo),
    )  # fmt: skip


def harmless(text: str) -> str:
    """A text that somebody else wrote, so that no spreadsheet calculates it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
