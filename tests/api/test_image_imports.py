"""`/v2/image-imports`: scenarios IM102 to IM106 (import.md 19)."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
import pytest_asyncio

from kernel.charges import RESOURCES
from kernel.clock import SystemClock
from kernel.notifications import Notification
from kernel.quotas import Quotas
from kernel.rebuild import rebuild
from kernel.replay import check
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import QCOW, RAW1K
from tests.support.notes import of_image, upload
from tests.support.origin import Asked, Origin, origin, whole
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.running import site as site_on
from tests.support.standing import blocked, broken, four_stores, memory_stores, objects, one_store, somebody, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = "allowed_ports = []\ndisallowed_networks = []"
EXPIRY = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+0000")
STATUSES = ["waiting", "uploading", "verifying", "success"]
SITE = memory_stores(import_filtering_opts=OPEN)


class Ahead:
    """The machine's clock, moved ahead by hand."""

    def __init__(self) -> None:
        self.hours = 0.0

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(hours=self.hours)


CLOCK = Ahead()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(postgres: Server) -> AsyncIterator[Site]:
    """M4 with stores that can be broken and blocked, and a clock in the test's hands."""
    async with standing(postgres, SITE, also=(FAULTY,), clock=CLOCK) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def o() -> AsyncIterator[Origin]:
    async with origin() as made:
        yield made


async def asked(site: Site, location: str, who: Any = "A", **body: Any) -> dict[str, Any]:
    answer = await site.call("POST", "/image-imports", who, json={"location": location, **body})
    assert answer.status == 201, await answer.text()
    document: dict[str, Any] = await answer.json()
    assert answer.headers["Location"] == f"{_base(site)}/v2/image-imports/{document['id']}"
    return document


def _base(site: Site) -> str:
    return str(site.client.make_url("/")).rstrip("/")


async def shown(site: Site, import_id: str, who: Any = "A") -> dict[str, Any]:
    answer = await site.call("GET", f"/image-imports/{import_id}", who)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def ended(site: Site, import_id: str, who: Any = "A") -> dict[str, Any]:
    async def final() -> bool:
        return (await shown(site, import_id, who))["status"] in ("success", "failure")

    await site.until(final)
    return await shown(site, import_id, who)


async def became(site: Site, document: dict[str, Any], who: Any = "A") -> dict[str, Any]:
    """The image that an import ended in."""
    done = await ended(site, document["id"], who)
    assert done["status"] == "success", done
    answer = await site.call("GET", done["image_ref"].removeprefix("/v2"), who)
    assert answer.status == 200
    image: dict[str, Any] = await answer.json()
    return image


async def images(site: Site, who: Any) -> list[dict[str, Any]]:
    return list((await (await site.call("GET", "/images?limit=1000", who)).json())["images"])


async def row_of(site: Site, import_id: str) -> Any:
    query = "SELECT image, image_id FROM tasks WHERE id = $1::text::uuid"
    return await site.service.database.fetchrow(query, import_id)


async def told(site: Site, import_id: str) -> list[Notification]:
    """Everything that consumers heard of an import and of its image."""
    await site.settled()
    return site.notes.of((await row_of(site, import_id))["image_id"])


def held(data: bytes) -> tuple[Any, asyncio.Event]:
    """An answer of which the second half waits for the event."""
    release = asyncio.Event()

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        half = len(data) // 2
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:half])
        await writer.drain()
        await release.wait()
        writer.write(data[half:])

    return answer, release


