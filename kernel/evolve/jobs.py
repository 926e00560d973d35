"""The running job of an import, and its task: the record that clients can read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from kernel.image import IMAGE_IMPORT, Image, Task
from kernel.recorded import Meta


def with_job(image: Image, meta: Meta, *, touch: bool = True, **changed: Any) -> Image:
    """The image with its job changed; `touch` moves `updated_at`, as a change that clients can see."""
    if image.job is None:
        return image
    task = replace(image.task, updated_at=meta.at) if image.task else None
    updated_at = meta.at if touch else image.updated_at
    return replace(image, job=replace(image.job, **changed), task=task, updated_at=updated_at)


_LONGEST_TTL = 100 * 365 * 86400
"""Seconds: folding may not fail, however long somebody wanted to keep a task."""


def ended(task: Task | None, meta: Meta, status: Any, message: str = "") -> Task | None:
    """The record of what is over; it goes when its time to live is up."""
    if task is None:
        return None
    expires = meta.at + timedelta(seconds=min(max(task.ttl, 0), _LONGEST_TTL))
    return replace(task, status=status, message=message, updated_at=meta.at, expires_at=expires)


def expiring(image: Image, task: Task | None) -> Task | None:
    """The record whose expiry somebody is to be told of, once `task` has ended."""
    return task if task is not None and task.type == IMAGE_IMPORT else image.expiring


def joined(stores: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Names of stores as clients see them: each once, in order."""
    return tuple(sorted({*stores, *more}))
