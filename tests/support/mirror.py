"""A web server with somebody else's files, which images can be registered from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Mirror:
    """Files by path; it can be told to fail or to wait."""

    files: dict[str, bytes] = field(default_factory=dict)
    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""
    failures: int = 0
    """How many of the next downloads are answered by 503."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Downloads wait for it after their first byte."""

    def add(self, path: str, content: bytes) -> str:
        """Put a file there; returns its URL."""
        self.files[path] = content
        return self.url(path)

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def downloads(self, path: str) -> int:
        return self.asked.count(("GET", path))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=404)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(content))})
        if self.failures > 0:
            self.failures -= 1
            return web.Response(status=503)
        response = web.StreamResponse()
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[:1])
        await self.gate.wait()
        await response.write(content[1:])
        return response


@contextlib.asynccontextmanager
async def mirror() -> AsyncIterator[Mirror]:
    """A running mirror that makes nobody wait."""
    made = Mirror()
    made.gate.set()
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.address = "http://{}:{}".format(*runner.addresses[0][:2])
        yield made
    finally:
        made.gate.set()
        await runner.cleanup()
