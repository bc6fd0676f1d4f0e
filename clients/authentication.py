"""Who calls a DRF view: by the Authorization header, else by the session of the web pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.models import AnonymousUser
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from clients import credentials
from clients.credentials import Principal
from clients.models import Client
from clients.origin import address_of

if TYPE_CHECKING:
    # REST framework reads its settings, and with them this module, while its views are being loaded.
    from rest_framework.views import APIView


class CredentialAuthentication(BaseAuthentication):
    """`request.user` becomes the Client, `request.auth` its Principal."""

    def authenticate(self, request: Request) -> tuple[Client, Principal] | None:
        header = request.META.get("HTTP_AUTHORIZATION", "")
        if header:
            return credentials.recognise(header, now=timezone.now(), ip=address_of(request))
        found = SessionAuthentication().authenticate(request)
        if found is None:
            return None
        return found[0], credentials.of_session(found[0])

    def authenticate_header(self, request: Request) -> str:
        # A scheme that browsers do not know how to ask for, so that none opens a password dialog.
        return "Token"


def caller(request: Request) -> Client:
    """The account behind an authenticated request."""
    assert isinstance(request.user, Client)
    return request.user


class IsLoggedIn(BasePermission):
    """A person, not an application: what an API key can do must not outlive or outgrow the key."""

    message = "An API key cannot do this. Log in with e-mail and password."
    code = "login_required"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if isinstance(request.user, AnonymousUser) or not request.user:
            return False
        return not isinstance(request.auth, Principal) or request.auth.api_key_id is None


class ReadsOrIsLoggedIn(IsLoggedIn):
    """Reading with any credential, changing only as a person."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.method in SAFE_METHODS:
            return bool(request.user and request.user.is_authenticated)
        return super().has_permission(request, view)
