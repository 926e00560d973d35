"""Marks: the places where a crash hurts, named, so that drills can crash exactly there.

Between an effect and its record, and between a record and the next effect, a process
may die or be stopped.  Each such place calls `mark`; it does nothing unless a drill
has installed a hook (`ops/drill.py`).  The drills fail if a mark is never reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel import events as e

EFFECTS: Final = (
    "staging begins",
    "staged",
    "upload begins",
    "uploaded",
    "storing begins",
    "stored",
    "fetched",
    "hashed",
    "step done",
    "deleted",
    "swept",
    "delivered",
)
"""Effects outside the database: just before, or just after they happened, and not recorded yet."""

RECORDS: Final[tuple[type[e.Event], ...]] = (
    e.StagingStarted,
    e.DataStaged,
    e.StagingFailed,
    e.UploadStarted,
    e.DataUploaded,
    e.UploadFailed,
    e.ImageExpected,
    e.ImportRequested,
    e.ImportStarted,
    e.FetchStarted,
    e.DataFetched,
    e.StepCompleted,
    e.DataInspected,
    e.StepFailed,
    e.StoreStarted,
    e.StoreSucceeded,
    e.StoreFailed,
    e.StagingCleared,
    e.ImageAppeared,
    e.ImportCompleted,
    e.ImportFailed,
    e.LocationAdded,
    e.DataHashed,
    e.ImageDeleted,
    e.BytesPurged,
)
"""Events around whose recording a process may die: marked `before X` and `after X`."""

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Have `hook` called with the name of every mark that is passed."""
    global _hook
    _hook = hook


def mark(name: str) -> None:
    """A place where a drill may strike."""
    if _hook is not None:
        _hook(name)


def mark_events(when: str, events: tuple[type, ...]) -> None:
    """`before X` or `after X` for every event of an append."""
    if _hook is not None:
        for kind in events:
            _hook(f"{when} {kind.__name__}")
