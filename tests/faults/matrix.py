"""The crash matrix: at every mark a real process is killed, or stopped and continued, and another goes on.

Points are event types × {before, after} and the effects outside the database, as
`kernel/marks.py` lists them; a point that no story ever reaches fails the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterable

from kernel.marks import EFFECTS, RECORDS
from tests.faults.story import STORIES, Client, Story
from tests.faults.world import World
from tests.support.nodes import Node


def points() -> list[str]:
    """Every mark at which a crash is to be survived."""
    names = [f"{when} {kind.__name__}" for kind in RECORDS for when in ("before", "after")]
    return [*names, *EFFECTS]


async def chart(world: World) -> dict[str, str]:
    """Which story reaches which mark: told once without any crash."""
    reached: dict[str, str] = {}
    async with Client(world.urls) as client:
        for name, tell in STORIES.items():
            (world.drill / "passed").unlink(missing_ok=True)
            before = set(reached)
            await tell(Story(client))
            await world.settle()
            reached |= dict.fromkeys(world.passed - before, name)
    return reached


async def strike(world: World, verb: str, point: str, story: str) -> float:
    """Tell a story while the first node is struck at a point; returns the seconds from the blow to the end."""
    node = world.nodes[0]
    for _ in range(5):  # the other node may win the race for the work: then the story is told again
        if point == "delivered":
            await _again(world.nodes[1])  # so that the first node drives the consumers
        world.arm(f"{verb} {point}")
        async with Client(world.urls) as client:
            telling = asyncio.create_task(STORIES[story](Story(client)))
            blow = asyncio.create_task(_after_the_blow(world, verb))
            await telling
            ended = time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(blow), 3)  # clean-up after the story may be what is struck
        if not world.struck:
            world.disarm()
            blow.cancel()
            continue
        struck = await blow
        await world.settle()
        if verb == "stop":
            assert node.stopped
            node.signal(signal.SIGCONT)
        return max(ended - struck, 0.0)
    raise AssertionError(f"{point} was never reached while telling '{story}'")


async def _after_the_blow(world: World, verb: str) -> float:
    """Wait for the blow; a killed node is started again at once.  Returns when it fell."""
    while not world.struck:
        await asyncio.sleep(0.01)
    struck = time.monotonic()
    if verb == "kill":
        await _again(world.nodes[0])
    return struck


async def _again(node: Node) -> None:
    node.kill()
    node.start()
    await node.ready()


async def run(world: World, blows: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Strike every blow, a verb and a point; returns the seconds each took from the blow to the end of its story."""
    reached = await chart(world)
    missing = [point for point in points() if point not in reached]
    assert not missing, f"no story reaches {missing}"
    took: dict[str, float] = {}
    for verb, point in blows:
        name = f"{verb} {point}"
        took[name] = await strike(world, verb, point, reached[point])
        print(f"{name}: {took[name]:.1f} s", flush=True)
    return took
