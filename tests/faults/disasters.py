"""Disasters under load: random kills, a database that dies, appends from everywhere at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import psutil

from kernel import commands as c
from kernel import events as e
from kernel.appender import Appender
from kernel.clock import SystemClock
from kernel.context import service_context
from kernel.database import Database
from kernel.errors import EntrepotError
from kernel.feed import Feed
from kernel.handle import Commands
from kernel.leases import Leases
from kernel.log_postgres import PostgresLog
from migrations.runner import migrate
from ops.embedded_postgres import EmbeddedPostgres, ensure_database
from ops.postgres_keeper import postmaster_pid
from tests.faults.story import STORIES, Client, Story
from tests.faults.world import World
from tests.support.nodes import Node
from tests.support.private_postgres import a_place


async def random_kills(directory: Path, dsn: str, kills: int, seed: int, tellers: int = 8) -> dict[str, Any]:
    """Kill serving processes at random times while stories are told all the time."""
    dice = random.Random(seed)
    world = World(directory, dsn, nodes=0)
    node = Node(directory, "node0", directory / "glance-api.conf", dsn, processes=3)
    world.nodes = [node]
    told = 0
    async with world.running(), Client([node.url], seconds=90) as client:
        stop = asyncio.Event()

        async def tell(number: int) -> None:
            nonlocal told
            names = list(STORIES)
            while not stop.is_set():
                await STORIES[names[(number + told) % len(names)]](Story(client))
                told += 1

        tellers_at_work = [asyncio.create_task(tell(number)) for number in range(tellers)]
        killed = 0
        while killed < kills:
            await asyncio.sleep(dice.uniform(0.05, 1.0))
            for task in tellers_at_work:
                if task.done():
                    task.result()
            children = psutil.Process(node.pid).children()
            if len(children) >= 2:
                with contextlib.suppress(psutil.NoSuchProcess):
                    dice.choice(children).kill()
                    killed += 1
        stop.set()
        await asyncio.gather(*tellers_at_work)
        found = await world.verify()
    return {"kills": killed, "stories": told, **found}


@contextlib.contextmanager
def mortal_database() -> Iterator[tuple[str, Callable[[], None]]]:
    """A migrated database on a server of its own: its DSN, and a way to kill the server and bring it back."""
    with a_place() as place, EmbeddedPostgres(place / "pg") as server, ThreadPoolExecutor(1) as aside:

        async def prepare() -> None:
            await ensure_database(server.dsn("postgres"), "entrepot")
            await migrate(server.dsn())

        aside.submit(asyncio.run, prepare()).result()

        def kill() -> None:
            pid = postmaster_pid(str(server.data))
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            time.sleep(2)  # how long the database is away
            server.ensure()

        yield server.dsn(), kill


async def database_dies(directory: Path, dsn: str, kill_database: Callable[[], None], images: int) -> dict[str, Any]:
    """Kill and restart Postgres in the middle of many imports; meanwhile the API says 503 and when to come back."""
    world = World(directory, dsn, nodes=0)
    node = Node(directory, "node0", directory / "glance-api.conf", dsn)
    world.nodes = [node]
    refused: list[str] = []
    async with world.running(), Client([node.url], seconds=90) as client:
        stories = [Story(client, 2_000_000) for _ in range(images)]

        async def tell(story: Story) -> None:
            await story.create()
            await story.import_to(["fast", "cheap"])
            await story.verify()

        telling = [asyncio.create_task(tell(story)) for story in stories]
        while not any(files(directory, "fast")):
            await asyncio.sleep(0.02)
        struck = time.monotonic()
        away = asyncio.create_task(asyncio.to_thread(kill_database))
        async with aiohttp.ClientSession() as session:
            while not away.done():
                async with session.get(f"{node.url}/v2/images/{stories[0].id}") as response:
                    if response.status == 503:
                        refused.append(response.headers["Retry-After"])
        await away
        await asyncio.gather(*telling)
        took = time.monotonic() - struck
        found = await world.verify()
    assert refused, "nobody was told that the database is away"
    return {"imports": images, "seconds": round(took, 1), "retry_after": refused[0], **found}


def files(directory: Path, place: str) -> list[Path]:
    return [path for path in (directory / place).rglob("*") if path.is_file()]


# --- appends from everywhere at once -----------------------------------------------------


@contextlib.asynccontextmanager
async def writing(dsn: str) -> AsyncIterator[Commands]:
    """The write path of one process, without a service around it."""
    database, appender = Database(dsn), Appender(dsn)
    await database.open()
    await appender.start()
    try:
        yield Commands(PostgresLog(database, appender), Leases(database, 6, "stress"), SystemClock())
    finally:
        await appender.stop()
        await database.close()


async def create(commands: Commands, image: str) -> None:
    created = e.ImageCreated(image_id=image, owner="stress")
    await commands.handle(image, c.CreateImage(image=created), context=service_context())


async def append_for(dsn: str, shared: Sequence[str], seconds: float, seed: int) -> int:
    """One process of the order stress: writers on shared and on own streams; returns what was accepted."""
    dice = random.Random(seed)
    accepted = 0
    end = time.monotonic() + seconds
    async with writing(dsn) as commands:

        async def write() -> None:
            nonlocal accepted
            while time.monotonic() < end:
                with contextlib.suppress(EntrepotError):
                    if dice.random() < 0.3:
                        await commands.handle(dice.choice(shared), c.TakeOver(), context=service_context())
                    else:
                        await create(commands, str(uuid4()))
                    accepted += 1

        await asyncio.gather(*(write() for _ in range(6)))
    return accepted


async def read_along(dsn: str, stop: asyncio.Event) -> dict[str, Any]:
    """Follow the log while it grows: every event once, no hole, every stream in order."""
    database = Database(dsn)
    await database.open()
    log = PostgresLog(database, Appender(dsn))
    feed = Feed(log, dsn)
    await feed.start()
    versions: dict[tuple[str, Any], int] = {}
    position = 0
    try:
        async for batch in feed.follow(0):
            for item in batch:
                assert item.position == position + 1, f"hole after {position}"
                key = item.category, item.stream
                assert item.version == versions.get(key, 0) + 1, f"{key} out of order at {item.position}"
                versions[key], position = item.version, item.position
            if stop.is_set() and position == await log.head():
                break
    finally:
        await feed.stop()
        await database.close()
    return {"read": position, "streams": len(versions)}


async def order_stress(dsn: str, seconds: float, processes: int = 4) -> dict[str, Any]:
    """Several processes write, one is killed half-way, a reader follows: nothing lost, no hole, streams in order."""
    shared = [str(uuid4()) for _ in range(8)]
    async with writing(dsn) as commands:
        for image in shared:
            await create(commands, image)
    stop = asyncio.Event()
    reader = asyncio.create_task(read_along(dsn, stop))
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.disasters", dsn, str(seconds), str(number), *shared),
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(processes)
    ]
    await asyncio.sleep(seconds / 2 + 1)
    workers[0].send_signal(signal.SIGKILL)
    accepted = sum([int((await worker.communicate())[0]) for worker in workers[1:]])
    await workers[0].wait()
    stop.set()
    async with writing(dsn) as commands:
        await create(commands, str(uuid4()))  # something for the reader to wake up for
    found = await asyncio.wait_for(reader, 60)
    assert found["read"] >= accepted
    return {"accepted_by_survivors": accepted, **found}


if __name__ == "__main__":
    print(asyncio.run(append_for(sys.argv[1], sys.argv[4:], float(sys.argv[2]), int(sys.argv[3]))))
