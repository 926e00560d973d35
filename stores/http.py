"""Read image data that lies on somebody's web server; nothing is ever written there."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from kernel import errors
from kernel.extend import Leftover, Stored, StoreDriver, StoreSite
from kernel.names import addresses
from kernel.networks import OFF_LIMITS, NetworkList, inside
from kernel.options import HostList

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_HOPS: Final = 5
_PIECE: Final = 1 << 20
_RANGE: Final = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class HttpConfig(BaseModel):
    """Timeouts of ours, and the operators' options that say which certificates to believe."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    connect_timeout: float = Field(default=30, gt=0)
    """Seconds."""
    stall_timeout: float = Field(default=60, gt=0)
    """Seconds without a single byte."""
    https_ca_certificates_file: Path | None = None
    """File with the authorities to believe; unset: those of the system."""
    https_insecure: bool = False
    """Unlike in Glance, certificates are verified unless the operator says not to."""
    disallowed_networks: NetworkList = OFF_LIMITS
    """Networks that no connection is made to, for clients can name locations; empty: Glance's reach."""
    exempt_hosts: HostList = ()
    """Hosts, as locations spell them, for which no network is off limits."""


class OffLimits(OSError):
    """Every address that a host has lies in a network that no connection is made to."""


class _Guard(AbstractResolver):
    """Resolves names to the addresses that may be connected to; nobody asks again between judging and connecting."""

    def __init__(self, config: HttpConfig) -> None:
        self._networks = config.disallowed_networks
        self._exempt = frozenset(_bare(host) for host in config.exempt_hosts)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await addresses(host, port, family)
        passed = [str(address) for address in found if self.admits(host, str(address))]
        if not passed:
            raise OffLimits(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in passed
        ]

    def admits(self, host: str, address: str) -> bool:
        """Whether a connection may be made to an address for the sake of a host; a name is no address."""
        if _bare(host) in self._exempt:
            return True
        try:
            return not inside(ipaddress.ip_address(address.partition("%")[0]), self._networks)
        except ValueError:
            return True

    async def close(self) -> None:
        return None


