"""/client/password-reset/ and /client/reset-password/{uidb64}/{token}/."""

from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from kombu.exceptions import OperationalError
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from clients import passwords, tasks
from clients.api.accounts import Message, PublicView
from clients.api.documentation import errors
from clients.api.fields import PasswordField
from marketplace.errors import Unavailable


class PasswordResetRequest(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254)


class NewPasswordRequest(serializers.Serializer[Any]):
    new_password = PasswordField(required=False, help_text="Needed, unless `password` is given.")
    password = PasswordField(required=False, help_text="Another name for `new_password`.")
    confirm_password = PasswordField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        chosen = attrs.get("new_password", attrs.get("password"))
        if chosen is None:
            raise serializers.ValidationError({"new_password": ["This field is required."]})
        if attrs.get("confirm_password", chosen) != chosen:
            raise serializers.ValidationError({"confirm_password": ["The two passwords differ."]})
        return {"password": chosen}


class PasswordReset(PublicView):
    throttle_scope = "reset"

    @swagger_auto_schema(
        operation_id="client_password-reset_create",
        tags=["client"],
        security=[],
        request_body=PasswordResetRequest,
        responses={201: Message, **errors(400, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Send a link to set a new password. The answer does not tell whether there is such an account."""
        form = PasswordResetRequest(data=request.data)
        form.is_valid(raise_exception=True)
        try:
            # The account is looked up by the task, so that the time does not tell either.
            tasks.send_password_reset.delay_on_commit(  # type: ignore[attr-defined]  # Celery's Django fixup
                form.validated_data["email"]
            )
        except OperationalError:
            raise Unavailable("E-mail cannot be sent at the moment.", retry_after=10) from None
        return Response({"detail": "If there is an account with this address, a link is on its way."}, 201)


class NewPassword(PublicView):
    throttle_scope = "reset"

    @swagger_auto_schema(auto_schema=None)  # a page for people, not an API
    def get(self, request: Request, uidb64: str, token: str) -> HttpResponse:
        """The page that the link in the e-mail opens."""
        page = render(request._request, "clients/new_password.html")
        # The address holds the secret: it must not leave in a Referer, nor stay in a cache.
        page["Referrer-Policy"], page["Cache-Control"] = "no-referrer", "no-store"
        return page

    @swagger_auto_schema(
        operation_id="client_reset-password_create",
        tags=["client"],
        security=[],
        request_body=NewPasswordRequest,
        responses={201: Message, **errors(400, 415, 429)},
    )
    def post(self, request: Request, uidb64: str, token: str) -> Response:
        """Set a new password with the two parts of the link; every device is logged out."""
        form = NewPasswordRequest(data=request.data)
        form.is_valid(raise_exception=True)
        passwords.reset(uid=uidb64, token=token, password=form.validated_data["password"], now=timezone.now())
        return Response({"detail": "The new password is set. Log in with it."}, status=201)
