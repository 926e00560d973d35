"""Images: create, list, show, delete."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import orjson
import structlog
from aiohttp.web import StreamResponse
from msgspec import Struct

from handlers import views
from handlers.call import Call
from handlers.errors import HttpError
from handlers.filters import Wanted, parse
from handlers.proxy import forwarded, host_of, is_forwarded
from handlers.routing import Route
from handlers.schemas import (
    READ_ONLY_PRESENCE,
    READ_ONLY_VALUES,
    RESERVED,
    RESERVED_PREFIX,
    ImageBody,
)
from kernel import commands as c
from kernel import events as e
from kernel.errors import Forbidden, Invalid
from kernel.image import Image
from kernel.keys import forget_key
from kernel.patch import within

log = structlog.get_logger(__name__)

_LONG: Final = 1 << 20
"""Bytes of a list that is sent piece by piece: copied as a whole it would hold everybody up."""


async def create(call: Call) -> StreamResponse:
    """`POST /v2/images`"""
    document = await call.json(dict)
    asked, quotas = permitted(call, document), call.service.site.quotas
    if quotas.unified:
        await quotas.refuse_another(asked.owner, await call.service.queries.usage(asked.owner))
    created = acceptable(call, asked)
    limits = await quotas.create(created.owner)
    handled = await call.service.commands.handle(
        created.image_id, c.CreateImage(image=created), context=call.context, limits=limits
    )
    headers = {"Location": f"{call.base_url}/v2/images/{created.image_id}"}
    site = call.service.site
    if site.settings.default.enable_image_import and site.methods:
        headers["OpenStack-image-import-methods"] = ",".join(site.methods)
    if site.multi:
        headers["OpenStack-image-store-ids"] = ",".join(site.backends)
    return call.reply(views.image(handled.after, call.viewer), 201, headers)


async def index(call: Call) -> StreamResponse:
    """`GET /v2/images`"""
    call.must("get_images")
    settings = call.service.settings.default
    query = call.query
    wanted = parse(
        query,
        project=call.actor.project_id,
        admin=call.admin,
        default_limit=settings.limit_param_default,
        most=settings.api_limit_max,
        reads=call.reads,
    )
    marker = await _marker(call, wanted)
    images: list[Image] = []
    if not wanted.nothing and wanted.page > 0:
        images = await call.service.queries.images(wanted.listing, marker)
    page, more = images[: wanted.page], len(images) > wanted.page
    kept = [(name, value) for name, value in query if name != "marker"]
    document = {"first": _link(kept), "schema": "/v2/schemas/images"}
    if more:
        document["next"] = _link([*kept, ("marker", page[-1].id)])
    shown = await call.app.rendered.images(call.policy.allowed_images(call.actor, "get_image", page), call.viewer)
    if sum(map(len, shown)) < _LONG:
        return call.reply({"images": list(map(orjson.Fragment, shown)), **document})
    pieces = [piece for image in shown for piece in (b",", image)]
    pieces[0] = b'{"images":['
    return await call.reply_in_pieces([*pieces, b"],", orjson.dumps(document)[1:]])


async def show(call: Call) -> StreamResponse:
    """`GET /v2/images/{image_id}`"""
    image = await call.image()
    return call.reply(call.app.rendered.image(image, call.viewer))


async def delete(call: Call) -> StreamResponse:
    """`DELETE /v2/images/{image_id}`"""
    image_id = call.parameters["image_id"]
    settings = call.service.settings.default
    if not settings.staging_is_shared:
        answer = await _deleted_elsewhere(call, await call.image("delete_image"))
        if answer is not None:
            return answer
    scrub_at = None
    if settings.delayed_delete:
        scrub_at = call.service.clock.now() + timedelta(seconds=settings.scrub_time)
    handled = await call.service.deletions.delete(
        image_id,
        c.DeleteImage(scrub_at=scrub_at),
        of=lambda image: image.locations,
        context=call.context,
        guard=call.guard(image_id, "delete_image"),
    )
    await forget_key(call.service.site.keys, handled.before.properties, call.actor)
    return call.empty()


async def _deleted_elsewhere(call: Call, image: Image) -> StreamResponse | None:
    """The answer of the node that staged the image's data; None if it is to be deleted here all the same."""
    elsewhere = host_of(call, image)
    if elsewhere is None:
        return None
    try:
        answer = await forwarded(call, elsewhere)
    except HttpError as error:
        if is_forwarded(call):
            raise
        log.warning("stage_host_unreachable", image_id=image.id, node=elsewhere, reason=str(error))
        return None
    return answer if answer.status < 500 else None


