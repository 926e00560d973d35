"""A sink that keeps what it is given, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from kernel.extend import NotificationSink
from kernel.notifications import Notification


class Collector(BaseModel):
    """Both the sink and its own configuration."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    messages: list[Notification] = []

    async def deliver(self, batch: Sequence[Notification]) -> None:
        self.messages.extend(batch)

    async def close(self) -> None:
        return None

    def of(self, image_id: str) -> list[Notification]:
        """Messages of one image and its tasks."""
        return [message for message in self.messages if message.image_id == image_id]


async def _connect(config: Any) -> Any:
    return config


COLLECTOR = NotificationSink(name="collector", config=Collector, connect=_connect)