@pytest.mark.requirement("REQ-088", "REQ-092", "REQ-093", "REQ-095", "REQ-096", "REQ-098", "REQ-100", "REQ-102")
async def test_IM102_an_image_appears_once_it_has_proved_to_be_one(many: Site, o: Origin) -> None:
    who = somebody()
    o.answers["/held"], release = held(RAW1K)
    properties = {"name": "GreatStack 1.22", "tags": ["lamp", "custom"]}
    document = await asked(many, o.url("/held"), who, image_properties=properties)
    assert document["status"] == "waiting"
    assert document["image_properties"] == properties
    assert document["self"] == f"/v2/image-imports/{document['id']}"
    assert document["schema"] == "/v2/schemas/image-import"
    assert document.keys().isdisjoint({"image_ref", "message", "expires-by", "owner", "stores", "all_stores"})

    async def uploading() -> bool:
        return (await shown(many, document["id"], who))["status"] == "uploading"

    await many.until(uploading)
    assert await images(many, who) == []
    hidden = (await row_of(many, document["id"]))["image_id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/file"), ("GET", "/tasks"), ("PUT", "/stage")):
        headers = {"Content-Type": "application/octet-stream"}
        answer = await many.call(method, f"/images/{hidden}{path}", "ADM", headers=headers)
        assert answer.status == 404, (method, path)
    release.set()
    done = await ended(many, document["id"], who)
    assert EXPIRY.fullmatch(done["expires-by"])
    assert done.keys().isdisjoint({"image_properties", "message"})
    image = await became(many, document, who)
    assert (image["status"], image["name"], image["tags"]) == ("active", "GreatStack 1.22", ["lamp", "custom"])
    assert (image["disk_format"], image["container_format"]) == ("raw", "bare")
    assert (image["owner"], image["size"], image["stores"]) == (who["X-Project-Id"], 1024, "fast")
    assert [item["id"] for item in await images(many, who)] == [image["id"]]
    assert await many.tasks(image["id"]) == []
    assert objects(many, "staging", image["id"]) == []
    assert image["created_at"] >= document["created_at"]
    assert done["image_ref"] == f"/v2/images/{image['id']}"


@pytest.mark.requirement("REQ-094", "REQ-103")
async def test_IM102_what_consumers_hear(many: Site, o: Origin) -> None:
    who = somebody()
    document = await asked(many, o.url("/raw"), who, stores=["cheap", "fast"])
    image = await became(many, document, who)
    notes = await told(many, document["id"])
    assert [note.event_type for note in notes] == [
        *("image_import.create", "image_import.update", "image_import.update"),
        *("image.create", "image.upload", "image.upload", "image.activate"),
        "image_import.update",
    ]
    records = [note.payload for note in notes if note.event_type.startswith("image_import.")]
    assert [record["status"] for record in records] == STATUSES  # type: ignore[index]
    assert [record["image_id"] for record in records] == [None, None, None, image["id"]]  # type: ignore[index]
    assert all(
        set(record)
        == {
            "id",
            "status",
            "owner",
            "image_id",
            "message",
            "created_at",
            "updated_at",
            "expires_at",
            "deleted",
            "deleted_at",
        }
        for record in records
        if isinstance(record, dict)
    )
    assert of_image(notes) == [
        "image.create",
        upload("active", "cheap", [], []),
        upload("active", "fast", [], []),
        "image.activate",
    ]
    created = next(note.payload for note in notes if note.event_type == "image.create")
    assert isinstance(created, dict)
    assert created["status"] == "active"


