"""A receiver of webhooks that can refuse, fail and be away."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Judge = Callable[[dict[str, Any]], int]


@dataclass
class Hook:
    """What came, and what to answer."""

    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    judge: Judge = lambda event: 204
    """From an event to the status that it gets; only those with 2xx are kept."""
    seen: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)

    async def take(self, request: web.BaseRequest) -> web.Response:
        event = orjson.loads(await request.read())
        self.seen += 1
        status = self.judge(event)
        if status < 300:
            self.events.append(event)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=status, headers=self.answer_headers)


@contextlib.asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    made = Hook()
    runner = web.ServerRunner(web.Server(made.take))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    try:
        yield made
    finally:
        await runner.cleanup()
