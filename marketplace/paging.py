"""Pages of bare arrays: `?limit=&offset=`, the total in `X-Total-Count`, nothing around the rows."""

from collections.abc import Sequence
from typing import Any, TypeVar

from django.db.models import QuerySet
from drf_yasg import openapi
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.errors import InvalidRequest

TOTAL = "X-Total-Count"
_MAX_OFFSET = 10**12

Row = TypeVar("Row")


class BareArrayPagination(BasePagination):
    """The API documents' lists are bare arrays without pages; a limit keeps them within bounds."""

    default_limit = 1000
    max_limit = 1000

    def paginate_queryset(
        self, queryset: QuerySet[Any, Row] | Sequence[Row], request: Request, view: APIView | None = None
    ) -> list[Row]:
        """The rows of the page that the request asks for; also of a sequence in memory."""
        limit, offset = self.window(request)
        self.total = queryset.count() if isinstance(queryset, QuerySet) else len(queryset)
        return list(queryset[offset : offset + limit])

    def parameters(self) -> list[openapi.Parameter]:
        """What it takes, for Swagger."""
        kind = {"in_": openapi.IN_QUERY, "type": openapi.TYPE_INTEGER}
        return [
            openapi.Parameter("limit", minimum=1, maximum=self.max_limit, default=self.default_limit, **kind),
            openapi.Parameter("offset", minimum=0, maximum=_MAX_OFFSET, default=0, **kind),
        ]

    def window(self, request: Request) -> tuple[int, int]:
        """Limit and offset. Raises InvalidRequest for anything but whole numbers in range."""
        limit = _whole(request, "limit", self.default_limit, 1, self.max_limit)
        return limit, _whole(request, "offset", 0, 0, _MAX_OFFSET)

    def get_paginated_response(self, data: Any) -> Response:
        return Response(data, headers={TOTAL: str(self.total)})


def _whole(request: Request, name: str, default: int, minimum: int, maximum: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 13 and minimum <= int(text) <= maximum):
        raise InvalidRequest(fields={name: [f"Expected a whole number from {minimum} to {maximum}."]})
    return int(text)
