"""What Swagger says of errors, the same for every endpoint."""

from drf_yasg import openapi

_SENTENCES = {
    400: "The request is not valid: messages per field, or `detail`.",
    401: "No credential, or one that is wrong, expired or revoked.",
    402: "The account cannot pay for this.",
    403: "You may not do this.",
    404: "There is no such thing, or it belongs to somebody else.",
    409: "This conflicts with the present state.",
    413: "The request body is too large.",
    415: "The content type is not supported; send application/json.",
    429: "Too many requests; `Retry-After` says how many seconds to wait.",
    503: "Not available at the moment; `Retry-After` says when to try again.",
}

Answers = dict[int | str, openapi.Response | str]


def errors(*statuses: int) -> Answers:
    """Responses for `swagger_auto_schema(responses=…)`."""
    return {status: openapi.Response(_SENTENCES[status]) for status in statuses}
