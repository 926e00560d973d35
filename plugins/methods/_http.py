"""Fetching over HTTP without being led astray: every hop judged, every address pinned, no credentials carried off."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from kernel.errors import Interrupted, Invalid
from kernel.extend import Opened
from kernel.masking import mask_url
from plugins.methods._filtering import SCHEMES, Address, FilterConfig, Target, judge, parse, refusal, resolve

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Source(Struct, frozen=True, kw_only=True):
    """What to fetch, and how far to trust it."""

    uri: str
    config: FilterConfig
    headers: Mapping[str, str] = {}
    """Sent to the first origin only."""
    trusted: bool = False
    """Whether the host comes from a catalogue, so that no network is off limits."""


class _Pinned(AbstractResolver):
    """Says only what was found, and judged, before."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET6 if address.version == 6 else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        return None


async def fetch(source: Source, offset: int = 0, validator: str | None = None) -> Opened:
    """Open a URI, from `offset` if the source still is the version that `validator` names.

    `Invalid` when a hop is refused or the answer is no success, `Interrupted` when the line breaks.
    """
    target = parse(source.uri)
    first = target.origin
    for _ in range(source.config.max_redirects + 1):
        judge(target, source.config)
        headers = {"Accept-Encoding": "identity", "User-Agent": "entrepot"}
        if target.origin == first:
            headers |= source.headers
        if offset and validator:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        session = await _session(source, target)
        try:
            response = await _get(session, target, headers, with_credentials=target.origin == first)
            if response.status not in _REDIRECTS:
                return _opened(session, response, target, offset)
            location = response.headers.get("Location")
            response.close()
        except BaseException:
            await session.close()
            raise
        await session.close()
        if not location:
            raise Invalid(f"{mask_url(target.uri)} redirects to nowhere")
        target = _next(target, location)
    raise Invalid(f"{mask_url(source.uri)} redirects more than {source.config.max_redirects} times")


def _next(target: Target, location: str) -> Target:
    following = parse(urljoin(target.uri, location))
    if following.scheme not in SCHEMES:
        raise refusal(following.uri)
    return following


async def _session(source: Source, target: Target) -> aiohttp.ClientSession:
    config = source.config
    open_to_all = config.model_copy(update={"disallowed_networks": ()})
    addresses = await resolve(target, open_to_all if source.trusted else config)
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=config.connect_timeout, sock_read=config.stall_timeout, connect=config.connect_timeout
    )
    connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False, force_close=True)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        read_bufsize=1 << 20,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _get(
    session: aiohttp.ClientSession, target: Target, headers: Mapping[str, str], *, with_credentials: bool
) -> aiohttp.ClientResponse:
    auth = None
    if with_credentials and target.user is not None:
        auth = aiohttp.BasicAuth(target.user, target.password or "")
    try:
        return await session.get(target.uri, headers=headers, auth=auth, allow_redirects=False)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Interrupted(f"{mask_url(target.uri)} could not be reached: {_why(error)}") from None


def _opened(session: aiohttp.ClientSession, response: aiohttp.ClientResponse, target: Target, offset: int) -> Opened:
    status = response.status
    if not 200 <= status < 300:
        raise Invalid(f"The image could not be fetched: {mask_url(target.uri)} answered {status}")
    begins, total = 0, response.content_length
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise Invalid(f"{mask_url(target.uri)} answered with a part it does not name")
        begins, total = int(match[1]), int(match[3])
    return Opened(
        chunks=_chunks(session, response, target),
        total=total,
        offset=begins,
        validator=_validator(response) if total is not None else None,
    )


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """What can be asked for again: a strong ETag, if the server serves parts at all."""
    tag = response.headers.get("ETag", "")
    ranges = response.status == 206 or "bytes" in response.headers.get("Accept-Ranges", "")
    return tag if ranges and tag.startswith('"') else None


async def _chunks(
    session: aiohttp.ClientSession, response: aiohttp.ClientResponse, target: Target
) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError:
        raise Interrupted(f"{mask_url(target.uri)} sent nothing for too long") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Interrupted(f"{mask_url(target.uri)} broke off: {_why(error)}") from None
    finally:
        response.close()
        with contextlib.suppress(Exception):
            await session.close()


def _why(error: BaseException) -> str:
    """The reason without addresses or credentials."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "its certificate is not trusted"
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientPayloadError():
            return "the length does not match what was announced"
        case _:
            return "the connection failed"
