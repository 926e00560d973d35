"""Broker addresses as operators of OpenStack write them.

    rabbit://user:password@host:port,user2:password2@host2:port2/vhost?ssl=1

One address a host, to be tried in turn.  Without a virtual host it is `/`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote

from msgspec import Struct

_SCHEMES: Final = frozenset({"rabbit", "amqp", "kombu", "rabbits", "amqps"})
_TRUE: Final = frozenset({"1", "true", "yes", "on"})


class Broker(Struct, frozen=True, kw_only=True):
    """One host that may be asked."""

    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: bool

    def __str__(self) -> str:
        """For people: where, without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(url: str) -> tuple[Broker, ...]:
    """The brokers of a transport URL; `ValueError` says what is wrong with it, never showing the password."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise ValueError("transport_url must look like rabbit://user:password@host:port/vhost")
    rest, _, query = rest.partition("?")
    hosts, _, path = rest.partition("/")
    options = parse_qs(query)
    tls = scheme.lower() in ("rabbits", "amqps") or options.get("ssl", ["0"])[-1].lower() in _TRUE
    vhost = unquote(path) or "/"
    return tuple(_broker(host, vhost, tls) for host in (hosts or "localhost").split(","))


def _broker(text: str, vhost: str, tls: bool) -> Broker:
    who, _, where = text.strip().rpartition("@")
    user, colon, password = who.partition(":")
    if where.startswith("["):
        host, _, rest = where[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = where.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        # What stands there may be a piece of a password with a slash in it.
        raise ValueError("transport_url: a port is no number (what is special in a password is written as %XX)")
    return Broker(
        host=host or "localhost",
        port=int(port) if port else 5671 if tls else 5672,
        user=unquote(user) if who else "guest",
        password=unquote(password) if colon else "" if who else "guest",
        vhost=vhost,
        tls=tls,
    )
