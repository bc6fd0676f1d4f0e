"""What Swagger and Redoc say of the API: every endpoint with its real answers, 4xx included."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.urls import URLPattern
from drf_yasg import openapi
from drf_yasg.generators import OpenAPISchemaGenerator
from drf_yasg.inspectors import FieldInspector, PaginatorInspector, SwaggerAutoSchema
from drf_yasg.views import get_schema_view
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.pagination import BasePagination
from rest_framework.permissions import AllowAny

from marketplace.errors import Face, face_of
from marketplace.paging import BareArrayPagination
from marketplace.paths import Alias

INFO = openapi.Info(
    title=settings.MARKETPLACE_NAME,
    default_version="v1",
    description="OpenAI-shaped inference and fine-tuning on provider-owned GPUs.",
)
_WITH_BODY = ("POST", "PUT", "PATCH")
_SENTENCES = {
    400: "Something in the request is wrong; the answer says what.",
    401: "No credential, or one that is wrong, expired or revoked.",
    403: "The credential may not do this.",
    404: "There is nothing here, or it is somebody else's.",
    413: "The request body is too large.",
    415: "The content type is not supported; send application/json.",
    429: "Too many requests; `Retry-After` says how many seconds to wait.",
}


class BareArrayInspector(PaginatorInspector):
    """Lists stay arrays; what pages do is take `limit` and `offset`."""

    def get_paginator_parameters(self, paginator: BasePagination) -> Any:
        if not isinstance(paginator, BareArrayPagination):
            return super().get_paginator_parameters(paginator)
        return paginator.parameters()

    def get_paginated_response(self, paginator: BasePagination, response_schema: openapi.Schema) -> Any:
        return response_schema


class ReadOnlyInspector(FieldInspector):
    """What is only read may be empty, whatever is asked of what is written."""

    def process_result(self, result: Any, method_name: str, obj: Any, **_kwargs: Any) -> Any:
        if isinstance(result, openapi.Schema) and getattr(obj, "read_only", False):
            for limit in ("minLength", "format") if result.get("format") == "uri" else ("minLength",):
                result.pop(limit, None)
        return result


class NullableInspector(FieldInspector):
    """An object that may be null: a bare reference cannot say so."""

    def process_result(self, result: Any, method_name: str, obj: Any, **_kwargs: Any) -> Any:
        if isinstance(result, openapi.SchemaRef) and getattr(obj, "allow_null", False):
            return openapi.Schema(
                type=openapi.TYPE_OBJECT, description=obj.help_text, allOf=[result], x_nullable=True
            )
        return result


class Generator(OpenAPISchemaGenerator):
    """Says of what is only ever answered that its texts may be empty; that is asked of what is sent alone."""

    def get_schema(self, *args: Any, **kwargs: Any) -> openapi.Swagger:
        found = super().get_schema(*args, **kwargs)
        sent: set[str] = set()
        for name in _named(_bodies(found.paths)):
            _gather(name, found.definitions, sent)
        for name, definition in found.definitions.items():
            if name not in sent:
                _let_be_empty(definition)
        return found


def _bodies(paths: openapi.Paths) -> Iterator[Any]:
    for item in paths.values():
        for operation in item.operations:
            yield from operation[1].parameters


def _gather(name: str, definitions: Any, found: set[str]) -> None:
    """This definition's name, and those of all that it refers to."""
    if name not in found:
        found.add(name)
        for other in _named([definitions[name]]):
            _gather(other, definitions, found)


def _named(things: Iterable[Any]) -> Iterator[str]:
    """The definitions that these refer to."""
    for thing in things:
        if isinstance(thing, openapi.SchemaRef):
            yield thing["$ref"].rsplit("/", 1)[1]
        elif isinstance(thing, Mapping):
            yield from _named(thing.values())
        elif isinstance(thing, list):
            yield from _named(thing)


def _let_be_empty(thing: Any) -> None:
    if isinstance(thing, dict):
        thing.pop("minLength", None)
    if isinstance(thing, (dict, list)):
        for inner in thing.values() if isinstance(thing, dict) else thing:
            _let_be_empty(inner)


