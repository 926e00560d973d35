"""The event log in Postgres: one function call in, keyset pages out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from kernel.appender import Appender
from kernel.codec import decode, decode_meta
from kernel.database import Database
from kernel.errors import LogBroken
from kernel.evolve import NOTHING, fold
from kernel.image import FOLD, Image
from kernel.log import Loaded, Receipt, Request
from kernel.recorded import IMAGE, Category, Recorded

_LOAD: Final = """
SELECT s.state, s.fold, coalesce(l.epoch, 0) AS epoch,
       coalesce(l.until > '-infinity' AND l.until < clock_timestamp() AND l.owner IS NOT NULL, false) AS abandoned
FROM (SELECT $1::uuid AS id) AS wanted
LEFT JOIN states s ON s.id = wanted.id LEFT JOIN leases l ON l.stream = wanted.id
"""
_COLUMNS: Final = "position, category, stream, version, event_id, type, data, meta"
_STREAM: Final = (
    f"SELECT {_COLUMNS} FROM events WHERE category = $1 AND stream = $2 AND version > $3 ORDER BY version LIMIT $4"
)
_OF: Final = (  # adding nothing keeps the planner from walking the whole log by position
    f"SELECT {_COLUMNS} FROM events WHERE stream = $1 AND position + 0 > $2 AND position + 0 <= $3"
    " ORDER BY position + 0 LIMIT $4"
)
_ALL: Final = f"SELECT {_COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2"

_PAGE: Final = 500

decode_image: Final = msgspec.json.Decoder(Image).decode
"""An image from the state that its row holds."""


class PostgresLog:
    """`kernel.log.EventLog` on Postgres."""

    def __init__(self, database: Database, appender: Appender) -> None:
        self._database = database
        self._appender = appender

    async def append(self, request: Request, *, patient: bool = False) -> Receipt:
        return await self._appender.append(request, patient)

    async def load(self, stream: UUID) -> Loaded:
        row = await self._database.fetchrow(_LOAD, stream)
        if row["state"] is None:
            image = NOTHING
        elif row["fold"] == FOLD:
            image = decode_image(row["state"])
        else:
            image = await self.fold(stream)
        return Loaded(image=image, epoch=row["epoch"], abandoned=row["abandoned"])

    async def fold(self, stream: UUID) -> Image:
        """The state from the events alone."""
        image = NOTHING
        while True:
            page = await self.read_stream(IMAGE, stream, image.version, _PAGE)
            image = fold(page, image)
            if len(page) < _PAGE:
                return image

    async def read_stream(self, category: Category, stream: UUID, after: int = 0, limit: int = 500) -> list[Recorded]:
        return recorded(await self._database.fetch(_STREAM, category, stream, after, limit))

    async def read_of(self, stream: UUID, after: int, until: int, limit: int = 500) -> list[Recorded]:
        return recorded(await self._database.fetch(_OF, stream, after, until, limit))

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        page = recorded(await self._database.fetch(_ALL, after, limit))
        assert_contiguous(page, after)
        return page

    async def head(self) -> int:
        return int(await self._database.fetchval("SELECT coalesce(max(position), 0) FROM events"))


def recorded(rows: Sequence[Any]) -> list[Recorded]:
    """Rows of `events` as events."""
    out = []
    for position, category, stream, version, event_id, kind, data, raw_meta in rows:
        meta = decode_meta(raw_meta)
        out.append(
            Recorded(
                position=position,
                category=category,
                stream=stream,
                version=version,
                event_id=event_id,
                event=decode(kind, meta.v, data),
                meta=meta,
            )
        )
    return out


def assert_contiguous(page: Sequence[Recorded], after: int) -> None:
    """Positions have no holes by construction; one that has must stop everybody."""
    if page and (page[0].position != after + 1 or page[-1].position != after + len(page)):
        raise LogBroken(
            f"the log has a hole after position {after}: next is {page[0].position}, page ends at {page[-1].position}"
        )
