"""What the database cannot hold ends an import; it is not tried for ever."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from kernel.extend import StepRequest, StepResult
from tests.support.formats import QCOW, RAW1K
from tests.support.notes import of_job
from tests.support.plugging import imported
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = "It holds characters or numbers that cannot be recorded."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, four_stores(image_import_opts="image_import_plugins = [no_op]")) as running:
        yield running


async def failed(site: Site, data: bytes, **attributes: str) -> None:
    shown = await imported(site, data, **attributes)  # type: ignore[arg-type]
    assert (shown["status"], shown["size"]) == ("queued", None)
    assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("", "fast")
    assert (await site.tasks(shown["id"]))[-1]["message"] == WORDS
    await site.settled()
    assert of_job(site.notes.of(shown["id"]))[-1] == "task.failure"
    assert site.files("staging") == []


async def test_an_outcome_that_cannot_be_recorded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither text that no database takes nor text that cannot be encoded."""
    monkeypatch.setattr("kernel.stepping._must_be_recordable", lambda result: None)
    for value in ("x\0y", "\ud800"):

        async def run(request: StepRequest, value: str = value) -> StepResult:
            return StepResult(properties={"a": value})

        step = site.service.site.steps["no_op"]
        monkeypatch.setitem(site.service.site.steps, "no_op", replace(step, run=run))
        await failed(site, RAW1K)


@pytest.mark.parametrize("seen", ["when it ends", "when it is recorded"])
async def test_what_such_an_outcome_brought_goes_with_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    if seen == "when it is recorded":
        monkeypatch.setattr("kernel.stepping._must_be_recordable", lambda result: None)

    async def run(request: StepRequest) -> StepResult:
        (await request.output()).write_bytes(b"x" * 1024)
        return StepResult(replaced=True, properties={"a": "x\0y"})

    step = site.service.site.steps["no_op"]
    monkeypatch.setitem(site.service.site.steps, "no_op", replace(step, run=run))
    shown = await imported(site, RAW1K)
    assert shown["status"] == "queued"
    await site.settled()
    assert site.files("staging") == []


async def test_what_rides_along_with_the_start(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts recorded by an earlier release, say, that the inspection then makes something of."""
    monkeypatch.setattr("kernel.verdict._LARGEST", 1 << 64)
    async with standing(postgres, four_stores()) as site:
        await failed(site, QCOW[:24] + struct.pack(">Q", (1 << 64) - 1) + QCOW[32:], disk_format="qcow2")
