"""Notifications as the scenarios write them: in order, without every `image.update`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kernel.notifications import Notification

Note = str | tuple[Any, ...]


def of_image(messages: Iterable[Notification]) -> list[Note]:
    """What was said of the image itself."""
    shown = (message for message in messages if message.event_type.startswith("image."))
    return [_short(message) for message in shown if message.event_type != "image.update"]


def of_tasks(messages: Iterable[Notification]) -> list[str]:
    """What was said of its tasks; `task.run`, whose place is free, is left out."""
    return [m.event_type for m in messages if m.event_type.startswith("task.") and m.event_type != "task.run"]


def of_job(messages: Iterable[Notification]) -> list[Note]:
    """Everything from `task.create` on."""
    listed = list(messages)
    begin = next(index for index, message in enumerate(listed) if message.event_type == "task.create")
    return [_short(m) for m in listed[begin:] if m.event_type not in ("image.update", "task.run")]


def prepare(status: str, backend: str | None, importing: list[str], failed: list[str]) -> Note:
    return ("prepare", status, backend, importing, failed)


def upload(status: str, backend: str | None, importing: list[str], failed: list[str]) -> Note:
    return ("upload", status, backend, importing, failed)


ERR: Note = "ERR"
"""`image.upload` with priority ERROR and a text for a payload."""


def _short(message: Notification) -> Note:
    payload = message.payload
    if message.priority == "ERROR" and message.event_type == "image.upload":
        assert isinstance(payload, str)
        assert payload
        return ERR
    assert isinstance(payload, dict)
    if message.event_type in ("image.prepare", "image.upload"):
        return (
            message.event_type.removeprefix("image."),
            payload["status"],
            payload.get("backend"),
            payload["os_glance_importing_to_stores"],
            payload["os_glance_failed_import"],
        )
    return message.event_type
