"""The log as a stream: server-sent events for who follows, JSON pages for who asks.

    GET /ops/v1/events?after=…&image=…&type=…&view=events|notifications

`id:` is the global position, so that `Last-Event-ID` resumes after the last event a
client has seen in full.  Each process follows the log for its own subscribers; one
that reads too slowly is closed and comes back by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import orjson
import structlog
from aiohttp import web
from msgspec import Struct

from handlers.call import Call
from handlers.history import as_seen_by
from handlers.routing import Route
from kernel.errors import Invalid, UnknownEvent
from kernel.ids import stream_of
from kernel.notifications import envelope, notifications
from kernel.recorded import Recorded
from kernel.states import States

log = structlog.get_logger(__name__)

_MOST_WAITING: Final = 1000
"""Events a subscriber may lag behind before it is closed."""

_QUIET: Final = 15.0
"""Seconds of silence after which a comment shows that the line is alive."""

_PAGE: Final = 1000


class _Wanted(Struct, frozen=True):
    image: str | None
    types: frozenset[str]
    view: str


async def events(call: Call) -> web.StreamResponse:
    """`GET /ops/v1/events`"""
    call.must("ops_read")
    wanted = _wanted(call)
    if "text/event-stream" in call.request.headers.get("Accept", ""):
        return await _stream(call, wanted)
    return await _page(call, wanted)


def _wanted(call: Call) -> _Wanted:
    query = dict(call.query)
    view = query.get("view", "events")
    if view not in ("events", "notifications"):
        raise Invalid(f"view is events or notifications, not '{view}'")
    types = frozenset(name for name in query.get("type", "").split(",") if name)
    return _Wanted(query.get("image"), types, view)


async def _page(call: Call, wanted: _Wanted) -> web.StreamResponse:
    """Up to `limit` matching events after a position, and the position up to which was looked."""
    after, limit = call.number("after", 0), min(call.number("limit", 100), _PAGE)
    render = _renderer(call, wanted)
    found: list[dict[str, Any]] = []
    looked = after
    while len(found) < limit:
        batch = await call.service.log.read_all(looked, _PAGE)
        for item in batch:
            documents = await render(item)
            if found and len(found) + len(documents) > limit:
                return call.reply({"events": found, "position": looked})
            found += documents
            looked = item.position
        if len(batch) < _PAGE:
            break
    return call.reply({"events": found, "position": looked})


async def _stream(call: Call, wanted: _Wanted) -> web.StreamResponse:
    last = call.request.headers.get("Last-Event-ID")
    if last is not None and not last.isdigit():
        raise Invalid("Last-Event-ID must be the id of an event")
    start = int(last) if last is not None else call.number("after", await call.service.log.head())
    with call.app.follower():
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **call.common_headers}
        response = web.StreamResponse(headers=headers)
        await response.prepare(call.request)
        await response.write(b"retry: 1000\n\n")
        queue: asyncio.Queue[bytes] = asyncio.Queue(_MOST_WAITING)
        reading = asyncio.create_task(_fill(call, wanted, start, queue))
        try:
            await _drain(response, queue, reading)
        finally:
            reading.cancel()
            await asyncio.wait({reading})
    return response


async def _fill(call: Call, wanted: _Wanted, start: int, queue: asyncio.Queue[bytes]) -> None:
    """Follow the log into the queue; a full queue ends the subscription."""
    render = _renderer(call, wanted)
    async for batch in call.service.feed.follow(start):
        for item in batch:
            for document in await render(item):
                text = f"id: {item.position}\nevent: {document['type']}\ndata: {orjson.dumps(document).decode()}\n\n"
                try:
                    queue.put_nowait(text.encode())
                except asyncio.QueueFull:
                    log.info("follower_too_slow", position=item.position)
                    return


async def _drain(response: web.StreamResponse, queue: asyncio.Queue[bytes], reading: asyncio.Task[None]) -> None:
    while True:
        try:
            text = await asyncio.wait_for(queue.get(), _QUIET if not reading.done() else 0.1)
        except TimeoutError:
            if reading.done():
                return
            text = b": still here\n\n"
        try:
            await response.write(text)
        except (ConnectionError, RuntimeError):
            return


Render = Callable[[Recorded], Awaitable[Sequence[dict[str, Any]]]]


def _renderer(call: Call, wanted: _Wanted) -> Render:
    """From an event to the documents a subscriber gets for it."""
    states = States(call.service.log, 2000)
    only = stream_of(wanted.image) if wanted.image else None
    publisher = call.service.settings.default.default_publisher_id

    async def as_event(item: Recorded) -> Sequence[dict[str, Any]]:
        if only is not None and item.stream != only:
            return ()
        document = {**as_seen_by(item, None), "stream": str(item.stream), "image_id": wanted.image or str(item.stream)}
        return (document,) if not wanted.types or document["type"] in wanted.types else ()

    async def as_notifications(item: Recorded) -> Sequence[dict[str, Any]]:
        if only is not None and item.stream != only:
            return ()
        try:
            before, after = await states.around(item)
        except UnknownEvent:
            return ()
        messages = notifications(item, before, after)
        return [
            {"type": m.event_type, "position": m.position, "image_id": m.image_id, **envelope(m, publisher)}
            for m in messages
            if not wanted.types or m.event_type in wanted.types
        ]

    return as_notifications if wanted.view == "notifications" else as_event


ROUTES: Final = (
    Route(
        method="GET",
        path="/events",
        handler=events,
        errors=(400, 401, 403, 503),
        summary="The event stream, as server-sent events or JSON",
    ),
)
