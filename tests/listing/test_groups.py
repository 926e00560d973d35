"""Lists that are read group by group hold what one statement would have found, and read less for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import pytest
import pytest_asyncio

from kernel.database import Database
from kernel.groups import grouped, page
from kernel.listing import Listing, Marker, Query, SortKey, complete
from tests.listing.cases import touched
from tests.listing.filling import BIG, SMALL, fill_rows
from tests.support.postgres import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORDERS = (
    "disk_format:asc,name:desc",
    "disk_format:desc,size:asc",
    "container_format:asc,disk_format:desc,name:asc",
    "status:desc,id:asc",
    "container_format:desc,status:asc,updated_at:desc",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def some(postgres: Server) -> AsyncIterator[Database]:
    """A database with images of a few formats, and some without any."""
    dsn = await postgres.fresh()
    try:
        await fill_rows(dsn, 2_000)
        database = Database(dsn, size=2)
        await database.open()
        try:
            await database.fetch("UPDATE images SET disk_format = 'iso' WHERE name LIKE '%7'")
            await database.fetch("UPDATE images SET disk_format = NULL, container_format = NULL WHERE name LIKE '%9'")
            await database.fetch("ANALYZE images")
            yield database
        finally:
            await database.close()
    finally:
        await postgres.drop(dsn)


def ordered(order: str, project: str, limit: int) -> Listing:
    keys = [item.partition(":") for item in order.split(",")]
    sort = complete([SortKey(key, "asc" if direction == "asc" else "desc") for key, _, direction in keys])
    return Listing(project=project, admin=False, sort=sort, limit=limit)


async def marker_at(database: Database, row: Any) -> Marker:
    columns = "name, status, container_format, disk_format, size, id, created_at, updated_at"
    return Marker(values=dict(await database.fetchrow(f"SELECT {columns} FROM images WHERE id = $1", row["id"])))


@pytest.mark.parametrize("project", [BIG, SMALL])
@pytest.mark.parametrize("order", ORDERS)
async def test_pages_are_those_of_one_statement(some: Database, order: str, project: str) -> None:
    whole = Query(ordered(order, project, 5_000), None)
    expected = [row["id"] for row in await some.fetch_planned(whole.sql, *whole.parameters)]
    listing, marker, found = ordered(order, project, 150), None, list[Any]()
    assert grouped(listing)
    while rows := await page(some.fetch_planned, listing, marker):
        found += [row["id"] for row in rows]
        marker = await marker_at(some, rows[-1])
    assert found == expected


async def test_orders_with_an_index_are_one_statement(some: Database) -> None:
    for order in ("disk_format:asc", "disk_format:desc", "name:asc,disk_format:desc", "created_at:desc"):
        assert not grouped(ordered(order, BIG, 25))


async def test_a_large_group_is_not_sorted(some: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.groups._MOST_SORTED", 1_000)
    walked = await touched_by(some, ordered("container_format:desc,name:asc", BIG, 25))
    monkeypatch.setattr("kernel.groups._MOST_SORTED", 10_000)
    assert walked < await touched_by(some, ordered("container_format:desc,name:asc", BIG, 25)) * 0.8


async def test_a_small_group_at_the_far_end_of_the_order_is_not_walked_to(some: Database) -> None:
    """Queued images have no size and come last by it."""
    whole = await some.fetchval("SELECT pg_relation_size('images') / 8192")
    assert await touched_by(some, ordered("status:desc,size:desc", BIG, 25)) < 3 * whole


async def touched_by(database: Database, listing: Listing) -> int:
    """Pages that the statements of a list look at."""
    pages = 0

    async def fetch(sql: str, *parameters: Any) -> Sequence[Any]:
        nonlocal pages
        (row,) = await database.fetch_planned(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *parameters)
        pages += touched(orjson.loads(row[0])[0]["Plan"])
        return await database.fetch_planned(sql, *parameters)

    await page(fetch, listing, None)
    return pages
