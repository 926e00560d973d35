"""`entrepot cancel`, `retry` and `explain` against a running service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.support.cli import DIFFERENCE, OK, USAGE, Ran, entrepot, here
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import blocked, broken, memory_stores, objects, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trusting(postgres: Server) -> AsyncIterator[Site]:
    """M4 with stores that break and block; everybody is its administrator."""

    def config(directory: Any) -> str:
        return memory_stores()(directory).replace("auth = headers", "auth = none")

    async with standing(postgres, config, also=(FAULTY,)) as site:
        yield site


async def said(site: Site, *arguments: str) -> Ran:
    return await asyncio.to_thread(entrepot, *arguments, "--url", str(site.client.make_url("/")))


async def begun(site: Site, **body: Any) -> tuple[str, str]:
    image = await site.image()
    await site.stage(image, RAW1K)
    assert await site.do_import(image, **body) == 202
    return image, str((await site.tasks(image))[-1]["id"])


async def test_cancel_and_explain(trusting: Site) -> None:
    async with blocked(trusting, "cheap"):
        image, task = await begun(trusting, stores=["fast", "cheap"])
        await trusting.until(lambda: objects(trusting, "fast", image) == [RAW1K])
        result = (await said(trusting, "cancel", task, "--reason", "the wrong one", "--json")).ended(OK).json
        assert result == {"task": task, "image_id": image, "message": "Cancelled by an operator: the wrong one"}
        await trusting.ended(image)
    told = (await said(trusting, "explain", task)).ended(DIFFERENCE)
    assert "It was called off: Cancelled by an operator: the wrong one" in told.out
    assert "What to do next" in told.out
    document = (await said(trusting, "explain", task, "--json")).ended(DIFFERENCE).json
    assert (document["ending"], document["image_id"]) == ("cancelled", image)
    assert "is over" in (await said(trusting, "cancel", task)).refused()


async def test_retry_and_explain(trusting: Site) -> None:
    with broken(trusting, "cheap"):
        image, task = await begun(trusting, stores=["fast", "cheap"], all_stores_must_succeed=False)
        await trusting.ended(image)
    told = (await said(trusting, "explain", task)).ended(OK)
    assert "The store cheap failed" in told.out
    shown = (await said(trusting, "retry", task)).ended(OK)
    assert "cheap" in shown.out
    assert "entrepot watch" in shown.err
    assert (await trusting.ended(image))["stores"] == "cheap,fast"
    assert "nothing to retry" in (await said(trusting, "retry", task, "--json")).refused()


@pytest.mark.parametrize("verb", ["cancel", "retry", "explain"])
async def test_what_is_no_task(trusting: Site, verb: str) -> None:
    assert "no task id" in (await asyncio.to_thread(here, verb, "x")).refused(USAGE)
    assert (
        "does not answer"
        in (await asyncio.to_thread(here, verb, str(uuid4()), "--url", "http://127.0.0.1:1")).refused()
    )


async def test_a_task_that_never_was(trusting: Site) -> None:
    assert "No import found" in (await said(trusting, "explain", str(uuid4()))).refused()
