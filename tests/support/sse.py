"""Reading a stream of server-sent events as a browser does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.support.raw import DEADLINE, Wire, head
from tests.support.running import Site


@dataclass(frozen=True)
class Message:
    """One event; `last_id` is what a client would resume with after it."""

    event: str
    data: dict[str, Any]
    last_id: str


class Follower:
    """A subscriber."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.last_id = ""

    async def next(self) -> Message:
        """The next event; comments are passed over."""
        event, data = "message", []
        async with asyncio.timeout(DEADLINE):
            while True:
                line = (await self._line()).decode()
                if line == "":
                    if data:
                        return Message(event, json.loads("\n".join(data)), self.last_id)
                    continue
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                match field:
                    case "event":
                        event = value
                    case "data":
                        data.append(value)
                    case "id":
                        self.last_id = value

    async def take(self, count: int) -> list[Message]:
        return [await self.next() for _ in range(count)]

    async def _line(self) -> bytes:
        """Lines as they are, whatever the chunks that carry them."""
        while b"\n" not in self._buffer:
            size = int((await self.wire.reader.readline()).strip() or b"0", 16)
            if size == 0:
                raise EOFError
            self._buffer += await self.wire.reader.readexactly(size)
            await self.wire.reader.readexactly(2)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    _buffer = b""


@contextlib.asynccontextmanager
async def following(
    site: Site, query: str = "", who: str | None = "ADM", last_id: str | None = None
) -> AsyncIterator[Follower]:
    """A subscription, from its acceptance to the cut of its connection."""
    headers = {"Accept": "text/event-stream", **({} if last_id is None else {"Last_Event_ID": last_id})}
    async with await Wire.to(site) as wire:
        await wire.send(head("GET", f"/ops/v1/events{query}", who, **headers))
        answer = await wire.answer(body=False)
        assert answer.status == 200, answer
        assert answer.header("Content-Type") == "text/event-stream"
        assert answer.header("Cache-Control") == "no-cache"
        follower = Follower(wire)
        follower.last_id = last_id or ""
        yield follower
