"""Where a request comes from.

Only the address of the connection counts. Forwarding headers are the server's to read (uvicorn's
`--forwarded-allow-ips`), since a caller can write anything into them.
"""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Protocol


class HasMeta(Protocol):
    META: dict[str, Any]


def address_of(request: HasMeta) -> str | None:
    """The caller's IP address, None where there is none (a Unix socket)."""
    try:
        return str(ip_address(request.META.get("REMOTE_ADDR") or ""))
    except ValueError:
        return None


def network_of(request: HasMeta) -> str:
    """What tries are counted by: an address, or for IPv6 the /64 that one caller has all of."""
    address = address_of(request)
    if address is None:
        return "0.0.0.0"  # noqa: S104 - stands for "unknown"; nothing is bound to it
    if isinstance(ip_address(address), IPv6Address):
        return str(ip_network(f"{address.split('%')[0]}/64", strict=False).network_address)
    return address
