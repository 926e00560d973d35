"""Filling read models that may lag.

Rows are absolute, so a batch applied twice after a crash changes nothing the second
time, and a parked stream can catch up later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from kernel.consumers import Parked, Place
from kernel.database import Database
from kernel.errors import UnknownEvent
from kernel.image import Image
from kernel.log import EventLog
from kernel.projections import outcomes
from kernel.recorded import Recorded
from kernel.states import States


class Projection(Protocol):
    """A module of `kernel.projections`."""

    NAME: str
    TABLE: str

    @staticmethod
    def row(item: Recorded, before: Image, after: Image) -> Any: ...

    @staticmethod
    async def write(connection: Any, rows: list[Any]) -> None: ...


PROJECTIONS: Final[tuple[Any, ...]] = (outcomes,)


class Projector:
    """The effect of one projection."""

    def __init__(self, projection: Any, log: EventLog, database: Database) -> None:
        self._projection = projection
        self._log = log
        self._database = database
        self._states = States(log)

    async def reset(self) -> None:
        self._states = States(self._log)

    async def apply(self, events: Sequence[Recorded]) -> None:
        rows: list[Any] = []
        parked: dict[UUID, Place] = {}
        for item in events:
            try:
                before, after = await self._states.around(item)
            except UnknownEvent as unknown:
                parked.setdefault(item.stream, (item.position, str(unknown)))
                continue
            row = self._projection.row(item, before, after)
            if row is not None:
                rows.append(row)
        if rows:
            async with self._database.connection() as connection, connection.transaction():
                await self._projection.write(connection, rows)
        if parked:
            raise Parked(parked)
