"""The story of an image: its events, as the log has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiohttp.web import StreamResponse
from msgspec import to_builtins

from handlers.call import Call
from handlers.routing import Route
from kernel.codec import type_of
from kernel.errors import NotFound
from kernel.events import Unrecognised
from kernel.ids import stream_of
from kernel.recorded import IMAGE, Recorded

_MOST: Final = 2**31 - 1
"""Versions of a stream end here."""


async def history(call: Call) -> StreamResponse:
    """`GET /ops/v1/images/{image_id}/history`: oldest first; `after` and `limit` page through it.

    Admins see everything, deleted images included; others see their own project's images,
    with whoever else acted on them left out.
    """
    image_id = call.parameters["image_id"]
    stream = stream_of(image_id)
    image = await call.service.queries.image(image_id)
    own = image.exists and image.owner is not None and image.owner == call.actor.project_id
    admin = call.may("ops_read")
    if stream is None or not image.exists or not (admin or (own and call.sees(image))):
        raise NotFound(f"No image found with ID {image_id}")
    after, limit = min(call.number("after", 0), _MOST), min(call.number("limit", 500), 1000)
    events = await call.service.log.read_stream(IMAGE, stream, after, limit)
    project = None if admin else call.actor.project_id
    shown = [as_seen_by(item, project, call.reads) for item in events]
    document: dict[str, Any] = {"image_id": image_id, "events": shown}
    if events and len(events) == limit:
        document["next"] = f"/ops/v1/images/{image_id}/history?after={events[-1].version}&limit={limit}"
    return call.reply(document)


def as_seen_by(item: Recorded, project: str | None, reads: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """An event as JSON; a member of a project is told of other projects' actors only that there was someone else.

    Nor is a member told where bytes lie, nor of properties that he may not read.
    """
    event = item.event
    known = not isinstance(event, Unrecognised)
    meta = to_builtins(item.meta)
    data = to_builtins(event) if known else None
    if project is not None and item.meta.by.project != project:
        meta["by"] = {"user": "someone else"}
        meta.pop("request", None)
    if project is not None and data is not None:
        data = _readable(_without_places(data), reads)
    return {
        "position": item.position,
        "version": item.version,
        "event_id": str(item.event_id),
        "type": type_of(event) if known else event.type,  # type: ignore[arg-type, union-attr]
        "at": meta.pop("at"),
        "data": data,
        "meta": meta,
    }


def _without_places(data: dict[str, Any]) -> dict[str, Any]:
    """What an event says, without the addresses of bytes inside this service."""
    kept = {name: value for name, value in data.items() if name not in ("url", "kept")}
    for name in ("blob", "location"):
        if isinstance(kept.get(name), dict):
            kept[name] = _unplaced(kept[name])
    if "locations" in kept:
        kept["locations"] = [_unplaced(location) for location in kept["locations"]]
    if "blobs" in kept:
        kept["blobs"] = [{"store": store} for store, _ in kept["blobs"]]
    return kept


def _readable(data: dict[str, Any], reads: Callable[[str], bool]) -> dict[str, Any]:
    """What an event says, without properties that may not be read."""
    kept = dict(data)
    for name in ("properties", "properties_set"):
        if name in kept:
            kept[name] = {key: value for key, value in kept[name].items() if reads(key)}
    if "properties_removed" in kept:
        kept["properties_removed"] = [key for key in kept["properties_removed"] if reads(key)]
    return kept


def _unplaced(blob: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in blob.items() if name not in ("url", "identity", "node")}


ROUTES: Final = (
    Route(
        method="GET",
        path="/images/{image_id}/history",
        handler=history,
        summary="Events of an image",
    ),
)
