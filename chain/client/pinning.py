"""Putting a JSON file where providers can read it: POST /file/create, answered by `{"link": URL}`."""

import json
import secrets
from typing import Any

from chain.client.chain_config import Network
from chain.client.errors import ConfigurationError, InvalidValue, PinningError
from chain.client.rpc import place
from chain.client.steps import Deadline, Http, Pause, Reply, Steps, Unreachable

TIMEOUT = 30.0
TRIES = 3
BACKOFF = 0.5
# Each byte of a link is paid for on chain.
LONGEST_LINK = 2_048


def pin(
    network: Network, content: Any, filename: str, *, deadline: Deadline, timeout: float = TIMEOUT
) -> Steps[str]:
    """The link. `timeout` is for each of three tries, in seconds.

    Raises `PinningError`, `OutOfTime`; `InvalidValue` for what is not JSON.
    """
    if not network.file_url:
        raise ConfigurationError(
            f"The network {network.name} names no file_url; its manifest needs one to publish."
        )
    body, kind = _form(_json(content), filename)
    where = place(network.file_url)
    for attempt in range(1, TRIES + 1):
        limit = deadline.within(timeout, "while the configuration was uploaded")
        try:
            reply = yield Http("POST", network.file_url, limit, body, {"Content-Type": kind})
        except Unreachable as error:
            problem = str(error)
        else:
            if reply.status < 500:
                return _link(reply, where)
            problem = f"it answered {reply.status}"
        if attempt < TRIES:
            yield Pause(BACKOFF * 2 ** (attempt - 1))
    raise PinningError(f"The file server at {where} did not take {filename}: {problem}.")


def _json(content: Any) -> bytes:
    try:
        return json.dumps(content, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"The configuration is not JSON: {error}") from None


def _form(content: bytes, filename: str) -> tuple[bytes, str]:
    """A multipart form with one part, `file` (RFC 7578)."""
    boundary = secrets.token_hex(16)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/json\r\n\r\n"
    )
    return (
        head.encode() + content + f"\r\n--{boundary}--\r\n".encode(),
        f"multipart/form-data; boundary={boundary}",
    )


def _link(reply: Reply, where: str) -> str:
    if reply.status not in (200, 201):
        raise PinningError(f"The file server at {where} refused with {reply.status}.")
    try:
        link = json.loads(reply.body)["link"]
    except (ValueError, KeyError, TypeError):
        link = None
    if not isinstance(link, str) or not 0 < len(link) <= LONGEST_LINK:
        raise PinningError(f"The file server at {where} gave no link that can be used.")
    return link
