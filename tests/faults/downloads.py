"""Downloads over a line that keeps being cut, by workers that keep being killed: how much is sent twice?"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from tests.faults.story import Client, Story
from tests.faults.world import World
from tests.support.origin import Flaky, Origin, digest_of, origin

MIB = 1 << 20
ON_THE_WAY = 16 * MIB
"""Bytes that may be in the buffers of both ends when a worker is killed, sent but nowhere kept."""


async def download(world: World, client: Client, source: Flaky, kills: int = 0) -> dict[str, Any]:
    """Import from a flaky source, killing the worker on the way; what was sent must be little more than the file."""
    story, node = Story(client, 0), world.nodes[0]
    await story.create()
    path = f"/{story.id}"
    source.origin.answers[path], source.origin.sent = source, 0
    began = time.monotonic()
    await story.ask_import(method={"name": "web-download", "uri": source.origin.url(path)}, stores=["fast"])
    for number in range(kills):
        while source.origin.sent < source.size * (number + 1) // (kills + 1):
            await asyncio.sleep(0.005)
        node.kill()
        node.start()
        await node.ready()

    async def active(image: dict[str, Any]) -> bool:
        assert image["status"] in ("importing", "active"), image
        return bool(image["status"] == "active" and "os_glance_import_task" not in image)

    await story.go(active, seconds=600)
    took = time.monotonic() - began
    image = await client.image(story.id)
    assert image is not None
    assert image["size"] == source.size
    assert image["os_hash_value"] == await asyncio.to_thread(digest_of, source.size)
    asked = source.origin.of(path)
    assert len(asked) > source.cuts
    assert [request.begin for request in asked if not request.begin] == [None], "it began at the beginning once"
    assert all("if-range" in request.headers for request in asked[1:])
    return {
        "MiB": source.size // MIB,
        "cuts": source.cuts,
        "kills": kills,
        "requests": len(asked),
        "extra %": round((source.origin.sent - source.size) * 100 / source.size, 2),
        "s": round(took, 1),
    }


async def drill(directory: Path, dsn: str, mib: int = 1024, cut: int = 100) -> dict[str, Any]:
    """The whole drill: cut every `cut` MiB, then three workers killed on the way, then both."""
    figures: dict[str, Any] = {}
    world = World(directory, dsn, nodes=1)
    async with world.running(), origin() as source, Client(world.urls, seconds=60) as client:
        for name, flaky, kills in _rounds(source, mib * MIB, cut * MIB):
            figures[name] = found = await download(world, client, flaky, kills)
            print(f"{name}: {found}", flush=True)
            allowed = 2 + kills * ON_THE_WAY * 100 / flaky.size
            assert found["extra %"] <= allowed, f"more than {allowed:.1f} %"
        figures |= await world.verify()
    return figures


def _rounds(source: Origin, size: int, cut: int) -> list[tuple[str, Flaky, int]]:
    return [
        ("cut", Flaky(source, size, cut=cut), 0),
        ("closed", Flaky(source, size, cut=cut, gently=True), 0),
        ("killed", Flaky(source, size), 3),
        ("cut and killed", Flaky(source, size, cut=cut), 3),
    ]
