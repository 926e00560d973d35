"""How imports went, one row an import: method, stores, how long, how it ended and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from kernel import events as e
from kernel.image import Image
from kernel.recorded import Recorded

NAME: Final = "outcomes"
TABLE: Final = "outcomes"

_WRITE: Final = """
INSERT INTO outcomes AS t (task, image, image_id, owner, method, stores, failed, status, reason, bytes, take_overs,
                           requested_at, started_at, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (task) DO UPDATE SET failed = excluded.failed, status = excluded.status, reason = excluded.reason,
    bytes = coalesce(excluded.bytes, t.bytes), take_overs = greatest(excluded.take_overs, t.take_overs),
    started_at = coalesce(t.started_at, excluded.started_at), ended_at = excluded.ended_at
"""


class Outcome(Struct, frozen=True, kw_only=True):
    """One row, in absolute figures: writing it twice changes nothing."""

    task: UUID
    image: UUID
    image_id: str
    owner: str | None
    method: str
    stores: tuple[str, ...]
    failed: tuple[str, ...]
    status: str
    reason: str | None
    bytes: int | None
    take_overs: int
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


def row(item: Recorded, before: Image, after: Image) -> Outcome | None:
    """What an event changes in this table: pure."""
    taken = isinstance(item.event, e.LeaseTakenOver) and after.job is not None
    if after.task is None or (after.task == before.task and not taken):
        return None
    task = after.task
    if before.task is not None and before.task.id == task.id and before.task.status == task.status and not taken:
        return None
    job = after.job or before.job
    return Outcome(
        task=UUID(task.id),
        image=item.stream,
        image_id=after.id,
        owner=task.owner,
        method=task.method,
        stores=task.stores,
        failed=job.failed if job else (),
        status=task.status,
        reason=task.message or None,
        bytes=after.size if task.status == "success" else None,
        take_overs=job.take_overs if job else 0,
        requested_at=task.created_at,
        started_at=item.meta.at if task.status in ("processing", "uploading") and not taken else None,
        ended_at=item.meta.at if task.final else None,
    )


async def write(connection: Any, rows: list[Outcome]) -> None:
    """Put rows into the table."""
    await connection.executemany(
        _WRITE,
        [
            (
                row.task,
                row.image,
                row.image_id,
                row.owner,
                row.method,
                list(row.stores),
                list(row.failed),
                row.status,
                row.reason,
                row.bytes,
                row.take_overs,
                row.requested_at,
                row.started_at,
                row.ended_at,
            )
            for row in rows
        ],
    )
