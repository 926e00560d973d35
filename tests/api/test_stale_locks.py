"""The lock of an import that nobody works on: it protects its image for an hour or two (import.md 8.6)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from kernel.clock import SystemClock
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import blocked, memory_stores, objects, standing


class Ahead:
    """The machine's clock, moved ahead by hand."""

    def __init__(self) -> None:
        self.minutes = 0.0

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(minutes=self.minutes)


async def copied(site: Site, image: str, *stores: str) -> int:
    body = {"method": {"name": "copy-image"}, "stores": list(stores), "all_stores_must_succeed": False}
    return (await site.call("POST", f"/images/{image}/import", "ADM", json=body)).status


async def test_a_copy_that_nobody_takes_up_is_preempted_after_two_hours(postgres: Server) -> None:
    clock = Ahead()
    async with standing(postgres, memory_stores(), also=(FAULTY,), clock=clock, role="api") as site:
        image = await site.image()
        await site.upload(image, RAW1K)
        assert await copied(site, image, "cheap", "reliable") == 202
        (old,) = await site.tasks(image)
        for minutes, status in ((0, 409), (61, 409), (119, 409), (121, 202)):
            clock.minutes = minutes
            assert await copied(site, image, "cheap") == status, minutes
        first, second = await site.tasks(image)
        assert (first["id"], first["status"]) == (old["id"], "failure")
        assert first["message"] == "Expired lock preempted"
        assert second["status"] == "pending"
        shown = await site.show(image)
        assert shown["os_glance_import_task"] == second["id"]
        assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("cheap", "")
        assert shown["stores"] == "fast"
        assert await copied(site, image, "reliable") == 409, "the new one is fresh"
        told = await site.call("GET", f"//ops/v1/imports/{old['id']}/explain", "ADM")
        assert (await told.json())["ending"] == "preempted"


async def test_a_registration_that_nobody_takes_up_is_preempted_by_another(postgres: Server) -> None:
    """Nobody else gets to preempt it: a stranger hears what he always hears."""
    clock = Ahead()
    async with standing(postgres, memory_stores(), also=(FAULTY,), clock=clock, role="api") as site:
        image = await site.image()

        async def register(who: str = "A", url: str = "http://127.0.0.1:9/x") -> int:
            return (await site.call("POST", f"/images/{image}/locations", who, json={"url": url})).status

        for minutes, status in ((0, 202), (0, 409), (119, 409), (121, 202)):
            clock.minutes = minutes
            if minutes == 121:
                assert await register("C") == 404
                assert await register(url="rbd://x/y") == 403
            assert await register() == status, minutes
        first, second = await site.tasks(image)
        assert (first["type"], first["status"], first["message"]) == (
            "location_import",
            "failure",
            "Expired lock preempted",
        )
        assert (second["type"], second["status"]) == ("location_import", "pending")
        shown = await site.show(image)
        assert shown["os_glance_import_task"] == second["id"]
        assert not {"os_glance_importing_to_stores", "os_glance_failed_import"} & set(shown), "it is no import"
        assert await register() == 409, "the new one is fresh"


async def test_statuses_come_first(postgres: Server) -> None:
    """An image that is `importing` stays so until a worker comes: nothing but a copy could be asked for."""
    clock = Ahead()
    async with standing(postgres, memory_stores(), also=(FAULTY,), clock=clock, role="api") as site:
        image = await site.image()
        await site.stage(image, RAW1K)
        assert await site.do_import(image) == 202
        clock.minutes = 1000
        assert await site.do_import(image) == 409
        assert await site.stage(image, RAW1K) == 409
        assert (await site.show(image))["status"] == "importing"
        assert len(await site.tasks(image)) == 1


async def test_a_running_copy_protects_its_image(postgres: Server) -> None:
    clock = Ahead()
    async with standing(postgres, memory_stores(), also=(FAULTY,), clock=clock) as site:
        image = await site.image()
        await site.upload(image, RAW1K)
        async with blocked(site, "reliable"):
            assert await copied(site, image, "cheap", "reliable") == 202
            await site.until(lambda: objects(site, "cheap", image) == [RAW1K])
            clock.minutes = 59
            assert await copied(site, image, "cheap") == 409
        clock.minutes = 0
        shown: dict[str, Any] = await site.ended(image)
        assert shown["stores"] == "cheap,fast,reliable"