@pytest.mark.requirement("REQ-097", "REQ-099", "REQ-101")
async def test_IM103_a_failure_leaves_a_message_and_no_image(many: Site, o: Origin) -> None:
    who = somebody()
    location = o.url("/404", user="u:secret")
    document = await asked(many, location, who, image_properties={"name": "a", "tags": []})
    failed = await ended(many, document["id"], who)
    assert failed["status"] == "failure"
    assert "404" in failed["message"]
    assert o.url("/404", user="u:***") in failed["message"] or o.url("/404") in failed["message"]
    assert "secret" not in str(failed)
    assert failed["image_properties"] == {"name": "a", "tags": []}
    assert EXPIRY.fullmatch(failed["expires-by"])
    assert "image_ref" not in failed
    assert await images(many, who) == []
    notes = await told(many, document["id"])
    assert [note.event_type for note in notes] == [
        "image_import.create",
        *(["image_import.update"] * 2),
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"location": None}, 400),
        ({"location": ""}, 400),
        ({"location": " \t"}, 400),
        ({"location": 5}, 400),
        ({"location": "http://h/" + "x" * 2048}, 400),
        ({"location": "swift://c/a/o"}, 400),
        ({"location": "file:///x"}, 400),
        ({"location": "http://does-not.exist/x"}, 400),
        ({"location": "O", "unknown": 1}, 400),
        ({"location": "O", "image_properties": []}, 400),
        ({"location": "O", "image_properties": None}, 400),
        ({"location": "O", "image_properties": {"name": 5}}, 400),
        ({"location": "O", "image_properties": {"disk_format": "nope"}}, 400),
        ({"location": "O", "image_properties": {"container_format": "ovf"}}, 400),
        ({"location": "O", "image_properties": {"id": "x"}}, 403),
        ({"location": "O", "image_properties": {"id": str(uuid4())}}, 403),
        ({"location": "O", "image_properties": {"self": "x"}}, 403),
        ({"location": "O", "image_properties": {"status": "active"}}, 403),
        ({"location": "O", "image_properties": {"os_glance_a": "1"}}, 403),
        ({"location": "O", "image_properties": {"visibility": "public"}}, 403),
        ({"location": "O", "image_properties": {"owner": "pB"}}, 403),
        ({"location": "O", "stores": ["nope"]}, 409),
        ({"location": "O", "stores": ["os_glance_staging_store"]}, 409),
        ({"location": "O", "stores": []}, 400),
        ({"location": "O", "stores": "fast"}, 400),
        ({"location": "O", "stores": ["fast"], "all_stores": True}, 400),
        ({"location": "O", "all_stores": "true"}, 400),
        ({"location": "O", "all_stores_must_succeed": 1}, 400),
    ],
)
@pytest.mark.requirement("REQ-108")
async def test_IM104_requests_that_are_refused(many: Site, o: Origin, body: Any, status: int) -> None:
    if body.get("location") == "O":
        body = {**body, "location": o.url("/raw")}
    before = await many.service.log.head()
    answer = await many.call("POST", "/image-imports", "A", json=body)
    assert answer.status == status, await answer.text()
    assert await many.service.log.head() == before


async def test_IM104_no_body_at_all_and_refused_hosts(many: Site, one: Site) -> None:
    for data in (None, b"", b"no", b"[]"):
        assert (await many.call("POST", "/image-imports", data=data)).status == 400
    refused = await one.call("POST", "/image-imports", json={"location": "http://127.0.0.1/x"})
    assert refused.status == 400
    assert "does not pass filtering" in await refused.text()


async def test_IM104_bodies_that_are_longer_than_any_request_are_413(many: Site, o: Origin) -> None:
    """What is sent is kept with the record, and written anew with every step."""
    for size, status in ((1 << 18, 413), (1 << 17, 201)):
        body = {"location": o.url("/raw"), "image_properties": {"x": "x" * size}}
        assert (await many.call("POST", "/image-imports", json=body)).status == status


@pytest.mark.requirement("REQ-105", "REQ-106")
async def test_IM105_who_sees_whose_imports(many: Site, o: Origin) -> None:
    mine, theirs = somebody(), somebody()
    made = [(await asked(many, o.url("/404"), mine))["id"] for _ in range(3)]
    other = (await asked(many, o.url("/404"), theirs))["id"]

    async def listed(query: str, who: Any) -> dict[str, Any]:
        answer = await many.call("GET", f"/image-imports{query}", who)
        assert answer.status == 200, await answer.text()
        document: dict[str, Any] = await answer.json()
        return document

    first = await listed("?limit=2", mine)
    second = await listed(first["next"].removeprefix("/v2/image-imports"), mine)
    assert [item["id"] for item in (*first["image-imports"], *second["image-imports"])] == made[::-1]
    assert "next" not in second
    assert (first["first"], first["schema"]) == ("/v2/image-imports?limit=2", "/v2/schemas/image-imports")
    assert [item["id"] for item in (await listed("", theirs))["image-imports"]] == [other]
    everything = (await listed("?all_projects=true&limit=1000", "ADM"))["image-imports"]
    assert {*made, other} <= {item["id"] for item in everything}
    assert {item["owner"] for item in everything if item["id"] == other} == {theirs["X-Project-Id"]}
    assert (await listed("?limit=1000", "ADM"))["image-imports"] == []
    assert all("owner" not in item for item in first["image-imports"])
    reader = {**mine, "X-Roles": "reader"}
    assert (await shown(many, made[0], reader))["id"] == made[0]
    assert (await many.call("POST", "/image-imports", reader, json={"location": o.url("/raw")})).status == 403
    for method, path in (("GET", "/image-imports"), ("POST", "/image-imports"), ("GET", f"/image-imports/{made[0]}")):
        assert (await many.call(method, path, None)).status == 401
    for who, status in ((theirs, 404), ("ADM", 200), ({**mine, "X-Roles": ""}, 403)):
        assert (await many.call("GET", f"/image-imports/{made[0]}", who)).status == status, who
    for unknown in ("x", str(uuid4()), "%00"):
        assert (await many.call("GET", f"/image-imports/{unknown}", "ADM")).status == 404
    assert (await many.call("GET", "/image-imports?all_projects=true", mine)).status == 403
    ascending = (await listed("?sort_dir=asc&sort_key=created_at", mine))["image-imports"]
    assert [item["id"] for item in ascending] == made
    for query in (
        *("limit=x", "limit=-1", "marker=x", f"marker={other}", "sort_key=owner", "sort_dir=up", "status=pending"),
        "all_projects=perhaps",
    ):
        assert (await many.call("GET", f"/image-imports?{query}", mine)).status == 400, query
    await many.settled()
    assert len((await listed("?status=failure", mine))["image-imports"]) == 3
    assert (await listed("?status=waiting", mine))["image-imports"] == []


