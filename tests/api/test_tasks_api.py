"""The Tasks API: scenarios IM88 to IM94 (import.md 14 and 15)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
import pytest_asyncio

from kernel.clock import SystemClock
from tests.support.disk_images import good
from tests.support.formats import RAW1K
from tests.support.notes import of_image, of_tasks, prepare, upload
from tests.support.origin import Origin, origin, whole
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, objects, one_store, somebody, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = "allowed_ports = []\ndisallowed_networks = []"
PRECISE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?")
SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Ahead:
    """The machine's clock, moved ahead by hand."""

    def __init__(self) -> None:
        self.hours = 0.0

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(hours=self.hours)


CLOCK = Ahead()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, four_stores(import_filtering_opts=OPEN), clock=CLOCK) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def o() -> AsyncIterator[Origin]:
    async with origin() as made:
        yield made


def admin() -> dict[str, str]:
    """An administrator of a project of his own."""
    return somebody("admin,member,reader")


def task_of(uri: str, **properties: Any) -> dict[str, Any]:
    attributes = {"name": "n", "disk_format": "raw", "container_format": "bare", "foo": "bar", **properties}
    return {
        "type": "import",
        "input": {"import_from": uri, "import_from_format": "raw", "image_properties": attributes},
    }


async def created(site: Site, body: Any, who: Any = "ADM") -> dict[str, Any]:
    answer = await site.call("POST", "/tasks", who, json=body)
    assert answer.status == 201, await answer.text()
    document: dict[str, Any] = await answer.json()
    assert answer.headers["Location"].endswith(f"/v2/tasks/{document['id']}")
    assert answer.headers["Location"].startswith("http://")
    return document


async def ended(site: Site, task: str, who: Any = "ADM") -> dict[str, Any]:
    async def final() -> bool:
        return (await shown(site, task, who))["status"] in ("success", "failure")

    await site.until(final)
    return await shown(site, task, who)


async def shown(site: Site, task: str, who: Any = "ADM") -> dict[str, Any]:
    answer = await site.call("GET", f"/tasks/{task}", who)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def test_IM88_tasks_of_an_image_are_those_of_the_callers_project(many: Site) -> None:
    image = await many.image("ADM", visibility="public")
    await many.stage(image, RAW1K, "ADM")
    await many.do_import(image, "ADM")
    await many.ended(image)
    assert await many.tasks(image, "A") == []
    (task,) = await many.tasks(image, "ADM")
    assert set(task) == {
        *("id", "type", "status", "owner", "input", "result", "message", "image_id", "request_id", "user_id"),
        *("created_at", "updated_at", "expires_at", "deleted", "deleted_at"),
    }
    assert task["type"] == "api_image_import"
    assert (task["deleted"], task["deleted_at"]) == (False, None)
    for name in ("created_at", "updated_at", "expires_at"):
        assert PRECISE.fullmatch(task[name])
    private = await many.image("A", visibility="private")
    assert (await many.call("GET", f"/images/{private}/tasks", "C")).status == 404
    assert (await many.call("POST", f"/images/{private}/tasks", "A", json={})).status == 405


@pytest.mark.requirement("REQ-006", "REQ-011", "REQ-012", "REQ-013")
async def test_IM89_the_tasks_api_is_the_administrators(many: Site) -> None:
    unknown = uuid4()
    for method, path, data in (
        ("GET", "/tasks", None),
        ("POST", "/tasks", b"{broken"),
        ("GET", "/tasks/x", None),
        ("DELETE", "/tasks/x", None),
        ("GET", f"/tasks/{unknown}", None),
    ):
        assert (await many.call(method, path, "A", data=data)).status == 403, (method, path)
        assert (await many.call(method, path, None, data=data)).status == 401, (method, path)
    refused = await many.call("DELETE", "/tasks/x", "ADM")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET")
    assert "expire" in await refused.text()
    for method, path, allow in (("PUT", "/tasks/x", "GET"), ("DELETE", "/tasks", "GET, POST")):
        answer = await many.call(method, path, "ADM")
        assert (answer.status, answer.headers["Allow"]) == (405, allow)
    for path in ("/tasks/x", f"/tasks/{unknown}", "/tasks/%00"):
        assert (await many.call("GET", path, "ADM")).status == 404


