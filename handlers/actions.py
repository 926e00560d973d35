"""Taking an image's data out of reach for a while, and giving it back."""

from __future__ import annotations

from typing import Final

from aiohttp.web import StreamResponse

from handlers.call import Call
from handlers.routing import Route
from kernel import commands as c


async def deactivate(call: Call) -> StreamResponse:
    """`POST /v2/images/{image_id}/actions/deactivate`"""
    return await _act(call, c.Deactivate(), "deactivate")


async def reactivate(call: Call) -> StreamResponse:
    """`POST /v2/images/{image_id}/actions/reactivate`"""
    return await _act(call, c.Reactivate(), "reactivate")


async def _act(call: Call, command: c.Command, rule: str) -> StreamResponse:
    image_id = call.parameters["image_id"]
    await call.service.commands.handle(image_id, command, context=call.context, guard=call.guard(image_id, rule))
    return call.empty()


ROUTES: Final = tuple(
    Route(
        method="POST",
        path=f"/images/{{image_id}}/actions/{name}",
        handler=handler,
        success=(204,),
        summary=f"{name.capitalize()} an image",
    )
    for name, handler in (("deactivate", deactivate), ("reactivate", reactivate))
)
