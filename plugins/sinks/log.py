"""Notifications as JSON lines in a file: the simplest consumer there is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kernel.codec import encode
from kernel.extend import NotificationSink
from kernel.notifications import Notification, envelope


class LogConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")

    state_dir: Path
    path: Path | None = Field(None, description="The file; unset: notifications.jsonl in the state directory.")
    publisher_id: str = "image.localhost"

    @property
    def file(self) -> Path:
        return self.path or self.state_dir / "notifications.jsonl"


class LogSink:
    """Appends to one file; a batch is written whole and made durable before it counts as delivered."""

    def __init__(self, config: LogConfig) -> None:
        self._config = config
        self._fd: int | None = None

    @classmethod
    async def open(cls, config: LogConfig) -> LogSink:
        return cls(config)

    async def deliver(self, batch: Sequence[Notification]) -> None:
        lines = b"".join(encode(envelope(item, self._config.publisher_id)) + b"\n" for item in batch)
        await asyncio.to_thread(self._write, lines)

    async def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, lines: bytes) -> None:
        if self._fd is None:
            self._config.file.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._config.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        view = memoryview(lines)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fdatasync(self._fd)


EXTENSION = NotificationSink(
    name="log",
    config=LogConfig,
    connect=LogSink.open,
    section="sink_log",
    selftest=lambda tmp: LogConfig(state_dir=tmp),
)
