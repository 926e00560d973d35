"""Deletion in every phase of a job: it stops, nothing is left anywhere, and nothing is said of the image any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import pytest_asyncio

from kernel.extend import ImportStep, NoConfig, StepRequest, StepResult
from kernel.marks import install
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.origin import Origin, origin
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import blocked, memory_stores, objects, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Waiting:
    """A plugin that makes a file, and then waits for as long as it is told to."""

    patient: bool = False
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, request: StepRequest) -> StepResult:
        if self.patient:
            (await request.output()).write_bytes(b"half of it")
            (await request.scratch()).joinpath("notes").write_bytes(b"x")
            self.entered.set()
            await asyncio.Event().wait()
        return StepResult()


WAITING: Final = Waiting()
PLUGIN: Final = ImportStep(name="waiting", run=WAITING.run, config=NoConfig)
SITE: Final = memory_stores(
    import_filtering_opts="allowed_ports = []\ndisallowed_networks = []",
    image_import_opts="image_import_plugins = [waiting]",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, SITE, also=(FAULTY, PLUGIN)) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def o() -> AsyncIterator[Origin]:
    async with origin() as made:
        yield made


async def staged(site: Site) -> str:
    image = await site.image()
    assert await site.stage(image, RAW1K) == 204
    return image


# --- phases: each brings an image into one, and keeps it there ---------------------------


@contextlib.asynccontextmanager
async def fetching(site: Site, o: Origin) -> AsyncIterator[str]:
    image, asked = await site.image(), len(o.of("/slow"))
    method = {"method": {"name": "web-download", "uri": o.url("/slow", user="u:secret")}}
    assert (await site.call("POST", f"/images/{image}/import", json=method)).status == 202
    await site.until(lambda: len(o.of("/slow")) > asked)
    await site.until(lambda: site.files("staging"))
    yield image


@contextlib.asynccontextmanager
async def in_a_plugin(site: Site, o: Origin) -> AsyncIterator[str]:
    WAITING.patient = True
    WAITING.entered.clear()
    image = await staged(site)
    assert await site.do_import(image) == 202
    async with asyncio.timeout(10):
        await WAITING.entered.wait()
    WAITING.patient = False
    yield image


@contextlib.asynccontextmanager
async def writing_the_first_store(site: Site, o: Origin) -> AsyncIterator[str]:
    image = await staged(site)
    async with blocked(site, "fast") as fast:
        assert await site.do_import(image, stores=["fast", "cheap"]) == 202
        async with asyncio.timeout(10):
            await fast.blocked.wait()
        yield image


@contextlib.asynccontextmanager
async def writing_the_second_store(site: Site, o: Origin) -> AsyncIterator[str]:
    image = await staged(site)
    async with blocked(site, "cheap"):
        assert await site.do_import(image, stores=["fast", "cheap"]) == 202
        await site.until(lambda: objects(site, "fast", image) == [RAW1K])
        yield image


@contextlib.asynccontextmanager
async def active_already(site: Site, o: Origin) -> AsyncIterator[str]:
    image = await staged(site)
    async with blocked(site, "cheap"):
        assert await site.do_import(image, stores=["fast", "cheap"], all_stores_must_succeed=False) == 202

        async def active() -> bool:
            return bool((await site.show(image))["status"] == "active")

        await site.until(active)
        yield image


@contextlib.asynccontextmanager
async def copying(site: Site, o: Origin) -> AsyncIterator[str]:
    image = await site.image()
    assert await site.upload(image, RAW1K) == 204
    copy = {"method": {"name": "copy-image"}, "stores": ["cheap", "reliable"]}
    async with blocked(site, "reliable"):
        assert (await site.call("POST", f"/images/{image}/import", "ADM", json=copy)).status == 202
        await site.until(lambda: objects(site, "cheap", image) == [RAW1K])
        yield image


@contextlib.asynccontextmanager
async def made_by_a_task(site: Site, o: Origin) -> AsyncIterator[str]:
    asked = len(o.of("/slow"))
    given = {"import_from": o.url("/slow"), "import_from_format": "raw", "image_properties": {"name": "made"}}
    answer = await site.call("POST", "/tasks", "ADM", json={"type": "import", "input": given})
    task = (await answer.json())["id"]
    await site.until(lambda: len(o.of("/slow")) > asked)
    yield str((await (await site.call("GET", f"/tasks/{task}", "ADM")).json())["image_id"])


@contextlib.asynccontextmanager
async def taken_back(site: Site, o: Origin) -> AsyncIterator[str]:
    """Cancelled, and with a worker that is about to undo it."""
    image = await staged(site)
    async with blocked(site, "cheap"):
        assert await site.do_import(image, stores=["fast", "cheap"]) == 202
        await site.until(lambda: objects(site, "fast", image) == [RAW1K])
        task = (await site.tasks(image))[-1]["id"]
        assert (await site.call("POST", f"//ops/v1/imports/{task}/cancel", "ADM")).status == 202
        yield image


Phase = Callable[[Site, Origin], AbstractAsyncContextManager[str]]
PHASES: Final[tuple[Phase, ...]] = (
    fetching,
    in_a_plugin,
    writing_the_first_store,
    writing_the_second_store,
    active_already,
    copying,
    made_by_a_task,
    taken_back,
)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
async def test_deletion(many: Site, o: Origin, phase: Phase) -> None:
    async with phase(many, o) as image:
        row = "SELECT id FROM tasks WHERE image_id = $1 ORDER BY created_at DESC LIMIT 1"
        task = str(await many.service.database.fetchval(row, image))
        assert (await many.call("DELETE", f"/images/{image}", "ADM")).status == 204
        assert (await many.call("GET", f"/images/{image}", "ADM")).status == 404
        assert (await many.call("GET", f"/images/{image}/tasks", "ADM")).status == 404
        shown = await (await many.call("GET", f"/tasks/{task}", "ADM")).json()
        assert shown["status"] == "failure"
        if phase is not taken_back:  # which may have come first
            assert shown["message"] == "The image has been deleted"
    await gone_without_a_trace(many, image)
    types = [message.event_type for message in many.notes.of(image)]
    last = types.index("image.delete")
    assert set(types[last + 1 :]) <= {"task.failure"}
    assert types.count("task.failure") == 1


async def gone_without_a_trace(site: Site, image: str) -> None:
    for place in ("staging", "fast", "cheap", "reliable"):
        await site.until(lambda place=place: not objects(site, place, image))
    await site.settled()

    async def idle() -> bool:
        held = (
            "SELECT count(*) FROM leases l JOIN images i ON i.id = l.stream WHERE i.image_id = $1 AND l.until > now()"
        )
        return bool(await site.service.database.fetchval(held, image) == 0)

    await site.until(idle)
    assert not list((site.directory / "staging").rglob(f"*{image}*"))
    secrets = "SELECT count(*) FROM secrets s JOIN images i ON i.id = s.stream WHERE i.image_id = $1"
    assert await site.service.database.fetchval(secrets, image) == 0
    project = "SELECT owner FROM images WHERE image_id = $1"
    owner = await site.service.database.fetchval(project, image)
    usage = "SELECT count(*) FROM usage WHERE owner = $1 AND resource = 'image_stage_total' AND amount <> 0"
    assert await site.service.database.fetchval(usage, owner) == 0


AFTER: Final = (
    "after ImportRequested",
    "after ImportStarted",
    "after StepCompleted",
    "after DataInspected",
    "after StoreStarted",
    "storing begins",
    "stored",
    "before StoreSucceeded",
    "after StoreSucceeded",
    "before ImportCompleted",
)


@pytest.mark.parametrize("point", AFTER)
async def test_deletion_in_the_very_moment(many: Site, o: Origin, point: str) -> None:
    """Asked for just when the worker passes a mark: whichever is first, nothing is left and nothing is said later."""
    image = await staged(many)
    asked: list[asyncio.Task[Any]] = []

    def strike(name: str) -> None:
        if name == point and not asked:
            deleting: Awaitable[Any] = many.call("DELETE", f"/images/{image}", "ADM")
            asked.append(asyncio.ensure_future(deleting))  # type: ignore[arg-type]

    install(strike)
    try:
        assert await many.do_import(image, stores=["fast", "cheap"]) == 202
        await many.until(lambda: asked)
    finally:
        install(None)
    assert (await asked[0]).status == 204
    await gone_without_a_trace(many, image)
    types = [message.event_type for message in many.notes.of(image)]
    assert set(types[types.index("image.delete") + 1 :]) <= {"task.failure"}
    assert sum(name in ("task.failure", "task.success") for name in types) == 1