async def test_administrators_without_a_project_have_imports_too(many: Site, o: Origin) -> None:
    nowhere = {"X-Identity-Status": "Confirmed", "X-User-Id": "root", "X-Roles": "admin"}
    import_id = (await asked(many, o.url("/404"), nowhere))["id"]
    listed = await many.call("GET", "/image-imports", nowhere)
    assert [item["id"] for item in (await listed.json())["image-imports"]] == [import_id]
    nobody = {**nowhere, "X-Roles": "member,reader"}
    assert (await many.call("GET", f"/image-imports/{import_id}", nobody)).status == 404
    answer = await many.call("GET", "/image-imports", nobody)
    assert answer.status == 403 or (await answer.json())["image-imports"] == []
    assert (await many.call("POST", "/image-imports", nobody, json={"location": o.url("/raw")})).status == 403


async def test_image_imports_are_no_tasks(many: Site, o: Origin) -> None:
    import_id = (await asked(many, o.url("/raw")))["id"]
    await ended(many, import_id)
    assert (await many.call("GET", f"/tasks/{import_id}", "ADM")).status == 404
    assert (await many.call("GET", f"/tasks?marker={import_id}", "ADM")).status == 400
    listed = (await (await many.call("GET", "/tasks?limit=1000", "ADM")).json())["tasks"]
    assert import_id not in [item["id"] for item in listed]
    image = await many.image()
    await many.stage(image, RAW1K)
    await many.do_import(image)
    await many.ended(image)
    task = (await many.tasks(image))[0]["id"]
    assert (await many.call("GET", f"/image-imports/{task}", "ADM")).status == 404


@pytest.mark.requirement("REQ-107", "REQ-109", "REQ-110", "REQ-111", "REQ-112")
async def test_IM106_other_methods_and_schemas(many: Site) -> None:
    assert (await many.call("POST", "/image-actions", json={})).status == 404, "each resource has its own"
    for method in ("DELETE", "PUT", "PATCH"):
        answer = await many.call(method, f"/image-imports/{uuid4()}")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")
        answer = await many.call(method, "/image-imports")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")
    schema = await (await many.call("GET", "/schemas/image-import")).json()
    assert schema["properties"]["status"]["enum"] == ["waiting", "uploading", "verifying", "success", "failure"]
    assert schema["request"]["required"] == ["location"]
    assert set(schema["request"]["properties"]) == {
        *("location", "image_properties"),
        *("stores", "all_stores", "all_stores_must_succeed"),
    }
    listing = await (await many.call("GET", "/schemas/image-imports")).json()
    assert set(listing["properties"]) == {"image-imports", "first", "next", "schema"}
    assert {link["rel"] for link in listing["links"]} == {"first", "next", "describedby"}


