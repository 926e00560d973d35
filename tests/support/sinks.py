"""One receiver for every sink that ships: where its messages arrive, and how to make it go away."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel

from kernel.notifications import Notification
from plugins.sinks.amqp import AmqpConfig
from plugins.sinks.log import LogConfig
from plugins.sinks.webhook import WebhookConfig
from tests.support.amqp import exchange, opened
from tests.support.hook import hook

Told = tuple[str, str, Any]
"""Id, type and payload of a message that has arrived."""


@dataclass
class Receiver:
    """The far end of a sink."""

    config: BaseModel
    told: Callable[[], Awaitable[list[Told]]]
    """Everything that has arrived so far, in its order."""
    away: Callable[[], AbstractAsyncContextManager[None]]
    """Whatever makes deliveries fail meanwhile."""


def told(message: Notification) -> Told:
    return str(message.id), message.event_type, message.payload


@contextlib.asynccontextmanager
async def log_file(place: Path) -> AsyncIterator[Receiver]:
    config = LogConfig(state_dir=place, path=place / "deep" / "notifications.jsonl")

    async def read() -> list[Told]:
        lines = config.file.read_bytes().splitlines() if config.file.exists() else []
        found = map(orjson.loads, lines)
        return [(item["message_id"], item["event_type"], item["payload"]) for item in found]

    @contextlib.asynccontextmanager
    async def away() -> AsyncIterator[None]:
        (place / "deep").write_text("a file where a directory should be")
        yield
        (place / "deep").unlink()

    yield Receiver(config, read, away)


@contextlib.asynccontextmanager
async def rabbit(place: Path) -> AsyncIterator[Receiver]:
    async with exchange() as made:
        config = AmqpConfig(transport_url=made.url, control_exchange=made.exchange, topics=(made.topic,))
        arrived: list[Told] = []

        async def read() -> list[Told]:
            for priority in ("info", "error"):
                found = [opened(item) for item in await made.rest(priority)]
                arrived.extend((item["message_id"], item["event_type"], item["payload"]) for item in found)
            return arrived

        @contextlib.asynccontextmanager
        async def away() -> AsyncIterator[None]:
            made.line.cut()
            yield
            await made.line.mend()

        yield Receiver(config, read, away)


@contextlib.asynccontextmanager
async def web_hook(place: Path) -> AsyncIterator[Receiver]:
    async with hook() as made:

        async def read() -> list[Told]:
            return [(event["id"], event["type"], event["data"]) for event in made.events]

        @contextlib.asynccontextmanager
        async def away() -> AsyncIterator[None]:
            calm, made.judge = made.judge, lambda event: 503
            yield
            made.judge = calm

        yield Receiver(WebhookConfig.model_validate({"url": made.url}), read, away)


RECEIVERS: Final[dict[str, Callable[[Path], AbstractAsyncContextManager[Receiver]]]] = {
    "log": log_file,
    "amqp": rabbit,
    "webhook": web_hook,
}
