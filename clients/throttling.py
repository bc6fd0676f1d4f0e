"""How often one caller may do one kind of thing. Counted in Valkey, for all processes together."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import redis
from django.core.cache import cache
from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.throttling import BaseThrottle

from clients.origin import network_of

if TYPE_CHECKING:
    # REST framework reads its settings, and with them this module, while its views are being loaded.
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)


class ScopedThrottle(BaseThrottle):
    """Limits the views that name a `throttle_scope`, by account, or by network where nobody is logged in.

    A sliding window from two counters: what was counted in the last whole window fades out while
    the present one fills. The counters are incremented atomically, so that simultaneous requests
    cannot pass together.
    Without Valkey nothing is limited: a limit that cannot be counted must not stop the marketplace.
    """

    def __init__(self) -> None:
        self._wait: float | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        scope = getattr(view, "throttle_scope", None)
        if scope is None:
            return True
        limit, duration = _rate(scope)
        try:
            return self._count(f"throttle:{scope}:{_caller(request)}", limit, duration)
        except redis.RedisError as error:
            logger.warning("Requests are not limited at the moment, the cache is away: %s", error)
            return True

    def wait(self) -> float | None:
        """Seconds after which the refused request may be repeated."""
        return self._wait

    def _count(self, key: str, limit: int, duration: int) -> bool:
        window, elapsed = divmod(time.time(), duration)
        name, earlier = f"{key}:{int(window)}", f"{key}:{int(window) - 1}"
        cache.add(name, 0, timeout=2 * duration)
        present = cache.incr(name)
        last = cache.get(earlier, 0)
        if present + last * (1 - elapsed / duration) <= limit:
            return True
        cache.decr(name)
        self._wait = _wait(present - 1, last, limit, duration, elapsed)
        return False


def _wait(present: int, last: int, limit: int, duration: int, elapsed: float) -> float:
    """Seconds until one request more fits below the limit, if nothing else comes."""
    if present < limit and last:
        return duration * (1 - (limit - present - 1) / last) - elapsed
    return duration - elapsed + duration * (1 - (limit - 1) / max(present, 1))


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _rate(scope: str) -> tuple[int, int]:
    """Requests and seconds, of a rate like `30/min`."""
    count, _, period = str(api_settings.DEFAULT_THROTTLE_RATES[scope]).partition("/")
    return int(count), _SECONDS[period[0]]


def _caller(request: Request) -> str:
    if request.user and request.user.is_authenticated:
        return f"client:{request.user.pk}"
    return network_of(request)