@pytest.mark.requirement("REQ-113")
async def test_IM90_a_task_downloads_and_makes_a_new_image(many: Site, o: Origin) -> None:
    who = admin()
    document = await created(many, task_of(o.url("/raw", user="u:secret")), who)
    task = document["id"]
    assert document["status"] == "pending"
    assert (document["self"], document["schema"]) == (f"/v2/tasks/{task}", "/v2/schemas/task")
    assert (document["type"], document["owner"]) == ("import", who["X-Project-Id"])
    assert (document["result"], document["message"]) == (None, "")
    assert "expires_at" not in document
    assert "secret" not in str(document)
    done = await ended(many, task, who)
    assert done["status"] == "success", done
    image_id = done["result"]["image_id"]
    assert done["image_id"] == image_id
    for name in ("created_at", "updated_at", "expires_at"):
        assert SECONDS.fullmatch(done[name])
    image = await many.show(image_id, who)  # type: ignore[arg-type]
    assert (image["status"], image["foo"], image["owner"]) == ("active", "bar", who["X-Project-Id"])
    assert (image["size"], image["stores"], image["name"]) == (1024, "fast", "n")
    listed = (await (await many.call("GET", "/tasks", who)).json())["tasks"]
    entry = next(item for item in listed if item["id"] == task)
    assert entry.keys().isdisjoint({"input", "result", "message"})
    await many.settled()
    notes = many.notes.of(image_id)
    assert of_tasks(notes) == ["task.create", "task.processing", "task.success"]
    assert of_image(notes) == [
        "image.create",
        prepare("queued", "fast", ["fast"], []),
        upload("active", "fast", [], []),
        "image.activate",
    ]
    assert [note.event_type for note in notes][:2] == ["task.create", "task.processing"]
    assert notes[-1].event_type == "task.success"
    assert next(n.payload for n in notes if n.event_type == "image.create")["status"] == "queued"  # type: ignore[index]
    assert objects(many, "staging", image_id) == []


async def test_the_image_of_a_task_is_there_while_it_is_made_and_nobody_else_may_fill_it(many: Site, o: Origin) -> None:
    task = (await created(many, task_of(o.url("/slow"), name="under way")))["id"]

    async def processing() -> bool:
        return (await shown(many, task))["status"] == "processing"

    await many.until(processing)
    image_id = (await shown(many, task))["image_id"]
    assert (await many.show(image_id))["status"] == "queued"
    assert await many.stage(image_id, b"x", "ADM") == 409
    assert await many.upload(image_id, b"x", "ADM") == 409
    assert (await many.call("DELETE", f"/images/{image_id}", "ADM")).status == 204
    failed = await ended(many, task)
    assert (failed["status"], failed["message"]) == ("failure", "The image has been deleted")
    await many.settled()
    notes = [note.event_type for note in many.notes.of(image_id)]
    assert notes[-2:] == ["image.delete", "task.failure"]
    assert objects(many, "staging", image_id) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "import"},
        {"input": {"import_from": "O"}},
        {"type": "nope", "input": {"import_from": "O"}},
        {"type": "api_image_import", "input": {"import_from": "O"}},
        {"type": "location_import", "input": {"import_from": "O"}},
        {"type": 5, "input": {"import_from": "O"}},
        {"type": "import", "input": {"import_from": "O"}, "x": 1},
        {"type": "import", "input": None},
        {"type": "import", "input": []},
        {"type": "import", "input": {}},
        {"type": "import", "input": {"import_from": None}},
        {"type": "import", "input": {"import_from": 5}},
        {"type": "import", "input": {"import_from": ""}},
        {"type": "import", "input": {"import_from": "file:///etc/passwd"}},
        {"type": "import", "input": {"import_from": "swift://x"}},
        {"type": "import", "input": {"import_from": "http://does-not.exist/x"}},
        {"type": "import", "input": {"import_from": "O", "import_from_format": 5}},
        {"type": "import", "input": {"import_from": "O", "import_from_format": "nope"}},
        {"type": "import", "input": {"import_from": "O", "image_properties": []}},
        {"type": "import", "input": {"import_from": "O", "image_properties": {"name": 5}}},
        {"type": "import", "input": {"import_from": "O", "image_properties": {"min_disk": -1}}},
        {"type": "import", "input": {"import_from": "O", "image_properties": {"container_format": "ovf"}}},
    ],
)
async def test_IM91_requests_that_are_refused(many: Site, o: Origin, body: Any) -> None:
    if isinstance(body.get("input"), dict) and body["input"].get("import_from") == "O":
        body = {**body, "input": {**body["input"], "import_from": o.url("/raw")}}
    before = await many.service.log.head()
    assert (await many.call("POST", "/tasks", "ADM", json=body)).status == 400
    assert await many.service.log.head() == before


