"""The event log as the rest of the kernel sees it.

`kernel/log_postgres.py` is the real one; the in-memory twin for tests is held to
the same contract suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from kernel.image import Image
from kernel.recorded import Category, Pending, Recorded
from kernel.rows import Rows


class Request(Struct, frozen=True, kw_only=True):
    """One append: all of its events and rows, or none."""

    category: Category
    stream: UUID
    expected: int | None
    """Version the stream must have; None: any, and then no rows."""
    events: tuple[Pending, ...]
    holder: UUID | None = None
    """Lease owner in whose name the outcome is recorded; with `epoch`, refused as fenced if replaced."""
    epoch: int | None = None
    rows: Rows | None = None


class Receipt(Struct, frozen=True, kw_only=True):
    """An accepted append, or one that had been accepted before its answer got lost."""

    version: int
    first_position: int | None
    """None for a request without events."""
    repeated: bool = False


class Loaded(Struct, frozen=True, kw_only=True):
    """An image as its row has it, with what taking its lease needs to know."""

    image: Image
    epoch: int = 0
    """Epoch of the newest lease; 0 if there never was one."""
    abandoned: bool = False
    """Whether somebody held the lease and let it run out."""


Committed = Callable[[Sequence[Recorded]], None]
"""Called with the events of each append of this process, in log order, before the append returns."""


class EventLog(Protocol):
    """Append-only, gapless, ordered."""

    async def append(self, request: Request, *, patient: bool = False) -> Receipt:
        """Record, or raise `WrongExpectedVersion`, `Fenced`, `LeaseHeld` or `OverQuota`.

        While the database is away: `Unavailable` at once, or, if `patient`, waits for it to return.
        """
        ...

    async def load(self, stream: UUID) -> Loaded:
        """The state of an image; `kernel.evolve.NOTHING` if there is none."""
        ...

    async def read_stream(self, category: Category, stream: UUID, after: int = 0, limit: int = 500) -> list[Recorded]:
        """Events of one stream with a version above `after`."""
        ...

    async def read_of(self, stream: UUID, after: int, until: int, limit: int = 500) -> list[Recorded]:
        """Events of the streams of one id, whatever their category, with positions above `after`, up to `until`."""
        ...

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        """Events with a position above `after`; `LogBroken` if there is a hole."""
        ...

    async def head(self) -> int:
        """Position of the newest event; 0 if there is none."""
        ...
