"""`Idempotency-Key` for views: the effect and the reply to it in one transaction, and the same reply to a repeat."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_yasg import openapi
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from clients import idempotency
from clients.authentication import caller
from clients.models import StoredReply
from marketplace.errors import InvalidRequest, PayloadTooLarge
from marketplace.parsing import is_yes

KEY_PARAMETER = openapi.Parameter(
    idempotency.HEADER,
    openapi.IN_HEADER,
    "1 to 255 characters of your choice. A repeat with the same key and body is not carried out again: it gets the "
    f"first reply, which is kept for {settings.IDEMPOTENCY_HOURS:g} hours, with `{idempotency.REPLAYED}: true`. "
    "With another body it is a 409.",
    type=openapi.TYPE_STRING,
)

Handler = TypeVar("Handler", bound=Callable[..., HttpResponseBase])


def once(handler: Handler) -> Handler:
    """For a view's method that costs money: its request takes effect once, however often it is sent with one key.

    The method must raise, or answer a status from 400, for whatever shall have no effect: all of it is undone then.
    """

    @wraps(handler)
    def answer(self: Any, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return carry_out(
            request, lambda: handler(self, request, *args, **kwargs), said=lambda: body_of(request)
        )

    return cast(Handler, answer)


def carry_out(
    request: Request, effect: Callable[[], HttpResponseBase], *, said: Callable[[], bytes]
) -> HttpResponseBase:
    """The same for a part of a view: `effect` is in one transaction with its reply; `said` is what must be the same."""
    _refuse_dry_run(request)
    key = request.headers.get(idempotency.HEADER)
    if key is None:
        return effect()
    idempotency.check_key(key)
    with transaction.atomic():
        claimed = idempotency.claim(
            client_id=caller(request).pk,
            key=key,
            request_sha256=idempotency.fingerprint(request.method or "", request.path, said()),
            now=timezone.now(),
        )
        if claimed.status is not None:
            return _again(claimed)
        response = effect()
        if response.status_code >= 400:
            transaction.set_rollback(True)
        else:
            assert isinstance(response, Response)
            idempotency.store(
                claimed, status=response.status_code, headers=_headers(response), body=_rendered(response)
            )
        return response


def _refuse_dry_run(request: Request) -> None:
    """Only requests to models can be tried: here it would be done, which nobody wants who says this."""
    for name, said in (
        ("X-Dry-Run", request.headers.get("X-Dry-Run")),
        ("dry_run", request.GET.get("dry_run")),
    ):
        if said is not None and is_yes(said, param=name):
            raise InvalidRequest("There is no dry run here; nothing was done.", code="no_dry_run", param=name)


def body_of(request: Request) -> bytes:
    """What a repeat must send again; to be asked for before `request.data`. Raises PayloadTooLarge."""
    try:
        body: bytes = request._request.body
    except RequestDataTooBig:
        raise PayloadTooLarge from None
    return body


def _headers(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.lower() != "content-type"}


def _rendered(response: Response) -> bytes:
    # As REST framework does it a moment later.
    body: bytes = b"" if response.data is None else JSONRenderer().render(response.data)
    return body


def _again(first: StoredReply) -> HttpResponse:
    return HttpResponse(
        bytes(first.body or b""),
        status=first.status,
        content_type="application/json",
        headers={**first.headers, idempotency.REPLAYED: "true"},
    )
