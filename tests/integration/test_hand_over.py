"""A graceful stop leaves nothing locked behind."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.running import single, site


async def test_the_next_process_drives_the_consumers_at_once(dsn: str, directory: Path) -> None:
    """Notifications go on where the former process stopped, long before its lease would have run out."""
    for _ in range(3):
        async with site(dsn, directory, single(directory)) as running:
            began = time.monotonic()
            image = await running.image()
            await running.until(lambda running=running, image=image: running.notes.of(image), seconds=5)
            assert time.monotonic() - began < 3
