"""O of the scenarios: an HTTP server for downloads that can be as hostile as one likes, and remembers who asked.

It speaks HTTP by hand, because no decent server lies about lengths or stops in the
middle of a header.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.support.formats import QCOW, RAW1K

BLOCK = 1 << 16


@dataclass(frozen=True)
class Asked:
    """A request as it came in; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    raw: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def begin(self) -> int | None:
        """Where the range asked for begins."""
        value = self.headers.get("range")
        return int(value.removeprefix("bytes=").partition("-")[0]) if value else None


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Origin:
    """A running server."""

    host: str = "127.0.0.1"
    port: int = 0
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    sent: int = 0
    """Bytes of bodies handed to the network by those answers that count."""

    def url(self, path: str, host: str | None = None, user: str = "") -> str:
        return f"{self.scheme}://{f'{user}@' if user else ''}{host or self.host}:{self.port}{path}"

    def of(self, path: str) -> list[Asked]:
        """Requests for one path, in their order."""
        return [asked for asked in self.asked if asked.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                raw = await reader.readuntil(b"\r\n\r\n")
                line, *rest = raw.decode("latin1").split("\r\n")
                method, target, _ = line.split(" ", 2)
                pairs = (header.partition(":") for header in rest if header)
                headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
                asked = Asked(method, target, headers, raw)
                self.asked.append(asked)
                await self._answer(asked, reader, writer)
        except asyncio.CancelledError:
            pass  # the streams of Python 3.11 make a noise about handlers that were cancelled
        finally:
            writer.close()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer, for as long as anybody is there to listen."""
        answering = asyncio.ensure_future(self.answers.get(asked.path, _unknown)(asked, writer))
        leaving = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
                await writer.drain()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


@contextlib.asynccontextmanager
async def origin(tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    """The origin with everything that the scenarios ask of it."""
    made = Origin(scheme="https" if tls else "http", answers=dict(ANSWERS))
    server = await asyncio.start_server(made.serve, made.host, 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        if hasattr(server, "close_clients"):
            server.close_clients()


# --- answers -----------------------------------------------------------------------------


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode()


def whole(data: bytes, *headers: str, status: str = "200 OK", announced: int | None = None) -> Answer:
    """A body with its length, or with the length that is announced instead."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        length = len(data) if announced is None else announced
        writer.write(head(status, f"Content-Length: {length}", *headers) + data)

    return answer


def status(code: int) -> Answer:
    return whole(b"no", status=f"{code} Whatever")


def chunked(data: bytes, piece: int = 100, *, ends: bool = True) -> Answer:
    """A body without a length; one that does not end breaks off instead."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", "Transfer-Encoding: chunked"))
        for at in range(0, len(data), piece):
            part = data[at : at + piece]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        if ends:
            writer.write(b"0\r\n\r\n")

    return answer


def until_close(data: bytes) -> Answer:
    """A body that ends with the connection, as in HTTP/1.0."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", "Connection: close") + data)

    return answer


def verbatim(raw: bytes) -> Answer:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return answer


def redirect(location: str, code: int = 302) -> Answer:
    return whole(b"", f"Location: {location}", status=f"{code} Elsewhere")


async def redirect_as_told(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await redirect(parse_qs(urlsplit(asked.target).query)["u"][0])(asked, writer)


async def slow(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """One byte, and then nothing for as long as anybody listens."""
    writer.write(head("200 OK", "Content-Length: 1024") + b"0")
    await _until_left(writer)


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Not even a status."""
    await _until_left(writer)


async def drip(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, for ever: never silent, never done."""
    writer.write(head("200 OK"))
    while not writer.is_closing():
        writer.write(b"0")
        await writer.drain()
        await asyncio.sleep(0.02)


async def headers_drip(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Headers that never end, a little at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """As many bytes as anybody will take."""
    writer.write(head("200 OK"))
    while not writer.is_closing():
        writer.write(bytes(BLOCK))
        await writer.drain()


async def _until_left(writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    while not writer.is_closing():
        await asyncio.sleep(0.02)


async def _unknown(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await status(404)(asked, writer)


ANSWERS: dict[str, Answer] = {
    "/raw": whole(RAW1K),
    "/qcow": whole(QCOW),
    "/gz": whole(gzip.compress(RAW1K)),
    "/chunked": chunked(RAW1K),
    "/nolength": until_close(RAW1K),
    "/empty": whole(b""),
    "/empty-chunked": chunked(b""),
    "/short": whole(bytes(1000), announced=2000),
    "/long": whole(RAW1K, announced=1000),
    "/cut-chunked": chunked(RAW1K, ends=False),
    "/404": status(404),
    "/500": status(500),
    "/to": redirect_as_told,
    "/loop": redirect("/loop"),
    "/nowhere": whole(b"", status="302 Found"),
    "/slow": slow,
    "/silent": silent,
    "/drip": drip,
    "/headers-drip": headers_drip,
    "/endless": endless,
}


# --- sources that break off --------------------------------------------------------------


def content(size: int, begin: int = 0, salt: int = 0) -> Iterator[bytes]:
    """Bytes of which no two blocks are alike, from any place on."""
    at = begin
    base = hashlib.shake_128(b"%d" % salt).digest(BLOCK)
    while at < size:
        block, inside = divmod(at, BLOCK)
        piece = (block.to_bytes(8, "big") + base[8:])[inside : min(BLOCK, size - block * BLOCK)]
        yield piece
        at += len(piece)


def digest_of(size: int, salt: int = 0) -> str:
    """SHA-512 of `content`."""
    hashed = hashlib.sha512()
    for piece in content(size, salt=salt):
        hashed.update(piece)
    return hashed.hexdigest()


@dataclass
class Flaky:
    """A file of which every answer ends after `cut` bytes; it can be exchanged for another in between."""

    origin: Origin
    size: int
    cut: int | None = None
    etag: str | None = '"v1"'
    ranges: bool = True
    salt: int = 0
    gently: bool = False
    """Whether the line is closed in an orderly way rather than reset."""
    cuts: int = 0
    """How often it was."""
    pause: float = 0.0
    """Seconds between two blocks."""

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        begin = asked.begin or 0
        current = asked.headers.get("if-range") in (None, self.etag)
        headers = [f"ETag: {self.etag}"] if self.etag else []
        if not self.ranges or not current:
            begin = 0
        if begin and begin >= self.size:
            writer.write(head("416 No", f"Content-Range: bytes */{self.size}", "Content-Length: 0", *headers))
            return
        if begin:
            headers.append(f"Content-Range: bytes {begin}-{self.size - 1}/{self.size}")
        status_line = "206 Partial Content" if begin else "200 OK"
        writer.write(head(status_line, f"Content-Length: {self.size - begin}", *headers))
        left = self.size - begin if self.cut is None else self.cut
        for piece in content(self.size, begin, self.salt):
            writer.write(piece[:left])
            self.origin.sent += len(piece[:left])
            left -= len(piece[:left])
            await writer.drain()
            if left <= 0:
                break
            if self.pause:
                await asyncio.sleep(self.pause)
        if self.cut is not None and begin + self.cut < self.size:
            self.cuts += 1
            if not self.gently:
                writer.transport.abort()
