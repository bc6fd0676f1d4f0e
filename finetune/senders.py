"""Who may send large bodies: somebody known. Asked before anything of them is taken in."""

from __future__ import annotations

import asyncio
from http.cookies import CookieError, SimpleCookie

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import close_old_connections
from django.utils import timezone

from clients.credentials import MissingCredential
from clients.identities import Identities
from finetune import brokerage, deliveries
from gpus import nodes
from marketplace.bodies import LINKED, SIGNED
from marketplace.errors import Unauthenticated
from marketplace.http import Scope

_NODES = "/llm_models/"


class Senders:
    """Knows people by their credentials, sessions and wallets, nodes by their tokens, files by their signed links."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def check(self, scope: Scope) -> None:
        """Raises Unauthenticated, LinkRefused, WalletNotLinked, and what `Identities.of` raises."""
        path: str = scope["path"]
        if path.startswith(LINKED):
            deliveries.check_link(path.removeprefix(LINKED).rstrip("/"), now=timezone.now())
            return
        if signed := SIGNED.fullmatch(path):
            await asyncio.to_thread(_check_wallet, signed[1])
            return
        authorization, client = _header(scope, b"authorization"), scope.get("client")
        if not authorization:
            if not await asyncio.to_thread(_has_session, _header(scope, b"cookie")):
                raise MissingCredential
            return
        try:
            await self._identities.of(authorization, client[0] if client else None)
        except Unauthenticated:
            token = authorization.partition(" ")[2].strip()
            if not path.startswith(_NODES) or not await asyncio.to_thread(_is_node, token):
                raise


def _header(scope: Scope, name: bytes) -> str:
    return next((str(value, "latin-1") for key, value in scope["headers"] if key == name), "")


def _has_session(cookies: str) -> bool:
    try:
        found = SimpleCookie(cookies).get(settings.SESSION_COOKIE_NAME)
    except CookieError:
        return False
    if found is None:
        return False
    close_old_connections()
    try:
        return SESSION_KEY in SessionStore(found.value)
    finally:
        close_old_connections()


def _is_node(token: str) -> bool:
    close_old_connections()
    try:
        nodes.by_token(token)
    except nodes.NodeNotFound:
        return False
    finally:
        close_old_connections()
    return True


def _check_wallet(address: str) -> None:
    close_old_connections()
    try:
        brokerage.owner_of(address)
    finally:
        close_old_connections()
