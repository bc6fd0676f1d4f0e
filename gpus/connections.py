"""The WebSocket endpoint that agents connect to (`/llm_models/connect/`)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from uuid import UUID, uuid4

import orjson
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.utils import timezone

from clients.credentials import digest
from gpus import states
from gpus.directory import Directory, LiveNode
from gpus.links import Link, Links
from gpus.models import Node
from gpus.protocol import VERSION, ProtocolError
from marketplace.bus import announce
from marketplace.http import Receive, Scope, Send

logger = logging.getLogger(__name__)

# WebSocket close codes of our own (RFC 6455, 7.4.2).
CLOSE_PROTOCOL, CLOSE_REPLACED, CLOSE_SILENT = 4002, 4009, 4008


async def connect(scope: Scope, receive: Receive, send: Send, *, directory: Directory, links: Links) -> None:
    """Serve one agent's connection until it ends."""
    await receive()  # websocket.connect
    node = await directory.find(digest(_token(scope)))
    if node is None:
        await _refuse(send, 401, "The node token is missing or not known. Register again.")
        return
    await send({"type": "websocket.accept"})
    link = Link(
        uuid4(),
        node.id,
        lambda data: send({"type": "websocket.send", "bytes": data}),
        lambda text: send({"type": "websocket.send", "text": text}),
    )
    _replace(links, link)
    await send(
        {"type": "websocket.send", "text": orjson.dumps({"type": "hello", "version": VERSION}).decode()}
    )
    why = "The agent's connection broke."
    try:
        await note(directory, node, link.id)
        why = await _run(link, receive, send) or why
    finally:
        if links.own.get(node.id) is link:
            del links.own[node.id]
        link.lose(why)
        await asyncio.shield(_note_end(directory, node, link.id))


def _token(scope: Scope) -> str:
    for key, value in scope["headers"]:
        if key == b"authorization":
            return str(value, "latin-1").partition(" ")[2].strip()
    return ""


async def _refuse(send: Send, status: int, message: str) -> None:
    body = orjson.dumps({"detail": message})
    head = [(b"content-type", b"application/json"), (b"www-authenticate", b"Token")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": head})
    await send({"type": "websocket.http.response.body", "body": body})


def _replace(links: Links, link: Link) -> None:
    """The newest connection of a node is the one that counts."""
    old = links.own.get(link.node_id)
    links.own[link.node_id] = link
    if old is not None:
        old.replaced.set()


async def _run(link: Link, receive: Receive, send: Send) -> str | None:
    """Read, write and ping until one of them ends; why, if we know better than "it broke"."""
    work = (_read(link, receive), link.write(), link.ping(), link.replaced.wait())
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if tasks[2] in done:
        await _close(send, CLOSE_SILENT)
        return "The agent no longer answers."
    if tasks[3] in done:
        await _close(
            send, CLOSE_REPLACED, {"type": "bye", "reason": "A newer connection of this node took over."}
        )
        return "The agent has connected anew."
    error = next(iter(done)).exception()
    if isinstance(error, ProtocolError):
        logger.warning("Node %s broke the protocol: %s", link.node_id, error)
        await _close(send, CLOSE_PROTOCOL)
    return None


async def _read(link: Link, receive: Receive) -> None:
    while True:
        message: dict[str, Any] = await receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        if data:
            link.receive(data)


async def _close(send: Send, code: int, last: dict[str, str] | None = None) -> None:
    try:
        if last:
            await send({"type": "websocket.send", "text": orjson.dumps(last).decode()})
        await send({"type": "websocket.close", "code": code})
    except (RuntimeError, OSError):
        logger.debug("The connection was closed already")


async def note(directory: Directory, node: LiveNode, link_id: UUID) -> None:
    """Write down who holds the connection, and let every process know. Tried again by the gateway if it fails."""
    own = directory.hold(node, link_id)
    async with node.noting:
        if not directory.holds(node, link_id):
            return
        if await asyncio.to_thread(
            _update, {"pk": node.id}, gateway_id=directory.gateway_id, link_id=link_id
        ):
            own.written_at = time.monotonic()


async def _note_end(directory: Directory, node: LiveNode, link_id: UUID) -> None:
    directory.let_go(node, link_id)
    async with node.noting:
        await asyncio.to_thread(_update, {"pk": node.id, "link_id": link_id}, gateway_id=None, link_id=None)


def _update(where: dict[str, Any], **values: Any) -> bool:
    close_old_connections()
    try:
        now = timezone.now()
        changed = Node.objects.filter(**where).update(**values, changed_at=now)
        states.refresh(where["pk"], now=now)
    except DatabaseError as error:
        logger.warning("Could not note the connection of node %s: %s", where["pk"], error)
        return False
    finally:
        close_old_connections()
    if changed:
        announce("nodes", str(where["pk"]))
    return True