class HttpStore:
    """A `Store` of what others keep: it can be read and forgotten, not written."""

    def __init__(self, config: HttpConfig, site: StoreSite, trust: ssl.SSLContext | bool) -> None:
        self._name, self._config, self._trust = site.name, config, trust
        self._guard = _Guard(config)
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    async def connect(cls, config: HttpConfig, site: StoreSite) -> HttpStore:
        """The store; no connection is made before somebody reads."""
        authorities = config.https_ca_certificates_file
        if authorities is None:
            return cls(config, site, trust=not config.https_insecure)
        try:
            trust = await asyncio.to_thread(ssl.create_default_context, cafile=str(authorities))
        except OSError as error:
            option = f"https_ca_certificates_file = {authorities}"
            raise errors.ConfigError(f"store {site.name}: {option}: {error.strerror or error}") from error
        return cls(config, site, trust)

    async def put(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> Stored:
        raise errors.StoreReadOnly(self._name)

    async def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        if length == 0:
            await self.size(url)
            return
        wanted = {}
        if offset or length is not None:
            wanted = {"Range": f"bytes={offset}-{'' if length is None else offset + length - 1}"}
        async with self._ask("GET", url, wanted) as answer:
            if answer.status == 416:
                self._check_end(answer, offset)
                return
            self._check(answer)
            skip, left = self._extent(answer, offset, length)
            async for chunk in answer.content.iter_chunked(_PIECE):
                piece, skip = chunk[skip:], max(0, skip - len(chunk))
                if left is not None:
                    piece = piece[:left]
                    left -= len(piece)
                if piece:
                    yield piece
                if left == 0:
                    return
            # A body that breaks off is an error of the transport; one that merely ends may be a shorter object.
            if skip:
                raise errors.BlobMissing(self._name, f"the object ends before byte {offset}")
            if left and answer.status == 206:
                raise errors.StoreUnavailable(self._name, f"{left} of the promised bytes did not come")

    async def size(self, url: str) -> int:
        async with self._ask("HEAD", url) as answer:
            if answer.status in (404, 410):
                raise errors.BlobMissing(self._name)
            if answer.status == 200 and answer.content_length is not None:
                return answer.content_length
        # Servers that refuse HEAD, and signed URLs that are valid for GET alone.
        async with self._ask("GET", url, {"Range": "bytes=0-0"}) as answer:
            whole = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status in (206, 416) and whole and whole[3] != "*":
                return int(whole[3])
            self._check(answer)
            if answer.status == 206 or answer.content_length is None:
                raise errors.StoreError(self._name, f"{_host(answer.url)} does not tell the length")
            return answer.content_length

    async def delete(self, url: str) -> None:
        """Nothing: the bytes are somebody else's."""

    async def leftovers(self, prefix: str) -> Sequence[Leftover]:
        return ()

    async def remove(self, name: str) -> None:
        """Nothing: no name of ours was ever written."""

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def properties(self) -> Mapping[str, Any]:
        return {}

    # --- asking --------------------------------------------------------------------------

    @asynccontextmanager
    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of whoever has the bytes, after redirects; trouble on the way becomes an error of ours."""
        try:
            target = URL(url)
            for _ in range(_MOST_HOPS + 1):
                answer = await self._open(target).request(method, target, headers=headers, allow_redirects=False)
                async with answer:
                    if answer.status not in _REDIRECTS:
                        yield answer
                        return
                    target = self._next(answer)
        except aiohttp.InvalidURL as error:
            raise errors.StoreError(self._name, "the location is not a usable URL") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if isinstance(error.__cause__, OffLimits):
                raise self._off_limits() from error
            raise errors.StoreUnavailable(self._name, f"{_host(target)}: {type(error).__name__}") from error
        except ValueError as error:  # last, for a certificate that cannot be verified is a ValueError too
            raise errors.StoreError(self._name, "the location is not a usable URL") from error
        raise errors.StoreError(self._name, f"{_host(target)}: more than {_MOST_HOPS} redirects")

    def _open(self, target: URL) -> aiohttp.ClientSession:
        if target.scheme not in ("http", "https") or not target.host:
            raise errors.StoreError(self._name, "the location is no http or https URL")
        if not self._guard.admits(target.host, target.host):  # an address is connected to without being resolved
            raise self._off_limits()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._trust, resolver=self._guard),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._config.connect_timeout, sock_read=self._config.stall_timeout
                ),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=_PIECE,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _off_limits(self) -> errors.StoreError:
        """Alike for every such location, whether or not anything listens there."""
        return errors.StoreDenied(self._name, "the location lies in a network that is off limits")

    def _next(self, answer: aiohttp.ClientResponse) -> URL:
        """Where a redirect leads: to https from anywhere, to http from http only, and nowhere else."""
        here, there = answer.url, answer.url.join(URL(answer.headers.get("Location", "")))
        if there.scheme != here.scheme and (here.scheme, there.scheme) != ("http", "https"):
            raise errors.StoreError(self._name, f"{_host(here)}: a redirect from {here.scheme} to {there.scheme[:20]}")
        return there

    def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status in (200, 206):
            return
        said = f"{_host(answer.url)} answered {answer.status}"
        if answer.status in (404, 410, 416):
            raise errors.BlobMissing(self._name)
        if answer.status in (401, 403, 407):
            raise errors.StoreDenied(self._name, said)
        if answer.status in (408, 425, 429) or answer.status >= 500:
            raise errors.StoreUnavailable(self._name, said)
        raise errors.StoreError(self._name, said)

    def _check_end(self, answer: aiohttp.ClientResponse, offset: int) -> None:
        """From the very end there is nothing to read; beyond it, the object is not the one that we knew."""
        whole = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if whole is None or whole[3] != str(offset):
            raise errors.BlobMissing(self._name, f"the object ends before byte {offset}")

    def _extent(self, answer: aiohttp.ClientResponse, offset: int, length: int | None) -> tuple[int, int | None]:
        """How many bytes of the body to pass over, and how many to take then."""
        if answer.status == 200:  # the server sends everything, whatever it was asked for
            return offset, length
        part = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if part is None or part[1] is None or int(part[1]) != offset:
            raise errors.StoreUnavailable(self._name, f"{_host(answer.url)} sent another range than it was asked for")
        promised = int(part[2]) - offset + 1
        return 0, promised if length is None else min(promised, length)


def _bare(host: str) -> str:
    """A host in one spelling, to be compared."""
    return host.strip("[]").lower().removesuffix(".")


def _host(url: URL) -> str:
    """What may be told of a URL: it can carry credentials."""
    return url.host or "?"


EXTENSION: Final = StoreDriver(
    name="http",
    config=HttpConfig,
    connect=HttpStore.connect,
    schemes=frozenset({"http", "https"}),
    read_only=True,
    selftest=lambda directory: HttpConfig(disallowed_networks=()),
)
