"""Importing staged data: what becomes of image, stores, staging, task, and what is told (import.md 8, 12, 16)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from kernel.errors import StoreError, StoreUnavailable
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import EMPTY, GPTBAD, GPTOK, ISO, QCOW, QCOW_BACKED, RAW1K
from tests.support.notes import ERR, of_image, of_job, of_tasks, prepare, upload
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import (
    blocked,
    broken,
    four_stores,
    hooks,
    memory_stores,
    objects,
    one_store,
    passing,
    standing,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MD5 = "9d0ef2e3d00a0793bd4c5f31b8ad9e8a"
SHA512 = (
    "0b9222097e0efcf1beac88426ac09170482809784a82d201946c17a522d898a52633c183a5f99f44d4eea3cfe0c222a6"
    "33e0e5a46bb09ef4d9aa8d27aadc01e9"
)
STORES = ("fast", "cheap", "reliable")


async def staged(site: Site, data: bytes = RAW1K, **attributes: Any) -> str:
    image = await site.image(**attributes)
    assert await site.stage(image, data) == 204
    return image


async def imported(site: Site, data: bytes = RAW1K, body: dict[str, Any] | None = None, **attributes: Any) -> str:
    """A staged image whose import has ended, with nothing left to do or to tell."""
    image = await staged(site, data, **attributes)
    assert await site.do_import(image, **(body or {})) == 202
    await site.ended(image)
    await site.settled()
    return image


def lists(shown: dict[str, Any]) -> tuple[str | None, str | None]:
    """imp and fail of the scenarios."""
    return shown.get("os_glance_importing_to_stores"), shown.get("os_glance_failed_import")


async def failed_cleanly(site: Site, image: str) -> str:
    """The end of every import that fails: as if never staged.  Returns the message of its task."""
    shown = await site.show(image)
    assert shown["status"] == "queued"
    for name in ("size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"):
        assert shown[name] is None
    assert "stores" not in shown
    assert "os_glance_import_task" not in shown
    assert shown["os_glance_importing_to_stores"] == ""
    for store in ("staging", "file", *STORES):
        assert not objects(site, store, image)
    task = (await site.tasks(image))[-1]
    assert (task["status"], task["result"]) == ("failure", None)
    assert task["message"]
    assert str(site.directory) not in task["message"]
    return str(task["message"])


async def test_a_disk_that_claims_to_be_larger_than_any(four: Site) -> None:
    """Whoever writes the header says how large; what no column holds is refused like other nonsense."""
    data = QCOW[:24] + b"\xff" * 8 + QCOW[32:]
    image = await imported(four, data, disk_format="qcow2")
    assert "virtual size of 18446744073709551615 bytes" in await failed_cleanly(four, image)
    assert await four.upload(image, data) == 415


# --- success -----------------------------------------------------------------------------


@pytest.mark.requirement("REQ-014", "REQ-038")
async def test_IM34_one_store(one: Site) -> None:
    image = await imported(one)
    shown = await one.show(image)
    assert (shown["status"], shown["size"], shown["virtual_size"]) == ("active", 1024, 1024)
    assert (shown["checksum"], shown["os_hash_algo"], shown["os_hash_value"]) == (MD5, "sha512", SHA512)
    assert lists(shown) == ("", "")
    assert "os_glance_import_task" not in shown
    assert "stores" not in shown
    assert (objects(one, "staging", image), objects(one, "file", image)) == ([], [RAW1K])
    (task,) = await one.tasks(image)
    assert (task["status"], task["result"]) == ("success", {"image_id": image})
    assert of_job(one.notes.of(image)) == [
        "task.create",
        "task.processing",
        prepare("importing", None, [], []),
        upload("active", None, [], []),
        "image.activate",
        "task.success",
    ]
    assert await (await one.call("GET", f"/images/{image}/file")).read() == RAW1K


@pytest.mark.requirement("REQ-060", "REQ-063", "REQ-064")
async def test_IM35_stores_in_the_order_given(four: Site) -> None:
    image = await imported(four, body={"stores": ["reliable", "cheap"]})
    assert (await four.show(image))["stores"] == "cheap,reliable"
    assert of_image(four.notes.of(image))[1:] == [
        prepare("importing", "reliable", ["cheap", "reliable"], []),
        upload("importing", "reliable", ["cheap"], []),
        prepare("importing", "cheap", ["cheap"], []),
        upload("active", "cheap", [], []),
        "image.activate",
    ]
    assert of_tasks(four.notes.of(image)) == ["task.create", "task.processing", "task.success"]
    for store, expected in (("cheap", [RAW1K]), ("reliable", [RAW1K]), ("fast", []), ("staging", [])):
        assert objects(four, store, image) == expected


@pytest.mark.requirement("REQ-056", "REQ-057", "REQ-060")
@pytest.mark.parametrize("must_succeed", [True, False])
async def test_IM36_IM37_all_stores_leaves_the_read_only_one_out(four: Site, must_succeed: bool) -> None:
    """At no time is it in any list."""
    image = await staged(four)
    assert await four.do_import(image, all_stores=True, all_stores_must_succeed=must_succeed) == 202
    seen = [await four.show(image)]
    while (await four.tasks(image))[-1]["status"] not in ("success", "failure"):
        seen.append(await four.show(image))
    shown = await four.ended(image)
    assert (shown["status"], shown["stores"]) == ("active", "cheap,fast,reliable")
    assert lists(shown) == ("", "")
    assert not any("web" in str(item.get(name)) for item in [*seen, shown] for name in ("stores", *LISTS))
    (task,) = await four.tasks(image)
    assert task["input"]["backend"] == ["fast", "cheap", "reliable"]


LISTS = ("os_glance_importing_to_stores", "os_glance_failed_import")


async def test_IM43_an_empty_image(four: Site) -> None:
    shown = await four.show(await imported(four, EMPTY))
    assert (shown["status"], shown["size"], shown["virtual_size"]) == ("active", 0, None)
    assert shown["checksum"] == "d41d8cd98f00b204e9800998ecf8427e"


async def test_IM44_another_hash(postgres: Server) -> None:
    async with passing(postgres, four_stores(DEFAULT="hashing_algorithm = sha256")) as site:
        shown = await site.show(await imported(site, body={"all_stores": True}))
        assert (shown["checksum"], shown["os_hash_algo"]) == (MD5, "sha256")
        assert shown["os_hash_value"] == hashlib.sha256(RAW1K).hexdigest()


async def test_several_images_at_once_keep_their_own_bytes(four: Site) -> None:
    images = {await staged(four, bytes([number]) * 5000): bytes([number]) * 5000 for number in range(6)}
    await asyncio.gather(*(four.do_import(image, all_stores=True) for image in images))
    for image, data in images.items():
        assert (await four.ended(image))["status"] == "active"
        for store in STORES:
            assert objects(four, store, image) == [data]
    await four.settled()
    assert not any(objects(four, "staging", image) for image in images)


# --- stores that fail --------------------------------------------------------------------


@pytest.mark.requirement("REQ-061", "REQ-065", "REQ-066", "REQ-068", "REQ-069")
@pytest.mark.requirement("REQ-067", "REQ-070", "REQ-071", "REQ-072", "REQ-073")
async def test_IM38_one_store_is_enough(faulty: Site) -> None:
    """The example of the seeds."""
    with broken(faulty, "cheap"):
        image = await imported(faulty, body={"stores": ["fast", "cheap"], "all_stores_must_succeed": False})
    shown = await faulty.show(image)
    assert (shown["status"], shown["stores"]) == ("active", "fast")
    assert lists(shown) == ("", "cheap")
    (task,) = await faulty.tasks(image)
    assert (task["status"], task["result"]) == ("success", {"image_id": image})
    assert of_job(faulty.notes.of(image)) == [
        "task.create",
        "task.processing",
        prepare("importing", "fast", ["cheap", "fast"], []),
        upload("active", "fast", ["cheap"], []),
        "image.activate",
        prepare("active", "cheap", ["cheap"], []),
        ERR,
        "task.success",
    ]
    for store, expected in (("fast", [RAW1K]), ("cheap", []), ("staging", [])):
        assert objects(faulty, store, image) == expected


@pytest.mark.requirement("REQ-062")
async def test_IM39_all_must_succeed_and_the_first_fails(faulty: Site) -> None:
    """Nothing is kept, later stores are never tried, and everything can be done again."""
    with broken(faulty, "fast"):
        image = await imported(faulty, body={"stores": ["fast", "cheap"]})
    assert "fast" in await failed_cleanly(faulty, image)
    assert lists(await faulty.show(image)) == ("", "fast")
    assert of_job(faulty.notes.of(image)) == [
        "task.create",
        "task.processing",
        prepare("importing", "fast", ["cheap", "fast"], []),
        ERR,
        "task.failure",
    ]
    assert await faulty.stage(image, RAW1K) == 204
    assert lists(await faulty.show(image)) == ("", "fast")
    assert await faulty.do_import(image, stores=["cheap"]) == 202
    shown = await faulty.ended(image)
    assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "cheap", "", "fast")


async def test_row_S_the_copies_of_the_stores_that_succeeded_are_deleted(faulty: Site) -> None:
    """Only the store whose own attempt failed is blamed."""
    with broken(faulty, "reliable"):
        image = await imported(faulty, body={"stores": ["fast", "cheap", "reliable"]})
    assert "reliable" in await failed_cleanly(faulty, image)
    assert lists(await faulty.show(image)) == ("", "reliable")
    assert of_image(faulty.notes.of(image))[-3:] == [
        upload("importing", "cheap", ["reliable"], []),
        prepare("importing", "reliable", ["reliable"], []),
        ERR,
    ]
    assert of_tasks(faulty.notes.of(image))[-1] == "task.failure"
    last = [message for message in faulty.notes.of(image) if message.event_type == "image.update"][-1]
    assert isinstance(last.payload, dict)
    assert last.payload["status"] == "queued"
    assert last.payload["properties"]["os_glance_failed_import"] == "reliable"


async def test_row_N_every_store_fails(faulty: Site) -> None:
    """All are blamed, each with its own ERROR."""
    with broken(faulty, "fast"), broken(faulty, "cheap"):
        image = await imported(faulty, body={"stores": ["fast", "cheap"], "all_stores_must_succeed": False})
    assert "None of the uploads finished" in await failed_cleanly(faulty, image)
    assert lists(await faulty.show(image)) == ("", "cheap,fast")
    assert of_job(faulty.notes.of(image)) == [
        "task.create",
        "task.processing",
        prepare("importing", "fast", ["cheap", "fast"], []),
        ERR,
        prepare("importing", "cheap", ["cheap"], ["fast"]),
        ERR,
        "task.failure",
    ]


async def test_row_F_the_first_fails_and_the_second_makes_it_active(faulty: Site) -> None:
    with broken(faulty, "fast"):
        image = await imported(faulty, body={"all_stores": True, "all_stores_must_succeed": False})
    shown = await faulty.show(image)
    assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "cheap,reliable", "", "fast")
    assert (shown["size"], shown["checksum"]) == (1024, MD5)
    notes = of_image(faulty.notes.of(image))
    assert notes[1:5] == [
        prepare("importing", "fast", ["cheap", "fast", "reliable"], []),
        ERR,
        prepare("importing", "cheap", ["cheap", "reliable"], ["fast"]),
        upload("active", "cheap", ["reliable"], ["fast"]),
    ]
    assert notes.count("image.activate") == 1


@pytest.mark.parametrize("must_succeed", [True, False])
async def test_IM42_read_only_stores_that_are_named(faulty: Site, must_succeed: bool) -> None:
    """Accepted, tried, and blamed."""
    image = await imported(faulty, body={"stores": ["web"], "all_stores_must_succeed": must_succeed})
    await failed_cleanly(faulty, image)
    assert lists(await faulty.show(image)) == ("", "web")
    both = await imported(faulty, body={"stores": ["fast", "web"], "all_stores_must_succeed": must_succeed})
    shown = await faulty.show(both)
    assert lists(shown) == ("", "web")
    assert (shown["status"], shown.get("stores")) == (("queued", None) if must_succeed else ("active", "fast"))


async def test_5_2_lists_accumulate_over_imports(faulty: Site) -> None:
    """A new import takes its own stores out of the failed list and leaves the others in."""
    image = await faulty.image()
    expected = ""
    for store, broken_too, expected in (
        ("fast", True, "fast"),
        ("cheap", True, "cheap,fast"),
        ("reliable", True, "cheap,fast,reliable"),
        ("cheap", True, "cheap,fast,reliable"),
        ("fast", False, "cheap,reliable"),
    ):
        assert await faulty.stage(image, RAW1K) == 204
        error = StoreError(store, "it is broken") if broken_too else None
        hooks(faulty, store).break_writes(error)
        try:
            assert await faulty.do_import(image, stores=[store]) == 202
            assert lists(await faulty.ended(image)) == ("", expected)
        finally:
            hooks(faulty, store).break_writes(None)
    assert (await faulty.show(image))["status"] == "active"


@pytest.mark.requirement("REQ-065")
async def test_the_failed_list_is_emptied_when_the_import_is_accepted(faulty: Site) -> None:
    image = await faulty.image()
    with broken(faulty, "fast"):
        await faulty.stage(image, RAW1K)
        assert await faulty.do_import(image) == 202
        assert lists(await faulty.ended(image)) == ("", "fast")
    await faulty.stage(image, RAW1K)
    async with blocked(faulty, "fast"):
        assert await faulty.do_import(image, stores=["fast", "cheap"]) == 202
        assert lists(await faulty.show(image)) == ("cheap,fast", "")
    assert lists(await faulty.ended(image)) == ("", "")


async def test_messages_name_the_store_and_no_path(postgres: Server) -> None:
    """A store that lost its directory, say."""
    async with passing(postgres, four_stores()) as site:
        image = await staged(site)
        root = next((site.directory / "cheap").iterdir())
        root.rename(root.with_name("elsewhere"))
        assert await site.do_import(image, stores=["cheap"]) == 202
        await site.ended(image)
        (task,) = await site.tasks(image)
        assert "cheap" in task["message"]
        assert str(site.directory) not in task["message"]
        assert (await site.show(image))["status"] == "queued"


async def test_a_store_that_answers_again_after_a_moment(faulty: Site) -> None:
    """One that is only unavailable gets a second chance."""
    image = await staged(faulty)
    store = hooks(faulty, "fast")
    store.break_writes(StoreUnavailable("fast"))
    assert await faulty.do_import(image) == 202
    await faulty.until(lambda: _progress_of(faulty, image))
    store.break_writes(None)
    assert (await faulty.ended(image))["status"] == "active"
    assert len(objects(faulty, "fast", image)) == 1


async def _progress_of(site: Site, image: str) -> bool:
    return bool((await site.tasks(image))[-1]["status"] == "processing")


# --- while it runs -----------------------------------------------------------------------


@pytest.mark.requirement("REQ-062", "REQ-064", "REQ-116")
async def test_IM40_all_must_succeed_and_one_is_slow(faulty: Site) -> None:
    """A store shows as soon as its copy is complete, the image is active with the last."""
    image = await staged(faulty)
    async with blocked(faulty, "cheap"):
        assert await faulty.do_import(image, stores=["fast", "cheap"]) == 202
        await faulty.until(lambda: _imports_to(faulty, image, "cheap"))
        shown = await faulty.show(image)
        assert (shown["status"], shown["stores"]) == ("importing", "fast")
        assert (await faulty.call("GET", f"/images/{image}/file")).status == 204
    shown = await faulty.ended(image)
    assert (shown["status"], shown["stores"]) == ("active", "cheap,fast")


async def _imports_to(site: Site, image: str, stores: str) -> bool:
    return lists(await site.show(image))[0] == stores


@pytest.mark.requirement("REQ-061", "REQ-116")
async def test_IM41_one_is_enough_and_another_is_slow(faulty: Site) -> None:
    """Active, and its data there for everybody, while the import goes on and holds the image."""
    image = await staged(faulty)
    async with blocked(faulty, "cheap"):
        assert await faulty.do_import(image, stores=["fast", "cheap"], all_stores_must_succeed=False) == 202
        await faulty.until(lambda: _imports_to(faulty, image, "cheap"))
        shown = await faulty.show(image)
        assert (shown["status"], shown["stores"]) == ("active", "fast")
        assert shown["os_glance_import_task"] == (await faulty.tasks(image))[-1]["id"]
        assert await (await faulty.call("GET", f"/images/{image}/file")).read() == RAW1K
        assert await faulty.do_import(image) == 409
        assert await faulty.stage(image, RAW1K) == 409
    shown = await faulty.ended(image)
    assert shown["stores"] == "cheap,fast"
    assert "os_glance_import_task" not in shown


@pytest.mark.requirement("REQ-064", "REQ-116")
async def test_IM50_whatever_is_seen_is_consistent(four: Site) -> None:
    """Polled fifty times: no store in two lists, no status but importing and active."""
    image = await staged(four, RAW1K * 900)
    assert await four.do_import(image, all_stores=True) == 202
    for _ in range(50):
        shown = await four.show(image)
        assert shown["status"] in ("importing", "active")
        done = set(filter(None, shown.get("stores", "").split(",")))
        todo = set(filter(None, shown["os_glance_importing_to_stores"].split(",")))
        assert not done & todo
        assert done | todo == {"fast", "cheap", "reliable"}
        assert (shown["status"] == "active") == (not todo)
    await four.ended(image)


@pytest.mark.parametrize("must_succeed", [True, False])
async def test_stores_can_be_written_in_parallel(postgres: Server, must_succeed: bool) -> None:
    """With the same outcome, and the same four notifications for each store."""
    async with passing(postgres, four_stores(image_import_opts="max_parallel_stores = 3")) as site:
        image = await imported(site, body={"all_stores": True, "all_stores_must_succeed": must_succeed})
        shown = await site.show(image)
        assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "cheap,fast,reliable", "", "")
        notes = of_image(site.notes.of(image))
        for store in STORES:
            mine = [note[0] for note in notes if note[2:3] == (store,)]
            assert mine == ["prepare", "upload"]
        assert notes.count("image.activate") == 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parallel(postgres: Server) -> AsyncIterator[Site]:
    """M4 whose stores are written three at once, and can be told to fail or to wait."""
    config = memory_stores(image_import_opts="max_parallel_stores = 3")
    async with standing(postgres, config, also=(FAULTY,)) as site:
        yield site


async def test_8_10_the_first_failure_cancels_the_writes_still_running(parallel: Site) -> None:
    """Row S: their stores are not blamed, and nothing of what they wrote is left."""
    image = await staged(parallel)
    async with blocked(parallel, "cheap") as cheap:
        with broken(parallel, "reliable"):
            assert await parallel.do_import(image, all_stores=True) == 202
            shown = await parallel.ended(image)
        assert cheap.blocked.is_set()
    await parallel.settled()
    assert "reliable" in await failed_cleanly(parallel, image)
    assert lists(shown) == ("", "reliable")
    notes = of_image(parallel.notes.of(image))
    assert {note[2] for note in notes if note[0] == "prepare"} == {*STORES}
    assert notes.count(ERR) == 1
    assert of_tasks(parallel.notes.of(image))[-1] == "task.failure"
    assert await parallel.stage(image, RAW1K) == 204
    assert await parallel.do_import(image, all_stores=True) == 202
    shown = await parallel.ended(image)
    assert (shown["stores"], *lists(shown)) == ("cheap,fast,reliable", "", "")


async def test_8_10_the_first_success_makes_it_active(parallel: Site) -> None:
    """Row F, where one store is enough: only complete copies show at any moment."""
    image = await staged(parallel)
    async with blocked(parallel, "cheap"):
        with broken(parallel, "reliable"):
            assert await parallel.do_import(image, all_stores=True, all_stores_must_succeed=False) == 202
            await parallel.until(lambda: _imports_to(parallel, image, "cheap"))
        shown = await parallel.show(image)
        assert (shown["status"], shown["stores"], *lists(shown)) == ("active", "fast", "cheap", "reliable")
    shown = await parallel.ended(image)
    assert (shown["stores"], *lists(shown)) == ("cheap,fast", "", "reliable")
    await parallel.settled()
    assert (await parallel.tasks(image))[-1]["status"] == "success"
    assert of_image(parallel.notes.of(image)).count("image.activate") == 1
    assert not objects(parallel, "reliable", image)


@pytest.mark.parametrize("must_succeed", [True, False])
async def test_8_10_every_store_fails(parallel: Site, must_succeed: bool) -> None:
    """Rows S and N."""
    with broken(parallel, "fast"), broken(parallel, "cheap"), broken(parallel, "reliable"):
        image = await imported(parallel, body={"all_stores": True, "all_stores_must_succeed": must_succeed})
    await failed_cleanly(parallel, image)
    failed = set(lists(await parallel.show(image))[1].split(","))
    assert failed <= {*STORES}
    assert failed == {*STORES} or must_succeed
    assert of_image(parallel.notes.of(image)).count(ERR) == len(failed)


async def test_8_10_an_image_that_is_deleted_while_several_stores_are_written(parallel: Site) -> None:
    """Row D."""
    image = await staged(parallel)
    async with blocked(parallel, "cheap") as cheap, blocked(parallel, "reliable") as reliable:
        assert await parallel.do_import(image, all_stores=True) == 202
        async with asyncio.timeout(10):
            await cheap.blocked.wait()
            await reliable.blocked.wait()
        assert (await parallel.call("DELETE", f"/images/{image}")).status == 204
    await parallel.settled()
    for store in ("staging", *STORES):
        await parallel.until(lambda store=store: not objects(parallel, store, image))
    notes = [note.event_type for note in parallel.notes.of(image)]
    assert notes[notes.index("image.delete") :] == ["image.delete", "task.failure"]


# --- inspection --------------------------------------------------------------------------


async def test_IM45_a_qcow2(four: Site) -> None:
    shown = await four.show(await imported(four, QCOW, disk_format="qcow2"))
    assert (shown["status"], shown["size"], shown["virtual_size"]) == ("active", 1032, 1048576)
    assert shown["checksum"] == "a89ca1238431dc99634bdff7aeca7929"


async def test_IM46_data_that_is_not_what_it_is_declared_to_be(four: Site) -> None:
    """No store is written, all that were asked for are blamed, one ERROR is sent."""
    image = await imported(four, disk_format="vmdk", body={"stores": ["fast", "cheap"]})
    message = await failed_cleanly(four, image)
    assert "vmdk" in message
    assert "raw" in message
    assert lists(await four.show(image)) == ("", "cheap,fast")
    assert of_job(four.notes.of(image)) == ["task.create", "task.processing", ERR, "task.failure"]


async def test_IM47_other_containers_are_not_looked_into(four: Site) -> None:
    shown = await four.show(await imported(four, disk_format="qcow2", container_format="ovf"))
    assert (shown["status"], shown["virtual_size"]) == ("active", None)


async def test_IM48_partition_tables(four: Site, postgres: Server) -> None:
    shown = await four.show(await imported(four, GPTOK))
    assert (shown["status"], shown["virtual_size"]) == ("active", 1536)
    await failed_cleanly(four, await imported(four, GPTBAD))
    config = one_store(image_format="gpt_safety_checks_nonfatal = mbr")
    async with passing(postgres, config) as site:
        assert (await site.show(await imported(site, GPTBAD)))["status"] == "active"


async def test_IM49_sites_that_do_not_ask_for_a_match(postgres: Server) -> None:
    """Unsafe data is refused all the same."""
    async with passing(postgres, one_store(image_format="require_image_format_match = False")) as site:
        shown = await site.show(await imported(site, disk_format="qcow2"))
        assert (shown["status"], shown["virtual_size"]) == ("active", None)
        await failed_cleanly(site, await imported(site, QCOW_BACKED, disk_format="vmdk"))


@pytest.mark.parametrize(
    ("declared", "data", "virtual_size"),
    [
        ("raw", RAW1K, 1024),
        ("raw", QCOW, 1032),
        ("raw", ISO, len(ISO)),
        ("iso", ISO, 20 * 2048),
        ("ami", RAW1K, None),
        ("ari", RAW1K, None),
        ("ploop", RAW1K, None),
        ("qcow2", QCOW, 1048576),
    ],
)
async def test_12_2_data_that_passes(one: Site, declared: str, data: bytes, virtual_size: int | None) -> None:
    shown = await one.show(await imported(one, data, disk_format=declared))
    assert (shown["status"], shown["virtual_size"], shown["size"]) == ("active", virtual_size, len(data))


@pytest.mark.parametrize(
    ("declared", "data"),
    [
        ("qcow2", RAW1K),
        ("qcow2", ISO),
        ("ami", QCOW),
        ("iso", QCOW),
        ("raw", QCOW_BACKED),
        ("qcow2", QCOW_BACKED),
        ("vdi", EMPTY),
        ("qcow2", QCOW[:50]),
    ],
)
async def test_12_2_data_that_is_refused(one: Site, declared: str, data: bytes) -> None:
    image = await imported(one, data, disk_format=declared)
    await failed_cleanly(one, image)
    assert lists(await one.show(image)) == ("", "")
    assert of_job(one.notes.of(image)) == ["task.create", "task.processing", ERR, "task.failure"]
    assert await one.stage(image, data) == 204


async def test_the_same_row_whether_staged_or_uploaded(one: Site) -> None:
    """What an import refuses, an upload refuses too, and the other way round."""
    for declared, data in (("qcow2", QCOW), ("qcow2", RAW1K), ("raw", GPTBAD), ("iso", ISO), ("raw", QCOW_BACKED)):
        by_import = (await one.show(await imported(one, data, disk_format=declared)))["status"]
        by_upload = await one.upload(await one.image(disk_format=declared), data)
        assert (by_import == "active") == (by_upload == 204)
        assert by_upload in (204, 415)


# --- what is told ------------------------------------------------------------------------


async def test_payloads(four: Site) -> None:
    """16.2: exactly these keys, arrays in the store keys, strings in the properties."""
    image = await imported(four, body={"stores": ["fast"]}, rack="7", tags=["t"])
    notes = four.notes.of(image)
    prepared = next(m.payload for m in notes if m.event_type == "image.prepare")
    activated = next(m.payload for m in notes if m.event_type == "image.activate")
    created = next(m.payload for m in notes if m.event_type == "task.create")
    finished = next(m.payload for m in notes if m.event_type == "task.success")
    assert isinstance(prepared, dict)
    assert isinstance(activated, dict)
    assert isinstance(created, dict)
    assert isinstance(finished, dict)
    assert set(activated) == IMAGE_KEYS
    assert set(prepared) == IMAGE_KEYS | {"backend", *LISTS}
    assert prepared["properties"]["os_glance_importing_to_stores"] == "fast"
    assert prepared["properties"]["rack"] == "7"
    assert set(created) == set(finished) == TASK_KEYS
    assert (created["status"], created["expires_at"], created["result"]) == ("pending", None, None)
    assert finished["expires_at"].endswith("Z")
    assert finished["message"] is None


IMAGE_KEYS = {
    *("id", "status", "visibility", "name", "checksum", "owner", "disk_format", "container_format"),
    *("created_at", "updated_at", "min_disk", "min_ram", "size", "virtual_size", "protected", "is_public"),
    *("deleted", "properties", "tags", "deleted_at"),
}
TASK_KEYS = {
    *("id", "type", "status", "owner", "result", "message", "expires_at", "created_at", "updated_at"),
    *("deleted", "deleted_at"),
}
