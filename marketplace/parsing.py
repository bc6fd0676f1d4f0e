"""What comes in and goes out as JSON: bodies strict and bounded, and no other format."""

from collections.abc import Iterable, Mapping
from typing import IO, Any

import orjson
from django.conf import settings
from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from marketplace.errors import InvalidRequest, PayloadTooLarge


def is_yes(text: str, *, param: str) -> bool:
    """What a flag in a header or a query says. Raises InvalidRequest where that is neither yes nor no."""
    said = text.strip().lower()
    if said not in _YES and said not in _NO:
        raise InvalidRequest(f"{param} must be true or false.", param=param)
    return said in _YES


_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


class Strict:
    """For serializers of what must not be misunderstood: refuses fields that it does not know."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = self.fields  # type: ignore[attr-defined]  # a serializer's
            unknown = [str(name) for name in data if name not in known]
            if unknown:
                there = ", ".join(name for name, field in known.items() if not field.read_only) or "none"
                says = f"There is no such field here. Known are: {there}."
                raise ValidationError({name: [says] for name in unknown})
        return super().to_internal_value(data)  # type: ignore[misc]  # a serializer's


class AlwaysFirst(DefaultContentNegotiation):
    """An API that speaks one format answers in it, whatever `Accept` says."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class JSONParser(BaseParser):
    """UTF-8 JSON by orjson, which refuses what Python's parser lets pass or fails on: NaN, lone surrogates,
    and nesting without end. Raises InvalidRequest, PayloadTooLarge.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        body = stream.read(settings.MAX_REQUEST_BYTES + 1)
        if len(body) > settings.MAX_REQUEST_BYTES:
            raise PayloadTooLarge(f"The request body is larger than {settings.MAX_REQUEST_BYTES} bytes.")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                f"The request body is not valid JSON: {error}.", code="invalid_json"
            ) from None
