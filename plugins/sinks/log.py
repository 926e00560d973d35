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
        self._let_go()

    def _write(self, lines: bytes) -> None:
        try:
            view = memoryview(lines)
            fd = self._opened()
            while view:
                view = view[os.write(fd, view) :]
            os.fdatasync(fd)
        except OSError:
            self._let_go()  # the line may have broken off, which whoever opens the file mends
            raise

    def _opened(self) -> int:
        """The file at its place, which may be another than before: logs are rotated."""
        path = self._config.file
        if self._fd is not None and not _is(path, self._fd):
            self._let_go()
        if self._fd is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")
        return self._fd

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


EXTENSION = NotificationSink(
    name="log",
    config=LogConfig,
    connect=LogSink.open,
    section="sink_log",
    selftest=lambda tmp: LogConfig(state_dir=tmp),
)
