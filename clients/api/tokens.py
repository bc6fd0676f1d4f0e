"""/client/tokens/: the devices that you are logged in on."""

from django.db.models import QuerySet
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from clients import devices
from clients.api.documentation import errors
from clients.authentication import IsLoggedIn, caller
from clients.credentials import Principal
from clients.models import Token


class DeviceSerializer(serializers.ModelSerializer[Token]):
    user_agent = serializers.CharField(read_only=True, allow_blank=True)
    current = serializers.SerializerMethodField(help_text="Whether this request came from it.")

    class Meta:
        model = Token
        fields = (
            "id",
            "prefix",
            "user_agent",
            "ip",
            "created_at",
            "expires_at",
            "last_used_at",
            "current",
        )
        read_only_fields = fields

    def get_current(self, token: Token) -> bool:
        return token.pk == self.context.get("token_id")


class Devices(GenericAPIView[Token]):
    queryset = Token.objects.none()
    serializer_class = DeviceSerializer
    permission_classes = (IsLoggedIn,)
    lookup_field = "id"

    def get_queryset(self) -> QuerySet[Token]:
        if getattr(self, "swagger_fake_view", False):
            return Token.objects.none()
        return devices.of(caller(self.request), now=timezone.now())

    @swagger_auto_schema(
        operation_id="client_tokens_list",
        tags=["client"],
        responses={200: DeviceSerializer(many=True), **errors(401, 403)},
    )
    def get(self, request: Request) -> Response:
        """The devices that you are logged in on."""
        token_id = request.auth.token_id if isinstance(request.auth, Principal) else None
        found = DeviceSerializer(self.get_queryset(), many=True, context={"token_id": token_id})
        return Response(found.data)


class Device(GenericAPIView[Token]):
    queryset = Token.objects.none()
    serializer_class = DeviceSerializer
    permission_classes = (IsLoggedIn,)
    lookup_field = "id"

    @swagger_auto_schema(
        operation_id="client_tokens_delete",
        tags=["client"],
        responses={204: "The device is logged out.", **errors(401, 403, 404)},
    )
    def delete(self, request: Request, id: int) -> Response:
        """Log one of your devices out."""
        devices.forget(client_id=caller(request).pk, token_id=id)
        return Response(status=204)