async def test_IM91_no_body_at_all(many: Site) -> None:
    for data in (None, b"", b"not json", b"[]"):
        assert (await many.call("POST", "/tasks", "ADM", data=data)).status == 400


@pytest.mark.parametrize("name", ["id", "os_glance_x", "status", "self"])
async def test_attributes_that_are_not_the_callers_to_set(many: Site, o: Origin, name: str) -> None:
    assert (await many.call("POST", "/tasks", "ADM", json=task_of(o.url("/raw"), **{name: "x"}))).status in (400, 403)


async def test_IM91_refused_hosts(one: Site, o: Origin) -> None:
    """The default filter lets nobody fetch from this machine."""
    answer = await one.call("POST", "/tasks", "ADM", json=task_of("http://127.0.0.1/x"))
    assert answer.status == 400
    assert "does not pass filtering" in await answer.text()


async def test_IM92_what_the_job_needs_and_the_request_does_not(many: Site, o: Origin) -> None:
    for given, missing in (
        ({"image_properties": {}}, "import_from_format"),
        ({"import_from_format": "raw"}, "image_properties"),
        ({}, "import_from_format"),
    ):
        body = {"type": "import", "input": {"import_from": o.url("/raw"), **given}}
        who = admin()
        task = (await created(many, body, who))["id"]
        failed = await ended(many, task, who)
        assert (failed["status"], failed["result"]) == ("failure", None)
        assert failed["message"] == f"Input does not contain '{missing}' field"
        assert "image_id" not in failed
        own = await many.call("GET", f"/images?owner={who['X-Project-Id']}", who)
        assert (await own.json())["images"] == []
    await many.settled()
    messages = [note for note in many.notes.messages if str(task) in str(note.payload)]
    assert [m.event_type for m in messages] == ["task.create", "task.processing", "task.run", "task.failure"]
    assert [m.event_type for m in many.notes.of(messages[0].image_id or "")] == [m.event_type for m in messages]


async def test_a_format_is_enough_of_a_description(many: Site, o: Origin) -> None:
    body = {
        "type": "import",
        "input": {"import_from": o.url("/raw"), "import_from_format": "raw", "image_properties": {}},
    }
    done = await ended(many, (await created(many, body))["id"])
    image = await many.show(done["result"]["image_id"])
    assert (image["status"], image["disk_format"], image["container_format"]) == ("active", "raw", "bare")


async def test_a_failed_task_takes_its_image_with_it(many: Site, o: Origin) -> None:
    for path, disk_format, gist in (
        *(("/404", "raw", "404"), ("/raw", "qcow2", "does not match")),
        *(("/short", "raw", ""), ("/empty", "raw", "no data")),
    ):
        task = (await created(many, task_of(o.url(path), disk_format=disk_format)))["id"]
        failed = await ended(many, task)
        assert failed["status"] == "failure"
        assert gist in failed["message"]
        assert "image_id" not in failed
        row = await many.service.database.fetchrow("SELECT image, image_id FROM tasks WHERE id = $1::text::uuid", task)
        assert (await many.call("GET", f"/images/{row['image_id']}", "ADM")).status == 404
        await many.settled()
        notes = many.notes.of(row["image_id"])
        assert [note.event_type for note in notes][-2:] == ["image.delete", "task.failure"]
        for place in ("staging", "fast", "cheap", "reliable"):
            assert objects(many, place, row["image_id"]) == []
    usage = await many.service.database.fetch("SELECT * FROM usage WHERE resource = 'image_stage_total'")
    assert all(row["amount"] == 0 for row in usage)


