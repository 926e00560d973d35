"""How lists are looked up: by index, whoever asks, and never by reading every image."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from kernel import groups
from kernel.database import Database
from tests.listing.cases import NAMED, OTHERS, Case, cases, explained, places, touched
from tests.listing.filling import BIG, fill_rows
from tests.support.postgres import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

IMAGES = 20_000
FEW_PAGES = 300
"""Of 8 kB: what a list may look at that does not grow with the number of images."""

MOST_PAGES = 1_500
"""Pages of 8 kB that a list may look at; reading all images would take over 2 000."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(postgres: Server) -> AsyncIterator[Database]:
    """A database with very many images."""
    dsn = await postgres.fresh()
    try:
        await fill_rows(dsn, IMAGES)
        database = Database(dsn, size=2)
        await database.open()
        try:
            yield database
        finally:
            await database.close()
    finally:
        await postgres.drop(dsn)


async def test_the_usual_lists_are_looked_up_by_index(full: Database) -> None:
    where = await places(full)
    for case in cases(NAMED):
        for plan in await explained(full, case, where):
            scans = [node for node in nodes(plan) if node.get("Relation Name") == "images"]
            assert scans, case
            assert not [node for node in scans if node["Node Type"] == "Seq Scan"], case
            assert touched(plan) < MOST_PAGES, (case, touched(plan))


async def test_the_usual_lists_read_little_for_owners_of_few_and_of_all(full: Database) -> None:
    """A page and what leads there; whoever has a hundred images shared with him pays for looking at each."""
    where = await places(full)
    for case in (case for case in cases(NAMED) if case.asker != "friend"):
        for plan in await explained(full, case, where):
            assert touched(plan) < FEW_PAGES, (case, touched(plan))


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("one with") or "nobody" in name])
async def test_what_few_or_none_have_is_not_looked_for_in_all(full: Database, name: str) -> None:
    where = await places(full)
    for case in (case for case in cases({name: OTHERS[name]}) if case.asker != "friend"):
        for plan in await explained(full, case, where):
            assert touched(plan) < FEW_PAGES, (case, touched(plan))


async def test_plain_lists_have_one_plan_for_all(full: Database) -> None:
    """It is made once; what `explained` says of them above holds for that plan too."""
    where = await places(full)
    for case in cases({"default": "", "next page": "marker={middle}", "all visibilities": "visibility=all"}):
        assert case.built(where).plain
        assert len(await explained(full, case, where)) == 2


@pytest.mark.parametrize("name", [name for name, query in OTHERS.items() if "marker" in query])
async def test_a_page_begins_where_the_last_one_ended(
    full: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the beginning of the index, however far in the page is; groups are large here, and walked."""
    monkeypatch.setattr(groups, "_MOST_SORTED", 1000)
    where = await places(full)
    for case in [Case(asker, name, OTHERS[name]) for asker in ("owner of all", "admin")]:
        for plan in await explained(full, case, where):
            assert touched(plan) < MOST_PAGES, (case, touched(plan))


async def test_what_is_visible_in_two_ways_is_listed_once(full: Database) -> None:
    """The caller's own public images stand in two branches."""
    where = await places(full)
    expected = await full.fetch(
        "SELECT id FROM images WHERE status NOT IN ('deleted', 'pending_delete') AND NOT hidden"
        " AND (owner = $1 OR visibility = 'public') ORDER BY created_at DESC, id DESC LIMIT 501",
        BIG,
    )
    query = Case("owner of all", "half a thousand", "limit=500").built(where)
    found = await full.fetch(query.sql, *query.parameters)
    assert [row["id"] for row in found] == [row["id"] for row in expected]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan and all that it is made of."""
    return [plan, *(node for part in plan.get("Plans", ()) for node in nodes(part))]