class AutoSchema(SwaggerAutoSchema):
    """Adds to each operation the errors that its kind can answer, in the shape of the API it belongs to.

    A view names further ones with `swagger_faults = {status: sentence}`, or in `responses`.
    """

    paginator_inspectors = (BareArrayInspector,)
    field_inspectors = (NullableInspector, ReadOnlyInspector, *SwaggerAutoSchema.field_inspectors)

    def get_response_serializers(self) -> dict[str, Any]:
        found: dict[str, Any] = super().get_response_serializers()
        faults = {**self._faults(), **getattr(self.view, "swagger_faults", {})}
        for status, sentence in faults.items():
            found.setdefault(str(status), sentence)
        return dict(sorted(found.items()))

    def get_response_schemas(self, response_serializers: dict[str, Any]) -> dict[str, openapi.Response]:
        found = super().get_response_schemas(response_serializers)
        schema = _ERRORS[face_of(self.path)]
        return {
            status: openapi.Response(answer.description, schema=schema)
            if status >= "400" and "schema" not in answer
            else answer
            for status, answer in found.items()
        }

    def get_security(self) -> list[dict[str, list[str]]] | None:
        said = super().get_security()
        return said if said is not None or self._is_private() else []

    def get_tags(self, operation_keys: tuple[str, ...] | None = None) -> list[str]:
        return self.overrides.get("tags") or [self.path.strip("/").split("/")[0]]

    def _is_private(self) -> bool:
        return any(rule is not AllowAny for rule in self.view.permission_classes)

    def _has_query(self) -> bool:
        manual = self.overrides.get("manual_parameters") or ()
        return bool(self.get_query_parameters()) or any(each.in_ == openapi.IN_QUERY for each in manual)

    def _faults(self) -> dict[int, str]:
        """What follows from the view itself. A session's CSRF check can refuse any change with 403."""
        has_body, private = self.method in _WITH_BODY, self._is_private()
        statuses = [401] if private else []
        statuses += [403] if private and self.method != "GET" else []
        statuses += [400] if has_body or self._has_query() else []
        statuses += [413, 415] if has_body else []
        statuses += [404] if "{" in self.path else []
        # Wrong passwords are counted wherever Basic is understood.
        statuses += [429] if private or hasattr(self.view, "throttle_scope") else []
        return {status: _SENTENCES[status] for status in statuses}


def _object(**properties: openapi.Schema) -> openapi.Schema:
    return openapi.Schema(type=openapi.TYPE_OBJECT, properties=OrderedDict(properties))


def _text(description: str = "") -> openapi.Schema:
    return openapi.Schema(type=openapi.TYPE_STRING, description=description)


def _anything(description: str) -> openapi.Schema:
    found = openapi.Schema(type=openapi.TYPE_OBJECT, description=description)
    del found["type"]
    return found


_ERRORS = {
    Face.OPENAI: _object(
        error=_object(
            message=_text(),
            type=_text(),
            param=openapi.Schema(type=openapi.TYPE_STRING, x_nullable=True),
            code=_text("A word for programs."),
        )
    ),
    Face.BROKER: _object(error=_text()),
    Face.DRF: openapi.Schema(
        type=openapi.TYPE_OBJECT,
        description="Messages by field name, or `detail` with `code`.",
        properties={"detail": _text(), "code": _text("A word for programs.")},
        additional_properties=True,
    ),
    Face.FINE_TUNING: _object(detail=_anything("A sentence, or messages by field.")),
    Face.OMNITENSOR: _object(
        error=_object(
            code=_text("A word for programs."),
            message=_text(),
            details=openapi.Schema(type=openapi.TYPE_OBJECT),
        )
    ),
}


def documented(patterns: Iterable[URLPattern]) -> list[URLPattern]:
    """The patterns without other spellings of their paths."""
    return [pattern for pattern in patterns if not isinstance(pattern, Alias)]


def schema_view(patterns: Iterable[URLPattern]) -> Any:
    """The class of the views that show these endpoints, to everybody."""
    view = get_schema_view(
        INFO,
        generator_class=Generator,
        public=True,
        patterns=documented(patterns),
        authentication_classes=(),
        permission_classes=(AllowAny,),
    )
    # These have several forms, unlike the API, where all is JSON.
    view.content_negotiation_class = DefaultContentNegotiation
    return view
