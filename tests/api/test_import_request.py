"""Asking for an import: the body, the stores, and the order in which requests are refused (import.md 7)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from tests.support.notes import of_image, prepare
from tests.support.postgres import Server
from tests.support.raw import ask, head
from tests.support.running import Site
from tests.support.standing import blocked, four_stores, objects, one_store, passing, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW1K = b"0" * 1024
D = {"method": {"name": "glance-direct"}}
CP = {"method": {"name": "copy-image"}}
W = {"method": {"name": "web-download", "uri": "http://127.0.0.1:9/raw"}}
FILTERS = {"import_filtering_opts": "allowed_ports = []\ndisallowed_networks = []"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(postgres: Server) -> AsyncIterator[Site]:
    """M4 as the scenarios have it: any address may be downloaded from."""
    async with standing(postgres, four_stores(**FILTERS)) as site:
        yield site


async def staged(site: Site, who: str = "A", **attributes: Any) -> str:
    image = await site.image(who, **attributes)
    assert await site.stage(image, RAW1K, who) == 204
    return image


async def active(site: Site, who: str = "A", **attributes: Any) -> str:
    """In the store fast."""
    image = await staged(site, who, **attributes)
    assert await ask_import(site, image, D, who) == 202
    assert (await site.ended(image))["status"] == "active"
    return image


async def ask_import(site: Site, image: str, body: Any, who: str | None = "A", **headers: str) -> int:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await site.call("POST", f"/images/{image}/import", who, json=body, headers=sent)).status


async def unchanged(site: Site, image: str, refused: Any) -> int:
    """The status of a request that must leave image, tasks and log as they were."""
    before = await site.show(image), await site.tasks(image), await site.service.log.head()
    status: int = await refused
    assert (await site.show(image), await site.tasks(image), await site.service.log.head()) == before
    return status


# --- the body ----------------------------------------------------------------------------

MALFORMED: list[bytes] = [
    *(b"", b"not json", b"[]", b"{}", b'"x"', b"\xff", b"null", b"{} {}", b"\0"),
    *(
        json.dumps(document).encode()
        for document in (
            {"method": "glance-direct"},
            {"method": None},
            {"method": []},
            {"method": {}},
            {"method": {"name": 5}},
            {"method": {"name": None}},
            {"method": {"name": ["glance-direct"]}},
            {"method": {"name": "nope"}},
            {"method": {"name": ""}},
            {"method": {"name": "GLANCE-DIRECT"}},
            {**D, "all_stores": "true"},
            {**D, "all_stores": None},
            {**D, "all_stores": 0},
            {**D, "all_stores_must_succeed": 1},
            {**D, "all_stores_must_succeed": None},
            {**D, "stores": "fast"},
            {**D, "stores": [1]},
            {**D, "stores": [None]},
            {**D, "stores": []},
            {**D, "stores": {}},
            {"method": {"name": "glance-direct", "uri": "file:///etc/passwd"}},
            {"method": {"name": "glance-direct", "uri": 5}},
            {"method": {"name": "glance-direct", "uri": ["x"]}},
            {"method": {"name": "web-download"}},
            {"method": {"name": "web-download", "uri": ""}},
            {"method": {"name": "web-download", "uri": 5}},
            {**D, "x": "a\0b"},
        )
    ),
    b'{"method": {"name": "glance-direct"}, "x": ' + b"[" * 600 + b"]" * 600 + b"}",
    b'{"method": {"name": "glance-direct"}, "x": ' + b'{"a":' * 600 + b'"\\u0000"' + b"}" * 600 + b"}",
    b"[" * 60_000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
async def test_IM23_malformed_bodies(many: Site, body: bytes) -> None:
    """400, and nothing has happened; whether or not the image exists."""
    image = await staged(many)
    for target in (image, "unknown"):
        path = f"/v2/images/{target}/import"

        async def refused(path: str = path) -> int:
            return (await ask(many, head("POST", path, Content_Length=str(len(body))) + body)).status

        assert await unchanged(many, image, refused()) == 400
    assert (await many.show(image))["status"] == "uploading"
    assert await many.tasks(image) == []


async def test_bodies_that_are_longer_than_any_request_are_413(many: Site) -> None:
    """What is sent is kept for as long as the image; a megabyte of it has no business there."""
    image = await staged(many)
    body = json.dumps({**D, "x": " " * (1 << 18)}).encode()
    request = head("POST", f"/v2/images/{image}/import", Content_Length=str(len(body))) + body

    async def refused() -> int:
        return (await ask(many, request)).status

    assert await unchanged(many, image, refused()) == 413
    assert await many.do_import(image, x=" " * (1 << 17)) == 202
    assert (await many.ended(image))["status"] == "active"


async def test_IM23_no_body(many: Site) -> None:
    image = await staged(many)
    assert (await ask(many, head("POST", f"/v2/images/{image}/import"))).status == 400


@pytest.mark.parametrize(
    "method",
    [
        {"name": "glance-direct", "uri": ""},
        {"name": "glance-direct", "uri": None},
        {"name": "glance-direct", "glance_image_id": 5, "x": [1]},
    ],
)
async def test_what_clients_send_along_is_tolerated(many: Site, method: dict[str, Any]) -> None:
    """gophercloud names an empty URI with every method; unknown members are echoed in the task."""
    image = await staged(many)
    body = {"method": method, "extra": {"a": [1, None]}, "stores": None}
    assert await ask_import(many, image, body) == 202
    assert (await many.ended(image))["status"] == "active"
    assert (await many.tasks(image))[0]["input"]["import_req"] == body


async def test_passwords_in_urls_are_not_echoed(many: Site) -> None:
    image = await staged(many)
    body = {**D, "note": "see https://user:secret@example.com/x", "more": ["ftp://a:secret@h/"]}
    assert await ask_import(many, image, body) == 202
    await many.ended(image)
    answer = await many.call("GET", f"/images/{image}/tasks")
    assert "secret" not in await answer.text()
    assert "example.com" in await answer.text()
    rows = await many.service.database.fetch("SELECT data::text || meta::text AS all FROM events")
    assert not [row for row in rows if "secret" in row["all"]]


# --- the image ---------------------------------------------------------------------------


async def test_IM24_statuses(many: Site) -> None:
    queued, uploading, done = await many.image(), await staged(many), await active(many)
    for image, body in ((queued, D), (queued, CP), (uploading, W), (uploading, CP), (done, D), (done, W)):
        assert await unchanged(many, image, ask_import(many, image, body, "ADM")) == 409
    assert await many.tasks(queued) == []


async def test_IM19_formats_are_needed_by_then(many: Site) -> None:
    for missing in (
        {"container_format": None},
        {"disk_format": None},
        {"container_format": None, "disk_format": None},
    ):
        image = await staged(many, **missing)
        answer = await many.call("POST", f"/images/{image}/import", json=D)
        assert answer.status == 409
        assert next(iter(missing)) in await answer.text()
        assert (await many.show(image))["status"] == "uploading"


async def test_IM27_who_may_import(many: Site) -> None:
    public = await staged(many, "ADM", visibility="public")
    private = await staged(many, visibility="private")
    for image, who, status in (
        (public, "B", 403),
        (private, "C", 404),
        (private, "AR", 403),
        (private, "NR", 404),
        (private, None, 401),
        (public, "ADM", 202),
        (private, "ADM", 202),
    ):
        if status == 202:
            assert await ask_import(many, image, D, who) == 202
        else:
            assert await unchanged(many, image, ask_import(many, image, D, who)) == status
    shown = await many.ended(private)
    assert (shown["status"], shown["owner"]) == ("active", "pA")
    await many.ended(public)


async def test_IM28_one_import_at_a_time(faulty: Site) -> None:
    image = await staged(faulty)
    async with blocked(faulty, "fast"):
        assert await ask_import(faulty, image, D) == 202
        assert await ask_import(faulty, image, D) == 409
        assert await faulty.stage(image, RAW1K) == 409
        assert await faulty.upload(image, RAW1K) == 409
    assert (await faulty.ended(image))["status"] == "active"
    assert len(await faulty.tasks(image)) == 1


async def test_the_order_of_refusals(many: Site) -> None:
    """7.3, row by row: the first check that fails decides."""
    done, uploading = await active(many), await staged(many)
    bare = await staged(many, disk_format=None, container_format=None)
    others = await staged(many, "B", visibility="community")
    others_done = await active(many, "B", visibility="community")
    bad_type, nope = {"all_stores": 5}, {"stores": ["nope"]}
    for image, body, who, status in [
        ("unknown", {"method": 5, **bad_type}, "A", 400),
        ("unknown", {"method": {"name": "nope"}}, "A", 400),
        ("unknown", {**D, **bad_type}, "A", 400),
        ("unknown", {**D, "stores": []}, "A", 400),
        ("unknown", {**D, **nope}, "A", 404),
        (others_done, {**D, **nope}, "A", 409),  # 8 before 14: active, and not his
        (others, {**CP, **nope}, "A", 409),  # 9 before 14
        (others, {**W, **nope}, "A", 409),  # 10 before 14
        (others_done, {**CP, **nope}, "A", 403),  # 14 before 16
        (others, {**D, **nope}, "A", 403),  # 14 before 16
        (bare, {**D, **nope}, "AR", 409),  # 12 before 14
        (uploading, {**D, **nope}, "AR", 403),
        (uploading, {**D, **nope, "all_stores": True}, "A", 400),  # within 16: combination, names
        (uploading, {**D, **nope}, "A", 409),
        (done, {**CP, "stores": ["nope", "fast"]}, "ADM", 409),  # within 16: names, presence
        (done, {**CP, "stores": ["cheap", "fast"]}, "ADM", 400),
    ]:
        if image == "unknown":
            assert await ask_import(many, image, body, who) == status
        else:
            assert await unchanged(many, image, ask_import(many, image, body, who)) == status, (body, who)
    strangers = await staged(many, "B", visibility="private")
    assert await ask_import(many, strangers, CP) == 404  # 7 before all that looks at the image


async def test_a_running_job_is_found_before_stores_are_judged(faulty: Site) -> None:
    """15 before 16: for a copy, whose status precondition does not stop it."""
    image = await active(faulty)
    async with blocked(faulty, "cheap"):
        assert await ask_import(faulty, image, {**CP, "stores": ["cheap"]}, "ADM") == 202
        assert await ask_import(faulty, image, {**CP, "stores": ["nope"]}, "ADM") == 409
        assert await ask_import(faulty, image, {**CP, "all_stores": True, "stores": ["cheap"]}, "ADM") == 409
        assert await ask_import(faulty, image, {**CP, "stores": ["nope"]}) == 403  # 14 before 15
    await faulty.ended(image)


# --- the stores --------------------------------------------------------------------------


async def test_IM25_stores_that_cannot_be_meant(many: Site) -> None:
    image = await staged(many)
    for body, headers, status in (
        ({**D, "stores": ["nope"]}, {}, 409),
        (D, {"X_Image_Meta_Store": "nope"}, 409),
        (D, {"X_Image_Meta_Store": ""}, 409),
        ({**D, "stores": [""]}, {}, 409),
        ({**D, "stores": ["os_glance_staging_store"]}, {}, 409),
        (D, {"X_Image_Meta_Store": "os_glance_tasks_store"}, 409),
        ({**D, "all_stores": True, "stores": ["fast"]}, {}, 400),
        ({**D, "all_stores": True}, {"X_Image_Meta_Store": "fast"}, 400),
        ({**D, "stores": ["fast"]}, {"X_Image_Meta_Store": "cheap"}, 400),
        ({**D, "stores": ["fast", "cheap"]}, {"X_Image_Meta_Store": "fast"}, 400),
        ({**D, "stores": ["fast", "nope"]}, {}, 409),
    ):
        assert await unchanged(many, image, ask_import(many, image, body, **headers)) == status, (body, headers)
    assert "os_glance_import_task" not in await many.show(image)


@pytest.mark.parametrize(
    ("body", "headers", "store"),
    [
        ({"stores": None}, {}, "fast"),
        ({"stores": ["cheap", "cheap"]}, {}, "cheap"),
        ({"stores": None}, {"X_Image_Meta_Store": "cheap"}, "cheap"),
        ({"stores": ["cheap"]}, {"X_Image_Meta_Store": "cheap"}, "cheap"),
        ({"stores": ["cheap", "cheap"]}, {"X_Image_Meta_Store": "cheap"}, "cheap"),
        ({"all_stores": False}, {"X_Image_Meta_Store": "cheap"}, "cheap"),
        ({"all_stores": False, "all_stores_must_succeed": False}, {}, "fast"),
        ({}, {}, "fast"),
    ],
)
async def test_IM26_one_store_in_many_words(
    many: Site, body: dict[str, Any], headers: dict[str, str], store: str
) -> None:
    image = await staged(many)
    assert await ask_import(many, image, {**D, **body}, **headers) == 202
    assert (await many.ended(image))["stores"] == store
    await many.settled()
    prepared = [note for note in of_image(many.notes.of(image)) if note[0] == "prepare"]
    assert prepared == [prepare("importing", store, [store], [])]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"all_stores": True}, {}),
        ({"stores": ["zzz"]}, {"X_Image_Meta_Store": "nope"}),
        ({"all_stores": False, "all_stores_must_succeed": False}, {}),
        ({"all_stores": True, "stores": ["x"]}, {"X_Image_Meta_Store": "y"}),
    ],
)
async def test_IM29_a_single_store_site_looks_at_none_of_it(
    one: Site, body: dict[str, Any], headers: dict[str, str]
) -> None:
    image = await staged(one)
    assert await ask_import(one, image, {**D, **body}, **headers) == 202
    shown = await one.ended(image)
    assert shown["status"] == "active"
    assert "stores" not in shown
    assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("", "")


@pytest.mark.parametrize("body", [{"all_stores": "x"}, {"stores": [1]}, {"all_stores_must_succeed": None}])
async def test_types_are_checked_on_a_single_store_site_too(one: Site, body: dict[str, Any]) -> None:
    image = await staged(one)
    assert await unchanged(one, image, ask_import(one, image, {**D, **body})) == 400


async def test_IM30_there_is_nowhere_to_copy_to_on_a_single_store_site(one: Site) -> None:
    image = await active(one)
    for body in ({**CP, "all_stores": True}, CP):
        assert await unchanged(one, image, ask_import(one, image, body, "ADM")) == 409


# --- acceptance --------------------------------------------------------------------------


async def test_IM31_what_is_there_at_once(faulty: Site) -> None:
    """Task, lock, lists and status are in the transaction of the answer."""
    image = await staged(faulty)
    sent = "req-11111111-2222-3333-4444-555555555555"
    async with blocked(faulty, "fast"):
        answer = await faulty.call("POST", f"/images/{image}/import", json=D, headers={"X-OpenStack-Request-ID": sent})
        assert (answer.status, await answer.read()) == (202, b"")
        assert answer.headers["x-openstack-request-id"] == sent
        shown, (task,) = await faulty.show(image), await faulty.tasks(image, "A")
        assert shown["status"] == "importing"
        assert shown["os_glance_import_task"] == task["id"]
        assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("fast", "")
        assert task["type"] == "api_image_import"
        assert task["status"] in ("pending", "processing")
        assert (task["request_id"], task["user_id"], task["owner"]) == (sent, "uA", "pA")
        assert task["input"] == {"image_id": image, "import_req": D, "backend": ["fast"]}
        assert (task["result"], task["expires_at"]) == (None, None)
    await faulty.ended(image)


async def test_an_import_shows_no_store_on_a_single_store_site(one: Site) -> None:
    """Its task names none, its lists are empty from start to end."""
    image = await staged(one)
    assert await ask_import(one, image, D) == 202
    shown = await one.show(image)
    assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("", "")
    (task,) = await one.tasks(image)
    assert task["input"]["backend"] == [None]
    await one.ended(image)


async def test_five_stage_and_import_at_once(one: Site) -> None:
    """Images do not wait for one another in any way that shows."""
    images = [await staged(one) for _ in range(5)]
    for image in images:
        assert await ask_import(one, image, D) == 202
    for image in images:
        assert (await one.ended(image))["status"] == "active"
        assert objects(one, "file", image) == [RAW1K]
    await one.settled()
    assert not any(objects(one, "staging", image) for image in images)


async def test_IM88_the_tasks_of_an_image(one: Site) -> None:
    public, private = await active(one, "ADM", visibility="public"), await active(one, visibility="private")
    assert await one.tasks(public, "A") == []
    (task,) = await one.tasks(public, "ADM")
    stamps = [task[name] for name in ("created_at", "updated_at", "expires_at")]
    assert all(len(stamp) in (19, 26) and stamp[10] == "T" and stamp[-1].isdigit() for stamp in stamps)
    assert (task["deleted"], task["deleted_at"]) == (False, None)
    assert (task["status"], task["result"]) == ("success", {"image_id": public})
    assert {*TASK_KEYS} <= set(task)
    assert [item["image_id"] for item in await one.tasks(private, "AR")] == [private]
    for who, status in (("C", 404), ("NR", 404), (None, 401)):
        assert (await one.call("GET", f"/images/{private}/tasks", who)).status == status
    wrong = await one.call("POST", f"/images/{private}/tasks")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET")


TASK_KEYS = (
    *("id", "type", "status", "owner", "input", "result", "message", "image_id", "request_id", "user_id"),
    *("created_at", "updated_at", "expires_at", "deleted", "deleted_at"),
)


async def test_tasks_are_listed_in_the_order_of_their_making(one: Site) -> None:
    """Failed ones too; an image without any has an empty list."""
    image = await one.image(disk_format="vmdk")
    assert await one.tasks(image) == []
    for _ in range(3):
        await one.stage(image, RAW1K)
        assert await ask_import(one, image, D) == 202
        await one.ended(image)
    tasks = await one.tasks(image)
    assert [task["status"] for task in tasks] == ["failure"] * 3
    assert [task["created_at"] for task in tasks] == sorted(task["created_at"] for task in tasks)
    assert len({task["id"] for task in tasks}) == 3


async def test_tasks_expire(postgres: Server) -> None:
    """From then on they are not shown; the image stays."""
    async with passing(postgres, one_store(task="task_time_to_live = 1")) as site:
        image = await active(site)
        (task,) = await site.tasks(image)
        lived = datetime.fromisoformat(task["expires_at"]) - datetime.fromisoformat(task["updated_at"])
        assert lived == timedelta(hours=1)
        past = "UPDATE tasks SET expires_at = clock_timestamp() - interval '1 second'"
        await site.service.database.fetch(past)
        assert await site.tasks(image) == []
        assert (await site.show(image))["status"] == "active"
