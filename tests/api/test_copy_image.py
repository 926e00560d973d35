"""Copying an active image to further stores (import.md 7.2, 8.3, 8.4, 9.3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kernel import errors
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.notes import ERR, of_image, of_job, prepare, upload
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import blocked, broken, four_stores, hooks, memory_stores, objects, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

CP = {"method": {"name": "copy-image"}}
KEPT = ("status", "owner", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "disk_format")


async def active(site: Site, *stores: str, who: str = "A", **attributes: Any) -> str:
    """An image whose data is in these stores, `fast` by default."""
    image = await site.image(who, **attributes)
    assert await site.stage(image, RAW1K, who) == 204
    assert await site.do_import(image, who, stores=list(stores or ("fast",))) == 202
    assert (await site.ended(image))["status"] == "active"
    return image


async def ask(site: Site, image: str, who: str = "ADM", **body: Any) -> int:
    return (await site.call("POST", f"/images/{image}/import", who, json={**CP, **body})).status


async def copied(site: Site, image: str, who: str = "ADM", **body: Any) -> dict[str, Any]:
    """The image after a copy that was accepted, whatever came of it, with everything told."""
    assert await ask(site, image, who, **body) == 202
    shown = await site.ended(image)
    await site.settled()
    return shown


def lists(shown: dict[str, Any]) -> tuple[Any, Any]:
    return shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]


def told(site: Site, image: str) -> list[Any]:
    """What the copy told: everything after the import that made the image."""
    notes = of_job(site.notes.of(image))
    return notes[notes.index("task.success") + 1 :]


@pytest.mark.requirement("REQ-043", "REQ-052", "REQ-053", "REQ-055", "REQ-058", "REQ-059")
async def test_IM64_to_all_stores(faulty: Site) -> None:
    """Where it is already, and where nothing can be written, is left out; it is active throughout."""
    image = await active(faulty)
    before = await faulty.show(image)
    assert await ask(faulty, image, all_stores=True) == 202
    seen = [await faulty.show(image)]
    while (await faulty.tasks(image))[-1]["status"] not in ("success", "failure"):
        seen.append(await faulty.show(image))
    shown = await faulty.ended(image)
    assert {item["status"] for item in seen} == {"active"}
    assert {name: shown[name] for name in KEPT} == {name: before[name] for name in KEPT}
    assert shown["owner"] == "pA"
    assert (shown["stores"], *lists(shown)) == ("cheap,fast,reliable", "", "")
    for store in ("cheap", "fast", "reliable"):
        assert objects(faulty, store, image) == [RAW1K]
    assert objects(faulty, "staging", image) == []
    task = (await faulty.tasks(image))[-1]
    assert (task["status"], task["input"]["backend"]) == ("success", ["cheap", "reliable"])
    await faulty.settled()
    assert told(faulty, image) == [
        "task.create",
        "task.processing",
        prepare("active", "cheap", ["cheap", "reliable"], []),
        upload("active", "cheap", ["reliable"], []),
        prepare("active", "reliable", ["reliable"], []),
        upload("active", "reliable", [], []),
        "task.success",
    ]


async def test_7_2_a_copy_to_all_stores_with_nothing_left_to_do(faulty: Site) -> None:
    """202, and nothing has happened: no task, no property, nothing told."""
    image = await active(faulty, "fast", "cheap", "reliable")
    before, head = await faulty.show(image), await faulty.service.log.head()
    assert await ask(faulty, image, all_stores=True) == 202
    assert await faulty.service.log.head() == head
    assert await faulty.show(image) == before
    assert len(await faulty.tasks(image)) == 1


async def test_IM65_who_may_copy(faulty: Site) -> None:
    image = await active(faulty)
    assert await ask(faulty, image, "A", all_stores=True) == 403
    assert await ask(faulty, image, "C", all_stores=True) == 404
    assert len(await faulty.tasks(image)) == 1


@pytest.mark.requirement("REQ-054")
async def test_IM66_where_it_is_already(faulty: Site) -> None:
    """Named explicitly, by a list, the header or the default: refused."""
    image = await active(faulty)
    assert await ask(faulty, image, stores=["fast"]) == 400
    assert await ask(faulty, image, stores=["fast", "cheap"]) == 400
    assert await ask(faulty, image) == 400
    header = {"X-Image-Meta-Store": "fast"}
    answer = await faulty.call("POST", f"/images/{image}/import", "ADM", json=CP, headers=header)
    assert answer.status == 400
    assert "fast" in await answer.text()
    assert (await copied(faulty, image, stores=["cheap"]))["stores"] == "cheap,fast"


@pytest.mark.requirement("REQ-059")
async def test_IM67_policy_may_let_users_copy_what_is_not_theirs(postgres: Server) -> None:
    rules = {"copy_image": "'public':%(visibility)s"}
    async with passing(postgres, four_stores(), rules=rules) as site:
        public = await active(site, who="ADM", visibility="public")
        private = await active(site, who="B", visibility="private")
        assert await ask(site, private, "B", stores=["cheap"]) == 403
        shown = await copied(site, public, "B", stores=["cheap"])
        assert (shown["stores"], shown["owner"]) == ("cheap,fast", "pX")
        assert (await site.tasks(public, "B"))[-1]["owner"] == "pB"


async def test_IM68_row_CS_a_store_fails_and_all_must_succeed(faulty: Site) -> None:
    """The image is as it was; the copy just made is gone, the older one untouched."""
    image = await active(faulty)
    before = await faulty.show(image)
    with broken(faulty, "reliable"):
        shown = await copied(faulty, image, stores=["cheap", "reliable"])
    assert {name: shown[name] for name in KEPT} == {name: before[name] for name in KEPT}
    assert (shown["stores"], *lists(shown)) == ("fast", "", "reliable")
    assert "os_glance_import_task" not in shown
    task = (await faulty.tasks(image))[-1]
    assert task["status"] == "failure"
    assert "reliable" in task["message"]
    for store, expected in (("fast", [RAW1K]), ("cheap", []), ("reliable", []), ("staging", [])):
        assert objects(faulty, store, image) == expected
    assert await (await faulty.call("GET", f"/images/{image}/file")).read() == RAW1K
    assert told(faulty, image) == [
        "task.create",
        "task.processing",
        prepare("active", "cheap", ["cheap", "reliable"], []),
        upload("active", "cheap", ["reliable"], []),
        prepare("active", "reliable", ["reliable"], []),
        ERR,
        "task.failure",
    ]
    assert (await copied(faulty, image, all_stores=True))["stores"] == "cheap,fast,reliable"


async def test_IM69_row_CF_a_store_fails_and_one_is_enough(faulty: Site) -> None:
    image = await active(faulty)
    with broken(faulty, "reliable"):
        shown = await copied(faulty, image, stores=["cheap", "reliable"], all_stores_must_succeed=False)
    assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "cheap,fast", "", "reliable")
    assert (await faulty.tasks(image))[-1]["status"] == "success"
    for store, expected in (("fast", [RAW1K]), ("cheap", [RAW1K]), ("reliable", []), ("staging", [])):
        assert objects(faulty, store, image) == expected
    assert told(faulty, image)[-3:] == [prepare("active", "reliable", ["reliable"], []), ERR, "task.success"]


async def test_row_CF_no_store_succeeds(faulty: Site) -> None:
    """A failure, whatever must succeed; the image is as it was."""
    image = await active(faulty)
    with broken(faulty, "cheap"), broken(faulty, "reliable"):
        shown = await copied(faulty, image, stores=["cheap", "reliable"], all_stores_must_succeed=False)
    assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "fast", "", "cheap,reliable")
    assert (await faulty.tasks(image))[-1]["status"] == "failure"
    assert objects(faulty, "fast", image) == [RAW1K]
    for store in ("cheap", "reliable", "staging"):
        assert not objects(faulty, store, image)
    assert told(faulty, image)[-1] == "task.failure"
    assert told(faulty, image).count(ERR) == 2


async def test_IM70_a_source_that_is_lost(faulty: Site) -> None:
    """The next copy is read."""
    image = await active(faulty, "fast", "cheap")
    fast = hooks(faulty, "fast")
    for name in [name for name in fast.blobs if name.startswith(image)]:
        del fast.blobs[name]
    shown = await copied(faulty, image, stores=["reliable"])
    assert (await faulty.tasks(image))[-1]["status"] == "success"
    assert shown["stores"] == "cheap,fast,reliable"
    assert objects(faulty, "reliable", image) == [RAW1K]


@pytest.mark.parametrize("damage", [b"1" * 1024, b"0" * 1000])
async def test_a_source_that_differs_from_the_record_is_passed_over(faulty: Site, damage: bytes) -> None:
    """Of the same length it is found by its hash while it is read."""
    image = await active(faulty, "fast", "cheap")
    fast = hooks(faulty, "fast")
    (name,) = [name for name in fast.blobs if name.startswith(image)]
    fast.blobs[name] = (damage,)
    shown = await copied(faulty, image, stores=["reliable"])
    assert (shown["stores"], *lists(shown)) == ("cheap,fast,reliable", "", "")
    assert objects(faulty, "reliable", image) == [RAW1K]


@pytest.mark.parametrize("must_succeed", [True, False])
async def test_row_CA_no_source_can_be_read(faulty: Site, must_succeed: bool) -> None:
    """All that were asked for are blamed; nothing else changes."""
    image = await active(faulty)
    fast = hooks(faulty, "fast")
    (name,) = [name for name in fast.blobs if name.startswith(image)]
    lost = fast.blobs.pop(name)
    body = {"stores": ["cheap", "reliable"], "all_stores_must_succeed": must_succeed}
    shown = await copied(faulty, image, **body)
    assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "fast", "", "cheap,reliable")
    task = (await faulty.tasks(image))[-1]
    assert task["status"] == "failure"
    assert "readable" in task["message"]
    for store in ("cheap", "reliable", "staging"):
        assert not objects(faulty, store, image)
    assert told(faulty, image) == ["task.create", "task.processing", "task.failure"]
    fast.blobs[name] = lost
    assert (await copied(faulty, image, **body))["stores"] == "cheap,fast,reliable"


async def test_row_D_the_image_is_deleted_in_the_middle(faulty: Site) -> None:
    """Nothing is kept, not even the copy that was just finished; then silence."""
    image = await active(faulty)
    async with blocked(faulty, "reliable") as reliable:
        assert await ask(faulty, image, stores=["cheap", "reliable"]) == 202
        async with asyncio.timeout(10):
            await reliable.blocked.wait()
        assert (await faulty.show(image))["stores"] == "cheap,fast"
        assert (await faulty.call("DELETE", f"/images/{image}")).status == 204
    for store in ("fast", "cheap", "reliable", "staging"):
        await faulty.until(lambda store=store: not objects(faulty, store, image))
    await faulty.settled()
    assert not objects(faulty, "reliable", image)
    last = [note.event_type for note in faulty.notes.of(image)]
    assert last[last.index("image.delete") :] == ["image.delete", "task.failure"]


async def test_lists_of_copies_accumulate(faulty: Site) -> None:
    """5.2: other stores' names stay; one that is tried again leaves the failed list when the copy is accepted."""
    image = await active(faulty)
    for store, expected in (("cheap", "cheap"), ("reliable", "cheap,reliable")):
        with broken(faulty, store):
            assert lists(await copied(faulty, image, stores=[store])) == ("", expected)
    async with blocked(faulty, "cheap"):
        assert await ask(faulty, image, stores=["cheap"]) == 202
        assert lists(await faulty.show(image)) == ("cheap", "reliable")
        assert await ask(faulty, image, stores=["reliable"]) == 409
    assert lists(await faulty.ended(image)) == ("", "reliable")


