"""Whether this node is up, for load balancers and orchestrators; no authentication."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from handlers.accept import error_form
from kernel.errors import Unavailable
from kernel.service import Service


async def healthcheck(request: web.BaseRequest, service: Service) -> web.Response:
    """`/healthcheck`: as operators of OpenStack know it."""
    path = service.settings.healthcheck.disable_by_file_path
    disabled = path is not None and await asyncio.to_thread(path.exists)
    status, text = (503, "DISABLED BY FILE") if disabled else (200, "OK")
    if request.method == "HEAD":
        return web.Response(status=503 if disabled else 204)
    match error_form(request.headers.get("Accept")):
        case "json" if "json" in request.headers.get("Accept", ""):
            body = orjson.dumps({"detailed": False, "reasons": [text]})
            return web.Response(status=status, body=body, content_type="application/json")
        case "html" if "text/html" in request.headers.get("Accept", ""):
            page = f"<html>\n<head><title>Healthcheck Status</title></head>\n<body><p>{text}</p></body>\n</html>\n"
            return web.Response(status=status, text=page, content_type="text/html")
        case _:
            return web.Response(status=status, text=text, content_type="text/plain")


async def alive(request: web.BaseRequest, service: Service) -> web.Response:
    """`/livez`: the process runs its loop."""
    return web.Response(text="ok\n")


async def ready(request: web.BaseRequest, service: Service) -> web.Response:
    """`/readyz`: the database answers, so requests can be served."""
    try:
        async with asyncio.timeout(2):
            await service.database.fetchval("SELECT 1")
    except (Unavailable, TimeoutError):
        return web.Response(status=503, text="the database is not available\n", headers={"Retry-After": "2"})
    return web.Response(text="ok\n")
