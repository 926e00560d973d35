"""Logs to hold to the contract, with a look behind the scenes; requests to put to them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from kernel.appender import Appender
from kernel.charges import Limits
from kernel.database import Database
from kernel.errors import EntrepotError
from kernel.events import Event, ImageCreated
from kernel.evolve import NOTHING, evolve
from kernel.ids import new_id
from kernel.image import Image
from kernel.log import Committed, EventLog, Receipt, Request
from kernel.log_postgres import PostgresLog
from kernel.recorded import IMAGE, Category, Meta, Pending, Recorded
from kernel.rows import Rows, Take, rows_between
from tests.support.log_memory import MemoryLog

Answer = Receipt | EntrepotError


class Bench(Protocol):
    """A log under test, and what it wrote beside the events."""

    handed: list[Recorded]
    """What was handed over as committed, in the order of handing over."""

    @property
    def log(self) -> EventLog: ...

    async def usage(self) -> dict[tuple[str, str], int]: ...

    async def secrets(self, stream: UUID) -> dict[str, bytes]: ...

    async def tasks(self) -> dict[str, str]:
        """Task -> status."""
        ...

    async def members(self) -> dict[str, tuple[str, bool]]:
        """Member -> status, whether removed."""
        ...

    async def renew(self, owner: UUID, ttl: float, held: dict[UUID, int]) -> set[UUID]: ...


class MemoryBench:
    def __init__(self) -> None:
        self.handed: list[Recorded] = []
        self.log = MemoryLog(committed=self.handed.extend)

    async def usage(self) -> dict[tuple[str, str], int]:
        return dict(self.log.usage)

    async def secrets(self, stream: UUID) -> dict[str, bytes]:
        return {name: data for (of, name), data in self.log.secrets.items() if of == stream}

    async def tasks(self) -> dict[str, str]:
        return {row.id: row.status for row in self.log.tasks.values()}

    async def members(self) -> dict[str, tuple[str, bool]]:
        return {row.member: (row.status, row.removed) for row in self.log.members.values()}

    async def renew(self, owner: UUID, ttl: float, held: dict[UUID, int]) -> set[UUID]:
        return set(self.log.renew(owner, ttl, held))


class PostgresBench:
    def __init__(self, database: Database, log: PostgresLog, handed: list[Recorded]) -> None:
        self.database = database
        self.log = log
        self.handed = handed

    async def usage(self) -> dict[tuple[str, str], int]:
        rows = await self.database.fetch("SELECT owner, resource, amount FROM usage")
        return {(row["owner"], row["resource"]): row["amount"] for row in rows}

    async def secrets(self, stream: UUID) -> dict[str, bytes]:
        rows = await self.database.fetch("SELECT name, data FROM secrets WHERE stream = $1", stream)
        return {row["name"]: row["data"] for row in rows}

    async def tasks(self) -> dict[str, str]:
        rows = await self.database.fetch("SELECT id::text, status FROM tasks")
        return {row["id"]: row["status"] for row in rows}

    async def members(self) -> dict[str, tuple[str, bool]]:
        rows = await self.database.fetch("SELECT member, status, removed FROM members")
        return {row["member"]: (row["status"], row["removed"]) for row in rows}

    async def renew(self, owner: UUID, ttl: float, held: dict[UUID, int]) -> set[UUID]:
        rows = await self.database.fetch(
            "SELECT stream FROM renew_leases($1, $2, $3, $4, $5)",
            owner,
            ttl,
            list(held),
            list(held.values()),
            [None] * len(held),
        )
        return {row["stream"] for row in rows}


@contextlib.asynccontextmanager
async def postgres_log(dsn: str, committed: Committed = lambda events: None) -> AsyncIterator[PostgresLog]:
    """A log with an appender and a pool of its own."""
    database, appender = Database(dsn, size=4), Appender(dsn, committed)
    await database.open()
    await appender.start()
    try:
        yield PostgresLog(database, appender)
    finally:
        await appender.stop()
        await database.close()


@contextlib.asynccontextmanager
async def postgres_bench(dsn: str) -> AsyncIterator[PostgresBench]:
    handed: list[Recorded] = []
    async with postgres_log(dsn, handed.extend) as log:
        database = Database(dsn, size=2)
        await database.open()
        try:
            yield PostgresBench(database, log, handed)
        finally:
            await database.close()


# --- requests --------------------------------------------------------------------------


def pending(*events: Event, at: datetime | None = None, **more: Any) -> tuple[Pending, ...]:
    """Events about to be appended."""
    moment = at or datetime.now(UTC)
    return tuple(Pending(new_id(), event, Meta(at=moment, **more)) for event in events)


def request(stream: UUID, *events: Event, expected: int | None = None, **more: Any) -> Request:
    """An append of events without anything beside them."""
    return Request(**{"category": IMAGE, "stream": stream, "expected": expected, "events": pending(*events), **more})


def take(epoch: int, owner: UUID, ttl: float = 60.0, *, yielding: bool = False) -> Take:
    return Take(owner=owner, node="n1", epoch=epoch, ttl=ttl, yielding=yielding)


def taking(stream: UUID, epoch: int, owner: UUID, ttl: float = 60.0, **more: Any) -> Request:
    """A request that takes a lease and records nothing."""
    lease = take(epoch, owner, ttl, yielding=more.pop("yielding", False))
    return Request(
        **{"category": IMAGE, "stream": stream, "expected": 0, "events": (), "rows": Rows(take=lease), **more}
    )


def created(stream: UUID, **more: Any) -> ImageCreated:
    return ImageCreated(image_id=str(stream), **{"owner": "pA", "name": "n", **more})


class Changed:
    """An image as a command handler sees it: each change comes with its rows."""

    def __init__(self, stream: UUID | None = None, category: Category = IMAGE) -> None:
        self.stream = stream or new_id()
        self.image = NOTHING
        self._category = category

    def by(
        self,
        *events: Event,
        limits: Limits | None = None,
        more: dict[str, Any] | None = None,
        recorded: tuple[Pending, ...] = (),
        **of: Any,
    ) -> Request:
        """The request of a change; the image is taken to be changed.  `recorded`: the events with circumstances."""
        batch = recorded or pending(*events)
        before = self.image
        for item in batch:
            self.image = evolve(self.image, item.event, item.meta)
        rows = rows_between(self.stream, before, self.image, limits, **(more or {}))
        fields = {"category": self._category, "stream": self.stream, "expected": before.version, **of}
        return Request(**{"events": batch, "rows": rows, **fields})

    def undo(self, image: Image) -> None:
        """The change was refused after all."""
        self.image = image


def positions(events: Sequence[Recorded]) -> list[int]:
    return [item.position for item in events]
