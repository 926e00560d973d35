"""Short versions of the drills; `ops/soak` runs them whole."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.faults import disasters, downloads, matrix, record
from tests.faults.story import Client, Story
from tests.faults.world import World, configuration
from tests.support.nodes import Node
from tests.support.origin import Flaky, origin
from tests.support.postgres import Server

pytestmark = pytest.mark.slow

KILLED = (
    "after StagingStarted",
    "staged",
    "before DataUploaded",
    "after ImportStarted",
    "after FetchStarted",
    "fetched",
    "hashed",
    "step done",
    "after StepCompleted",
    "stored",
    "before StoreFailed",
    "before ImportCompleted",
    "after ImageExpected",
    "before ImageAppeared",
    "deleted",
)
STOPPED = ("staged", "step done", "storing begins", "before StoreSucceeded")


@pytest.fixture
async def world(postgres: Server, directory: Path) -> AsyncIterator[World]:
    dsn = await postgres.fresh()
    async with World(directory, dsn).running() as running:
        yield running
    await postgres.drop(dsn)


async def test_every_mark_is_reached_and_some_are_struck(world: World) -> None:
    """Killed or stopped at marks along the way, every story still ends well."""
    blows = [*(("kill", point) for point in KILLED), *(("stop", point) for point in STOPPED)]
    took = await matrix.run(world, blows)
    found = await world.verify()
    assert found["events"] > 100
    assert max(took.values()) < 15


async def test_random_kills_under_load(dsn: str, directory: Path) -> None:
    found = await disasters.random_kills(directory, dsn, kills=8, seed=1)
    assert found["kills"] == 8


async def test_the_database_dies_in_the_middle_of_imports(directory: Path) -> None:
    """All imports finish; meanwhile clients are told to come back later."""
    with disasters.mortal_database() as (dsn, kill):
        found = await disasters.database_dies(directory, dsn, kill, images=12)
    assert found["imports"] == 12


async def test_appends_from_everywhere_keep_their_order(dsn: str) -> None:
    found = await disasters.order_stress(dsn, seconds=3)
    assert found["read"] > 200


def test_the_record_tells_what_the_tables_say_and_shows_every_touch(postgres: Server) -> None:
    dsn = asyncio.run(postgres.fresh())
    found = record.prove(postgres, dsn, events=2_000)
    assert found["differences"] == 0
    assert found["a flipped byte"] == "changed"
    assert found["a deleted event"] == "missing"
    assert found["two swapped events"] == "swapped"
    assert "its tail was cut off" in found["a cut-off tail"]
    asyncio.run(postgres.drop(dsn))


async def test_another_node_resumes_within_ten_seconds(dsn: str, directory: Path) -> None:
    """With leases as they are by default, killing the node that works makes the other one finish in time."""
    world = World(directory, dsn, config=configuration(directory, lease_seconds=6))
    async with world.running(), Client(world.urls) as client:
        story = Story(client)
        await story.create()
        world.arm("kill stored")
        telling = asyncio.create_task(story.import_to(["fast", "cheap", "reliable"]))
        async with asyncio.timeout(20):
            while not world.struck:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            await telling
        await story.verify()


async def test_downloads_go_on_after_cuts_and_kills(dsn: str, directory: Path) -> None:
    """What was fetched before the line, or the worker, went is not fetched again."""
    world, mib = World(directory, dsn, nodes=1), downloads.MIB
    async with world.running(), origin() as source, Client(world.urls) as client:
        cut = Flaky(source, 8 * mib, cut=mib)
        assert (await downloads.download(world, client, cut))["extra %"] <= 2
        killed = Flaky(source, 8 * mib, cut=3 * mib, pause=0.01)
        assert (await downloads.download(world, client, killed, kills=1))["extra %"] <= 50
        await world.verify()


async def test_a_graceful_stop_hands_work_over(dsn: str, directory: Path) -> None:
    """SIGTERM in the middle of imports fails none of them."""
    world = World(directory, dsn)
    async with world.running(), Client(world.urls) as client:
        stories = [Story(client, 3_000_000) for _ in range(6)]
        for story in stories:
            await story.create()
        telling = [asyncio.create_task(story.import_to(["fast", "cheap"])) for story in stories]
        while not disasters.files(directory, "cheap"):
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(world.nodes[0].terminate) == 0
        await asyncio.gather(*telling)
        for story in stories:
            await story.verify()
            tasks = await _tasks(client, story.id)
            assert [task["status"] for task in tasks] == ["success"]
        await world.verify()


async def test_foreign_files_stay_as_they_are(postgres: Server, directory: Path) -> None:
    """Beside files of others, and beside a second installation in the same directories, nothing foreign changes."""
    foreign = plant(directory)
    dsns = [await postgres.fresh(), await postgres.fresh()]
    path = configuration(directory)
    nodes = [
        Node(directory, f"node{number}", path, dsn, state=directory / f"state{number}")
        for number, dsn in enumerate(dsns)
    ]
    try:
        for node in nodes:
            node.start()
            await node.ready()
        kept: list[Story] = []
        for node in nodes:
            async with Client([node.url]) as client:
                for number in range(3):
                    story = Story(client)
                    await story.create()
                    await story.import_to(["fast", "cheap"])
                    if number:
                        await story.delete()
                    else:
                        kept.append(story)
        nodes[0].kill()
        nodes[0].start()
        await nodes[0].ready()
        for node, story in zip(nodes, kept, strict=True):
            async with Client([node.url]) as client:
                story.client = client
                await story.verify()
        assert snapshot(foreign) == foreign
    finally:
        for node in nodes:
            node.kill()
        for dsn in dsns:
            await postgres.drop(dsn)


def plant(directory: Path) -> dict[Path, tuple[str, int]]:
    """Files of others in every place that the service writes to."""
    made = []
    for place in ("fast", "cheap", "reliable", "staging"):
        for name in ("foreign.img", "0c1b6a4e-4bb1-4cb0-a9fa-8a4a6f8a7c11", "deep/er/file", "entrepot-notes.txt"):
            path = directory / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode() * 100)
            made.append(path)
    return snapshot(dict.fromkeys(made))


def snapshot(paths: Any) -> dict[Path, tuple[str, int]]:
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in paths}


async def _tasks(client: Client, image_id: str) -> list[dict[str, Any]]:
    node = len(client.urls) - 1
    status, body = await client.once("GET", f"/v2/images/{image_id}/tasks", node=node)
    assert status == 200
    tasks: list[dict[str, Any]] = orjson.loads(body)["tasks"]
    return tasks
