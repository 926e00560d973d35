"""Which URIs data may be fetched from: six allow and deny lists, and networks that are off limits.

At each level (scheme, host, port) a non-empty allow list decides alone; else the deny
list does.  A URI without a port is never judged by port.  Beyond the lists, hosts are
compared in one canonical form, odd spellings of addresses are refused, and a name is
resolved once: the connection is made to the addresses that passed, not to whatever the
name says a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kernel.errors import Invalid
from kernel.masking import mask_url
from kernel.options import HostList, IniList, PortList, to_list

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SCHEMES: Final = ("http", "https")
"""What we can speak, whatever the lists allow."""

_ODD: Final = re.compile(r"[\x00-\x20\x7f\\]")
_NUMERIC: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)
_DOTTED: Final = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_PATIENCE: Final = 10.0
"""Seconds for which a name may take to resolve."""


def _networks(value: object) -> object:
    items = to_list(value)
    return tuple(ipaddress.ip_network(str(item), strict=False) for item in items) if isinstance(items, list) else items


class FilterConfig(BaseModel):
    """[import_filtering_opts]"""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    allowed_schemes: IniList = Field(SCHEMES, description="Schemes that may be used.")
    disallowed_schemes: IniList = Field((), description="Schemes that may not; ignored if allowed_schemes is set.")
    allowed_hosts: HostList = Field((), description="Hosts that may be used; exempt from disallowed_networks.")
    disallowed_hosts: HostList = Field((), description="Hosts that may not; ignored if allowed_hosts is set.")
    allowed_ports: PortList = Field((80, 443), description="Ports that a URI may spell.")
    disallowed_ports: PortList = Field((), description="Ports that it may not; ignored if allowed_ports is set.")
    disallowed_networks: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = Field(
        tuple(
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
        ),
        description="Networks that no connection is made to. (ours)",
    )
    max_redirects: int = Field(10, ge=0, description="Redirects followed, each judged like the first URI. (ours)")
    connect_timeout: float = Field(30, gt=0, description="Seconds to connect. (ours)")
    stall_timeout: float = Field(60, gt=0, description="Seconds without a byte after which a fetch fails. (ours)")


class Target(Struct, frozen=True):
    """A URI that passed the lists."""

    uri: str
    """Without user-info."""
    scheme: str
    host: str
    """Canonical: lower case, ASCII, no trailing dot, no brackets."""
    port: int | None
    user: str | None = None
    password: str | None = None

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port or (443 if self.scheme == "https" else 80)


def refusal(uri: str) -> Invalid:
    """What every refused URI gets, alike whatever the reason, so that nobody can probe with it."""
    return Invalid(f"The given URI does not pass filtering: {mask_url(uri)[:300]}")


def parse(uri: str) -> Target:
    """Take a URI apart; refuses whatever could be read in two ways."""
    if _ODD.search(uri):
        raise refusal(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise refusal(uri) from None
    scheme, host = parts.scheme.lower(), parts.hostname
    if not scheme or not host or port == 0:
        raise refusal(uri)
    bracketed = parts.netloc.rpartition("@")[2].startswith("[")
    canonical = canonical_host(host, bracketed)
    if canonical is None:
        raise refusal(uri)
    shown = f"[{host}]" if bracketed else host
    authority = shown if port is None else f"{shown}:{port}"
    return Target(
        uri=parts._replace(netloc=authority, fragment="").geturl(),
        scheme=scheme,
        host=canonical,
        port=port,
        user=parts.username,
        password=parts.password,
    )


def canonical_host(host: str, bracketed: bool = False) -> str | None:
    """One spelling for every host; None for spellings that hide an address."""
    text = host.lower().removesuffix(".")
    if bracketed or ":" in text:
        try:
            address = ipaddress.IPv6Address(text)
        except ValueError:
            return None
        return str(address.ipv4_mapped or address)
    if _NUMERIC.fullmatch(text):
        if not _DOTTED.fullmatch(text):
            return None
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            return None
    try:
        return text.encode("idna").decode("ascii") or None
    except UnicodeError:
        return None


def judge(target: Target, config: FilterConfig) -> None:
    """Pass a target by the lists or refuse it; addresses behind names come later."""
    if target.scheme not in SCHEMES or not _passes(
        target.scheme, [name.lower() for name in config.allowed_schemes], [n.lower() for n in config.disallowed_schemes]
    ):
        raise refusal(target.uri)
    if not _passes(target.host, _hosts(config.allowed_hosts), _hosts(config.disallowed_hosts)):
        raise refusal(target.uri)
    if target.port is not None and not _passes(target.port, config.allowed_ports, config.disallowed_ports):
        raise refusal(target.uri)


def _passes(value: object, allowed: Sequence[object], denied: Sequence[object]) -> bool:
    return value in allowed if allowed else value not in denied


def _hosts(listed: Sequence[str]) -> list[str]:
    return [canonical_host(item.strip("[]"), item.startswith("[")) or item.lower() for item in listed]


async def resolve(target: Target, config: FilterConfig) -> list[Address]:
    """Addresses that may be connected to, in the resolver's order; refuses when there is none."""
    found = await _look_up(target)
    if target.host in _hosts(config.allowed_hosts):
        return found
    denied = () if config.allowed_hosts else frozenset(_hosts(config.disallowed_hosts))
    passed = [
        address
        for address in found
        if str(_plain(address)) not in denied and not any(_inside(address, net) for net in config.disallowed_networks)
    ]
    if not passed:
        raise refusal(target.uri)
    return passed


async def _look_up(target: Target) -> list[Address]:
    try:
        return [ipaddress.ip_address(target.host)]
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_PATIENCE):
            rows = await loop.getaddrinfo(target.host, target.origin[2], type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        raise refusal(target.uri) from None
    return list(dict.fromkeys(ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows))


def _plain(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that merely wraps it."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
    return address


def _inside(address: Address, network: Network) -> bool:
    return any(item.version == network.version and item in network for item in (address, _plain(address)))


async def admit(uri: str, config: FilterConfig) -> Target:
    """Everything that is checked before an import is accepted: the lists, and that the name resolves to something."""
    target = parse(uri)
    judge(target, config)
    await resolve(target, config)
    return target
