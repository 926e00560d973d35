"""Reads of the read models: one indexed query each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from kernel import groups
from kernel.clock import Clock, SystemClock
from kernel.database import Database
from kernel.errors import UnknownEvent
from kernel.evolve import NOTHING
from kernel.ids import stream_of
from kernel.image import FOLD, Image, Task
from kernel.kept import Kept
from kernel.leases import Progress
from kernel.listing import Listing, Marker, Query
from kernel.log_postgres import PostgresLog, decode_image
from kernel.records import COLUMNS, LEASED, Wanted, statement

_SHOW: Final = "SELECT id, fold, CASE WHEN version <> $2 THEN state END AS state FROM states WHERE id = $1"
_STATES: Final = "SELECT id, fold, state FROM states WHERE id = ANY($1)"
_TASK: Final = f"{COLUMNS} {LEASED} WHERE t.id = $1"
_HEARTBEAT: Final = "SELECT until FROM leases WHERE stream = $1 AND owner IS NOT NULL AND until > '-infinity'"
_TASKS: Final = f"""
{COLUMNS} {LEASED}
WHERE t.image = $1 AND ($2::text IS NULL OR t.owner = $2) AND (t.expires_at IS NULL OR t.expires_at > $3)
  AND t.type <> 'image_import'
ORDER BY t.created_at, t.id
"""

decode_task: Final = msgspec.json.Decoder(Task).decode
decode_progress: Final = msgspec.json.Decoder(Progress).decode


_MOST_KNOWN: Final = 4096
_HEAVIEST_KNOWN: Final = 64 << 20
"""Bytes of states in all; properties may make each of them megabytes."""
_LARGE: Final = 256 << 10
"""Bytes of a state that takes its time to decode."""


class TaskRecord(Struct, frozen=True):
    """A task with how far its work has come, while there is any."""

    task: Task
    image_id: str
    progress: Progress | None = None


class Queries:
    """What the API and the command line ask."""

    def __init__(self, database: Database, log: PostgresLog, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._database = database
        self._log = log
        self._known: Kept[UUID, Image] = Kept(_MOST_KNOWN, _HEAVIEST_KNOWN)

    async def image(self, image_id: str) -> Image:
        """An image by exactly this id; `NOTHING` if there is none."""
        stream = stream_of(image_id)
        if stream is None:
            return NOTHING
        known = self._known.get(stream)
        row = await self._database.fetchrow(_SHOW, stream, known.version if known else 0)
        if row is None:
            return NOTHING
        image = known if known and row["state"] is None else await self._decoded(row)
        return image if image.id == image_id else NOTHING

    async def usage(self, owner: str | None) -> dict[str, int]:
        """What a project uses, by resource."""
        rows = await self._database.fetch("SELECT resource, amount FROM usage WHERE owner = $1", owner)
        return {row["resource"]: row["amount"] for row in rows}

    async def images(self, listing: Listing, marker: Image | None = None) -> list[Image]:
        """A page of images, in the order asked for, after `marker`."""
        after = Marker(values=sort_values(marker)) if marker is not None else None
        if groups.grouped(listing):
            return await self._at_one_moment(listing, after)
        query = Query(listing, after)
        fetch = self._database.fetch if query.plain else self._database.fetch_planned
        page = await fetch(query.sql, *query.parameters)
        images = await self._states(page, self._database.fetch)
        if all(image is not None and image.version == row["version"] for row, image in zip(page, images, strict=True)):
            return [image for image in images if image is not None]
        # Something changed between the two statements: once more, with both at one moment.
        return await self._at_one_moment(listing, after)

    async def _at_one_moment(self, listing: Listing, after: Marker | None) -> list[Image]:
        async with self._database.snapshot() as connection:
            images = await self._states(await groups.page(connection.fetch, listing, after), connection.fetch)
        return [image for image in images if image is not None]

    async def _states(self, page: Sequence[Any], fetch: groups.Fetch) -> list[Image | None]:
        """The images of rows of (id, version), of which only those not known yet are read."""
        found = {row["id"]: self._known.get(row["id"]) for row in page}
        missing = [row["id"] for row in page if (known := found[row["id"]]) is None or known.version != row["version"]]
        if missing:
            for row in await fetch(_STATES, missing):
                found[row["id"]] = await self._decoded(row)
                if len(row["state"]) > _LARGE:
                    await asyncio.sleep(0)  # a page of these takes a second
        return [found[row["id"]] for row in page]

    async def _decoded(self, row: Any) -> Image:
        """The row's state; the newest states read are kept decoded."""
        stream: UUID = row["id"]
        image = decode_image(row["state"]) if row["fold"] == FOLD else await self._folded(row)
        self._known.put(stream, image, len(row["state"]))
        return image

    async def _folded(self, row: Any) -> Image:
        """A state that another version has written; where only that one understands the events, as it stands there.

        That is enough to show it. Or else one such image would spoil every list that it is in.
        """
        try:
            return await self._log.fold(row["id"])
        except UnknownEvent as unknown:
            try:
                return decode_image(row["state"])
            except msgspec.DecodeError:
                raise unknown from None

    async def image_ids(self, streams: Collection[UUID]) -> dict[UUID, str]:
        """The ids of images, deleted ones included, as clients wrote them."""
        rows = await self._database.fetch("SELECT id, image_id FROM images WHERE id = ANY($1)", list(streams))
        return {row["id"]: row["image_id"] for row in rows}

    async def tasks_of(self, stream: UUID, owner: str | None) -> list[TaskRecord]:
        """Unexpired tasks of an image, oldest first; only one project's unless `owner` is None."""
        rows: Sequence[Any] = await self._database.fetch(_TASKS, stream, owner, self._clock.now())
        return [_record(row) for row in rows]

    async def task(self, task_id: UUID, *, expired: bool = False) -> TaskRecord | None:
        """A task or an image import by its id; one that has expired only if asked for."""
        row = await self._database.fetchrow(_TASK, task_id)
        if row is None:
            return None
        record = _record(row)
        over = record.task.expires_at is not None and record.task.expires_at <= self._clock.now()
        return record if expired or not over else None

    async def heartbeat(self, stream: UUID) -> datetime | None:
        """Until when somebody held, or holds, the lease of a stream; None if nobody has it."""
        found: datetime | None = await self._database.fetchval(_HEARTBEAT, stream)
        return found

    async def records(self, wanted: Wanted) -> list[TaskRecord]:
        """A page of tasks, or of image imports."""
        text, parameters = statement(wanted, self._clock.now())
        return [_record(row) for row in await self._database.fetch(text, *parameters)]


def _record(row: Any) -> TaskRecord:
    task = decode_task(row["document"])
    progress = decode_progress(row["progress"]) if row["progress"] and not task.final else None
    return TaskRecord(task, row["image_id"], progress)


def sort_values(image: Image) -> dict[str, Any]:
    """The image's values in the columns that lists can be sorted by."""
    return {
        "name": image.name,
        "status": image.status,
        "container_format": image.container_format,
        "disk_format": image.disk_format,
        "size": image.size,
        "id": stream_of(image.id),
        "created_at": image.created_at,
        "updated_at": image.updated_at,
    }