# --- create ------------------------------------------------------------------------------


class Asked(Struct, frozen=True):
    """A create body that may be asked for."""

    body: ImageBody
    properties: dict[str, str | None]
    owner: str | None
    names: frozenset[str]
    """What it spells, whatever the value."""


def described(call: Call, document: dict[str, Any]) -> e.ImageCreated:
    """The image that a create body asks for; the checks are in the contract's order."""
    return acceptable(call, permitted(call, document))


def permitted(call: Call, document: dict[str, Any]) -> Asked:
    """The first checks: those of form and of policy.  How many images there may be comes after them."""
    for name in READ_ONLY_PRESENCE:
        if name in document:
            raise Forbidden(f"Attribute '{name}' is read-only")
    body, properties = call.app.image_schema.create(document)
    for name in properties:
        if not 1 <= len(name) <= 255:
            raise Invalid("The name of a property must have 1 to 255 characters")
    for name in document:
        if name in RESERVED or name.startswith(RESERVED_PREFIX):
            raise Forbidden(f"Attribute '{name}' is reserved")
    owner = (body.owner or None) if "owner" in document else call.actor.project_id
    target = {"project_id": owner, "owner": owner, "visibility": document.get("visibility", "private")}
    call.must("add_image", target)
    if body.visibility == "public":
        call.must("publicize_image", target)
    if body.visibility == "community":
        call.must("communitize_image", target)
    return Asked(body, properties, owner, frozenset(document))


def acceptable(call: Call, asked: Asked) -> e.ImageCreated:
    """The checks of single attributes: protection, then what there may be of each."""
    body, properties = asked.body, asked.properties
    for name in properties:
        if not call.app.protection.allows(call.actor, "create", name):
            raise Forbidden(f"Property '{name}' is protected")
    settings = call.service.settings.default
    tags = tuple(dict.fromkeys(body.tags))
    within("tags", len(tags), settings.image_tag_quota)
    for name in READ_ONLY_VALUES:
        if name in asked.names:
            raise Forbidden(f"Attribute '{name}' is read-only")
    within("properties", len(properties), settings.image_property_quota)
    return e.ImageCreated(
        image_id=body.id or str(uuid4()),
        owner=asked.owner,
        name=body.name,
        visibility=body.visibility,
        protected=body.protected,
        hidden=body.os_hidden,
        disk_format=body.disk_format,
        container_format=body.container_format,
        min_disk=body.min_disk,
        min_ram=body.min_ram,
        tags=tags,
        properties=properties,
    )


# --- list --------------------------------------------------------------------------------


async def _marker(call: Call, wanted: Wanted) -> Image | None:
    if wanted.marker is None:
        return None
    image = await call.service.queries.image(wanted.marker)
    if not call.sees(image):
        raise Invalid(f"The marker '{wanted.marker}' is no image you can see")
    return image


def _link(query: list[tuple[str, str]]) -> str:
    return f"/v2/images?{urlencode(query)}" if query else "/v2/images"


ROUTES: Final = (
    Route(
        method="GET",
        path="/images",
        handler=index,
        body="any",
        errors=(400, 401, 403),
        summary="List images",
    ),
    Route(
        method="POST",
        path="/images",
        handler=create,
        body="json",
        success=(201,),
        errors=(400, 401, 403, 409, 413),
        summary="Create an image record",
    ),
    Route(method="GET", path="/images/{image_id}", handler=show, summary="Show an image"),
    Route(
        method="DELETE",
        path="/images/{image_id}",
        handler=delete,
        success=(204,),
        errors=(400, 401, 403, 404, 409),
        summary="Delete an image and its data",
    ),
)
