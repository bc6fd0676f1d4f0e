"""The socket that the web processes accept from. It outlives each of them, and its port outlives the run."""

import os
import socket
import time

from marketplace.embedded.home import Home

PREFERRED_PORT = 8000
BACKLOG = 4096
# The processes of a supervisor that was killed end a moment after it.
SAME_PORT_WITHIN_S = 2.0


class CannotListen(Exception):
    """The address that was asked for cannot be had."""


class Listener:
    """A listening TCP socket for child processes to inherit.

    `HTTP_HOST` is the address (127.0.0.1 by default), `HTTP_PORT` the port. Without `HTTP_PORT` it is that of
    the last run, at first 8000, and a free one where that is taken.
    """

    def __init__(self, home: Home) -> None:
        self.host = os.environ.get("HTTP_HOST") or "127.0.0.1"
        self._socket = self._bound(home)
        self._socket.listen(BACKLOG)
        self._socket.set_inheritable(True)

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def local_url(self) -> str:
        """How this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared only
        return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{self.port}"

    def close(self) -> None:
        self._socket.close()

    def _bound(self, home: Home) -> socket.socket:
        wanted = os.environ.get("HTTP_PORT")
        if wanted:
            return self._bind_wanted(wanted)
        remembered = home.remembered("port")
        found = self._try(remembered or PREFERRED_PORT, within_s=SAME_PORT_WITHIN_S if remembered else 0)
        found = found or self._try(0, within_s=0)
        if found is None:
            raise CannotListen(f"HTTP_HOST={self.host} is not an address of this machine.")
        home.remember("port", found.getsockname()[1])
        return found

    def _bind_wanted(self, wanted: str) -> socket.socket:
        if not wanted.isdecimal() or not 0 < int(wanted) < 65536:
            raise CannotListen(f"HTTP_PORT is {wanted!r}. Expected: a number from 1 to 65535.")
        found = self._try(int(wanted), within_s=SAME_PORT_WITHIN_S)
        if found is None:
            raise CannotListen(
                f"Nothing can listen at {self.host}:{wanted} (HTTP_HOST, HTTP_PORT): it is in use."
            )
        return found

    def _try(self, port: int, *, within_s: float) -> socket.socket | None:
        deadline = time.monotonic() + within_s
        while True:
            found = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it. The web processes know only a file descriptor and would not set it: the
            # last part of an answer would wait 40 ms for the reader's delayed acknowledgement.
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                found.bind((self.host, port))
            except OSError:
                found.close()
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.1)
            else:
                return found
