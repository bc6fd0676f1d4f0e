"""/client/api-keys/ and /auth/token."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from clients import keys
from clients.api.accounts import PublicView
from clients.api.documentation import errors
from clients.api.limits import LIMIT_FIELDS, LimitsSerializer, changes
from clients.authentication import IsLoggedIn, caller
from clients.models import ApiKey


class KeySerializer(LimitsSerializer, serializers.ModelSerializer[ApiKey]):
    name = serializers.CharField(max_length=100)
    allowed_models = serializers.ListField(
        child=serializers.CharField(max_length=255),
        max_length=200,
        required=False,
        help_text="Model ids that this key may use; empty means all.",
    )
    revoked_reason = serializers.CharField(
        read_only=True, allow_blank=True, help_text="Why an operator cut the key off."
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="null means never.")

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "name",
            "prefix",
            "allowed_models",
            *LIMIT_FIELDS,
            "created_at",
            "expires_at",
            "last_used_at",
            "revoked_at",
            "revoked_reason",
        )
        read_only_fields = ("id", "prefix", "created_at", "last_used_at", "revoked_at", "revoked_reason")

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("This is in the past.")
        return value


class NewKeyAnswer(KeySerializer):
    key = serializers.CharField(read_only=True, help_text="`sk-…`, to send as `Bearer`. Shown only now.")
    secret = serializers.CharField(read_only=True, help_text="For `/auth/token`. Shown only now.")

    class Meta(KeySerializer.Meta):
        fields = ("key", "secret", *KeySerializer.Meta.fields)  # type: ignore[assignment]


class OwnKeys(GenericAPIView[ApiKey]):
    queryset = ApiKey.objects.none()
    serializer_class = KeySerializer
    permission_classes = (IsLoggedIn,)
    lookup_field = "id"

    def get_queryset(self) -> QuerySet[ApiKey]:
        if getattr(self, "swagger_fake_view", False):
            return ApiKey.objects.none()
        return keys.visible_to(caller(self.request))


class Keys(OwnKeys):
    @swagger_auto_schema(
        operation_id="client_api-keys_list",
        tags=["client"],
        responses={200: KeySerializer(many=True), **errors(401, 403)},
    )
    def get(self, request: Request) -> Response:
        """Your API keys, without what is secret."""
        return Response(KeySerializer(self.get_queryset(), many=True).data)

    @swagger_auto_schema(
        operation_id="client_api-keys_create",
        tags=["client"],
        request_body=KeySerializer,
        responses={201: NewKeyAnswer, **errors(400, 401, 403, 409, 415)},
    )
    def post(self, request: Request) -> Response:
        """Make an API key. The key and its secret are in this answer, and nowhere else ever."""
        form = KeySerializer(data=request.data)
        form.is_valid(raise_exception=True)
        made = keys.create(caller(request), **changes(form.validated_data))
        body = {"key": made.key, "secret": made.secret} | KeySerializer(made.row).data
        return Response(body, status=201)


class Key(OwnKeys):
    @swagger_auto_schema(
        operation_id="client_api-keys_read",
        tags=["client"],
        responses={200: KeySerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, id: int) -> Response:
        """One of your API keys, without what is secret."""
        return Response(KeySerializer(self.get_object()).data)

    @swagger_auto_schema(
        operation_id="client_api-keys_partial_update",
        tags=["client"],
        request_body=KeySerializer(partial=True),
        responses={200: KeySerializer, **errors(400, 401, 403, 404, 415)},
    )
    def patch(self, request: Request, id: int) -> Response:
        """Rename or limit a key; it takes effect at once."""
        key = self.get_object()
        form = KeySerializer(key, data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        return Response(KeySerializer(keys.update(key, changes=changes(form.validated_data))).data)

    @swagger_auto_schema(
        operation_id="client_api-keys_delete",
        tags=["client"],
        responses={204: "The key is revoked.", **errors(401, 403, 404)},
    )
    def delete(self, request: Request, id: int) -> Response:
        """Revoke a key, at once and for good."""
        keys.revoke(self.get_object(), now=timezone.now())
        return Response(status=204)


class ExchangeRequest(serializers.Serializer[Any]):
    api_key = serializers.CharField(max_length=200)
    secret = serializers.CharField(max_length=200)


class ExchangeAnswer(serializers.Serializer[Any]):
    token = serializers.CharField(help_text="Send it as `Authorization: Bearer <token>`.")
    expires_in = serializers.IntegerField(help_text="Seconds.")


class AuthToken(PublicView):
    throttle_scope = "token"

    @swagger_auto_schema(
        operation_id="auth_token_create",
        tags=["auth"],
        security=[],
        request_body=ExchangeRequest,
        responses={200: ExchangeAnswer, **errors(400, 401, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        """Exchange an API key and its secret for a token that is good for an hour."""
        form = ExchangeRequest(data=request.data)
        form.is_valid(raise_exception=True)
        token = keys.exchange(
            key=form.validated_data["api_key"], secret=form.validated_data["secret"], now=timezone.now()
        )
        return Response({"token": token, "expires_in": int(keys.ACCESS_TOKEN_LIFE.total_seconds())})
