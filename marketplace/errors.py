"""Every error that an API can answer, and the one place that renders them.

    MarketplaceError            code, status, message
    ├── InvalidRequest          400  something in the request is wrong; may name the fields
    ├── Unauthenticated         401  no credential, or a bad one
    ├── PaymentRequired         402
    ├── Forbidden               403
    ├── NotFound                404
    ├── MethodNotAllowed        405
    ├── Conflict                409
    ├── PayloadTooLarge         413
    ├── UnsupportedMediaType    415
    ├── TooManyRequests         429  with Retry-After
    ├── InternalError           500  says nothing of the inside
    ├── BadGateway              502  the other side failed
    ├── Unavailable             503  with Retry-After
    └── DeadlineExceeded        504

A more specific error lives beside the function that raises it. Each API has its own shape for the same error; the
request's path decides which (`face_of`).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import orjson
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions as drf
from rest_framework.response import Response

logger = logging.getLogger(__name__)

Fields = Mapping[str, Any] | Sequence[Any]


class MarketplaceError(Exception):
    """Something that the caller should be told: a machine code, a sentence, and how to go on.

    `fields` holds messages per request field (nested like the request), `param` names the one
    field that a sentence is about, `details` is whatever else a program could
    use, `retry_after` seconds after which the same request may succeed.
    """

    code = "internal_error"
    status = 500
    message = "Something went wrong on our side. The request was not completed."
    # Said to OpenAI's clients where what they would conclude from the status is wrong.
    should_retry: bool | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        fields: Fields | None = None,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message = message or self.message
        self.code = code or self.code
        self.fields = fields
        self.param = param
        self.details = details
        self.retry_after = retry_after
        super().__init__(self.message)


class InvalidRequest(MarketplaceError):
    code, status, message = "invalid_request", 400, "The request is not valid."


class Unauthenticated(MarketplaceError):
    code, status, message = "unauthorized", 401, "Authentication credentials were not provided."


class PaymentRequired(MarketplaceError):
    code, status, message = "insufficient_balance", 402, "The account cannot pay for this."
    should_retry = False


class Forbidden(MarketplaceError):
    code, status, message = "forbidden", 403, "You do not have permission to do this."


class NotFound(MarketplaceError):
    code, status, message = "not_found", 404, "Not found."


class MethodNotAllowed(MarketplaceError):
    code, status, message = "method_not_allowed", 405, "This method is not allowed here."


class Conflict(MarketplaceError):
    code, status, message = "conflict", 409, "This conflicts with the present state."


class PayloadTooLarge(MarketplaceError):
    code, status, message = "payload_too_large", 413, "The request body is too large."


class UnsupportedMediaType(MarketplaceError):
    code, status, message = "unsupported_media_type", 415, "This content type is not supported."


class TooManyRequests(MarketplaceError):
    code, status, message = "rate_limited", 429, "Too many requests."


class InternalError(MarketplaceError):
    pass


class BadGateway(MarketplaceError):
    code, status, message = "node_failed", 502, "The node that took the request failed."


class Unavailable(MarketplaceError):
    code, status, message = "unavailable", 503, "This is not available at the moment."


class DatabaseAway(Unavailable):
    """Also where only the answer of a commit was lost."""

    code = "database_unavailable"
    message = (
        "The database could not be reached. Whether this was carried out is not known: repeat it with the same "
        "Idempotency-Key, or look."
    )


class DeadlineExceeded(MarketplaceError):
    code, status, message = "deadline_exceeded", 504, "The request took longer than it may."


class Face(StrEnum):
    """Which API a path belongs to, and so the shape of its errors."""

    OPENAI = "openai"
    BROKER = "broker"
    DRF = "drf"
    FINE_TUNING = "fine-tuning"
    OMNITENSOR = "omnitensor"


# Not to be confused with OpenAI's /v1/models.
_MODELS_OF_THE_BROKER = "/v1/model"
_PREFIXES: tuple[tuple[str, Face], ...] = (
    ("/v1/quote", Face.BROKER),
    ("/v1/user/", Face.BROKER),
    ("/v1/task/", Face.BROKER),
    (f"{_MODELS_OF_THE_BROKER}/", Face.BROKER),
    ("/v1", Face.OPENAI),
    ("/fine-tuning", Face.FINE_TUNING),
    ("/auth/", Face.OMNITENSOR),
    ("/account/", Face.OMNITENSOR),
    ("/compute/", Face.OMNITENSOR),
    ("/ai/", Face.OMNITENSOR),
    ("/data", Face.OMNITENSOR),
)


def face_of(path: str) -> Face:
    """The API that a path belongs to; DRF's own shape where nothing else is said."""
    if path.rstrip("/") == _MODELS_OF_THE_BROKER:
        return Face.BROKER
    return next((face for prefix, face in _PREFIXES if path.startswith(prefix)), Face.DRF)


def render(error: MarketplaceError, face: Face) -> dict[str, Any]:
    """The body of an error in the shape of one API."""
    return _RENDERERS[face](error)


