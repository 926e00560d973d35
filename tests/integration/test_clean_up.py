"""Clean-up in the background: it removes what is left of the past, whatever comes up meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kernel.clock import SystemClock
from kernel.extend import Leftover
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.running import Site, site
from tests.support.standing import blocked, hooks, memory_stores, objects


class Ahead:
    """The machine's clock, moved ahead by hand."""

    def __init__(self) -> None:
        self.minutes = 0.0

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(minutes=self.minutes)


async def copied(running: Site, image: str, store: str) -> None:
    body = {"method": {"name": "copy-image"}, "stores": [store]}
    assert (await running.call("POST", f"/images/{image}/import", "ADM", json=body)).status == 202


async def test_what_another_node_writes_while_leftovers_are_looked_for_is_none(
    dsn: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a preempted import may have left is looked for in its stores; a new one may be writing there."""
    config, clock = memory_stores()(directory), Ahead()
    async with site(dsn, directory, config, also=(FAULTY,), role="api", clock=clock) as front:
        cheap = hooks(front, "cheap")
        image = await front.image()
        assert await front.upload(image, RAW1K) == 204
        await copied(front, image, "cheap")
        clock.minutes = 121
        await copied(front, image, "reliable")
    look, looking, go_on = cheap.leftovers, asyncio.Event(), asyncio.Event()

    async def slowly(prefix: str) -> Sequence[Leftover]:
        looking.set()
        await go_on.wait()
        return await look(prefix)

    monkeypatch.setattr(cheap, "leftovers", slowly)
    async with (
        site(dsn, directory, config, also=(FAULTY,)) as one,
        site(dsn, directory, config, also=(FAULTY,), role="worker"),
    ):

        async def cleaned_up() -> bool:
            return bool(await one.service.database.fetchval("SELECT count(*) FROM events WHERE type = 'BytesPurged'"))

        async with asyncio.timeout(10):
            await looking.wait()
        async with blocked(one, "cheap"):
            await copied(one, image, "cheap")
            await cheap.blocked.wait()
            go_on.set()
            await one.until(cleaned_up)
        shown = await one.ended(image)
        assert (shown["os_glance_failed_import"], shown["stores"]) == ("", "cheap,fast,reliable")
        assert objects(one, "cheap", image) == [RAW1K]
