"""Whose credential it is, remembered for a few seconds: the hot path asks thousands of times a second.

What is cut off is announced (topic `credentials`) and forgotten at once; if the announcement is lost, it is forgotten
after CREDENTIAL_CACHE_S.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections

from clients import credentials, house
from clients.credentials import MissingCredential, Principal
from marketplace.bus import Bus
from marketplace.errors import MarketplaceError, Unauthenticated, Unavailable

MAX_REMEMBERED = 20_000
# Looking up a wrong credential costs a query each time; a burst of them must not take the threads of everybody.
THREADS = 4


class CannotIdentify(Unavailable):
    code, message = "database_unavailable", "We cannot check credentials at the moment. Try again."


class Identities:
    """The principals that one process knows at present."""

    def __init__(self, bus: Bus) -> None:
        self._known: dict[str, tuple[float, Principal | Unauthenticated]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="identities")
        bus.subscribe("credentials", self._forget)

    async def of(self, authorization: str | None, ip: str | None) -> Principal:
        """The caller that a header names. Raises Unauthenticated and what `credentials.identify` raises."""
        if not authorization:
            raise MissingCredential()
        known = self._known.get(authorization)
        if known is not None and known[0] > time.monotonic():
            found = known[1]
        else:
            found = await self._look_up(authorization, ip)
        if isinstance(found, Unauthenticated):
            raise found
        if found.expires_at is not None and found.expires_at <= datetime.now(UTC):
            raise credentials.ExpiredCredential()
        return found

    async def _look_up(self, authorization: str, ip: str | None) -> Principal | Unauthenticated:
        loop = asyncio.get_running_loop()
        found: Principal | Unauthenticated
        try:
            found = await loop.run_in_executor(self._threads, _identify, authorization, ip)
        except Unauthenticated as wrong:
            found = wrong
        except DatabaseError:
            raise CannotIdentify(retry_after=2) from None
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        # A wrong password may be right a moment later, and each try must count.
        if not authorization[:6].lower().startswith("basic") or isinstance(found, Principal):
            self._known[authorization] = (time.monotonic() + settings.CREDENTIAL_CACHE_S, found)
        return found

    def _forget(self, message: bytes) -> None:
        """Drop what is known of "key:ID", "token:ID", "client:ID"."""
        kind, _, number = message.decode().partition(":")
        names = {"key": "api_key_id", "token": "token_id", "client": "client_id"}
        if kind in names and number.isdigit():
            stale = [
                header
                for header, (_, found) in self._known.items()
                if isinstance(found, MarketplaceError) or getattr(found, names[kind]) == int(number)
            ]
            for header in stale:
                del self._known[header]

    async def stop(self) -> None:
        self._threads.shutdown(wait=False)


def _identify(authorization: str, ip: str | None) -> Principal:
    close_old_connections()
    try:
        own = house.recognise(authorization)
        return own or credentials.identify(authorization, now=datetime.now(UTC), ip=ip)
    finally:
        close_old_connections()
