"""Another process that appends: `python -m tests.support.appending DSN APPENDS`.

Says `ready` once it is connected, and begins when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kernel.events import TagAdded
from kernel.ids import new_id
from tests.support.logs import postgres_log, request

ROOT = Path(__file__).parents[2]


async def append(dsn: str, appends: int) -> None:
    async with postgres_log(dsn) as log:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for number in range(appends):
            await log.append(request(new_id(), TagAdded(tag=str(number))), patient=True)


async def begun(dsn: str, appends: int) -> asyncio.subprocess.Process:
    """Such a process, connected and waiting for its input to end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        dsn,
        str(appends),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


if __name__ == "__main__":
    asyncio.run(append(sys.argv[1], int(sys.argv[2])))
