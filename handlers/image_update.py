"""`PATCH /v2/images/{image_id}`"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from aiohttp.web import StreamResponse

from handlers import locations, views
from handlers.call import Call
from handlers.patching import LocationOperation, Reader, media_type
from handlers.routing import Route
from kernel import commands as c
from kernel.errors import Forbidden
from kernel.handle import Guard
from kernel.image import Image
from kernel.patch import Operation

_RULES: Final = {"public": "publicize_image", "community": "communitize_image"}
"""Visibility -> the policy rule that setting it takes, beside `modify_image`."""


async def update(call: Call) -> StreamResponse:
    """All operations, or none; the whole image as it is afterwards."""
    media = media_type(call.request.headers.get("Content-Type", ""))
    reader = Reader(
        media,
        check=call.app.image_schema.value,
        rights=lambda name: call.app.protection.rights(call.actor, name),
        locations=call.service.settings.default.show_multiple_locations,
    )
    wanted = reader.operations(await call.json(list))
    if not wanted:
        return _answer(call, await call.image())
    image_id = call.parameters["image_id"]
    guard = _guard(call, image_id, wanted)
    if any(isinstance(operation, LocationOperation) for operation in wanted):
        return _answer(call, await _with_locations(call, image_id, wanted, guard))
    handled = await call.service.commands.handle(image_id, *_commands(call, wanted), context=call.context, guard=guard)
    return _answer(call, handled.after)


async def _with_locations(call: Call, image_id: str, wanted: Sequence[Operation], guard: Guard) -> Image:
    """A patch that touches locations: their stores are asked, but only on behalf of somebody who may."""
    for operation in wanted:
        if isinstance(operation, LocationOperation):
            locations.read(operation)
    may = locations.guard(call, wanted)

    def both(image: Image) -> None:
        guard(image)
        may(image)

    image = await call.service.commands.load(image_id)
    both(image)
    locations.check_room(call, wanted, image)
    commands: list[c.Command] = []
    for _, group in itertools.groupby(wanted, lambda item: isinstance(item, LocationOperation)):
        operations = list(group)
        for operation in operations:
            if isinstance(operation, LocationOperation):
                commands += await locations.commands(call, operation, image)
        if not isinstance(operations[0], LocationOperation):
            commands += _commands(call, operations)
    handled = await call.service.deletions.delete(
        image_id,
        *commands,
        of=lambda image: locations.leaving(call, wanted, image),
        context=call.context,
        guard=both,
        limits=await call.service.site.quotas.store(image.owner),
    )
    return handled.after


def _answer(call: Call, image: Image) -> StreamResponse:
    return call.reply(views.image(image, call.viewer))


def _guard(call: Call, image_id: str, wanted: Sequence[Operation]) -> Guard:
    """Who may change an image at all, publish it, and give it away."""
    modify = call.guard(image_id, "modify_image")

    def check(image: Image) -> None:
        modify(image)
        for operation in wanted:
            if operation.name == "owner" and not call.admin:
                raise Forbidden("Only administrators may change the owner of an image")
            rule = _RULES.get(str(operation.value)) if operation.name == "visibility" else None
            if rule is not None and not call.policy.allowed_image(call.actor, rule, image):
                raise Forbidden(f"You are not authorized to make an image {operation.value}")

    return check


def _commands(call: Call, wanted: Sequence[Operation]) -> list[c.Command]:
    settings = call.service.settings.default
    quotas = {"property_quota": settings.image_property_quota, "tag_quota": settings.image_tag_quota}
    return [c.PatchImage(operations=tuple(wanted), **quotas)]


ROUTES: Final = (
    Route(
        method="PATCH",
        path="/images/{image_id}",
        handler=update,
        body="json",
        errors=(400, 401, 403, 404, 409, 413, 415),
        summary="Change an image",
    ),
)
