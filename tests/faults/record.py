"""The record at scale: many lives in the log, folded anew, and tampered with.

Whole lives of images are recorded through the write path, as fast as it goes.  Then the
command line has to find the read models equal to the log, and every touch of a copy.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from uuid import uuid4

from msgspec.structs import replace

from kernel import commands as c
from kernel.context import service_context
from kernel.handle import Commands
from kernel.ids import new_id
from tests.faults.disasters import writing
from tests.support import builders as b
from tests.support.cli import DIFFERENCE, OK, entrepot
from tests.support.installation import a_copy, run, tamper
from tests.support.postgres import Server

STORES: Final = ("fast", "cheap", "reliable")
_AT_ONCE: Final = 64
TOUCHES: Final = {
    "a flipped byte": (
        "UPDATE events SET meta = (replace(meta::text, 'service', 'servicf'))::json WHERE position = {}",
    ),
    "a deleted event": ("DELETE FROM events WHERE position = {}",),
    "two swapped events": (
        "UPDATE events SET position = 0x7fffffff WHERE position = {0}",
        "UPDATE events SET position = {0} WHERE position = {0} + 1",
        "UPDATE events SET position = {0} + 1 WHERE position = 0x7fffffff",
    ),
}
"""What is done to a copy of the log -> the statements that do it, at a position."""


async def live(commands: Commands) -> None:
    """Create, stage and import an image into three stores: what the log holds of it is what it always holds."""
    image, task, context = str(uuid4()), str(new_id()), service_context()
    await commands.handle(image, c.CreateImage(image=replace(b.created(), image_id=image)), context=context)
    start = c.StartStaging(transfer=b.TRANSFER)
    staging = await commands.handle(image, start, context=context, take=True)
    done = c.CompleteStaging(transfer=b.TRANSFER, blob=b.blob())
    await commands.handle(image, done, context=context, lease=staging.lease, release=True)
    request = replace(b.requested(*STORES), task_id=task)
    await commands.handle(image, c.RequestImport(needs="uploading", request=request), context=context)
    steps: list[c.Command] = [c.BeginImport(task_id=task), c.RecordInspection(task_id=task, detected=("raw",))]
    for store in STORES:
        steps.append(c.StartStore(task_id=task, store=store, name=b.name_in(store)))
        steps.append(replace(b.record_success(store), task_id=task))
    steps.append(c.ClearStaging(task_id=task))
    await commands.handle(image, *steps, context=context, take=True, release=True)


async def fill(dsn: str, events: int) -> int:
    """Record lives until the log holds so many events; returns how many it holds."""
    async with writing(dsn) as commands:

        async def lives() -> None:
            while await commands._log.head() < events:
                for _ in range(20):
                    await live(commands)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(lives())
        return await commands._log.head()


def prove(postgres: Server, dsn: str, events: int) -> dict[str, Any]:
    """Fill a log, replay it, and find every touch of a copy; returns figures."""
    began = time.monotonic()
    recorded = asyncio.run(fill(dsn, events))
    filling = time.monotonic() - began
    replayed = entrepot("replay", "--check", "--database", dsn, "--json").ended(OK).json
    assert replayed["events"] == recorded
    audited = entrepot("audit", "--database", dsn, "--json").ended(OK).json
    assert audited["intact"]
    anchor = entrepot("audit", "--anchor", "--database", dsn).ended(OK).out.strip()
    found: dict[str, str] = {}
    with a_copy(postgres, dsn) as copy:
        run(copy, "CREATE TABLE kept AS TABLE events")
        middle = recorded // 2
        for touch, statements in TOUCHES.items():
            tamper(copy, *(statement.format(middle) for statement in statements))
            broken = entrepot("audit", "--database", copy, "--json").ended(DIFFERENCE).json["broken"]
            assert broken["position"] == middle, f"{touch}: {broken}"
            found[touch] = broken["kind"]
            tamper(copy, "TRUNCATE events", "INSERT INTO events SELECT * FROM kept")
        tamper(copy, f"DELETE FROM events WHERE position > {middle}")
        assert entrepot("audit", "--database", copy, "--json").ended(OK).json["intact"]
        cut = entrepot("audit", "--against", anchor, "--database", copy, "--json").ended(DIFFERENCE).json
        found["a cut-off tail"] = cut["anchors"][0]["fault"]
    return {
        "events": recorded,
        "recorded/s": round(recorded / filling),
        "replayed/s": replayed["rate"],
        "differences": len(replayed["differences"]),
        **found,
    }
