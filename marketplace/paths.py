"""What a path may hold, and both spellings of it: with a slash at the end and without."""

from collections.abc import Iterable

from django.urls import URLPattern, path, register_converter
from django.urls.converters import PathConverter
from django.urls.resolvers import RoutePattern

_LARGEST = 2**63 - 1


class RowId:
    """`<id:pk>`: a row's number. What no row can have is not found, instead of too much for the database."""

    regex = "[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        if int(value) > _LARGEST:
            raise ValueError
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


class ModelName(PathConverter):
    """`<model:model>`: a name of several parts, unless it is what an upload's path begins with."""

    regex = "(?!upload/parts/).+"


register_converter(RowId, "id")
register_converter(ModelName, "model")


class Alias(URLPattern):
    """The same endpoint by another spelling of its path. Swagger shows only the first."""


def with_either_end(patterns: Iterable[URLPattern]) -> list[URLPattern]:
    """The patterns, and each once more with the slash at its end added or left out."""
    found = []
    for pattern in patterns:
        found.append(pattern)
        if isinstance(pattern.pattern, RoutePattern):
            route = str(pattern.pattern)
            other = path(route.removesuffix("/") if route.endswith("/") else f"{route}/", pattern.callback)
            found.append(Alias(other.pattern, other.callback))
    return found
