"""What stores there are, for clients and for operators."""

from __future__ import annotations

from typing import Any, Final

from aiohttp.web import StreamResponse

from handlers.call import Call
from handlers.routing import Route
from kernel import commands as c
from kernel.errors import Conflict
from kernel.site import Backend, Site, several_stores


async def info_stores(call: Call) -> StreamResponse:
    """`GET /v2/info/stores`"""
    site = call.service.site
    return call.reply({"stores": [_entry(site, backend) for backend in site.backends.values()]})


async def info_stores_detail(call: Call) -> StreamResponse:
    """`GET /v2/info/stores/detail`"""
    site = call.service.site
    call.must("stores_info_detail")
    return call.reply({"stores": [_detail(site, backend) for backend in site.backends.values()]})


async def delete_copy(call: Call) -> StreamResponse:
    """`DELETE /v2/stores/{store}/{image_id}`"""
    site, name = call.service.site, call.parameters["store"]
    if name not in site.backends:
        raise Conflict(f"Store for identifier {name} not found")
    image_id = call.parameters["image_id"]
    await call.service.deletions.delete(
        image_id,
        c.RemoveCopy(store=name),
        of=lambda image: [location for location in image.locations if location.store == name],
        context=call.context,
        guard=call.guard(image_id, "get_image_location", "delete_image_location"),
        reachable=True,
    )
    return call.empty()


def _entry(site: Site, backend: Backend) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": backend.name}
    if backend.description:
        entry["description"] = backend.description
    if backend.name == site.default:
        entry["default"] = "true"
    if backend.read_only:
        entry["read-only"] = "true"
    return entry


def _detail(site: Site, backend: Backend) -> dict[str, Any]:
    return {
        **_entry(site, backend),
        "type": backend.driver.name,
        "weight": backend.weight,
        "properties": dict(backend.store.properties),
    }


_SEVERAL: Final[dict[str, Any]] = {"gate": several_stores, "closed": "Multi backend is not supported at this site"}

ROUTES: Final = (
    Route(method="GET", path="/info/stores", handler=info_stores, errors=(400, 401, 404), summary="Stores", **_SEVERAL),
    Route(
        method="GET",
        path="/info/stores/detail",
        handler=info_stores_detail,
        errors=(400, 401, 403, 404),
        summary="Stores with their properties",
        **_SEVERAL,
    ),
    Route(
        method="DELETE",
        path="/stores/{store}/{image_id}",
        handler=delete_copy,
        success=(204,),
        errors=(400, 401, 403, 404, 409, 503),
        summary="Delete one store's copy of an image",
        **_SEVERAL,
    ),
)