async def test_what_is_answered_is_what_the_schemas_say(many: Site, o: Origin) -> None:
    schema = await (await many.call("GET", "/schemas/image-import")).json()
    nowhere = {"X-Identity-Status": "Confirmed", "X-User-Id": "root", "X-Roles": "admin"}
    for who in ("A", "ADM", nowhere):
        for path, more in (("/raw", {"stores": ["cheap"]}), ("/404", {"image_properties": {"name": "n"}})):
            jsonschema.validate({"location": o.url(path), **more}, schema["request"])
            document = await asked(many, o.url(path), who, **more)
            for shown_now in (document, await ended(many, document["id"], who)):
                jsonschema.validate(shown_now, {**schema, "additionalProperties": False})
    listed = await (await many.call("GET", "/image-imports?all_projects=true&limit=2", "ADM")).json()
    listing = await (await many.call("GET", "/schemas/image-imports")).json()
    jsonschema.validate(listed, {"type": "object", **listing, "additionalProperties": False})


async def test_gate_D_closes_all_of_it(postgres: Server) -> None:
    async with standing(postgres, one_store(image_imports="enabled = false")) as site:
        for method, path in (
            *(("GET", "/image-imports"), ("POST", "/image-imports"), ("DELETE", "/image-imports")),
            *(("GET", f"/image-imports/{uuid4()}"), ("PUT", f"/image-imports/{uuid4()}")),
            *(("GET", "/schemas/image-import"), ("GET", "/schemas/image-imports")),
        ):
            assert (await site.call(method, path, "ADM")).status == 404, (method, path)


@pytest.mark.requirement("REQ-089", "REQ-091")
async def test_data_that_is_not_what_it_is_said_to_be_becomes_no_image(many: Site, o: Origin) -> None:
    who = somebody()
    for path, properties, gist in (
        ("/raw", {"disk_format": "qcow2"}, "does not match"),
        ("/empty", {}, "no data"),
        ("/short", {}, ""),
    ):
        document = await asked(many, o.url(path), who, image_properties=properties)
        failed = await ended(many, document["id"], who)
        assert failed["status"] == "failure"
        assert gist in failed["message"]
        notes = await told(many, document["id"])
        assert {note.event_type.split(".")[0] for note in notes} == {"image_import"}
        hidden = (await row_of(many, document["id"]))["image_id"]
        for place in ("staging", "fast", "cheap", "reliable"):
            assert objects(many, place, hidden) == []
    assert await images(many, who) == []


async def test_a_format_that_nobody_declared_is_found_out(many: Site, o: Origin) -> None:
    image = await became(many, await asked(many, o.url("/qcow")))
    assert (image["disk_format"], image["container_format"]) == ("qcow2", "bare")
    assert (image["size"], image["virtual_size"]) == (len(QCOW), 1 << 20)
    declared = {"disk_format": "raw", "container_format": "ovf", "min_disk": 1, "protected": True, "p": "v"}
    image = await became(many, await asked(many, o.url("/raw"), image_properties=declared))
    assert {name: image[name] for name in declared} == declared


async def test_several_stores_and_one_that_fails(many: Site, o: Origin) -> None:
    with broken(many, "cheap"):
        loose = await asked(many, o.url("/raw"), all_stores=True, all_stores_must_succeed=False)
        image = await became(many, loose)
        strict = await asked(many, o.url("/raw"), stores=["fast", "cheap"])
        failed = await ended(many, strict["id"])
        everything = await asked(many, o.url("/raw"), stores=["cheap"], all_stores_must_succeed=False)
        nothing = await ended(many, everything["id"])
    assert (loose["all_stores"], loose["all_stores_must_succeed"], strict["stores"]) == (True, False, ["fast", "cheap"])
    assert image["stores"] == "fast,reliable"
    assert (image["os_glance_importing_to_stores"], image["os_glance_failed_import"]) == ("", "cheap")
    assert (failed["status"], nothing["status"]) == ("failure", "failure")
    assert "cheap" in failed["message"]
    for document in (strict, everything):
        await told(many, document["id"])
        hidden = (await row_of(many, document["id"]))["image_id"]
        assert objects(many, "fast", hidden) == objects(many, "cheap", hidden) == []
    notes = await told(many, loose["id"])
    assert of_image(notes) == [
        "image.create",
        upload("active", "fast", [], ["cheap"]),
        upload("active", "reliable", [], ["cheap"]),
        "image.activate",
    ]