def headers(error: MarketplaceError) -> dict[str, str]:
    """The headers that go with an error.

    A 401 names a scheme that browsers do not know how to ask for, so that none opens a password dialog.
    A 429 without a time to wait for is one that will not pass later either.
    """
    found = {}
    should_retry = error.should_retry
    if should_retry is None and error.status == 429 and error.retry_after is None:
        should_retry = False
    if error.status == 401:
        found["WWW-Authenticate"] = "Token"
    if error.retry_after is not None:
        found["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if should_retry is not None:
        found["X-Should-Retry"] = str(should_retry).lower()
    return found


def _openai(error: MarketplaceError) -> dict[str, Any]:
    kind = "server_error" if error.status >= 500 else _OPENAI_TYPES.get(error.status, "invalid_request_error")
    param = error.param or (next(iter(error.fields), None) if isinstance(error.fields, Mapping) else None)
    code = error.code
    if code in _OUT_OF_QUOTA:
        kind = code = "insufficient_quota"
    body: dict[str, Any] = {"message": _with_fields(error), "type": kind, "param": param, "code": code}
    if error.details:
        body["details"] = dict(error.details)
    return {"error": body}


# The words that OpenAI's clients know for the same thing.
_OPENAI_TYPES = {429: "rate_limit_error", 402: "insufficient_quota", 403: "permission_error"}
# A 429 of theirs that does not end by waiting; the details say which budget it is here.
_OUT_OF_QUOTA = {"budget_exceeded"}


def _broker(error: MarketplaceError) -> dict[str, Any]:
    return {"error": _with_fields(error)}


def _drf(error: MarketplaceError) -> Any:
    if error.fields is not None:
        return error.fields
    body: dict[str, Any] = {"detail": error.message, "code": error.code}
    if error.details:
        body["details"] = dict(error.details)
    return body


def _fine_tuning(error: MarketplaceError) -> dict[str, Any]:
    return {"detail": error.fields if error.fields is not None else error.message}


def _omnitensor(error: MarketplaceError) -> dict[str, Any]:
    details = dict(error.details or {})
    if error.fields is not None:
        details["fields"] = error.fields
    code = error.code.upper()
    if error.status in _OMNITENSOR_CODES and code != _OMNITENSOR_CODES[error.status]:
        details["code"], code = error.code, _OMNITENSOR_CODES[error.status]
    return {"error": {"code": code, "message": error.message, "details": details}}


# Statuses that this API's clients tell by one code each; the details have ours.
_OMNITENSOR_CODES = {402: "INSUFFICIENT_BALANCE", 429: "RATE_LIMITED"}


_RENDERERS = {
    Face.OPENAI: _openai,
    Face.BROKER: _broker,
    Face.DRF: _drf,
    Face.FINE_TUNING: _fine_tuning,
    Face.OMNITENSOR: _omnitensor,
}


def _with_fields(error: MarketplaceError) -> str:
    if not error.fields:
        return error.message
    return " ".join(_sentences(error.fields))


def _sentences(fields: Any, name: str = "") -> list[str]:
    if isinstance(fields, Mapping):
        return [
            line
            for key, value in fields.items()
            for line in _sentences(value, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(fields, str) or not isinstance(fields, Sequence):
        return [f"{name}: {fields}" if name and name != "non_field_errors" else str(fields)]
    return [line for value in fields for line in _sentences(value, name)]


def translate(exception: Exception) -> MarketplaceError | None:
    """What Django and DRF raise, in our own words. None for what is neither theirs nor ours."""
    if isinstance(exception, MarketplaceError):
        return exception
    if isinstance(exception, OperationalError | InterfaceError):
        logger.warning("The database is away: %s", str(exception).split("\n")[0])
        return DatabaseAway(retry_after=2)
    if isinstance(exception, Http404):
        return NotFound()
    if isinstance(exception, PermissionDenied):
        return Forbidden()
    if isinstance(exception, drf.ValidationError):
        return InvalidRequest(fields=exception.detail)
    if isinstance(exception, drf.Throttled):
        return TooManyRequests(str(exception.detail), retry_after=getattr(exception, "wait", None) or 1)
    if isinstance(exception, drf.APIException):
        return _translate_api_exception(exception)
    return None


_BY_STATUS: dict[int, type[MarketplaceError]] = {
    error.status: error
    for error in (
        InvalidRequest,
        Unauthenticated,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        UnsupportedMediaType,
        Unavailable,
    )
}


def _translate_api_exception(exception: drf.APIException) -> MarketplaceError:
    kind = _BY_STATUS.get(
        exception.status_code, InvalidRequest if exception.status_code < 500 else InternalError
    )
    return kind(str(exception.detail))


def drf_exception_handler(exception: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's door to `translate` and `render`. What nobody foresaw is logged, and answered without its text."""
    request = context["request"]
    error = translate(exception)
    if error is None:
        logger.exception("Unforeseen error at %s", request.path)
        error = InternalError()
    found = headers(error)
    if isinstance(error, MethodNotAllowed) and hasattr(context.get("view"), "allowed_methods"):
        found["Allow"] = ", ".join(context["view"].allowed_methods)
    return Response(render(error, face_of(request.path)), status=error.status, headers=found)


def http_response(error: MarketplaceError, path: str) -> HttpResponse:
    """The same for plain Django: unknown paths, and what breaks outside any view."""
    body = orjson.dumps(render(error, face_of(path)))
    return HttpResponse(body, status=error.status, content_type="application/json", headers=headers(error))


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return http_response(NotFound(f"There is nothing at {request.path}."), request.path)


def server_error(request: HttpRequest) -> HttpResponse:
    return http_response(InternalError(), request.path)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return http_response(InvalidRequest(), request.path)


def permission_denied(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return http_response(Forbidden(), request.path)
