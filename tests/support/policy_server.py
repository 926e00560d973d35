"""A server that decides over policy rules, and can be silent, slow and wrong."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson
from aiohttp import web


@dataclass(frozen=True)
class Asked:
    """One question as it came."""

    path: str
    content_type: str
    rule: str
    target: dict[str, Any]
    credentials: dict[str, Any]


Judge = Callable[[Asked], Awaitable[str]]


async def by_path(asked: Asked) -> str:
    """`/True` is answered with `True`, anything else with itself."""
    return asked.path.strip("/")


@dataclass
class PolicyServer:
    """What was asked, and what to answer."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    judge: Judge = by_path
    status: int = 200

    async def take(self, request: web.BaseRequest) -> web.Response:
        raw = await request.read()
        if request.content_type == "application/json":
            document = orjson.loads(raw)
        else:
            document = {name: orjson.loads(value) for name, (value,) in parse_qs(raw.decode()).items()}
        asked = Asked(request.raw_path, request.content_type, **document)
        self.asked.append(asked)
        return web.Response(text=await self.judge(asked), status=self.status)


@contextlib.asynccontextmanager
async def policy_server(trust: ssl.SSLContext | None = None) -> AsyncIterator[PolicyServer]:
    made = PolicyServer()
    runner = web.ServerRunner(web.Server(made.take), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=trust).start()
    made.url = f"http{'s' if trust else ''}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
