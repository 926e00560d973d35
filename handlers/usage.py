"""What a project uses of what it may use."""

from __future__ import annotations

from typing import Final

from aiohttp.web import StreamResponse

from handlers.call import Call
from handlers.routing import Route


async def info_usage(call: Call) -> StreamResponse:
    """`GET /v2/info/usage`; empty without unified limits."""
    service, project = call.service, call.actor.project_id
    usage = await service.queries.usage(project) if service.site.quotas.unified else {}
    return call.reply({"usage": await service.site.quotas.report(project, usage)})


ROUTES: Final = (
    Route(
        method="GET",
        path="/info/usage",
        handler=info_usage,
        errors=(400, 401, 503),
        summary="Usage and limits of the caller's project",
    ),
)
