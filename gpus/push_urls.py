"""Where the marketplace may call out to: the guard against requests forged through a node's push URL.

A URL is checked when a node registers. Each call resolves the name once more, keeps only the addresses that
are allowed, and connects to one of these (`resolve`): a name that changes its address gains nothing.
"""

import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

from marketplace.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_LENGTH = 500


class PushUrlRefused(InvalidRequest):
    """The URL cannot be a node's push URL. The message says why."""

    code = "push_url_refused"

    def __init__(self, message: str) -> None:
        super().__init__(message, fields={"push_url": [message]})


def check(url: str) -> None:
    """Raise PushUrlRefused unless `url` is http(s), names no user, and leads to an allowed address."""
    parts = _split(url)
    resolve(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def resolve(host: str, port: int) -> list[str]:
    """The addresses of `host` that we may connect to, in the resolver's order. Blocks on DNS.

    Raises PushUrlRefused where the name is unknown or leads nowhere allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PushUrlRefused(f"The host name {host!r} cannot be resolved.") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in addresses if is_allowed(address)]
    if not allowed:
        raise PushUrlRefused(
            f"{host!r} leads to {', '.join(addresses[:4])}, where this marketplace does not call. "
            "Give an address on the public internet, or use pull."
        )
    return allowed


def is_allowed(address: str) -> bool:
    """Whether we may connect to this IP address.

    Private, loopback and shared (100.64/10) addresses only by ALLOW_PRIVATE_NODE_URLS. Never: link-local,
    where clouds keep credentials, their other metadata services, multicast, reserved and unspecified.
    """
    ip = _innermost(ipaddress.ip_address(address.split("%")[0]))
    if ip in _METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    if ip.is_loopback:
        return settings.ALLOW_PRIVATE_NODE_URLS
    if ip.is_reserved or ip in _THIS_NETWORK:
        return False
    return ip.is_global or settings.ALLOW_PRIVATE_NODE_URLS


_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"))
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# ::a.b.c.d, long out of use, but still connected to IPv4 by some systems.
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")


def _innermost(ip: Address) -> Address:
    """The IPv4 address inside an IPv6 one, where there is one: IPv4-mapped, 6to4, Teredo, NAT64."""
    if ip.version == 4:
        return ip
    if ip.ipv4_mapped or ip.sixtofour:
        return ip.ipv4_mapped or ip.sixtofour or ip
    if ip.teredo:
        return ip.teredo[1]
    if ip in _NAT64 or (ip in _IPV4_COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _split(url: str) -> SplitResult:
    if (
        len(url) > MAX_LENGTH
        or not url.isascii()
        or any(character <= " " or character == "\x7f" for character in url)
    ):
        raise PushUrlRefused(f"The URL must be plain ASCII of at most {MAX_LENGTH} characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise PushUrlRefused("This is not a URL.") from None
    if parts.scheme not in ("http", "https"):
        raise PushUrlRefused("The URL must begin with http:// or https://.")
    if not parts.hostname or port == 0:
        raise PushUrlRefused("The URL names no host.")
    if parts.username is not None or parts.password is not None:
        raise PushUrlRefused("The URL must not contain a user name or a password.")
    if parts.query or parts.fragment:
        raise PushUrlRefused("The URL must end with its path: no query, no fragment.")
    return parts
