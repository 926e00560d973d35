"""Claims that reach the log late: meanwhile somebody else had the import, and let it go again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kernel import commands as c
from kernel import events as e
from kernel.context import service_context
from kernel.handle import Commands
from kernel.ids import stream_of
from kernel.leases import Leases
from kernel.log import Receipt, Request
from kernel.naming import blob_name
from kernel.quotas import Quotas
from kernel.reactor import Reactor
from kernel.recorded import IMAGE
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.origin import origin
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import hooks, memory_stores, objects, standing

TTL = 0.2
"""Seconds that the lease of the one who dies lasts."""


def held_up(site: Site, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """The first claim of an import waits, as for a database that is away, while something happens."""
    log = site.service.log
    append = log.append
    waiting = [meanwhile]

    async def late(request: Request, *, patient: bool = False) -> Receipt:
        if waiting and request.rows is not None and request.rows.take is not None and request.events:
            await waiting.pop()()
        return await append(request, patient=patient)

    monkeypatch.setattr(log, "append", late)


async def events_of(site: Site, image: str) -> list[e.Event | e.Unrecognised]:
    stream = stream_of(image)
    assert stream is not None
    return [item.event for item in await site.service.log.read_stream(IMAGE, stream)]


async def left_alone(site: Site, image: str) -> None:
    """Wait until the lease of whoever had the image has run out."""
    asked = "SELECT until < clock_timestamp() FROM leases l JOIN images i ON i.id = l.stream WHERE image_id = $1"
    while not await site.service.database.fetchval(asked, image):
        await asyncio.sleep(TTL / 4)


def somebody(site: Site) -> Commands:
    """Another node on the same log, whose leases nobody renews."""
    return Commands(site.service.log, Leases(None, TTL, "other"), site.service.clock)


async def test_an_import_that_was_begun_and_abandoned_meanwhile_is_taken_over(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other had begun to write is not gone on with, but swept, and swept again in case it only slept."""
    async with standing(postgres, memory_stores(), also=(FAULTY,)) as site:
        image = await site.image()
        assert await site.stage(image, RAW1K) == 204
        commands = somebody(site)

        async def another_begins_and_dies() -> None:
            task = (await commands.load(image)).task
            assert task is not None
            name = blob_name(image, task.id, "fast", 2)
            outcomes = (
                c.BeginImport(task_id=task.id),
                c.RecordInspection(task_id=task.id, detected=("raw",), virtual_size=len(RAW1K)),
                c.StartStore(task_id=task.id, store="fast", name=name),
            )
            claimed = await commands.handle(image, *outcomes, context=service_context(), take=True)
            assert claimed.lease is not None
            assert claimed.lease.epoch == 2
            hooks(site, "fast").blobs[name] = (b"half",)
            await left_alone(site, image)

        held_up(site, monkeypatch, another_begins_and_dies)
        assert await site.do_import(image, stores=["fast"]) == 202
        shown = await site.ended(image)
        assert (shown["status"], shown["os_glance_failed_import"]) == ("active", "")
        assert objects(site, "fast", image) == [RAW1K]
        (taken,) = [event for event in await events_of(site, image) if isinstance(event, e.LeaseTakenOver)]
        assert taken.sweep_at is not None


@pytest.mark.parametrize("call_off", ["delete", "cancel"])
async def test_who_calls_off_what_was_abandoned_looks_for_late_writes_too(postgres: Server, call_off: str) -> None:
    async with standing(postgres, memory_stores(), also=(FAULTY,), role="api") as site:
        service = site.service
        image = await site.image()
        assert await site.stage(image, RAW1K) == 204
        assert await site.do_import(image, stores=["fast"]) == 202
        (task,) = await site.tasks(image)
        begin = c.BeginImport(task_id=task["id"])
        await somebody(site).handle(image, begin, context=service_context(), take=True)
        await left_alone(site, image)
        # It does not look by itself, and hears of nothing but what this process does.
        reactor = Reactor(service.site, service.commands, service.leases, service.database, service.feed, service.clock)
        if call_off == "delete":
            assert (await site.call("DELETE", f"/images/{image}")).status == 204
        else:
            assert (await site.call("POST", f"//ops/v1/imports/{task['id']}/cancel", "ADM")).status == 202
        await site.until(lambda: reactor.idle)
        await reactor.stop(5)
        taken = [event for event in await events_of(site, image) if isinstance(event, e.LeaseTakenOver)]
        assert [event.sweep_at is not None for event in taken] == [True]


async def test_what_another_could_afford_to_begin_is_gone_on_with(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotas are looked at when an import begins, and this one has begun."""
    config = memory_stores(import_filtering_opts="allowed_ports = []\ndisallowed_networks = []")
    async with origin() as o, standing(postgres, config, also=(FAULTY,)) as site:
        image = await site.image()
        commands = somebody(site)

        async def none_left(project: str) -> dict[str, int]:
            return {"image_size_total": -1, "image_stage_total": -1, "image_count_uploading": 0}

        async def another_begins_and_dies() -> None:
            task = (await commands.load(image)).task
            assert task is not None
            await commands.handle(image, c.BeginImport(task_id=task.id), context=service_context(), take=True)
            await left_alone(site, image)

        held_up(site, monkeypatch, another_begins_and_dies)
        site.service.site.quotas = Quotas(source=none_left)
        method = {"method": {"name": "web-download", "uri": o.url("/raw")}}
        assert (await site.call("POST", f"/images/{image}/import", json=method)).status == 202
        shown = await site.ended(image)
        assert shown["status"] == "active", await site.tasks(image)
