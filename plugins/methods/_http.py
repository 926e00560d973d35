"""Fetching over HTTP without being led astray: every hop judged, every address pinned, no credentials carried off."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from yarl import URL

from kernel.errors import Interrupted, SourceFailed
from kernel.extend import Opened
from kernel.masking import mask_url
from kernel.networks import Address
from plugins.methods._filtering import SCHEMES, FilterConfig, Target, judge, parse, refusal, resolve

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
"""Answers that do not mean no to somebody who was being served a moment ago."""
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_NO_TEXT: Final = re.compile("[\udc80-\udcff]")
"""Bytes of a header that are no UTF-8, as aiohttp hands them over."""
_BUFFER: Final = 1 << 20
"""Bytes that may wait unread."""


class Source(Struct, frozen=True, kw_only=True):
    """What to fetch, and how far to trust it."""

    uri: str
    config: FilterConfig
    headers: Mapping[str, str] = {}
    """Sent to the first origin only, and not any more once a redirect has left it."""
    trusted: bool = False
    """Whether the host comes from a catalogue, so that no network is off limits for it."""
    since: float | None = None
    """When the whole undertaking began, by the monotonic clock."""

    @property
    def until(self) -> float | None:
        limit = self.config.total_timeout
        return self.since + limit if limit and self.since is not None else None


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

    `Invalid` when a hop is refused, `SourceFailed` when the answer is no success, `Interrupted` when the line breaks,
    or when who has sent a part already is too busy for the rest.
    """
    target = parse(source.uri)
    first, at_home = target.origin, True
    credentials = {**source.headers, **_basic(target)}
    for _ in range(source.config.max_redirects + 1):
        at_home = at_home and target.origin == first
        judge(target, source.config)
        headers = {"Accept-Encoding": "identity", "User-Agent": "entrepot", **(credentials if at_home else {})}
        if offset and validator:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        session = await _session(source.config, target, trusted=source.trusted and at_home)
        response = None
        try:
            response = await _get(session, target, headers, source.config)
            if response.status not in _REDIRECTS:
                return _opened(session, response, target, source, offset)
            location = response.headers.get("Location")
            response.close()
        except BaseException:
            if response is not None:
                response.close()
            await session.close()
            raise
        await session.close()
        if not location:
            raise SourceFailed(f"{mask_url(target.uri)} redirects to nowhere")
        target = _next(target, location)
    raise SourceFailed(f"{mask_url(source.uri)} redirects more than {source.config.max_redirects} times")


def _basic(target: Target) -> dict[str, str]:
    """The user-info of a URI as it is sent."""
    if target.user is None:
        return {}
    pair = f"{target.user}:{target.password or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _next(target: Target, location: str) -> Target:
    location = _NO_TEXT.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", location)
    try:
        following = parse(urljoin(target.uri, location))
    except ValueError:
        raise refusal(location) from None
    if following.scheme not in SCHEMES:
        raise refusal(following.uri)
    return following


async def _session(config: FilterConfig, target: Target, *, trusted: bool) -> aiohttp.ClientSession:
    open_to_all = config.model_copy(update={"disallowed_networks": ()})
    addresses = await resolve(target, open_to_all if trusted else config)
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=config.connect_timeout, sock_read=config.stall_timeout, connect=config.connect_timeout
    )
    connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False, force_close=True)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        read_bufsize=_BUFFER,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _get(
    session: aiohttp.ClientSession, target: Target, headers: Mapping[str, str], config: FilterConfig
) -> aiohttp.ClientResponse:
    try:
        async with asyncio.timeout(config.connect_timeout + config.stall_timeout):  # drop by drop, headers never stall
            return await session.get(URL(target.uri, encoded=True), headers=headers, allow_redirects=False)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise Interrupted(f"{mask_url(target.uri)} could not be reached: {_why(error)}") from None


def _opened(
    session: aiohttp.ClientSession, response: aiohttp.ClientResponse, target: Target, source: Source, offset: int
) -> Opened:
    async def close() -> None:
        response.close()
        await session.close()

    status = response.status
    if status == 416 and offset:  # there is nothing there any more: it has changed, whatever If-Range made of it
        return Opened(chunks=_nothing(), close=close)
    if not 200 <= status < 300:
        failure = Interrupted if offset and status in _BUSY else SourceFailed
        raise failure(f"The image could not be fetched: {mask_url(target.uri)} answered {status}")
    begins, total = 0, response.content_length
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise SourceFailed(f"{mask_url(target.uri)} answered with a part it does not name")
        begins, total = int(match[1]), int(match[3])
    return Opened(
        chunks=_chunks(response, target, source.until),
        total=total,
        offset=begins,
        validator=_validator(response) if total is not None else None,
        close=close,
    )


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """What can be asked for again: a strong ETag, unless the server says that it serves no parts."""
    tag = response.headers.get("ETag", "")
    refuses = response.status != 206 and response.headers.get("Accept-Ranges", "").strip().lower() == "none"
    return tag if tag.startswith('"') and tag.isascii() and not refuses else None


async def _nothing() -> AsyncIterator[bytes]:
    for nothing in tuple[bytes, ...]():
        yield nothing


async def _chunks(response: aiohttp.ClientResponse, target: Target, until: float | None) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            if until is not None and time.monotonic() > until:
                raise SourceFailed(f"{mask_url(target.uri)} takes too long to send everything")
            yield chunk
    except TimeoutError:
        raise SourceFailed(f"{mask_url(target.uri)} sent nothing for too long") from None
    except (aiohttp.ClientError, OSError) as error:
        if arrived := _arrived(response.content):
            yield arrived
        raise Interrupted(f"{mask_url(target.uri)} broke off: {_why(error)}") from None


def _arrived(content: aiohttp.StreamReader) -> bytes:
    """What had come in before the line broke; the reader would rather report the break than hand it over."""
    content.set_exception(None)  # type: ignore[arg-type]
    return content.read_nowait()


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
