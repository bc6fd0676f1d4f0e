"""Checking a password, slowly enough for whoever guesses.

Failures are counted by account and network in django-axes' tables, the same for the API, Basic authentication
and the admin's own form.
"""

from datetime import datetime, timedelta

from axes.handlers.proxy import AxesProxyHandler
from axes.helpers import get_cool_off
from axes.models import AccessAttempt
from django.contrib import auth
from django.http import HttpRequest
from django.utils import timezone

from clients.models import Client
from clients.origin import network_of
from marketplace.errors import TooManyRequests, Unauthenticated


class BadCredentials(Unauthenticated):
    code, message = "bad_credentials", "The e-mail address or the password is wrong."


class LockedOut(TooManyRequests):
    code = "locked_out"
    message = "Too many failed logins. Wait before you try again, or reset the password."


def authenticate(*, request: HttpRequest, login: str, password: str) -> Client:
    """The account that an e-mail address (or, without an @, a username) and a password belong to.

    Takes as long for an unknown address as for a wrong password, and says the same.
    Raises BadCredentials; LockedOut with the seconds to wait, after `LOGIN_FAILURE_LIMIT` failures.
    """
    username = _username(login)
    user = auth.authenticate(request, username=username, password=password)
    locked, request.axes_locked_out = getattr(request, "axes_locked_out", False), False  # type: ignore[attr-defined]
    if isinstance(user, Client):
        forgive(username=username, network=network_of(request))
        return user
    if locked:
        raise LockedOut(retry_after=_wait(username, network_of(request), now=timezone.now()))
    raise BadCredentials()


def forgive(*, username: str, network: str | None = None) -> None:
    """Forget the failures of an account, from one network or from all."""
    AxesProxyHandler.reset_attempts(username=username, ip_address=network)


def _username(login: str) -> str:
    """The name to count failures by. One that no account can have stands for an unknown address."""
    if "@" not in login:
        return login if len(login) <= 150 else f"?{login}"[:255]
    client = Client.objects.by_email(login)
    return client.username if client else f"?{login.strip().lower()}"[:255]


def _wait(username: str, network: str, *, now: datetime) -> float:
    """Seconds until the failures of this account and network are forgotten."""
    last = (
        AccessAttempt.objects.filter(username=username, ip_address=network)
        .order_by("-attempt_time")
        .values_list("attempt_time", flat=True)
        .first()
    )
    cool_off = get_cool_off() or timedelta(minutes=15)
    return max(1.0, (cool_off - (now - (last or now))).total_seconds())
