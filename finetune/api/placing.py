"""Where a training may run, as all fine-tuning APIs let their callers say it: fields of the body, or headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from drf_yasg import openapi
from rest_framework.request import Request

from finetune.models import Where
from marketplace.errors import InvalidRequest
from marketplace.parsing import is_yes

ALLOCATION, TRUSTED, WHERE = "X-Allocation", "X-Trusted-Only", "X-Where"
WHERE_TEXT = (
    "Where it may run: `any`, `here` (the marketplace's own workers), `nodes` (providers' nodes), `trusted` (nodes "
    "that the operator vouches for), `allocation` (the nodes of `allocation_id`)."
)
PARAMETERS = [
    openapi.Parameter(WHERE, openapi.IN_HEADER, WHERE_TEXT, type=openapi.TYPE_STRING, enum=Where.values),
    openapi.Parameter(
        TRUSTED, openapi.IN_HEADER, "The same as `X-Where: trusted`.", type=openapi.TYPE_BOOLEAN
    ),
    openapi.Parameter(
        ALLOCATION,
        openapi.IN_HEADER,
        "Only on the nodes of this allocation of yours (`POST /compute/allocate`).",
        type=openapi.TYPE_STRING,
    ),
]


def policy(request: Request, said: Mapping[str, Any]) -> dict[str, Any]:
    """`where` and `allocation_id` for `ordering.Wanted`, from a body's fields or else the headers.

    Raises InvalidRequest where they cannot be read, or contradict each other.
    """
    headers = request.headers
    allocation = said.get("allocation_id") or headers.get(ALLOCATION)
    is_trusted = TRUSTED in headers and is_yes(headers[TRUSTED], param=TRUSTED)
    where = said.get("where") or headers.get(WHERE)
    if where is None:
        where = Where.ALLOCATION if allocation else Where.TRUSTED if is_trusted else Where.ANY
    if not isinstance(where, str) or where not in Where.values:
        raise InvalidRequest(f"where must be one of {', '.join(Where.values)}.", param="where")
    if (where == Where.ALLOCATION) != bool(allocation):
        raise InvalidRequest(
            'An allocation_id goes with where: "allocation", and only with that.', param="allocation_id"
        )
    return {"where": Where(where), "allocation_id": _uuid(allocation) if allocation else None}


def _uuid(said: Any) -> UUID:
    try:
        return UUID(str(said))
    except ValueError:
        raise InvalidRequest("An allocation_id is a UUID.", param="allocation_id") from None
