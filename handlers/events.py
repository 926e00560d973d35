"""The log as a stream: server-sent events for who follows, JSON pages for who asks.

    GET /ops/v1/events?after=…&image=…&type=…&view=events|notifications

`id:` is the global position, so that `Last-Event-ID` resumes after the last event a
client has seen in full.  Each process follows the log for its own subscribers, each at
the pace at which it reads; one that stands still is closed and comes back by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

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
"""Events read from the log before a subscriber has taken them."""

_STANDSTILL: Final = 10.0
"""Seconds for which a subscriber that lags behind may take nothing before it is closed."""

_AT_ONCE: Final = 1 << 16
"""Bytes after which is waited for the line."""

_QUIET: Final = 15.0
"""Seconds of silence after which a comment shows that the line is alive."""

_PAGE: Final = 1000
_FOLLOWED: Final = 100
"""Events that a subscriber reads at a time."""

_IN_ONE_TURN: Final = 20
"""Events made into documents before the loop, and with it every other request, gets its turn."""

_MOST_NAMES: Final = 10_000


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
    """About `limit` matching documents after a position, and the position up to which was looked."""
    after, limit = call.number("after", 0), min(call.number("limit", 100), _PAGE)
    renderer = _Renderer(call, wanted)
    found: list[dict[str, Any]] = []
    looked = after
    while len(found) < limit:
        batch, end = await _read(call, wanted, looked)
        async for position, documents in renderer.render(batch):
            if found and len(found) + len(documents) > limit:
                return call.reply({"events": found, "position": looked})
            found += documents
            looked = position
        if len(batch) < _PAGE:
            looked = max(looked, end)
            break
    return call.reply({"events": found, "position": looked})


async def _read(call: Call, wanted: _Wanted, after: int) -> tuple[list[Recorded], int]:
    """A page of events among which all that are wanted are, and up to where there is none besides if it is not full."""
    log_ = call.service.log
    if wanted.image is None:
        return await log_.read_all(after, _PAGE), after
    end, stream = await log_.head(), stream_of(wanted.image)
    return await log_.read_of(stream, after, end, _PAGE) if stream is not None else [], end


# --- the stream ----------------------------------------------------------------------------


async def _stream(call: Call, wanted: _Wanted) -> web.StreamResponse:
    start = await _start(call)
    with call.app.follower():
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **call.common_headers}
        response = web.StreamResponse(headers=headers)
        await response.prepare(call.request)
        await response.write(b"retry: 1000\n\n")
        queue: asyncio.Queue[bytes] = asyncio.Queue(_MOST_WAITING)
        reading = asyncio.create_task(_fill(call, wanted, start, queue))
        writing = asyncio.create_task(_drain(response, queue))
        closing = asyncio.create_task(call.app.closing.wait())
        leaving = asyncio.create_task(call.client_left())
        tasks = (reading, writing, closing, leaving)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
                    log.warning("subscription_failed", reason=str(outcome) or repr(outcome))
            if call.request.transport is not None:
                call.request.transport.abort()  # it comes back by its last id, and need not read the rest first
    return response


async def _start(call: Call) -> int:
    """The position after which a subscription begins: what was seen last, what is asked for, or now."""
    last = call.request.headers.get("Last-Event-ID")
    if last is not None:
        if not last.isascii() or not last.isdigit() or len(last) > 18:
            raise Invalid("Last-Event-ID must be the id of an event")
        return int(last)
    return call.number("after", await call.service.log.head())


async def _fill(call: Call, wanted: _Wanted, start: int, queue: asyncio.Queue[bytes]) -> None:
    """Follow the log into the queue; a queue that stays full ends the subscription.

    Only the last document of an event carries its id: who is cut off in between hears all of them again.
    """
    renderer = _Renderer(call, wanted)
    async for batch in call.service.feed.follow(start, _FOLLOWED):
        async for position, documents in renderer.render(batch):
            for number, document in enumerate(documents, 1):
                line = f"id: {position}\n" if number == len(documents) else ""
                text = f"{line}event: {document['type']}\ndata: {orjson.dumps(document).decode()}\n\n"
                try:
                    async with asyncio.timeout(_STANDSTILL):
                        await queue.put(text.encode())
                except TimeoutError:
                    log.info("follower_too_slow", position=position)
                    return


async def _drain(response: web.StreamResponse, queue: asyncio.Queue[bytes]) -> None:
    """Send what waits, together."""
    while True:
        try:
            async with asyncio.timeout(_QUIET):
                parts = [await queue.get()]
        except TimeoutError:
            parts = [b": still here\n\n"]
        size = len(parts[0])
        while size < _AT_ONCE and not queue.empty():
            parts.append(queue.get_nowait())
            size += len(parts[-1])
        await response.write(b"".join(parts))


# --- documents -----------------------------------------------------------------------------


class _Renderer:
    """From events to the documents that a subscriber gets for them."""

    def __init__(self, call: Call, wanted: _Wanted) -> None:
        self._service = call.service
        self._wanted = wanted
        self._stream = stream_of(wanted.image) if wanted.image is not None else None
        self._states = States(call.service.log, 2000)
        self._names: dict[UUID, str] = {}

    async def render(self, batch: Sequence[Recorded]) -> AsyncIterator[tuple[int, list[dict[str, Any]]]]:
        """Position and documents of each event in turn."""
        await self._learn({item.stream for item in batch if self._concerned(item)})
        for number, item in enumerate(batch, 1):
            yield item.position, await self._documents(item) if self._concerned(item) else []
            if number % _IN_ONE_TURN == 0:
                await asyncio.sleep(0)

    def _concerned(self, item: Recorded) -> bool:
        return self._wanted.image is None or item.stream == self._stream

    async def _learn(self, streams: set[UUID]) -> None:
        """Image ids as their makers wrote them."""
        if len(self._names) > _MOST_NAMES:
            self._names.clear()
        unknown = streams - self._names.keys()
        if unknown:
            self._names.update(await self._service.queries.image_ids(unknown))

    async def _documents(self, item: Recorded) -> list[dict[str, Any]]:
        image_id = self._names.get(item.stream, str(item.stream))
        if self._wanted.image not in (None, image_id):
            return []
        if self._wanted.view == "events":
            documents = [{**as_seen_by(item, None), "stream": str(item.stream), "image_id": image_id}]
        else:
            documents = await self._notifications(item, image_id)
        return [document for document in documents if not self._wanted.types or document["type"] in self._wanted.types]

    async def _notifications(self, item: Recorded, image_id: str) -> list[dict[str, Any]]:
        try:
            before, after = await self._states.around(item)
        except UnknownEvent:
            return []
        publisher = self._service.settings.default.default_publisher_id
        return [
            {
                "type": message.event_type,
                "position": item.position,
                "image_id": image_id,
                **envelope(message, publisher),
            }
            for message in notifications(item, before, after)
        ]


ROUTES: Final = (
    Route(
        method="GET",
        path="/events",
        handler=events,
        errors=(400, 401, 403, 503),
        summary="The event stream, as server-sent events or JSON",
    ),
)