@pytest.mark.parametrize(("hours", "status"), [(47, 200), (49, 404)])
async def test_IM93_finished_tasks_expire(many: Site, o: Origin, hours: int, status: int) -> None:
    who = admin()
    task = (await created(many, task_of(o.url("/raw")), who))["id"]
    image = (await ended(many, task, who))["result"]["image_id"]
    CLOCK.hours = hours
    try:
        assert (await many.call("GET", f"/tasks/{task}", who)).status == status
        listed = (await (await many.call("GET", "/tasks?limit=1000", who)).json())["tasks"]
        assert (task in [item["id"] for item in listed]) is (status == 200)
        of_the_image = await many.tasks(image, who)  # type: ignore[arg-type]
        assert bool(of_the_image) is (status == 200)
        marked = await many.call("GET", f"/tasks?marker={task}", who)
        assert marked.status == (200 if status == 200 else 400)
    finally:
        CLOCK.hours = 0


async def test_IM94_pages_of_tasks(many: Site, o: Origin) -> None:
    who = somebody("keeper")  # sees his own project's only
    for _ in range(3):
        await created(many, task_of(o.url("/404")), {**who, "X-Roles": "admin,member,reader"})

    async def listed(query: str) -> dict[str, Any]:
        answer = await many.call("GET", f"/tasks{query}", {**who, "X-Roles": "admin,member,reader"})
        assert answer.status == 200, await answer.text()
        document: dict[str, Any] = await answer.json()
        return document

    first = await listed("?limit=2")
    assert len(first["tasks"]) == 2
    assert (first["first"], first["schema"]) == ("/v2/tasks?limit=2", "/v2/schemas/tasks")
    second = await listed(first["next"].removeprefix("/v2/tasks"))
    assert second["tasks"]
    assert {item["id"] for item in first["tasks"]}.isdisjoint(item["id"] for item in second["tasks"])
    nothing = await listed("?limit=0")
    assert (nothing["tasks"], "next" in nothing) == ([], False)
    assert (await listed("?status=success&type=import&anything=else"))["first"].startswith("/v2/tasks?")
    assert {item["type"] for item in (await listed("?type=api_image_import"))["tasks"]} <= {"api_image_import"}
    for key in ("id", "type", "status", "created_at", "updated_at", "expires_at", "owner"):
        for direction in ("asc", "desc"):
            await pages_hold_everything(many, {**who, "X-Roles": "admin,member,reader"}, key, direction)
    for query in (
        *("limit=-1", "limit=x", "limit=1.5", "limit=", "marker=x", f"marker={uuid4()}", "marker=", "sort_key=nope"),
        *("sort_key=message", "sort_dir=up", "status=done", "type=nope", "status=waiting"),
    ):
        answer = await many.call("GET", f"/tasks?{query}", "ADM")
        assert answer.status == 400, query


async def pages_hold_everything(site: Site, who: Any, key: str, direction: str) -> None:
    """Going through pages of any order shows every task once."""
    query = f"/tasks?limit=7&sort_key={key}&sort_dir={direction}"
    seen: list[dict[str, Any]] = []
    while query:
        document = await (await site.call("GET", query, who)).json()
        seen += document["tasks"]
        query = document.get("next", "").removeprefix("/v2")
    count = await site.service.database.fetchval("SELECT count(*) FROM tasks WHERE type <> 'image_import'")
    assert len({item["id"] for item in seen}) == len(seen) == count
    if key in ("created_at", "status", "type"):
        values = [item[key] for item in seen]
        assert values == sorted(values, reverse=direction == "desc")


