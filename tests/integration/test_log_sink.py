"""The file of notifications: whole lines whatever happens, and a new file when it was moved away."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from kernel.notifications import Notification
from plugins.sinks.log import LogConfig, LogSink


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[LogSink]:
    made = await LogSink.open(LogConfig(state_dir=tmp_path))
    yield made
    await made.close()


def message() -> Notification:
    return Notification(
        id=uuid4(),
        event_type="image.update",
        priority="INFO",
        payload={"id": "x"},
        at=datetime(2026, 1, 2, tzinfo=UTC),
        position=1,
        stream=uuid4(),
    )


def ids(path: Path) -> list[str]:
    """Of all lines that hold a message."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(orjson.loads(line)["message_id"])
        except orjson.JSONDecodeError:
            continue
    return found


async def test_a_line_that_broke_off_spoils_no_other(sink: LogSink, tmp_path: Path) -> None:
    """As a crash leaves it."""
    path = tmp_path / "notifications.jsonl"
    path.write_bytes(b'{"message_id": "a"}\n{"message_id": "b')
    sent = message()
    await sink.deliver([sent])
    assert ids(path) == ["a", str(sent.id)]


async def test_a_full_disk_spoils_no_line(sink: LogSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first, second = tmp_path / "notifications.jsonl", message(), message()
    await sink.deliver([first])
    write = os.write
    room = 20

    def full(fd: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        room -= (written := write(fd, bytes(data)[:room]))
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        await sink.deliver([second])
    monkeypatch.setattr(os, "write", write)
    await sink.deliver([second])
    assert ids(path) == [str(first.id), str(second.id)]


async def test_a_file_that_was_moved_away_is_followed_by_another(sink: LogSink, tmp_path: Path) -> None:
    """As logrotate does it."""
    path, first, second = tmp_path / "notifications.jsonl", message(), message()
    await sink.deliver([first])
    path.rename(tmp_path / "notifications.jsonl.1")
    await sink.deliver([second])
    assert ids(path) == [str(second.id)]
    assert ids(tmp_path / "notifications.jsonl.1") == [str(first.id)]
