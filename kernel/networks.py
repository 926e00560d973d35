"""Addresses that no connection is made to on behalf of a client.

Whatever lets clients name a URL lets them point the service at what only the service
can reach: itself, its neighbours on the link, the metadata service of its cloud.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import BeforeValidator

from kernel.options import to_list

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

OFF_LIMITS: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "::1/128",
        "169.254.0.0/16",
        "fe80::/10",
        "0.0.0.0/8",
        "::/128",
        "224.0.0.0/4",
        "ff00::/8",
    )
)
"""Loopback, link-local with the metadata address, unspecified and multicast; not private ones: mirrors live there."""

_WRAPPERS: Final = tuple(
    ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")
)
"""IPv6 networks whose last four bytes are an IPv4 address: of NAT64, translated, and the old compatible one."""


def _networks(value: object) -> object:
    items = to_list(value)
    return tuple(ipaddress.ip_network(str(item), strict=False) for item in items) if isinstance(items, list) else items


NetworkList = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
"""An option that lists networks."""


def forms(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address inside an IPv6 one that merely wraps it."""
    if not isinstance(address, ipaddress.IPv6Address):
        return (address,)
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and any(address in wrapper for wrapper in _WRAPPERS) and int(address) > 1:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (address,) if inner is None else (address, inner)


def inside(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address, in any of its forms, lies in one of the networks."""
    return any(form.version == network.version and form in network for form in forms(address) for network in networks)
