"""What comes from a chain's node by HTTP: within a time, not without end, and only what can be true."""

from __future__ import annotations

import time
from collections.abc import Mapping

import requests
import urllib3
from requests.adapters import HTTPAdapter

# Of one answer: twenty thousand events and more.
MOST_BYTES = 64 * 1024 * 1024
_PIECE = 256 * 1024
_CONNECTIONS = 16


def session(*, total_s: float) -> requests.Session:
    """For several threads. An answer is there within `total_s` seconds once it has begun, or it is none."""
    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Bounded(total_s))
    return made


class _Bounded(HTTPAdapter):
    """Reads whole answers. Others have only a limit for each piece: one that drips would never end."""

    def __init__(self, total_s: float) -> None:
        super().__init__(pool_maxsize=_CONNECTIONS)
        self._total_s = total_s

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        answer = super().send(request, True, timeout, verify, cert, proxies)
        try:
            answer._content = self._read(answer)
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(type(error).__name__) from None
        finally:
            if not isinstance(answer._content, bytes):
                answer.close()
        answer._content_consumed = True  # type: ignore[attr-defined]
        return answer

    def _read(self, answer: requests.Response) -> bytes:
        until, found = time.monotonic() + self._total_s, bytearray()
        while piece := answer.raw.read1(_PIECE, decode_content=True):
            found += piece
            if len(found) > MOST_BYTES:
                raise requests.RequestException("The answer is too large.")
            if time.monotonic() > until:
                raise requests.ReadTimeout("The answer does not end.")
        answer.raw.release_conn()
        return bytes(found)


def number(value: str, *, most: int = 2**63 - 1) -> int:
    """From hexadecimal digits, as the database takes it. Raises ValueError, TypeError."""
    found = int(value, 16)
    if not 0 <= found <= most:
        raise ValueError("No count, and no amount.")
    return found


def digest(value: str) -> str:
    """32 bytes: 0x and 64 hexadecimal digits in lower case. Raises ValueError, TypeError."""
    found = bytes.fromhex(value[2:])
    if len(found) != 32:
        raise ValueError("No hash.")
    return "0x" + found.hex()
