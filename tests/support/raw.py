"""HTTP by hand: requests that no client library would send, and connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support import identities
from tests.support.running import Site

DEADLINE = 15.0
"""Seconds after which an answer that is waited for will not come."""


@dataclass(frozen=True)
class Answer:
    """What came back, byte by byte."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Wire:
    """One connection to a site."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, site: Site) -> Wire:
        host, port = site.client.server.host, site.client.server.port
        return cls(*await asyncio.open_connection(host, port, limit=1 << 24))

    async def __aenter__(self) -> Wire:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def cut(self) -> None:
        """Drop the connection without a word."""
        self.writer.transport.abort()

    async def line(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readline()

    async def answer(self, *, body: bool = True) -> Answer:
        """The next answer; `body` is False for what has none by its method."""
        async with asyncio.timeout(DEADLINE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            _, status, reason = [*first.split(" ", 2), ""][:3]
            headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
            answer = Answer(int(status), reason, headers, b"")
            data = await self._body(answer) if body else b""
            return Answer(answer.status, reason, headers, data)

    async def _body(self, answer: Answer) -> bytes:
        length = answer.header("Content-Length")
        if length is not None:
            return await self.reader.readexactly(int(length))
        if (answer.header("Transfer-Encoding") or "").lower() == "chunked":
            data = b""
            while size := int((await self.reader.readline()).strip(), 16):
                data += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readline()
            return data
        return b"" if answer.status in (100, 204, 304) else await self.reader.read()

    async def ended(self) -> bytes:
        """Whatever still comes until the other side closes."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


def head(
    method: str, path: str, who: str | None = "A", *, host: str | None = "h", version: str = "1.1", **headers: str
) -> bytes:
    """A request's head: exactly these headers, underscores in names standing for dashes."""
    lines = [f"{method} {path} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    sent: Mapping[str, str] = {**identities.headers(who), **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines += [f"{name}: {value}" for name, value in sent.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def ask(site: Site, request: bytes, *, body: bool = True) -> Answer:
    """One request on a connection of its own."""
    async with await Wire.to(site) as wire:
        await wire.send(request)
        return await wire.answer(body=body)
