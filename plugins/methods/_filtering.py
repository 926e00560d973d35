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
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from kernel.errors import Invalid
from kernel.masking import mask_url
from kernel.names import addresses
from kernel.networks import OFF_LIMITS, Address, NetworkList, forms, inside
from kernel.options import HostList, IniList, PortList

SCHEMES: Final = ("http", "https")
"""What we can speak, whatever the lists allow."""

_ODD: Final = re.compile(r"[\x00-\x20\x7f-\xa0\\]|\s")
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F)))
_NAME: Final = re.compile(r"[a-z0-9_.-]+")
_NUMERIC: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)
_DOTTED: Final = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_LONGEST: Final = 8192
"""Characters of a URI: as many as web servers take in a request."""
_LONGEST_HOST: Final = 253
"""Characters of a host, by the rules of the DNS."""
_PATIENCE: Final = 10.0
"""Seconds for which a name may take to resolve."""


class FilterConfig(BaseModel):
    """[import_filtering_opts]"""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    allowed_schemes: IniList = Field(SCHEMES, description="Schemes that may be used.")
    disallowed_schemes: IniList = Field((), description="Schemes that may not; ignored if allowed_schemes is set.")
    allowed_hosts: HostList = Field((), description="Hosts that may be used; exempt from disallowed_networks.")
    disallowed_hosts: HostList = Field((), description="Hosts that may not; ignored if allowed_hosts is set.")
    allowed_ports: PortList = Field((80, 443), description="Ports that a URI may spell.")
    disallowed_ports: PortList = Field((), description="Ports that it may not; ignored if allowed_ports is set.")
    disallowed_networks: NetworkList = Field(OFF_LIMITS, description="Networks that no connection is made to. (ours)")
    max_redirects: int = Field(10, ge=0, description="Redirects followed, each judged like the first URI. (ours)")
    connect_timeout: float = Field(30, gt=0, description="Seconds to connect. (ours)")
    stall_timeout: float = Field(60, gt=0, description="Seconds without a byte after which a fetch fails. (ours)")
    total_timeout: float = Field(
        86400, ge=0, description="Seconds that one fetch may take in all, pauses included; 0 is no limit. (ours)"
    )


def contradictions(config: FilterConfig) -> list[str]:
    """Deny lists that are ignored because there is an allow list too, be it only that of the defaults."""
    return [
        f"[import_filtering_opts] disallowed_{level} is ignored, because allowed_{level} is set"
        for level in ("schemes", "hosts", "ports")
        if getattr(config, f"disallowed_{level}") and getattr(config, f"allowed_{level}")
    ]


def openness(config: FilterConfig) -> list[str]:
    """That anybody may have the service fetch from anywhere."""
    if config.allowed_hosts:
        return []
    return ["[import_filtering_opts] allowed_hosts is empty: web-download fetches from every host that is not denied"]


class Target(Struct, frozen=True):
    """A URI that passed the lists."""

    uri: str
    """As it is asked for: host in its canonical form, without user-info."""
    scheme: str
    host: str
    """Canonical: lower case, ASCII, no trailing dot, no brackets."""
    port: int | None
    user: str | None = None
    password: str | None = None
    """Both with their escapes resolved."""

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port or (443 if self.scheme == "https" else 80)


def refusal(uri: str) -> Invalid:
    """What every refused URI gets, alike whatever the reason, so that nobody can probe with it."""
    return Invalid(f"The given URI does not pass filtering: {mask_url(_ODD.sub('_', uri))[:300]}")


def parse(uri: str) -> Target:
    """Take a URI apart; refuses whatever could be read in two ways.

    What is asked for later is put together anew from the parts that were judged, so
    that no other parser can find another host in it.
    """
    if len(uri) > _LONGEST or _ODD.search(uri):
        raise refusal(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise refusal(uri) from None
    scheme, host = parts.scheme.lower(), parts.hostname
    if not scheme or not host or port == 0:
        raise refusal(uri)
    canonical = canonical_host(host, bracketed=parts.netloc.rpartition("@")[2].startswith("["))
    if canonical is None:
        raise refusal(uri)
    shown = f"[{canonical}]" if ":" in canonical else canonical
    try:
        path, query = quote(parts.path, safe=_PRINTABLE), quote(parts.query, safe=_PRINTABLE)
    except UnicodeEncodeError:  # half of a surrogate pair
        raise refusal(uri) from None
    asked = parts._replace(
        scheme=scheme, netloc=shown if port is None else f"{shown}:{port}", path=path or "/", query=query, fragment=""
    )
    return Target(
        uri=asked.geturl(),
        scheme=scheme,
        host=canonical,
        port=port,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def canonical_host(host: str, bracketed: bool = False) -> str | None:
    """One spelling for every host; None for spellings that hide an address."""
    if len(host) > _LONGEST_HOST + 1:  # a dot at the end does not count
        return None
    text = host.lower()
    if bracketed or ":" in text:
        try:
            address = ipaddress.IPv6Address(text)
        except ValueError:
            return None
        return None if address.scope_id else str(address.ipv4_mapped or address)
    try:  # other scripts have digits and dots of their own
        text = text.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        return None
    if _NUMERIC.fullmatch(text):
        return text if _DOTTED.fullmatch(text) and all(int(part) < 256 for part in text.split(".")) else None
    return text if _NAME.fullmatch(text) else None


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
    found = await look_up(target)
    if target.host in _hosts(config.allowed_hosts):
        return found
    denied = frozenset[str]() if config.allowed_hosts else frozenset(_hosts(config.disallowed_hosts))
    passed = [
        address
        for address in found
        if not any(str(form) in denied for form in forms(address)) and not inside(address, config.disallowed_networks)
    ]
    if not passed:
        raise refusal(target.uri)
    return passed


async def look_up(target: Target) -> list[Address]:
    """What the host is, or its name stands for right now."""
    try:
        return [ipaddress.ip_address(target.host)]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(_PATIENCE):
            return await addresses(target.host, target.origin[2])
    except (OSError, TimeoutError, UnicodeError):
        raise refusal(target.uri) from None


async def admit(uri: str, config: FilterConfig) -> Target:
    """Everything that is checked before an import is accepted: the lists, and that the name resolves to something."""
    target = parse(uri)
    judge(target, config)
    await resolve(target, config)
    return target
