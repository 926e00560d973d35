"""Work that this process cannot do is no reason to leave other work undone, nor to try without end."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import structlog

from kernel.ids import new_id, stream_of
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
