"""Deleting an image's copy in one store (import.md 13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kernel.errors import StoreUnavailable
from tests.support.postgres import Server
from tests.support.retaining_store import EXTENSION as RETAINING
from tests.support.retaining_store import RetainingStore
from tests.support.running import Site
from tests.support.standing import blocked, four_stores, hooks, objects, passing, retaining_stores

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA = b"x" * 1024


async def in_stores(site: Site, *stores: str, who: str = "A", **attributes: str) -> str:
    """An active image with copies in these stores."""
    image = await site.image(who, **attributes)
    assert await site.stage(image, DATA, who) == 204
    assert await site.do_import(image, who, stores=list(stores)) == 202
    assert set((await site.ended(image))["stores"].split(",")) == set(stores)
    return image


async def delete(site: Site, store: str, image: str, who: str = "ADM") -> int:
    return (await site.call("DELETE", f"/stores/{store}/{image}", who)).status


async def test_IM86_X14_one_copy_goes_the_other_stays(four: Site) -> None:
    image = await in_stores(four, "cheap", "fast")
    assert await delete(four, "cheap", image, "A") == 403
    assert objects(four, "cheap", image) == [DATA]
    gone = await four.call("DELETE", f"/stores/cheap/{image}", "ADM")
    assert (gone.status, await gone.read()) == (204, b"")
    assert (await four.show(image))["stores"] == "fast"
    await four.until(lambda: not objects(four, "cheap", image))
    assert await (await four.call("GET", f"/images/{image}/file")).read() == DATA
    assert await delete(four, "cheap", image) == 403
    assert await delete(four, "fast", image) == 403
    assert await delete(four, "nope", image) == 409
    assert await delete(four, "os_glance_staging_store", image) == 409
    assert await delete(four, "fast", "unknown") == 404
    assert (await four.show(image))["stores"] == "fast"
    await four.settled()
    notes = [note.event_type for note in four.notes.of(image) if note.event_type != "image.send"]
    assert notes[-2:] == ["task.success", "image.update"]


async def test_X14_the_default_store_is_no_exception(four: Site) -> None:
    image = await in_stores(four, "fast", "cheap")
    assert await delete(four, "fast", image) == 204
    assert (await four.show(image))["stores"] == "cheap"
    await four.until(lambda: not objects(four, "fast", image))
    assert await delete(four, "cheap", image) == 403
    assert objects(four, "cheap", image) == [DATA]


async def test_IM87_what_is_not_there_to_delete(four: Site, one: Site) -> None:
    image = await in_stores(four, "cheap", "fast")
    assert await delete(four, "reliable", image) == 404
    staged = await four.image()
    await four.stage(staged, DATA)
    assert await delete(four, "fast", staged) == 409
    assert await delete(four, "fast", await four.image()) == 409
    single = await one.image()
    await one.upload(single, DATA)
    for store in ("file", "fast", "nope"):
        assert await delete(one, store, single) == 404


async def test_who_may_delete_a_copy(four: Site) -> None:
    """Invisible is 404; of the two policies the first is for project readers, the second for admins."""
    private = await in_stores(four, "cheap", "fast", visibility="private")
    community = await in_stores(four, "cheap", "fast", visibility="community")
    for image, who, status in (
        (private, "C", 404),
        (private, "NR", 404),
        (private, "AR", 403),
        (private, None, 401),
        (community, "C", 403),
        (community, "NR", 404),
    ):
        assert await delete(four, "fast", image, who) == status, who
    assert (await four.show(private))["stores"] == "cheap,fast"
    assert (await four.call("GET", f"/stores/fast/{private}", "ADM")).headers["Allow"] == "DELETE"
    assert (await four.call("DELETE", f"/stores/fast/{private}", "ADM", json={})).status == 400


async def test_rules_that_let_users_delete_copies(postgres: Server) -> None:
    rules = {"delete_image_location": "project_id:%(project_id)s"}
    async with passing(postgres, four_stores(), rules=rules) as site:
        image = await in_stores(site, "cheap", "fast")
        assert await delete(site, "fast", image, "A") == 204


async def test_the_order_of_refusals(four: Site) -> None:
    """13.1: store, image, policies, state."""
    image = await four.image()
    assert await delete(four, "nope", "unknown", "C") == 409
    assert await delete(four, "fast", "unknown", "A") == 404
    assert await delete(four, "fast", image, "A") == 403
    assert await delete(four, "fast", image) == 409


async def test_not_while_an_import_holds_the_image(faulty: Site) -> None:
    """A copy that runs reads from what is there."""
    image = await in_stores(faulty, "fast", "cheap")
    body = {"method": {"name": "copy-image"}, "stores": ["reliable"]}
    async with blocked(faulty, "reliable") as reliable:
        assert (await faulty.call("POST", f"/images/{image}/import", "ADM", json=body)).status == 202
        async with asyncio.timeout(10):
            await reliable.blocked.wait()
        assert await delete(faulty, "fast", image) == 409
    assert (await faulty.ended(image))["stores"] == "cheap,fast,reliable"
    assert await delete(faulty, "fast", image) == 204


async def test_the_failed_list_is_left_alone(faulty: Site) -> None:
    image = await faulty.image()
    await faulty.stage(image, DATA)
    body = {"stores": ["fast", "cheap", "web"], "all_stores_must_succeed": False}
    assert await faulty.do_import(image, **body) == 202
    assert (await faulty.ended(image))["os_glance_failed_import"] == "web"
    assert await delete(faulty, "fast", image) == 204
    shown = await faulty.show(image)
    assert (shown["os_glance_failed_import"], shown["stores"]) == ("web", "cheap")


async def test_bytes_that_have_vanished_already(four: Site) -> None:
    """Count as deleted."""
    image = await in_stores(four, "fast", "cheap")
    for path in four.files("cheap"):
        if path.name.startswith(image):
            path.unlink()
    assert await delete(four, "cheap", image) == 204
    assert (await four.show(image))["stores"] == "fast"
    await four.settled()


async def test_a_store_that_cannot_be_reached(four: Site) -> None:
    """503 and unchanged, for the store was meant; whoever deletes the image means the image."""
    image = await in_stores(four, "fast", "cheap")
    place, away = four.directory / "cheap", four.directory / "unmounted"
    place.rename(away)
    try:
        head = await four.service.log.head()
        assert await delete(four, "cheap", image) == 503
        assert await four.service.log.head() == head
        assert (await four.show(image))["stores"] == "cheap,fast"
        assert await delete(four, "fast", image) == 204, "only the store that is meant is asked"
    finally:
        away.rename(place)
    image = await in_stores(four, "fast", "cheap")
    place.rename(away)
    try:
        assert (await four.call("DELETE", f"/images/{image}", "ADM")).status == 204
    finally:
        away.rename(place)


async def test_a_driver_with_a_fault_is_no_reason_to_forget_a_copy(four: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    image = await in_stores(four, "fast", "cheap")

    async def fault(url: str) -> int:
        raise RuntimeError("this driver has a fault")

    with monkeypatch.context() as patch:
        patch.setattr(four.service.site.backends["cheap"].store, "size", fault)
        assert await delete(four, "cheap", image) == 503
    assert await delete(four, "cheap", image) == 204


async def test_a_copy_can_be_made_again(faulty: Site) -> None:
    """What was deleted before does not fall upon the new copy."""
    image = await in_stores(faulty, "fast", "cheap")
    assert await delete(faulty, "cheap", image) == 204
    body = {"method": {"name": "copy-image"}, "stores": ["cheap"]}
    assert (await faulty.call("POST", f"/images/{image}/import", "ADM", json=body)).status == 202
    assert (await faulty.ended(image))["stores"] == "cheap,fast"
    await faulty.settled()
    assert objects(faulty, "cheap", image) == [DATA]


@asynccontextmanager
async def retaining(postgres: Server) -> AsyncIterator[tuple[Site, RetainingStore]]:
    """A site, and its store `cheap`, which may hold on to its bytes."""
    async with passing(postgres, retaining_stores(), also=(RETAINING,)) as site:
        cheap = hooks(site, "cheap")
        assert isinstance(cheap, RetainingStore)
        yield site, cheap


async def test_copies_that_somebody_depends_on(postgres: Server) -> None:
    """409 and unchanged; only the store that is to let go is asked."""
    async with retaining(postgres) as (site, cheap):
        image = await in_stores(site, "fast", "cheap")
        cheap.in_use = "it has clones"
        head = await site.service.log.head()
        answer = await site.call("DELETE", f"/stores/cheap/{image}", "ADM")
        assert answer.status == 409
        assert "clones" in await answer.text()
        assert await site.service.log.head() == head
        assert await delete(site, "fast", image) == 204
        assert (await site.show(image))["stores"] == "cheap"
        assert await (await site.call("GET", f"/images/{image}/file")).read() == DATA
        cheap.in_use = None


async def test_a_store_that_cannot_say_whether_it_lets_go(postgres: Server) -> None:
    async with retaining(postgres) as (site, cheap):
        image = await in_stores(site, "fast", "cheap")

        async def unreachable(url: str) -> None:
            raise StoreUnavailable("cheap")

        cheap.release = unreachable  # type: ignore[method-assign]
        assert await delete(site, "cheap", image) == 503
        assert (await site.show(image))["stores"] == "cheap,fast"
