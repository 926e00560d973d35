"""Rebuilding beside a running service: nothing waits for it longer than it must, and nobody sees a half."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from kernel import rebuild as rebuild_module
from kernel import replay
from kernel.errors import Unavailable
from kernel.rebuild import rebuild
from tests.support.running import Site, several, single, site

DEADLINE = 30.0
"""Seconds after which a test that waits has failed."""


async def imported(running: Site) -> str:
    image = await running.image()
    assert await running.stage(image, b"x") == 204
    assert await running.do_import(image) == 202
    await running.ended(image)
    await running.settled()
    return image


async def test_a_read_model_is_filled_again_though_nothing_happens(dsn: str, directory: Path) -> None:
    async with site(dsn, directory, single(directory, import_worker="lease_seconds = 1")) as running:
        await imported(running)
        assert await running.service.database.fetchval("SELECT count(*) FROM outcomes") == 1
        await rebuild(dsn, "outcomes")

        async def full() -> bool:
            return int(await running.service.database.fetchval("SELECT count(*) FROM outcomes")) == 1

        await running.until(full, DEADLINE)


async def test_a_rebuild_waits_for_no_reader_and_no_reader_sees_a_half(dsn: str, directory: Path) -> None:
    """A backup reads for hours, and meanwhile the log must go on."""
    async with site(dsn, directory, several(directory)) as running:
        await imported(running)
        reader = await asyncpg.connect(dsn)
        try:
            async with reader.transaction(isolation="repeatable_read", readonly=True):
                tables = ("images", "states", "tasks", "members", "usage")
                before = [await reader.fetch(f"SELECT * FROM {table}") for table in tables[:2]]
                async with asyncio.timeout(DEADLINE):
                    await rebuild(dsn, "inline")
                    await running.image()
                assert before == [await reader.fetch(f"SELECT * FROM {table}") for table in tables[:2]]
                assert await reader.fetch("SELECT * FROM tasks")
        finally:
            await reader.close()


async def test_a_rebuild_that_stands_still_gives_the_log_back(
    dsn: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operator pressed Ctrl-Z, say; it has changed nothing then."""
    locked, goes_on = asyncio.Event(), asyncio.Event()

    async def stand_still(*_: object) -> None:
        locked.set()
        await goes_on.wait()

    monkeypatch.setattr(rebuild_module, "_STANDSTILL", "1s")
    monkeypatch.setattr(rebuild_module, "_forget", stand_still)
    async with site(dsn, directory, single(directory)) as running:
        image = await running.image()
        rebuilding = asyncio.create_task(rebuild(dsn, "inline"))
        async with asyncio.timeout(DEADLINE):
            await locked.wait()
            await running.image()
        goes_on.set()
        with pytest.raises(Unavailable):
            await rebuilding
        await running.show(image)


async def test_a_rebuild_while_images_are_written_gives_what_the_log_says(dsn: str, directory: Path) -> None:
    async with site(dsn, directory, single(directory)) as running:
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                image = await running.image(tags=["a"])
                assert (await running.call("DELETE", f"/images/{image}")).status == 204
                await running.image()

        writing = [asyncio.create_task(write()) for _ in range(4)]
        for _ in range(4):
            await rebuild(dsn, "inline")
        done.set()
        await asyncio.gather(*writing)
        assert (await replay.check(dsn)).differences == ()