async def test_an_image_that_is_protected_hidden_or_shared_can_be_copied(faulty: Site) -> None:
    image = await active(faulty, protected=True, os_hidden=True, visibility="community", tags=["t"], p="v")
    before = await faulty.show(image)
    shown = await copied(faulty, image, stores=["cheap"])
    for name in ("protected", "os_hidden", "visibility", "tags", "p", "created_at"):
        assert shown[name] == before[name]


async def test_copies_are_written_one_after_another(postgres: Server) -> None:
    """Even where imports write several stores at once."""
    config = memory_stores(image_import_opts="max_parallel_stores = 3")
    async with passing(postgres, config, also=(FAULTY,)) as site:
        image = await active(site)
        shown = await copied(site, image, all_stores=True)
        assert shown["stores"] == "cheap,fast,reliable"
        assert [note[:3] for note in of_image(site.notes.of(image))[-4:]] == [
            ("prepare", "active", "cheap"),
            ("upload", "active", "cheap"),
            ("prepare", "active", "reliable"),
            ("upload", "active", "reliable"),
        ]


@pytest.mark.parametrize("must_succeed", [True, False])
@pytest.mark.parametrize("kind", [errors.StoreUnavailable, errors.StoreError, errors.StoreDenied, errors.BlobMissing])
async def test_row_CA_the_source_breaks_off(faulty: Site, kind: type[errors.StoreError], must_succeed: bool) -> None:
    """It is the source that failed, not the store that was to be written."""
    image = await active(faulty)
    hooks(faulty, "fast").break_reads(kind("fast", "went away"), after=500)
    shown = await copied(faulty, image, stores=["cheap", "reliable"], all_stores_must_succeed=must_succeed)
    hooks(faulty, "fast").break_reads(None)
    assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "fast", "", "cheap,reliable")
    task = (await faulty.tasks(image))[-1]
    assert (task["status"], task["message"]) == ("failure", "No store has a readable copy of the image")
    assert ERR not in told(faulty, image)
    for store in ("cheap", "reliable", "staging"):
        assert not objects(faulty, store, image)


