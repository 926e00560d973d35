"""Tags of an image, one at a time."""

from __future__ import annotations

from typing import Final

from aiohttp.web import StreamResponse

from handlers.call import Call
from handlers.routing import Route
from kernel import commands as c
from kernel.errors import Invalid, NotFound


async def put(call: Call) -> StreamResponse:
    """`PUT /v2/images/{image_id}/tags/{tag}`; again is quiet."""
    tag = _tag(call)
    if len(tag) > 255:
        raise Invalid("A tag has at most 255 characters")
    quota = call.service.settings.default.image_tag_quota
    return await _change(call, c.AddTag(tag=tag, quota=quota))


async def delete(call: Call) -> StreamResponse:
    """`DELETE /v2/images/{image_id}/tags/{tag}`"""
    return await _change(call, c.RemoveTag(tag=_tag(call)))


def _tag(call: Call) -> str:
    tag = call.parameters["tag"]
    if "/" in tag:
        raise NotFound("A tag holds no slash")
    if "\0" in tag:
        raise Invalid("A tag holds no NUL character")
    return tag


async def _change(call: Call, command: c.Command) -> StreamResponse:
    image_id = call.parameters["image_id"]
    guard = call.guard(image_id, "modify_image")
    await call.service.commands.handle(image_id, command, context=call.context, guard=guard)
    return call.empty()


ROUTES: Final = (
    Route(
        method="PUT",
        path="/images/{image_id}/tags/{tag}",
        handler=put,
        success=(204,),
        errors=(400, 401, 403, 404, 413),
        summary="Add a tag",
    ),
    Route(
        method="DELETE",
        path="/images/{image_id}/tags/{tag}",
        handler=delete,
        success=(204,),
        summary="Remove a tag",
    ),
)