async def test_tasks_belong_to_projects_where_the_api_is_open(postgres: Server, o: Origin) -> None:
    """Whoever is let in by policy sees and starts what is his project's own."""
    config = one_store(import_filtering_opts=OPEN)
    async with standing(postgres, config, rules={"tasks_api_access": "role:member or role:admin"}) as site:
        mine, theirs = somebody(), somebody()
        task = (await created(site, task_of(o.url("/raw")), mine))["id"]
        assert (await ended(site, task, mine))["status"] == "success"
        assert (await site.call("GET", f"/tasks/{task}", theirs)).status == 404
        assert (await (await site.call("GET", "/tasks", theirs)).json())["tasks"] == []
        assert (await site.call("GET", f"/tasks?marker={task}", theirs)).status == 400
        assert [t["id"] for t in (await (await site.call("GET", "/tasks", mine)).json())["tasks"]] == [task]
        assert (await site.call("GET", f"/tasks/{task}", "ADM")).status == 200
        public = task_of(o.url("/raw"), visibility="public")
        assert (await site.call("POST", "/tasks", mine, json=public)).status == 403


async def test_the_task_schemas(many: Site) -> None:
    schema = await (await many.call("GET", "/schemas/task", "A")).json()
    assert schema["name"] == "task"
    assert schema["properties"]["status"]["enum"] == ["pending", "processing", "success", "failure"]
    assert set(schema["properties"]["type"]["enum"]) == {"import", "api_image_import", "location_import"}
    listing = await (await many.call("GET", "/schemas/tasks", "A")).json()
    assert listing["name"] == "tasks"
    assert listing["properties"]["tasks"]["items"]["properties"].keys().isdisjoint({"input", "result", "message"})
    assert {link["rel"] for link in listing["links"]} == {"first", "next", "describedby"}
    assert (await many.call("PUT", "/schemas/task", "A")).headers["Allow"] == "GET"


async def test_what_is_answered_is_what_the_schemas_say(many: Site, o: Origin) -> None:
    """Clients of Glance validate what they get by the schemas that they are given."""
    schema = await (await many.call("GET", "/schemas/task")).json()
    nowhere = {"X-Identity-Status": "Confirmed", "X-User-Id": "root", "X-Roles": "admin"}
    for who in ("ADM", nowhere):
        for path in ("/raw", "/404"):
            document = await created(many, task_of(o.url(path)), who)
            for shown_now in (document, await ended(many, document["id"], who)):
                jsonschema.validate(shown_now, {**schema, "type": "object", "additionalProperties": False})
    listed = await (await many.call("GET", "/tasks?limit=3", "ADM")).json()
    listing = await (await many.call("GET", "/schemas/tasks")).json()
    jsonschema.validate(listed, {**listing, "type": "object", "additionalProperties": False})


@pytest.mark.qemu
async def test_a_task_converts_to_the_format_that_operators_ask_for(
    postgres: Server, o: Origin, tmp_path: Path
) -> None:
    disk = bytes(range(256)) * 256
    qcow2 = good("qcow2", tmp_path, disk)
    o.answers["/small"] = whole(qcow2)
    config = one_store(import_filtering_opts=OPEN, taskflow_executor="conversion_format = raw")
    async with standing(postgres, config) as site:
        body = task_of(o.url("/small"), disk_format="qcow2")
        done = await ended(site, (await created(site, body))["id"])
        assert done["status"] == "success", done
        image = await site.show(done["result"]["image_id"])
        assert (image["disk_format"], image["status"], image["size"]) == ("raw", "active", len(disk))
        mine = await site.image(disk_format="qcow2")
        await site.stage(mine, qcow2)
        await site.do_import(mine)
        assert (await site.ended(mine))["disk_format"] == "qcow2", "the option is for such tasks alone"


@pytest.mark.requirement("REQ-012")
async def test_the_profile_pike_honours_the_finer_rules(postgres: Server, o: Origin) -> None:
    pike = "api_version_profile = pike\nenable_image_import = true"
    config = one_store(DEFAULT=pike, import_filtering_opts=OPEN)
    for rule in ("get_task", "add_task", "modify_task"):
        async with standing(postgres, config, rules={rule: "role:admin"}) as site:
            image = await site.image()
            await site.stage(image, RAW1K)
            assert await site.do_import(image) == 403, rule
            assert await site.do_import(image, "ADM") == 202
    async with standing(postgres, one_store(), rules={"add_task": "!", "get_task": "!", "modify_task": "!"}) as site:
        image = await site.image()
        await site.stage(image, RAW1K)
        assert await site.do_import(image) == 202
