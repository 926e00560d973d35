"""An event as JSON: the form of the service's own `/ops/v1/events`, complete.  Pure."""

from __future__ import annotations

from typing import Any

from msgspec import to_builtins

from kernel.events import Unrecognised
from kernel.recorded import Recorded


def type_name(item: Recorded) -> str:
    """The name under which an event is recorded."""
    return item.event.type if isinstance(item.event, Unrecognised) else type(item.event).__name__


def document(item: Recorded) -> dict[str, Any]:
    """An event with its place and its circumstances; `data` is null when only a newer version can read it."""
    meta = to_builtins(item.meta)
    return {
        "position": item.position,
        "category": item.category,
        "stream": str(item.stream),
        "version": item.version,
        "event_id": str(item.event_id),
        "type": type_name(item),
        "at": meta.pop("at"),
        "data": None if isinstance(item.event, Unrecognised) else to_builtins(item.event),
        "meta": meta,
    }
