"""Work that this process cannot do is no reason to leave other work undone, nor to try without end."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import structlog

from kernel import commands as c
from kernel.context import service_context
from kernel.ids import new_id, stream_of
from tests.support.builders import blob
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.running import Site, site
from tests.support.standing import memory_stores

_FROM_THE_FUTURE = """
INSERT INTO events (position, category, stream, version, event_id, type, data, meta, hash)
SELECT (SELECT max(position) FROM events) + 1, category, stream, version + 1, $2, 'Frobnicated', '{}', meta, hash
FROM events WHERE stream = $1 ORDER BY version DESC LIMIT 1
"""


async def importing(running: Site) -> str:
    image = await running.image()
    assert await running.stage(image, RAW1K) == 204
    assert await running.do_import(image) == 202
    return image


async def test_images_that_only_a_newer_version_knows_hold_up_no_others(dsn: str, directory: Path) -> None:
    config = memory_stores()(directory)
    async with site(dsn, directory, config, also=(FAULTY,), role="api") as front:
        operator = await asyncpg.connect(dsn)
        for _ in range(6):
            stream = stream_of(await importing(front))
            await operator.execute(_FROM_THE_FUTURE, stream, new_id())
            await operator.execute("UPDATE states SET fold = 999, version = version + 1 WHERE id = $1", stream)
        await operator.close()
        image = await importing(front)
    with structlog.testing.capture_logs() as logs:
        async with site(dsn, directory, config, also=(FAULTY,)) as running:
            shown = await running.ended(image)
    assert shown["status"] == "active"
    refused = [entry["image_id"] for entry in logs if entry["event"] == "work_refused"]
    assert len(refused) == len(set(refused)), "each is tried once for a start"


async def test_what_lies_on_nodes_that_are_gone_is_not_looked_for_without_end(dsn: str, directory: Path) -> None:
    """An image was staged here and there, and both nodes are gone: only they could remove what it left."""
    async with site(dsn, directory, memory_stores()(directory), also=(FAULTY,)) as running:
        commands, context = running.service.commands, service_context()
        image = await running.image()
        for number, node in enumerate(("http://here", "http://there")):
            start = c.StartStaging(transfer=f"t{number}")
            stage = c.CompleteStaging(transfer=f"t{number}", blob=blob(f"{image}/t{number}/stage.1", node=node))
            await commands.handle(image, start, stage, context=context)
            if number == 0:
                assert await running.do_import(image) == 202
                (task,) = await running.tasks(image)
                cancel = c.CancelImport(task_id=task["id"], reason="its node is gone")
                await commands.handle(image, cancel, context=context)
                await running.ended(image)
        assert (await running.call("DELETE", f"/images/{image}")).status == 204
        assert len((await commands.load(image)).garbage) == 2

        async def left_for_a_while() -> bool:
            asked = "SELECT owner IS NULL AND until > clock_timestamp() FROM leases WHERE stream = $1"
            return bool(await running.service.database.fetchval(asked, stream_of(image)))

        await running.until(left_for_a_while)