@pytest.mark.requirement("REQ-090")
async def test_nothing_is_seen_while_the_second_store_is_written(many: Site, o: Origin) -> None:
    who = somebody()
    async with blocked(many, "cheap"):
        document = await asked(many, o.url("/raw"), who, stores=["fast", "cheap"], all_stores_must_succeed=False)
        hidden = (await row_of(many, document["id"]))["image_id"]
        await many.until(lambda: objects(many, "fast", hidden) == [RAW1K])
        assert (await shown(many, document["id"], who))["status"] == "verifying"
        assert await images(many, who) == []
        assert (await many.call("GET", f"/images/{hidden}", "ADM")).status == 404
    image = await became(many, document, who)
    assert image["stores"] == "cheap,fast"


@pytest.mark.requirement("REQ-104")
async def test_plugins_have_their_say(postgres: Server, o: Origin) -> None:
    """Verification is the operator's plugin chain, run with the roles of whoever asked."""
    config = one_store(
        import_filtering_opts=OPEN,
        image_import_opts="image_import_plugins = [image_decompression, inject_image_metadata]",
        inject_metadata_properties="inject = checked:yes",
    )
    async with standing(postgres, config) as site:
        image = await became(site, await asked(site, o.url("/gz"), image_properties={"name": "n"}))
        assert (image["size"], image["checked"], image["disk_format"]) == (1024, "yes", "raw")
        unchecked = await became(site, await asked(site, o.url("/gz"), "ADM"), "ADM")
        assert "checked" not in unchecked
        o.answers["/torn"] = whole(gzip.compress(RAW1K)[:20])
        failed = await ended(site, (await asked(site, o.url("/torn")))["id"])
        assert "image_decompression" in failed["message"]


@pytest.mark.requirement("REQ-098")
@pytest.mark.parametrize(("hours", "status"), [(4, 200), (6, 404)])
async def test_imports_expire_and_their_images_stay(postgres: Server, o: Origin, hours: int, status: int) -> None:
    clock = Ahead()
    config = one_store(import_filtering_opts=OPEN, image_imports="time_to_live = 5")
    async with standing(postgres, config, clock=clock) as site:
        document = await asked(site, o.url("/raw"))
        image = await became(site, document)
        clock.hours = hours
        assert (await site.call("GET", f"/image-imports/{document['id']}")).status == status
        listed = (await (await site.call("GET", "/image-imports")).json())["image-imports"]
        assert bool(listed) is (status == 200)
        assert (await site.show(image["id"]))["status"] == "active"
        if status == 404:
            await site.service.database.fetchval("UPDATE images SET due_at = now() WHERE work = 'expire' RETURNING 1")

            async def told_of() -> bool:
                return "image_import.delete" in [note.event_type for note in site.notes.of(image["id"])]

            await site.until(told_of)
            gone = site.notes.of(image["id"])[-1].payload
            assert isinstance(gone, dict)
            assert (gone["deleted"], gone["id"], gone["status"]) == (True, document["id"], "success")
            assert gone["deleted_at"] is not None


async def test_an_image_goes_its_own_way_afterwards(many: Site, o: Origin) -> None:
    """Later jobs have tasks of their own, deletion is deletion, and the import's record outlives it."""
    who = somebody()
    document = await asked(many, o.url("/raw"), who)
    image = await became(many, document, who)
    copy = {"method": {"name": "copy-image"}, "stores": ["cheap"]}
    assert (await many.call("POST", f"/images/{image['id']}/import", "ADM", json=copy)).status == 202
    assert (await many.ended(image["id"]))["stores"] == "cheap,fast"
    assert [task["type"] for task in await many.tasks(image["id"])] == ["api_image_import"]
    assert (await many.call("DELETE", f"/images/{image['id']}", who)).status == 204
    assert (await shown(many, document["id"], who))["status"] == "success"
    await many.settled()
    assert objects(many, "fast", image["id"]) == objects(many, "cheap", image["id"]) == []


