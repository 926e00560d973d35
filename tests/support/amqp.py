"""A RabbitMQ to test against, with names that no other test uses, and its consumers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

import aio_pika
import orjson

from tests.support.line import Line, line

DEADLINE = 30.0
"""Seconds after which a message that is waited for will not come."""


@cache
def broker() -> str:
    """Address of the broker: as set, else on this machine."""
    if found := os.environ.get("ENTREPOT_TEST_AMQP_URL"):
        return found
    return "amqp://guest:guest@127.0.0.1:5672/"


@dataclass
class Exchange:
    """An exchange and a topic of the test's own; the line to the broker can be cut."""

    exchange: str
    topic: str
    line: Line
    channel: Any
    url: str

    def queue(self, priority: str) -> str:
        return f"{self.topic}.{priority}"

    async def take(self, count: int, priority: str = "info") -> list[Any]:
        """So many messages, as they lie in the queue."""
        queue = await self.channel.get_queue(self.queue(priority))
        found: list[Any] = []
        async with asyncio.timeout(DEADLINE):
            while len(found) < count:
                message = await queue.get(no_ack=True, fail=False)
                if message is None:
                    await asyncio.sleep(0.02)  # an empty queue says so at once
                else:
                    found.append(message)
        return found

    async def rest(self, priority: str = "info") -> list[Any]:
        """All that is there now."""
        queue = await self.channel.get_queue(self.queue(priority))
        found = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(message)
        return found


@contextlib.asynccontextmanager
async def exchange() -> AsyncIterator[Exchange]:
    """Names of the test's own on the broker; what was declared under them is deleted afterwards."""
    unique = uuid4().hex[:12]
    connection = await aio_pika.connect(broker())
    async with connection, line(*_address()) as to_broker:
        channel = await connection.channel()
        url = f"rabbit://guest:guest@127.0.0.1:{to_broker.port}/"
        made = Exchange(f"glance-{unique}", f"notifications-{unique}", to_broker, channel, url)
        try:
            yield made
        finally:
            for priority in ("info", "error"):
                await channel.queue_delete(made.queue(priority))
            await channel.exchange_delete(made.exchange)


def _address() -> tuple[str, int]:
    from yarl import URL

    url = URL(broker())
    return url.host or "127.0.0.1", url.port or 5672


def opened(message: Any) -> dict[str, Any]:
    """The message of version 1, taken out of its newer envelope if it is in one."""
    document: dict[str, Any] = orjson.loads(message.body)
    if "oslo.message" in document:
        assert document["oslo.version"] == "2.0"
        assert set(document) == {"oslo.version", "oslo.message"}
        document = orjson.loads(document["oslo.message"])
    return document
