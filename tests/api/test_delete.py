"""Deleting images (images.md 9, import.md 8.7)."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import pytest

from kernel.errors import StoreError, StoreUnavailable
from tests.support.clock import ManualClock
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.notes import of_image
from tests.support.postgres import Server
from tests.support.raw import Wire, chunk, head
from tests.support.retaining_store import EXTENSION as RETAINING
from tests.support.retaining_store import RetainingStore
from tests.support.running import Site
from tests.support.standing import (
    blocked,
    four_stores,
    hooks,
    memory_stores,
    objects,
    one_store,
    passing,
    retaining_stores,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

OCTETS = {"Content_Type": "application/octet-stream"}


async def delete(site: Site, image: str, who: str = "A") -> int:
    return (await site.call("DELETE", f"/images/{image}", who)).status


async def test_D01_deleting(one: Site) -> None:
    image = await one.image()
    assert await delete(one, image) == 204
    assert await delete(one, image) == 404
    for who in ("A", "ADM"):
        for path in ("", "/file", "/tasks"):
            assert (await one.call("GET", f"/images/{image}{path}", who)).status == 404
    assert await one.stage(image, b"x") == 404
    assert await one.upload(image, b"x") == 404
    assert await one.do_import(image) == 404


async def test_D02_protected_images_stay(one: Site) -> None:
    """For admins too, and without a trace of the attempt."""
    image = await one.image(protected=True)
    before = await one.service.log.head()
    assert await delete(one, image) == 403
    assert await delete(one, image, "ADM") == 403
    assert await one.service.log.head() == before
    assert (await one.show(image))["status"] == "queued"


async def test_D03_images_of_others(one: Site) -> None:
    community, private = await one.image(visibility="community"), await one.image(visibility="private")
    assert [await delete(one, community, "C"), await delete(one, private, "C")] == [403, 404]
    assert [await delete(one, community, "AR"), await delete(one, private, "AR")] == [403, 403]
    assert [await delete(one, community, "NR"), await delete(one, private, "ADM")] == [404, 204]


@pytest.mark.parametrize("store", ["fast", "cheap"])
async def test_D04_the_bytes_go(four: Site, store: str) -> None:
    image = await four.image()
    assert await four.upload(image, b"x" * 1024, **{"X-Image-Meta-Store": store}) == 204
    assert objects(four, store, image) == [b"x" * 1024]
    assert await delete(four, image) == 204
    await four.until(lambda: not objects(four, store, image))


async def test_D04_the_bytes_of_every_copy_go(four: Site) -> None:
    image = await four.image()
    await four.stage(image, b"x")
    assert await four.do_import(image, all_stores=True) == 202
    assert (await four.ended(image))["stores"] == "cheap,fast,reliable"
    assert await delete(four, image) == 204
    for store in ("fast", "cheap", "reliable", "staging"):
        await four.until(lambda store=store: not objects(four, store, image))


async def test_bytes_that_are_gone_already_do_not_matter(four: Site) -> None:
    image = await four.image()
    await four.upload(image, b"x")
    for path in four.files("fast"):
        if path.name.startswith(image):
            path.unlink()
    assert await delete(four, image) == 204
    await four.settled()


async def test_bytes_that_cannot_be_deleted_now_are_deleted_later(postgres: Server) -> None:
    """The image is gone for its users at once; the service remembers what it owes, and does not hammer the store."""
    async with passing(postgres, memory_stores(), also=(FAULTY,)) as site:
        image = await site.image()
        await site.upload(image, b"x")
        store = hooks(site, "fast")
        store.break_deletes(StoreUnavailable("fast"))
        assert await delete(site, image) == 204
        assert (await site.call("GET", f"/images/{image}")).status == 404
        assert len(store.blobs) == 1
        parked = "SELECT count(*) FROM leases WHERE owner IS NULL AND until > clock_timestamp() + interval '10 seconds'"
        await site.until(lambda: site.service.database.fetchval(parked))
        for _ in range(5):
            other = await site.image()
            await site.stage(other, b"x")
            assert await site.do_import(other, stores=["cheap"]) == 202
            await site.ended(other)
        assert store.deletions <= 2
        owed = "SELECT work FROM images WHERE image_id = $1"
        assert await site.service.database.fetchval(owed, image) == "purge"


async def test_what_cannot_be_deleted_is_tried_less_and_less_often(postgres: Server) -> None:
    """A store that is gone for good is asked every hour in the end; a new deletion does not wait for that."""
    park = "SELECT extract(epoch FROM until - clock_timestamp())::float FROM leases WHERE owner IS NULL AND stream = $1"
    async with passing(postgres, memory_stores(), also=(FAULTY,)) as site:
        image = await site.image()
        assert await site.upload(image, b"x") == 204
        assert (await site.patch(image, {"op": "replace", "path": "/name", "value": "m"})).status == 200
        stream, database, store = UUID(image), site.service.database, hooks(site, "fast")
        store.break_deletes(StoreUnavailable("fast"))
        assert await delete(site, image) == 204

        async def parked(least: float, most: float) -> bool:
            return least < (await database.fetchval(park, stream) or 0) <= most

        await site.until(lambda: parked(5, 20))
        for past, least, most in ((100, 60, 130), (864000, 3000, 3600)):
            tried = store.deletions
            await _backdate(database, stream, past)
            await database.fetch("UPDATE leases SET until = clock_timestamp() WHERE stream = $1", stream)
            await site.until(lambda tried=tried: store.deletions > tried)  # type: ignore[misc]
            await site.until(lambda least=least, most=most: parked(least, most))  # type: ignore[misc]
        tried = store.deletions
        await database.fetch("UPDATE images SET updated_at = clock_timestamp() WHERE id = $1", stream)
        store.break_deletes(None)
        await site.until(lambda: store.deletions > tried)
        await site.until(lambda: not store.blobs)


async def _backdate(database: Any, stream: UUID, seconds: float) -> None:
    """As if the image had not changed for so long."""
    then = "clock_timestamp() - $2 * interval '1 second'"
    await database.fetch(f"UPDATE images SET updated_at = {then} WHERE id = $1", stream, seconds)
    at = f"jsonb_set(state::jsonb, '{{at}}', to_jsonb({then}))::json"
    await database.fetch(f"UPDATE states SET state = {at} WHERE id = $1", stream, seconds)


async def test_a_clean_up_that_waits_holds_up_no_import(postgres: Server) -> None:
    """Bytes of a failed import cannot be removed yet; the next import of the same image starts at once."""
    async with passing(postgres, memory_stores(), also=(FAULTY,)) as site:
        image = await site.image()
        fast, cheap = hooks(site, "fast"), hooks(site, "cheap")
        fast.break_deletes(StoreUnavailable("fast"))
        cheap.break_writes(StoreError("cheap", "it is broken"))
        await site.stage(image, b"0" * 1024)
        assert await site.do_import(image, stores=["fast", "cheap"]) == 202
        assert (await site.ended(image))["status"] == "queued"
        assert len(fast.blobs) == 1
        cheap.break_writes(None)
        await site.stage(image, b"0" * 1024)
        assert await site.do_import(image, stores=["cheap"]) == 202
        assert (await site.ended(image, seconds=5))["stores"] == "cheap"
        fast.break_deletes(None)


async def test_D09_bytes_that_somebody_depends_on(postgres: Server) -> None:
    """Refused, and nothing has happened: the image is whole, and gone once they are let go."""
    async with retaining(postgres) as site:
        image, store = await in_fast_and_cheap(site), kept(site, "cheap")
        store.in_use = "it has snapshots"
        head_of_log = await site.service.log.head()
        for who in ("A", "ADM"):
            answer = await site.call("DELETE", f"/images/{image}", who)
            assert answer.status == 409
            assert "cheap" in await answer.text()
            assert "snapshots" in await answer.text()
        assert await delete(site, image, "C") == 404  # the stores are not asked for strangers
        assert await site.service.log.head() == head_of_log
        shown = await site.show(image)
        assert (shown["status"], shown["stores"]) == ("active", "cheap,fast")
        assert await (await site.call("GET", f"/images/{image}/file")).read() == b"x" * 1024
        store.in_use = None
        assert await delete(site, image) == 204
        for name in ("fast", "cheap"):
            await site.until(lambda name=name: not objects(site, name, image))


async def test_D09_protected_images_are_refused_as_such(postgres: Server) -> None:
    """403 whatever the stores say: they are not asked."""
    async with retaining(postgres) as site:
        image = await in_fast_and_cheap(site, protected=True)
        kept(site, "fast").in_use = "it is mapped"
        assert await delete(site, image) == 403


async def test_bytes_that_are_taken_into_use_too_late(postgres: Server) -> None:
    """Between the question and the removal: they stay until they are let go, the image is gone all the same."""
    async with retaining(postgres) as site:
        image, store = await in_fast_and_cheap(site), kept(site, "cheap")
        store.in_use, store.unasked = "it has snapshots", True
        assert await delete(site, image) == 204
        await site.until(lambda: store.deletions > 0 and not objects(site, "fast", image))
        assert objects(site, "cheap", image) == [b"x" * 1024]
        assert (await site.call("GET", f"/images/{image}", "ADM")).status == 404
        owed = "SELECT work FROM images WHERE image_id = $1"
        assert await site.service.database.fetchval(owed, image) == "purge"


async def test_a_copy_that_lands_while_the_stores_are_asked(postgres: Server) -> None:
    """Its store is asked as well before the image goes."""
    async with retaining(postgres) as site:
        image = await site.image()
        await site.upload(image, b"x")
        store = kept(site, "cheap")
        asked = asyncio.Event()
        fast = kept(site, "fast")
        landed = asyncio.Event()

        async def slowly(url: str) -> None:
            asked.set()
            await landed.wait()

        fast.release = slowly  # type: ignore[method-assign]
        deleting = asyncio.create_task(delete(site, image))
        await asked.wait()
        body = {"method": {"name": "copy-image"}, "stores": ["cheap"]}
        assert (await site.call("POST", f"/images/{image}/import", "ADM", json=body)).status == 202
        assert (await site.ended(image))["stores"] == "cheap,fast"
        store.in_use = "it has snapshots"
        landed.set()
        assert await deleting == 409
        assert (await site.show(image))["stores"] == "cheap,fast"
        store.in_use = None


def retaining(postgres: Server) -> AbstractAsyncContextManager[Site]:
    """A site whose stores may hold on to their bytes."""
    return passing(postgres, retaining_stores(), also=(RETAINING,))


def kept(site: Site, store: str) -> RetainingStore:
    found = hooks(site, store)
    assert isinstance(found, RetainingStore)
    return found


async def in_fast_and_cheap(site: Site, **attributes: Any) -> str:
    image = await site.image(**attributes)
    assert await site.stage(image, b"x" * 1024) == 204
    assert await site.do_import(image, stores=["fast", "cheap"]) == 202
    assert (await site.ended(image))["stores"] == "cheap,fast"
    return image


@pytest.mark.parametrize("who", ["A", "ADM"])
@pytest.mark.parametrize("kept", [False, True])
async def test_9_deactivated_images_are_deleted_like_others(postgres: Server, who: str, kept: bool) -> None:
    """[D11]: their bytes too, whoever asks, at sites that keep them for a while as well."""
    settings = "delayed_delete = True" if kept else ""
    async with passing(postgres, one_store(DEFAULT=settings)) as site:
        image = await site.image()
        await site.upload(image, b"x")
        assert (await site.call("POST", f"/images/{image}/actions/deactivate")).status == 204
        assert await delete(site, image, who) == 204
        await site.until(lambda: not objects(site, "file", image))
        await site.settled()
        assert await status_of(site, image) == "deleted"


# --- sites that keep the bytes for a while -------------------------------------------------


async def test_delayed_delete(postgres: Server) -> None:
    """Gone for everybody at once, told once; the bytes go when scrub_time is over."""
    clock = ManualClock()
    settings = "delayed_delete = True\nscrub_time = 3600"
    async with passing(postgres, four_stores(DEFAULT=settings), clock=clock) as site:
        image = await site.image()
        await site.upload(image, b"x" * 1024)
        assert await delete(site, image) == 204
        assert await status_of(site, image) == "pending_delete"
        for who in ("A", "ADM"):
            assert (await site.call("GET", f"/images/{image}", who)).status == 404
            assert await delete(site, image, who) == 404
        assert (await site.call("POST", "/images", json={"id": image})).status == 409
        listed = await (await site.call("GET", "/images?visibility=all", "ADM")).json()
        assert image not in {item["id"] for item in listed["images"]}
        clock.move(3599)
        await looked_again(site)
        assert await status_of(site, image) == "pending_delete"
        assert objects(site, "fast", image) == [b"x" * 1024]
        clock.move(2)
        await site.until(lambda: not objects(site, "fast", image))
        await site.settled()
        assert await status_of(site, image) == "deleted"
        assert [note.event_type for note in site.notes.of(image)].count("image.delete") == 1
        assert site.notes.of(image)[-1].event_type == "image.delete"


@pytest.mark.parametrize("kind", ["queued", "uploading", "saving"])
async def test_delayed_delete_is_for_data_that_was_there(postgres: Server, kind: str) -> None:
    """What never became an image is not kept."""
    settings = "delayed_delete = True\nscrub_time = 3600"
    async with passing(postgres, one_store(DEFAULT=settings)) as site:
        image = await site.image()
        if kind == "uploading":
            await site.stage(image, b"x")
        if kind == "saving":
            async with await Wire.to(site) as wire:
                await wire.send(head("PUT", f"/v2/images/{image}/file", Transfer_Encoding="chunked", **OCTETS))
                await wire.send(chunk(b"x" * 3_000_000))
                await site.until(lambda: _has_status(site, image, "saving"))
                assert await delete(site, image) == 204
        else:
            assert await delete(site, image) == 204
        assert await status_of(site, image) == "deleted"
        for store in ("staging", "file"):
            await site.until(lambda store=store: not objects(site, store, image))


async def test_delayed_delete_without_a_scrub_time(postgres: Server) -> None:
    """The bytes go as soon as somebody looks."""
    async with passing(postgres, one_store(DEFAULT="delayed_delete = True")) as site:
        image = await site.image()
        await site.upload(image, b"x")
        assert await delete(site, image) == 204
        await site.until(lambda: not objects(site, "file", image))
        await site.settled()
        assert await status_of(site, image) == "deleted"


async def test_delayed_delete_in_the_middle_of_a_copy(postgres: Server) -> None:
    """The copy ends at once as a failure; what was there before waits for its time."""
    clock = ManualClock()
    settings = "delayed_delete = True\nscrub_time = 60"
    async with passing(postgres, memory_stores(DEFAULT=settings), also=(FAULTY,), clock=clock) as site:
        image = await site.image()
        await site.upload(image, b"x")
        body = {"method": {"name": "copy-image"}, "stores": ["cheap", "reliable"]}
        async with blocked(site, "reliable") as reliable:
            assert (await site.call("POST", f"/images/{image}/import", "ADM", json=body)).status == 202
            async with asyncio.timeout(10):
                await reliable.blocked.wait()
            assert await delete(site, image) == 204
        await site.until(lambda: site.notes.of(image)[-1].event_type == "task.failure")
        await site.until(lambda: not objects(site, "reliable", image) and not objects(site, "cheap", image))
        assert objects(site, "fast", image) == [b"x"]
        clock.move(61)
        await site.until(lambda: not objects(site, "fast", image))
        await site.settled()
        assert not objects(site, "reliable", image)
        types = [message.event_type for message in site.notes.of(image)]
        assert types[types.index("image.delete") :] == ["image.delete", "task.failure"]


async def looked_again(site: Site) -> None:
    """Until the service has found and done something that came up after this call."""
    image = await site.image()
    await site.stage(image, b"x")
    assert await delete(site, image) == 204
    await site.until(lambda: not objects(site, "staging", image))


async def status_of(site: Site, image: str) -> str:
    return str(await site.service.database.fetchval("SELECT status FROM images WHERE image_id = $1", image))


# --- what is under way ---------------------------------------------------------------------


async def test_IM22_a_staged_image(one: Site) -> None:
    image = await one.image()
    assert await one.stage(image, b"x" * 1024) == 204
    assert objects(one, "staging", image) == [b"x" * 1024]
    assert await delete(one, image) == 204
    assert (await one.call("GET", f"/images/{image}")).status == 404
    await one.until(lambda: not objects(one, "staging", image))


async def test_a_protected_staged_image_keeps_its_bytes(one: Site) -> None:
    """A refusal changes nothing, in staging neither."""
    image = await one.image(protected=True)
    await one.stage(image, b"0" * 1024)
    assert await delete(one, image) == 403
    await one.settled()
    assert objects(one, "staging", image) == [b"0" * 1024]
    assert await one.do_import(image) == 202
    assert (await one.ended(image))["status"] == "active"


@pytest.mark.parametrize("kind", ["stage", "file"])
async def test_data_still_being_sent(one: Site, kind: str) -> None:
    """204; the sender is told that the image is gone, and nothing remains."""
    image = await one.image()
    async with await Wire.to(one) as wire:
        await wire.send(head("PUT", f"/v2/images/{image}/{kind}", Transfer_Encoding="chunked", **OCTETS))
        await wire.send(chunk(b"x" * 3_000_000))
        status = "uploading" if kind == "stage" else "saving"
        await one.until(lambda: _has_status(one, image, status))
        assert await delete(one, image) == 204
        assert (await wire.answer()).status in (404, 410)
    for store in ("staging", "file"):
        await one.until(lambda store=store: not objects(one, store, image))
    await one.settled()
    assert of_image(one.notes.of(image))[-1] == "image.delete"


async def _has_status(site: Site, image: str, status: str) -> bool:
    return bool((await site.show(image))["status"] == status)


async def test_a_running_import(faulty: Site) -> None:
    """It stops; copies, half-written ones too, and staged bytes go; silence after `image.delete`."""
    image = await faulty.image()
    await faulty.stage(image, b"0" * 1024)
    async with blocked(faulty, "cheap") as cheap:
        assert await faulty.do_import(image, stores=["fast", "cheap", "reliable"]) == 202
        async with asyncio.timeout(10):
            await cheap.blocked.wait()
        task = (await faulty.tasks(image))[-1]["id"]
        assert await delete(faulty, image) == 204
        assert (await faulty.call("GET", f"/images/{image}/tasks", "ADM")).status == 404
    for store in ("fast", "cheap", "reliable", "staging"):
        await faulty.until(lambda store=store: not objects(faulty, store, image))
    await faulty.settled()
    row = await faulty.service.database.fetchrow("SELECT status, document FROM tasks WHERE id::text = $1", task)
    assert row["status"] == "failure"
    assert b"deleted" in row["document"]
    notes = faulty.notes.of(image)
    last = [message.event_type for message in notes].index("image.delete")
    assert [message.event_type for message in notes[last:]] == ["image.delete", "task.failure"]
    assert not hooks(faulty, "reliable").blobs


async def test_an_import_whose_image_is_active_already(faulty: Site) -> None:
    """The finished copies go as well."""
    image = await faulty.image()
    await faulty.stage(image, b"0" * 1024)
    async with blocked(faulty, "cheap") as cheap:
        assert await faulty.do_import(image, stores=["fast", "cheap"], all_stores_must_succeed=False) == 202
        async with asyncio.timeout(10):
            await cheap.blocked.wait()
        assert (await faulty.show(image))["status"] == "active"
        assert await delete(faulty, image) == 204
    for store in ("fast", "cheap", "staging"):
        await faulty.until(lambda store=store: not objects(faulty, store, image))


async def test_an_import_that_waits_for_its_turn(postgres: Server) -> None:
    """The job never starts; its task fails."""
    config = memory_stores(import_worker="max_concurrent = 1")
    async with passing(postgres, config, also=(FAULTY,)) as site:
        first, second = await site.image(), await site.image()
        for image in (first, second):
            await site.stage(image, b"0")
        async with blocked(site, "fast") as fast:
            assert await site.do_import(first) == 202
            async with asyncio.timeout(10):
                await fast.blocked.wait()
            assert await site.do_import(second) == 202
            assert [task["status"] for task in await site.tasks(second)] == ["pending"]
            assert await delete(site, second) == 204
        assert (await site.ended(first))["status"] == "active"
        await site.until(lambda: not objects(site, "staging", second))
        await site.settled()
        assert not objects(site, "fast", second)
        types = [m.event_type for m in site.notes.of(second) if m.event_type.startswith("task.")]
        assert types == ["task.create", "task.failure"]


async def test_a_running_copy(faulty: Site) -> None:
    """All copies go, those that were there before it too."""
    image = await faulty.image()
    await faulty.stage(image, b"0" * 1024)
    assert await faulty.do_import(image) == 202
    await faulty.ended(image)
    body = {"method": {"name": "copy-image"}, "stores": ["cheap", "reliable"]}
    async with blocked(faulty, "reliable") as reliable:
        assert (await faulty.call("POST", f"/images/{image}/import", "ADM", json=body)).status == 202
        async with asyncio.timeout(10):
            await reliable.blocked.wait()
        assert await delete(faulty, image) == 204
    for store in ("fast", "cheap", "reliable", "staging"):
        await faulty.until(lambda store=store: not objects(faulty, store, image))
    await faulty.settled()
    types = [message.event_type for message in faulty.notes.of(image)]
    assert types[types.index("image.delete") :] == ["image.delete", "task.failure"]
