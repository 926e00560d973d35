"""Writes that end after somebody else has taken over, as of a process that stood still: nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from kernel import commands as c
from kernel.context import service_context
from kernel.errors import EntrepotError
from kernel.handle import Commands
from kernel.leases import Lease, Leases
from kernel.runner import Runner
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import blocked, memory_stores, objects, standing

TTL = 0.2
"""Seconds that a lease lasts; nobody renews it here."""


def late(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process does not hear of what becomes of its leases."""

    async def unheard() -> None:
        return None

    async def unwatched(lease: Lease, work: Coroutine[Any, Any, Any], check: object) -> Any:
        return await work

    monkeypatch.setattr(site.service.leases, "renew", unheard)
    monkeypatch.setattr(site.service.leases, "ttl", TTL)
    for module in ("transfers", "runner"):
        monkeypatch.setattr(f"kernel.{module}.watched", unwatched)


async def taken_over(site: Site, image: str, *commands: c.Command) -> None:
    """Another node has the image once the lease has run out, and has done these."""
    asked = "SELECT until < clock_timestamp() FROM leases l JOIN images i ON i.id = l.stream WHERE image_id = $1"
    while not await site.service.database.fetchval(asked, image):
        await asyncio.sleep(TTL / 4)
    other = Commands(site.service.log, Leases(None, 60, "other"), site.service.clock)
    await other.handle(image, *commands, context=service_context(), take=True, release=bool(commands))


@pytest.mark.parametrize("kind", ["stage", "upload"])
async def test_of_a_transfer(postgres: Server, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with standing(postgres, memory_stores(), also=(FAULTY,), role="api") as site:
        late(site, monkeypatch)
        image, transfers = await site.image(), site.service.transfers
        half, rest = asyncio.Event(), asyncio.Event()

        async def data() -> AsyncIterator[bytes]:
            yield RAW1K
            half.set()
            await rest.wait()
            yield RAW1K

        common = {"context": service_context(), "guard": lambda image: None}
        if kind == "stage":
            sending = asyncio.create_task(transfers.stage(image, data(), **common))  # type: ignore[arg-type]
        else:
            fast = site.service.site.backends["fast"]
            sending = asyncio.create_task(transfers.upload(image, fast, data(), **common))  # type: ignore[arg-type]
        await half.wait()
        transfer = (await site.service.commands.load(image)).transfer
        assert transfer is not None
        await taken_over(site, image, c.FailTransfer(transfer=transfer.id, reason="gone"))
        rest.set()
        with pytest.raises(EntrepotError):
            await sending
        assert objects(site, "staging", image) == objects(site, "fast", image) == []


async def test_of_an_import(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with standing(postgres, memory_stores(), also=(FAULTY,), role="api") as site:
        late(site, monkeypatch)
        service = site.service
        image = await site.image()
        assert await site.stage(image, RAW1K) == 204
        assert await site.do_import(image, stores=["fast"]) == 202
        loaded = await service.commands.loaded(image)
        runner = Runner(service.site, service.commands, service.clock, loaded, service_context())
        await runner.claim(lambda loaded: ())
        async with blocked(site, "fast") as fast:
            running = asyncio.create_task(runner.run())
            await fast.blocked.wait()
            (task,) = await site.tasks(image)
            undone = c.FinishUndo(task_id=task["id"], purged=(), swept=())
            await taken_over(site, image, c.CancelImport(task_id=task["id"], reason="late"), undone)
        await running
        assert objects(site, "fast", image) == []
