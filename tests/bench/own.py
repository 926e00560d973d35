"""What no peer has: appends, replay, and going on after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg

from kernel.appender import Appender
from kernel.context import service_context
from kernel.database import Database
from kernel.events import ImageCreated
from kernel.ids import new_id
from kernel.log import Request
from kernel.log_postgres import PostgresLog
from kernel.recorded import IMAGE, pending
from kernel.replay import check
from tests.bench.work import Figures
from tests.faults.record import fill
from tests.faults.story import Client, Story
from tests.faults.world import World, configuration
from tests.support.builders import START

CALLERS = 32
_PLAIN = "INSERT INTO plain (stream, version, event_id, type, data, meta) VALUES ($1, 1, $2, $3, $4, $5)"


@contextlib.asynccontextmanager
async def _log(dsn: str) -> AsyncIterator[PostgresLog]:
    database, appender = Database(dsn), Appender(dsn)
    await database.open()
    await appender.start()
    try:
        yield PostgresLog(database, appender)
    finally:
        await appender.stop()
        await database.close()


async def _together(work: Any, seconds: float) -> float:
    """Calls a second of `work`, with so many callers at once."""
    done = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await work()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CALLERS)))
    return done / (time.perf_counter() - began)


async def append(dsn: str, seconds: float) -> Figures:
    """Appends of one event, beside plain inserts by as many connections, in turns."""
    created = ImageCreated(image_id="bench", owner="bench", disk_format="raw", container_format="bare")
    ours, plain = [], []
    pool: Any = await asyncpg.create_pool(dsn, min_size=CALLERS, max_size=CALLERS)
    await pool.execute(
        "CREATE TABLE plain (position bigserial PRIMARY KEY, stream uuid, version int, event_id uuid UNIQUE,"
        " type text, data json, meta json, UNIQUE (stream, version))"
    )
    async with _log(dsn) as log:

        async def one() -> None:
            events = pending((created,), service_context(), START)
            await log.append(Request(category=IMAGE, stream=new_id(), expected=0, events=events))

        async def insert() -> None:
            await pool.execute(_PLAIN, new_id(), new_id(), "ImageCreated", '{"image_id":"bench"}', '{"by":"bench"}')

        for _ in range(3):
            ours.append(await _together(one, seconds))
            plain.append(await _together(insert, seconds))
    await pool.close()
    return {
        "append, 32 callers: /s": statistics.median(ours),
        "append beside plain inserts: x": statistics.median(a / b for a, b in zip(ours, plain, strict=True)),
    }


async def replay(dsn: str, events: int) -> Figures:
    """Fold a log of whole lives of images, and compare with the read models."""
    await asyncio.to_thread(fill_aside, dsn, events)
    rates = []
    for _ in range(3):
        report = await check(dsn)
        assert not report.differences, report.differences
        rates.append(report.rate)
    return {"replay, from the database to the state: events/s": statistics.median(rates)}


def fill_aside(dsn: str, events: int) -> None:
    """Fill a log, in a loop of its own."""
    asyncio.run(fill(dsn, events))


async def resume(dsn: str, directory: Path, times: int) -> Figures:
    """Kill the node that works in the middle of an import; seconds until the other one has finished it."""
    world = World(directory, dsn, config=configuration(directory, lease_seconds=6))
    took = []
    async with world.running(), Client(world.urls) as client:
        for _ in range(times):
            story = Story(client, 4_000_000)
            await story.create()
            world.arm("kill stored")
            telling = asyncio.create_task(story.import_to(["fast", "cheap", "reliable"]))
            while not world.struck:
                await asyncio.sleep(0.01)
            struck = time.perf_counter()
            await telling
            took.append(time.perf_counter() - struck)
            await story.verify()
            world.nodes[0].kill()
            world.nodes[0].start()
            await world.nodes[0].ready()
    took.sort()
    return {"going on after kill -9: p95 s": took[min(len(took) - 1, int(len(took) * 0.95))]}
