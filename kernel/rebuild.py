"""Making the read models anew from the log alone, beside the running service.

    fold up to a head ─▶ fill shadow tables ─▶ under the append lock: fold what came
    since, move the shadows in ─▶ done

Writers wait only for the last step; readers wait for nothing: they see the old rows
until it commits, and then the new ones.  The lagging projections are emptied and start over at position 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from kernel.codec import encode
from kernel.database import connect, let_go, reachable
from kernel.evolve import NOTHING
from kernel.projector import PROJECTIONS
from kernel.replay import Folded, pages
from kernel.rows import image_row, member_rows, state_row, task_row

_BATCH: Final = 500

_STANDSTILL: Final = "30s"
"""How long a rebuild that says nothing may keep the log to itself: a stopped process, a line that broke."""

_INLINE: Final = ("images", "states", "tasks", "members", "usage")


class Rebuilt(Struct, frozen=True):
    """What a rebuild did."""

    events: int
    rows: dict[str, int]


def names() -> tuple[str, ...]:
    """What can be rebuilt: `inline` is everything that appends keep up to date themselves."""
    return ("inline", *(projection.NAME for projection in PROJECTIONS))


async def rebuild(dsn: str, name: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Rebuilt:
    """Rebuild one read model, or all that appends keep."""
    connection = await connect(
        dsn, "rebuild", statement_timeout="0", lock_timeout="0", idle_in_transaction_session_timeout=_STANDSTILL
    )
    try:
        with reachable():
            if name == "inline":
                return await _inline(connection, progress)
            return await _lagging(connection, name)
    finally:
        await let_go(connection)


async def _inline(connection: Any, progress: Callable[[int, int], None]) -> Rebuilt:
    for table in _INLINE:
        await connection.execute(f"CREATE TEMPORARY TABLE shadow_{table} (LIKE {table} INCLUDING DEFAULTS)")
    folded = Folded()
    total = int(await connection.fetchval("SELECT coalesce(max(position), 0) FROM events"))
    async for page in pages(connection):
        folded.take(page)
        progress(folded.events, total)
    await _fill(connection, folded, folded.images)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock('events'::regclass::oid::bigint)")
        touched: set[UUID] = set()
        async for page in pages(connection, folded.events):
            folded.take(page)
            touched.update(item.stream for item in page)
        await _forget(connection, touched)
        await _fill(connection, folded, touched)
        rows = {table: await _move(connection, table) for table in _INLINE}
    await connection.execute(f"VACUUM (ANALYZE) {', '.join(_INLINE)}")
    return Rebuilt(folded.events, rows)


async def _forget(connection: Any, streams: Collection[UUID]) -> None:
    """Take what has changed since out of the shadows again; usage is small and made anew."""
    for table, column in (("images", "id"), ("states", "id"), ("tasks", "image"), ("members", "image")):
        await connection.execute(f"DELETE FROM shadow_{table} WHERE {column} = ANY($1)", list(streams))


async def _move(connection: Any, table: str) -> int:
    await connection.execute(f"DELETE FROM {table}")  # TRUNCATE would wait for every reader, and empty older snapshots
    result: str = await connection.execute(f"INSERT INTO {table} SELECT * FROM shadow_{table}")
    await connection.execute(f"DROP TABLE shadow_{table}")
    return int(result.split()[-1])


async def _fill(connection: Any, folded: Folded, streams: Collection[UUID]) -> None:
    images = [(stream, folded.images[stream]) for stream in streams if stream in folded.images]
    tasks = (item for item in folded.tasks.items() if item[1][0] in streams)
    usage = ({"owner": o, "resource": r, "amount": amount} for (o, r), amount in folded.usage.items())
    await _insert(connection, "images", (image_row(stream, image) for stream, image in images))
    await _insert(connection, "states", (state_row(stream, image) for stream, image in images))
    await _insert(
        connection, "tasks", (task_row(stream, folded.images[stream].id, task) for _, (stream, task) in tasks)
    )
    members = (row for stream, image in images for row in member_rows(stream, NOTHING, image))
    await _insert(connection, "members", members)
    await connection.execute("TRUNCATE shadow_usage")
    await _insert(connection, "usage", usage)


async def _insert(connection: Any, table: str, rows: Iterable[Any]) -> None:
    """Rows travel as JSON."""
    statement = (
        f"INSERT INTO shadow_{table} SELECT p.* FROM unnest($1::json[]) AS d,"
        f" LATERAL json_populate_record(NULL::{table}, d) AS p"
    )
    batch: list[bytes] = []
    for row in rows:
        batch.append(encode(row))
        if len(batch) == _BATCH:
            await connection.execute(statement, batch)
            batch = []
    if batch:
        await connection.execute(statement, batch)


async def _lagging(connection: Any, name: str) -> Rebuilt:
    """Empty the table and let its consumer start over: its rows are absolute, so it may do so while it runs."""
    projection = next(item for item in PROJECTIONS if name == item.NAME)
    async with connection.transaction():
        await connection.execute(f"TRUNCATE {projection.TABLE}")
        await connection.execute(
            "UPDATE consumers SET position = 0, parked = NULL, owner = NULL, until = '-infinity', epoch = epoch + 1"
            " WHERE name = $1",
            f"projection {name}",
        )
    return Rebuilt(0, {projection.TABLE: 0})
