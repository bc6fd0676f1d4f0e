"""/client/register/, login/, logout/, google-auth/: into an account and out of it."""

from typing import Any

from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import accounts, devices, google, lockout
from clients.api.documentation import errors
from clients.api.fields import PasswordField
from clients.authentication import caller
from clients.credentials import Principal
from clients.models import Client
from clients.origin import address_of


class RegisterRequest(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=150, validators=[Client.username_validator])
    email = serializers.EmailField(max_length=254)
    password = PasswordField()
    confirm_password = PasswordField()
    terms_accepted = serializers.BooleanField(help_text="Must be true.")

    def validate_terms_accepted(self, value: bool) -> bool:
        if not value:
            raise serializers.ValidationError("You must accept the terms.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.pop("confirm_password") != attrs["password"]:
            raise serializers.ValidationError({"confirm_password": ["The two passwords differ."]})
        return attrs


class RegisterAnswer(serializers.Serializer[Any]):
    user_id = serializers.IntegerField()
    username = serializers.CharField()
    email = serializers.EmailField()


class LoginRequest(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254)
    password = PasswordField()


class DeviceAnswer(serializers.Serializer[Any]):
    token = serializers.CharField(help_text="Send it as `Authorization: Token <token>`. Shown once.")
    device_token = serializers.CharField(help_text="Names this device at logout.")
    username = serializers.CharField()
    user_id = serializers.IntegerField()


class LoginAnswer(DeviceAnswer):
    profile_image = serializers.URLField(allow_null=True)


class GoogleRequest(serializers.Serializer[Any]):
    token = serializers.CharField(max_length=8192, help_text="Google's ID token (JWT).")


class GoogleAnswer(DeviceAnswer):
    # The same picture by another name: so the documents' client has it.
    profile_image_url = serializers.URLField(allow_null=True)


class LogoutRequest(serializers.Serializer[Any]):
    device_token = serializers.CharField(
        max_length=200, required=False, help_text="Left out: the device that sends the request."
    )


class Message(serializers.Serializer[Any]):
    detail = serializers.CharField()


class PublicView(APIView):
    """For callers without a credential; one that they send nevertheless is not looked at."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class Register(PublicView):
    throttle_scope = "register"

    @swagger_auto_schema(
        operation_id="client_register_create",
        tags=["client"],
        security=[],
        request_body=RegisterRequest,
        responses={201: RegisterAnswer, **errors(400, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        """Open an account. Field errors come under the names of the fields."""
        form = RegisterRequest(data=request.data)
        form.is_valid(raise_exception=True)
        client = accounts.register(**form.validated_data)
        return Response(
            {"user_id": client.pk, "username": client.username, "email": client.email}, status=201
        )


class Login(PublicView):
    throttle_scope = "login"

    @swagger_auto_schema(
        operation_id="client_login_create",
        tags=["client"],
        security=[],
        request_body=LoginRequest,
        responses={201: LoginAnswer, **errors(400, 401, 415, 429)},
    )
    def post(self, request: Request) -> Response:
        """Log a device in, by e-mail address and password."""
        form = LoginRequest(data=request.data)
        form.is_valid(raise_exception=True)
        client = lockout.authenticate(
            request=request._request,
            login=form.validated_data["email"],
            password=form.validated_data["password"],
        )
        login = _log_in(request, client)
        return Response(_rendered(login) | {"profile_image": client.profile_image_url}, status=201)


class GoogleAuth(PublicView):
    throttle_scope = "login"

    @swagger_auto_schema(
        operation_id="client_google-auth_create",
        tags=["client"],
        security=[],
        request_body=GoogleRequest,
        responses={201: GoogleAnswer, **errors(400, 401, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Log a device in with Google's ID token; the first time opens the account."""
        form = GoogleRequest(data=request.data)
        form.is_valid(raise_exception=True)
        client = google.sign_in(form.validated_data["token"], now=timezone.now())
        login = _log_in(request, client)
        return Response(_rendered(login) | {"profile_image_url": client.profile_image_url}, status=201)


class Logout(APIView):
    @swagger_auto_schema(
        operation_id="client_logout_create",
        tags=["client"],
        request_body=LogoutRequest,
        responses={201: Message, **errors(400, 401, 404, 415)},
    )
    def post(self, request: Request) -> Response:
        """Log one device out; all others stay logged in."""
        form = LogoutRequest(data=request.data)
        form.is_valid(raise_exception=True)
        principal = request.auth if isinstance(request.auth, Principal) else None
        devices.log_out(
            client_id=caller(request).pk,
            device_token=form.validated_data.get("device_token"),
            token_id=principal.token_id if principal else None,
        )
        return Response({"detail": "This device is logged out."}, status=201)


def _log_in(request: Request, client: Client) -> devices.Login:
    return devices.log_in(
        client,
        ip=address_of(request),
        user_agent=request.META.get("HTTP_USER_AGENT", ""),
        now=timezone.now(),
    )


def _rendered(login: devices.Login) -> dict[str, Any]:
    return {
        "token": login.token,
        "device_token": login.device_token,
        "username": login.client.username,
        "user_id": login.client.pk,
    }
