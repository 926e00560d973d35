"""However many imports of one project there are, and however long they take: others get on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.running import Site, site
from tests.support.standing import blocked, memory_stores

HELD = 3
"""Imports of the first project that never end by themselves."""


async def staged(running: Site, who: str) -> str:
    image = await running.image(who)
    assert await running.stage(image, RAW1K, who) == 204
    return image


@pytest.mark.parametrize("heard", ["by itself", "from another process"])
async def test_a_project_whose_imports_stand_still_holds_up_no_other(dsn: str, directory: Path, heard: str) -> None:
    config = memory_stores(import_worker="max_concurrent = 2")(directory)
    async with (
        site(dsn, directory, config, also=(FAULTY,)) as worker,
        site(dsn, directory, config, also=(FAULTY,), role="api") as other,
    ):
        front = worker if heard == "by itself" else other
        async with blocked(worker, "fast"):
            slow = [await staged(front, "A") for _ in range(HELD)]
            for image in slow:
                assert await front.do_import(image, stores=["fast"]) == 202
            quick = await staged(front, "B")
            assert await front.do_import(quick, "B", stores=["cheap"]) == 202
            assert (await front.ended(quick))["status"] == "active"
            statuses = sorted([(await worker.tasks(image))[0]["status"] for image in slow])
            assert statuses == ["pending", "processing", "processing"]
        for image in slow:
            assert (await worker.ended(image))["status"] == "active"


async def test_all_workers_together_are_never_more_than_the_site_allows(dsn: str, directory: Path) -> None:
    config = memory_stores(import_worker="max_concurrent = 2", taskflow_executor="max_workers = 2")(directory)
    async with site(dsn, directory, config, also=(FAULTY,)) as worker:
        async with blocked(worker, "fast"):
            slow = [await staged(worker, "A") for _ in range(2)]
            for image in slow:
                assert await worker.do_import(image, stores=["fast"]) == 202
            quick = await staged(worker, "B")
            assert await worker.do_import(quick, "B", stores=["cheap"]) == 202
            await worker.until(lambda: _processing(worker, slow))
            assert (await worker.tasks(quick))[0]["status"] == "pending"
        assert (await worker.ended(quick))["status"] == "active"


async def _processing(worker: Site, images: list[str]) -> bool:
    tasks = await asyncio.gather(*(worker.tasks(image) for image in images))
    return all(task[0]["status"] == "processing" for task in tasks)