async def test_what_is_under_way_counts_as_staging(many: Site, o: Origin) -> None:
    who = somebody()
    project = who["X-Project-Id"]

    async def usage() -> dict[str, int]:
        rows = await many.service.database.fetch("SELECT resource, amount FROM usage WHERE owner = $1", project)
        return {row["resource"]: row["amount"] for row in rows if row["amount"]}

    async with blocked(many, "fast"):
        document = await asked(many, o.url("/raw"), who)

        async def verifying() -> bool:
            return (await shown(many, document["id"], who))["status"] == "verifying"

        await many.until(verifying)
        assert await usage() == {
            "image_count_total": 1,
            "image_count_uploading": 1,
            "image_stage_total": 1024,
            "image_size_total": 1024,  # what is being written counts as if it were there
        }
    await became(many, document, who)
    assert await usage() == {"image_count_total": 1, "image_size_total": 1024}
    failing = await asked(many, o.url("/404"), who)
    await ended(many, failing["id"], who)
    assert await usage() == {"image_count_total": 1, "image_size_total": 1024}


async def test_quotas_refuse_what_would_exceed_them(many: Site, o: Origin) -> None:
    """Counted from the request on, so that nobody can ask for more than fits."""
    who = somebody()
    plenty = dict.fromkeys(RESOURCES, -1)
    site, former = many.service.site, many.service.site.quotas
    try:
        for resource in ("image_count_total", "image_count_uploading"):
            limits = {**plenty, resource: 1}
            site.quotas = Quotas(source=partial(_known, limits))
            async with blocked(many, "fast") as fast:
                first = await asked(many, o.url("/raw"), who)
                async with asyncio.timeout(10):
                    await fast.blocked.wait()
                answer = await many.call("POST", "/image-imports", who, json={"location": o.url("/raw")})
                assert answer.status == 413, resource
                assert resource in await answer.text()
            image = await became(many, first, who)
            assert (await many.call("DELETE", f"/images/{image['id']}", who)).status == 204
            await many.settled()
    finally:
        site.quotas = former
    site.quotas = Quotas(storage=1000)
    try:
        failed = await ended(many, (await asked(many, o.url("/raw"), somebody()))["id"], "ADM")
    finally:
        site.quotas = former
    assert failed["status"] == "failure"
    assert "user_storage_quota" in failed["message"]


async def _known(limits: dict[str, int], owner: str) -> dict[str, int]:
    return limits


async def test_the_log_tells_what_the_tables_say(postgres: Server, o: Origin, directory: Path) -> None:
    dsn = await postgres.fresh()
    try:
        async with site_on(dsn, directory, four_stores(import_filtering_opts=OPEN)(directory)) as site:
            image = await became(site, await asked(site, o.url("/raw")))
            await ended(site, (await asked(site, o.url("/404")))["id"])
            await site.settled()
            before = await site.show(image["id"])
            assert (await check(dsn)).differences == ()
            await rebuild(dsn, "inline")
            assert (await check(dsn)).differences == ()
            assert await site.show(image["id"]) == before
    finally:
        await postgres.drop(dsn)


async def test_protected_properties_are_protected_here_as_well(postgres: Server, o: Origin) -> None:
    def config(directory: Path) -> str:
        everybody = "read = @\nupdate = @\ndelete = @\n"
        rules = (
            "[^secret]\ncreate = admin, member\nread = admin\nupdate = admin\ndelete = admin",
            f"[^closed]\ncreate = admin\n{everybody}",
            f"[.*]\ncreate = @\n{everybody}",
        )
        (directory / "protection.conf").write_text("\n".join(rules))
        default = f"property_protection_file = {directory}/protection.conf"
        return one_store(DEFAULT=default, import_filtering_opts=OPEN)(directory)

    async with standing(postgres, config) as site:
        reader = {**somebody("reader")}
        for name, who, status in (("secret", reader, 403), ("closed", "A", 403), ("closed", "ADM", 201)):
            body = {"location": o.url("/raw"), "image_properties": {name: "x"}}
            answer = await site.call("POST", "/image-imports", who, json=body)
            assert answer.status == status, (name, who, await answer.text())
        given = {"name": "n", "secret": "x", "open": "y"}
        document = await asked(site, o.url("/404"), image_properties=given)
        assert document["image_properties"] == {"name": "n", "open": "y"}, "who may set it need not read it"
        assert (await shown(site, document["id"], "ADM"))["image_properties"] == given
        await site.settled()
