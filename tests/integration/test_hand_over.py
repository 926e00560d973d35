"""A graceful stop leaves nothing locked behind."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path

from kernel.registry import discover
from ops.config import load
from ops.server import Options, serving
from tests.support.raw import DEADLINE, Wire, chunk, head
from tests.support.running import single, site


async def test_the_next_process_drives_the_consumers_at_once(dsn: str, directory: Path) -> None:
    """Notifications go on where the former process stopped, long before its lease would have run out."""
    for _ in range(3):
        async with site(dsn, directory, single(directory)) as running:
            began = time.monotonic()
            image = await running.image()
            await running.until(lambda running=running, image=image: running.notes.of(image), seconds=5)
            assert time.monotonic() - began < 3


async def test_work_stops_while_the_last_requests_are_answered(dsn: str, directory: Path) -> None:
    """A slow sender may take its time, but nothing new is begun meanwhile, and nothing else waits for it to end."""
    path = directory / "glance-api.conf"
    path.write_text(single(directory))
    registry = discover()
    settings = load([path], registry=registry, state=directory / "state", environment={})
    options = Options(settings=settings, registry=registry, dsn=dsn, host="127.0.0.1", port=0)
    async with AsyncExitStack() as stack:
        serving_now = await stack.enter_async_context(AsyncExitStack())
        service, port = await serving_now.enter_async_context(serving(options, dsn))
        wire = await stack.enter_async_context(Wire(*await asyncio.open_connection("127.0.0.1", port)))
        create = b'{"disk_format":"raw","container_format":"bare"}'
        await wire.send(head("POST", "/v2/images", Content_Length=str(len(create))) + create)
        image = json.loads((await wire.answer()).body)["id"]
        octets = {"Content_Type": "application/octet-stream", "Expect": "100-continue"}
        await wire.send(head("PUT", f"/v2/images/{image}/file", Transfer_Encoding="chunked", **octets))
        assert (await wire.answer()).status == 100  # accepted, and under way
        leaving = asyncio.create_task(serving_now.aclose())
        async with asyncio.timeout(DEADLINE):
            while service.stopping is None:
                await asyncio.sleep(0)
            await service.stopping
        await wire.send(chunk(b"abc") + chunk(b""))
        assert (await wire.answer()).status == 204
        await leaving
