"""Imports in operators' hands: cancel, retry, explain below `/ops/v1/imports`."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from kernel.errors import StoreFull
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.notes import of_image, of_tasks
from tests.support.origin import Origin, origin, whole
from tests.support.postgres import Server
from tests.support.raw import ask, chunk, head
from tests.support.running import Site
from tests.support.standing import blocked, broken, memory_stores, objects, somebody, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

SITE = memory_stores(
    import_filtering_opts="allowed_ports = []\ndisallowed_networks = []",
    image_import_opts="image_import_plugins = [image_decompression]",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, SITE, also=(FAULTY,)) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def o() -> AsyncIterator[Origin]:
    async with origin() as made:
        yield made


async def begun(site: Site, who: Any = "A", **body: Any) -> tuple[str, str]:
    """A staged image whose import was just asked for: image and task."""
    image = await site.image(who)
    assert await site.stage(image, RAW1K, who) == 204
    assert await site.do_import(image, who, **body) == 202
    return image, await newest(site, image)


async def newest(site: Site, image: str) -> str:
    return str((await site.tasks(image))[-1]["id"])


async def act(site: Site, verb: str, task: str, who: Any = "ADM", json: Any = None) -> tuple[int, dict[str, Any]]:
    answer = await site.call("POST", f"//ops/v1/imports/{task}/{verb}", who, json=json)
    return answer.status, await answer.json()


async def explained(site: Site, task: str, who: Any = "ADM") -> dict[str, Any]:
    answer = await site.call("GET", f"//ops/v1/imports/{task}/explain", who)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def nothing_left(site: Site, image: str) -> None:
    await site.settled()
    for place in ("staging", "fast", "cheap", "reliable"):
        assert objects(site, place, image) == [], place


# --- cancel ------------------------------------------------------------------------------


async def test_an_import_is_called_off_while_it_writes(many: Site) -> None:
    async with blocked(many, "cheap"):
        image, task = await begun(many, stores=["fast", "cheap"])
        await many.until(lambda: objects(many, "fast", image) == [RAW1K])
        status, document = await act(many, "cancel", task, json={"reason": "wrong one"})
        assert (status, document["task"], document["image_id"]) == (202, task, image)
        shown = await many.ended(image)  # without the store being released
    assert (shown["status"], shown["size"], shown.get("stores")) == ("queued", None, None)
    assert "os_glance_import_task" not in shown
    assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("", "")
    (record,) = await many.tasks(image)
    assert (record["status"], record["message"]) == ("failure", "Cancelled by an operator: wrong one")
    await nothing_left(many, image)
    assert of_tasks(many.notes.of(image))[-1] == "task.failure"
    assert "image.activate" not in of_image(many.notes.of(image))
    told = await explained(many, task)
    assert (told["ending"], told["cause"]["event"]) == ("cancelled", "ImportCancelled")
    assert await many.stage(image, RAW1K) == 204
    assert await many.do_import(image) == 202
    assert (await many.ended(image))["status"] == "active"


async def test_a_download_is_called_off_while_its_source_hangs(many: Site, o: Origin) -> None:
    image = await many.image()
    method = {"method": {"name": "web-download", "uri": o.url("/slow")}}
    assert (await many.call("POST", f"/images/{image}/import", json=method)).status == 202
    await many.until(lambda: o.of("/slow"))
    task = await newest(many, image)
    assert (await act(many, "cancel", task))[0] == 202
    assert (await many.ended(image))["status"] == "queued"
    await nothing_left(many, image)


async def test_an_image_import_is_called_off(many: Site, o: Origin) -> None:
    who = somebody()
    answer = await many.call("POST", "/image-imports", who, json={"location": o.url("/slow")})
    import_id = (await answer.json())["id"]
    waited = len(o.of("/slow"))
    await many.until(lambda: len(o.of("/slow")) >= waited)
    assert (await act(many, "cancel", import_id))[0] == 202

    async def failed() -> bool:
        return (await (await many.call("GET", f"/image-imports/{import_id}", who)).json())["status"] == "failure"

    await many.until(failed)
    document = await (await many.call("GET", f"/image-imports/{import_id}", who)).json()
    assert document["message"] == "Cancelled by an operator"
    told = await explained(many, import_id, who)
    assert (told["ending"], told["image_id"]) == ("cancelled", None)


@pytest.mark.parametrize(("body", "said"), [(b'{"reason": "it"}', ": it"), (b"", "")])
async def test_a_reason_may_come_in_pieces(many: Site, body: bytes, said: str) -> None:
    async with blocked(many, "fast"):
        image, task = await begun(many)
        pieces = b"".join(chunk(body[at : at + 5]) for at in range(0, len(body), 5)) + chunk(b"")
        request = head("POST", f"/ops/v1/imports/{task}/cancel", "ADM", Transfer_Encoding="chunked")
        answer = await ask(many, request + pieces)
        assert (answer.status, json.loads(answer.body)["message"]) == (202, f"Cancelled by an operator{said}")
        assert (await many.ended(image))["status"] == "queued"


async def test_what_cannot_be_called_off(many: Site) -> None:
    async with blocked(many, "cheap"):
        image, task = await begun(many, stores=["fast", "cheap"])
        assert (await act(many, "cancel", task, "A"))[0] == 403
        assert (await act(many, "cancel", str(uuid4())))[0] == 404
        assert (await act(many, "cancel", "x"))[0] == 404
        for wrong in ([], {"reason": 5}, {"reason": "x" * 256}, {"because": "x"}):
            assert (await act(many, "cancel", task, json=wrong))[0] == 400
        assert (await act(many, "cancel", task))[0] == 202
        assert (await act(many, "cancel", task))[0] == 409, "once is enough"
    await many.ended(image)
    assert (await act(many, "cancel", task))[0] == 409
    assert (await many.call("GET", f"//ops/v1/imports/{task}/cancel", "ADM")).status == 405


# --- retry -------------------------------------------------------------------------------


async def test_stores_that_failed_are_filled_from_those_that_did_not(many: Site) -> None:
    with broken(many, "cheap"):
        image, task = await begun(many, stores=["fast", "cheap", "reliable"], all_stores_must_succeed=False)
        assert (await many.ended(image))["os_glance_failed_import"] == "cheap"
        told = await explained(many, task)
        assert told["ending"] == "some stores failed"
        assert told["cause"]["event"] == "StoreFailed"
        assert "cheap" in told["next"][-1]
        again, document = await act(many, "retry", task)
        assert (again, document["stores"]) == (202, ["cheap"])
        assert (await many.ended(image))["os_glance_failed_import"] == "cheap", "it is still broken"
        assert (await many.tasks(image))[-1]["status"] == "failure"
    status, document = await act(many, "retry", task)
    assert (status, document["image_id"], document["stores"]) == (202, image, ["cheap"])
    shown = await many.ended(image)
    assert (shown["stores"], shown["os_glance_failed_import"]) == ("cheap,fast,reliable", "")
    assert objects(many, "cheap", image) == [RAW1K]
    assert (await many.tasks(image))[-1]["id"] == document["task"]
    status, document = await act(many, "retry", task)
    assert status == 409
    assert "nothing to retry" in document["message"]


async def test_a_copy_that_was_called_off_is_retried(many: Site) -> None:
    image, _ = await begun(many)
    await many.ended(image)
    copy = {"method": {"name": "copy-image"}, "stores": ["cheap", "reliable"]}
    async with blocked(many, "reliable"):
        assert (await many.call("POST", f"/images/{image}/import", "ADM", json=copy)).status == 202
        task = await newest(many, image)
        await many.until(lambda: objects(many, "cheap", image) == [RAW1K])
        assert (await act(many, "retry", task))[0] == 409, "it runs"
        assert (await act(many, "cancel", task))[0] == 202
        assert (await many.ended(image))["stores"] == "fast"
    assert "retry this task" in (await explained(many, task))["next"][-1]
    assert (await act(many, "retry", task))[0] == 202
    assert (await many.ended(image))["stores"] == "cheap,fast,reliable"


async def test_what_cannot_be_retried(many: Site) -> None:
    """Where no store has the bytes there is nothing to copy: whoever asks is told so."""
    with broken(many, "cheap"):
        image, task = await begun(many, stores=["fast", "cheap"])
        await many.ended(image)
    status, document = await act(many, "retry", task)
    assert status == 409
    assert "No store holds the data" in document["message"]
    assert (await act(many, "retry", task, "A"))[0] == 403
    assert (await act(many, "retry", str(uuid4())))[0] == 404
    web, lone = await begun(many, stores=["fast", "web"], all_stores_must_succeed=False)
    await many.ended(web)
    status, document = await act(many, "retry", lone)
    assert status == 409
    assert "web cannot be written" in document["message"]
    await many.call("DELETE", f"/images/{web}")
    assert (await act(many, "retry", lone))[0] == 409


# --- explain -----------------------------------------------------------------------------


async def test_a_success_is_explained(many: Site) -> None:
    image, task = await begun(many, stores=["fast", "cheap"])
    await many.ended(image)
    told = await explained(many, task)
    assert (told["task"], told["image_id"], told["status"]) == (task, image, "success")
    assert (told["ending"], told["cause"], told["message"]) == ("success", None, "")
    assert told["next"] == ["Nothing is left to be done."]
    assert [event["event"] for event in told["events"]] == [
        *("ImportRequested", "ImportStarted", "StepCompleted", "DataInspected"),
        *("StoreStarted", "StoreSucceeded", "StoreStarted", "StoreSucceeded", "ImportCompleted"),
    ]
    assert told["events"][0]["text"] == (
        "The import by glance-direct into fast, cheap, each of which must take the data was accepted"
    )


async def test_what_is_under_way_is_explained(many: Site) -> None:
    async with blocked(many, "cheap"):
        image, task = await begun(many, stores=["fast", "cheap"])
        await many.until(lambda: objects(many, "fast", image) == [RAW1K])

        async def at_work() -> bool:
            return (await explained(many, task))["next"] == ["Wait: a worker is at it."]

        await many.until(at_work)
        assert (await explained(many, task))["ending"] == "running"
    await many.ended(image)


@pytest.mark.parametrize(
    ("path", "properties", "ending", "event", "gist"),
    [
        ("/404", {}, "source", "StepFailed", "source"),
        ("/empty", {}, "source", "StepFailed", "source"),
        ("/raw", {"disk_format": "qcow2"}, "inspection", "StepFailed", "disk_format"),
        ("/torn", {}, "plugin", "StepFailed", "image_decompression"),
    ],
)
async def test_failures_before_the_stores_are_explained(
    many: Site, o: Origin, path: str, properties: dict[str, str], ending: str, event: str, gist: str
) -> None:
    o.answers["/torn"] = whole(gzip.compress(RAW1K)[:20])
    image = await many.image(**properties)
    method = {"method": {"name": "web-download", "uri": o.url(path)}}
    assert (await many.call("POST", f"/images/{image}/import", json=method)).status == 202
    await many.ended(image)
    told = await explained(many, await newest(many, image), "A")
    assert (told["ending"], told["cause"]["event"]) == (ending, event)
    assert gist in told["next"][0]
    assert "import it again" in told["next"][-1]
    assert told["summary"].startswith("The import failed. The step")


@pytest.mark.parametrize("must_succeed", [True, False])
async def test_failures_of_stores_are_explained(many: Site, must_succeed: bool) -> None:
    with broken(many, "cheap", StoreFull("cheap")):
        image, task = await begun(many, stores=["cheap"], all_stores_must_succeed=must_succeed)
        await many.ended(image)
    told = await explained(many, task)
    assert told["ending"] == ("store" if must_succeed else "every store")
    assert told["cause"]["event"] == "StoreFailed"
    assert told["next"][0] == "Make room in the store cheap, or choose another one."


async def test_deletion_is_explained(many: Site) -> None:
    async with blocked(many, "fast"):
        image, task = await begun(many)
        assert (await many.call("DELETE", f"/images/{image}")).status == 204
    told = await explained(many, task, "A")
    assert (told["ending"], told["cause"]["event"], told["image_status"]) == ("deleted", "ImageDeleted", None)
    await nothing_left(many, image)


async def test_a_task_that_lacked_something_is_explained(many: Site, o: Origin) -> None:
    body = {"type": "import", "input": {"import_from": o.url("/raw")}}
    task = (await (await many.call("POST", "/tasks", "ADM", json=body)).json())["id"]

    async def over() -> bool:
        return (await explained(many, task))["status"] == "failure"

    await many.until(over)
    told = await explained(many, task)
    assert told["ending"] == "request"
    assert "import_from_format" in told["summary"]


async def test_who_is_told(many: Site) -> None:
    """Those of the image's project, with others' names left out, and administrators."""
    image, _ = await begun(many)
    await many.ended(image)
    copy = {"method": {"name": "copy-image"}, "stores": ["cheap"]}
    assert (await many.call("POST", f"/images/{image}/import", "ADM", json=copy)).status == 202
    await many.ended(image)
    task = await newest(many, image)
    for who, status in (("A", 200), ("AR", 200), ("ADM", 200), ("B", 404), ("NR", 404), (None, 401)):
        assert (await many.call("GET", f"//ops/v1/imports/{task}/explain", who)).status == status, who
    mine = await explained(many, task, "A")
    assert {str(event["by"]) for event in mine["events"]} == {"{'user': 'someone else'}"}
    assert "uADM" not in str(mine)
    assert (await explained(many, task, "ADM"))["events"][0]["by"]["user"] == "uADM"
    for unknown in (str(uuid4()), "x", "%00"):
        assert (await many.call("GET", f"//ops/v1/imports/{unknown}/explain", "ADM")).status == 404


async def test_a_worker_that_is_not_there_is_missed(postgres: Server) -> None:
    async with standing(postgres, SITE, also=(FAULTY,), role="api") as site:
        image, task = await begun(site)
        told = await explained(site, task)
        assert told["ending"] == "waiting"
        assert told["next"][0].startswith("No worker holds it")
        assert (await act(site, "cancel", task))[0] == 202
        told = await explained(site, task)
        assert told["ending"] == "cancelled"
        assert told["summary"].startswith("The import failed and is being taken back.")
        assert (await site.show(image))["status"] == "importing"