@pytest.mark.parametrize("kind", [errors.StoreUnavailable, errors.StoreError])
async def test_the_next_copy_is_read_when_one_breaks_off(faulty: Site, kind: type[errors.StoreError]) -> None:
    image = await active(faulty, "fast", "cheap")
    hooks(faulty, "fast").break_reads(kind("fast", "went away"), after=500)
    shown = await copied(faulty, image, stores=["reliable"])
    hooks(faulty, "fast").break_reads(None)
    assert (shown["stores"], *lists(shown)) == ("cheap,fast,reliable", "", "")


async def test_the_only_copy_may_break_off_for_once(faulty: Site) -> None:
    image = await active(faulty)
    hooks(faulty, "fast").break_reads(errors.StoreUnavailable("fast", "went away"), after=500, times=2)
    shown = await copied(faulty, image, stores=["cheap", "reliable"])
    assert (shown["stores"], *lists(shown)) == ("cheap,fast,reliable", "", "")
    assert objects(faulty, "cheap", image) == objects(faulty, "reliable", image) == [RAW1K]


@pytest.mark.parametrize("must_succeed", [True, False])
async def test_the_only_copy_is_lost_between_two_stores(faulty: Site, must_succeed: bool) -> None:
    """Row CA, or CF: what is stored by then stays where one store is enough."""
    image = await active(faulty)
    fast = hooks(faulty, "fast")
    async with blocked(faulty, "reliable") as reliable:
        assert await ask(faulty, image, stores=["cheap", "reliable"], all_stores_must_succeed=must_succeed) == 202
        async with asyncio.timeout(10):
            await reliable.blocked.wait()
        for name in [name for name in fast.blobs if name.startswith(image)]:
            del fast.blobs[name]
    shown = await faulty.ended(image)
    await faulty.settled()
    assert not objects(faulty, "reliable", image)
    task = (await faulty.tasks(image))[-1]
    if must_succeed:
        assert (shown["stores"], *lists(shown), task["status"]) == ("fast", "", "cheap,reliable", "failure")
        assert "readable" in task["message"]
        assert not objects(faulty, "cheap", image)
    else:
        assert (shown["stores"], *lists(shown), task["status"]) == ("cheap,fast", "", "reliable", "success")
