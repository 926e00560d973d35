"""The locations of an image as a resource: told to services, registered by tasks (images.md 11)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.identities import headers
from tests.support.mirror import Mirror, mirror
from tests.support.notes import of_image, of_tasks
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import hooks, memory_stores, objects, one_store, passing, somebody, three_stores
from tests.support.stores import a_name

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA = bytes(range(256)) * 12
MD5 = hashlib.md5(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()
SERVED = {**headers("A"), "X-Service-Roles": "service", "X-Service-Identity-Status": "Confirmed"}
"""A user whose request a service passes on."""
HASHES = ("checksum", "os_hash_algo", "os_hash_value")
_numbers = count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def m() -> AsyncIterator[Mirror]:
    async with mirror() as made:
        yield made


def a_file(m: Mirror, content: bytes = DATA) -> str:
    """The URL of a file that nobody else uses."""
    return m.add(f"/{next(_numbers)}", content)


async def post(site: Site, image: str, body: Any, who: Any = "A") -> int:
    return (await site.call("POST", f"/images/{image}/locations", who, json=body)).status


def vouched(data: bytes = DATA, algo: str = "sha512") -> dict[str, str]:
    return {"os_hash_algo": algo, "os_hash_value": hashlib.new(algo, data).hexdigest()}


async def registered(site: Site, m: Mirror, content: bytes = DATA, **more: Any) -> dict[str, Any]:
    """The image after a registration that was accepted, whatever came of it, with everything told."""
    image = await site.image()
    assert await post(site, image, {"url": a_file(m, content), **more}) == 202
    shown = await site.ended(image)
    await site.settled()
    return shown


async def has_status(site: Site, image: str, status: str) -> bool:
    return bool((await site.show(image))["status"] == status)


# --- registering -------------------------------------------------------------------------


async def test_X10_data_that_lies_somewhere_already(three: Site, m: Mirror) -> None:
    image, url = await three.image(), a_file(m)
    answer = await three.call("POST", f"/images/{image}/locations", json={"url": url})
    assert (answer.status, await answer.read()) == (202, b"")
    shown = await three.ended(image)
    assert (shown["status"], shown["size"], shown["stores"]) == ("active", len(DATA), "web")
    assert [shown[name] for name in HASHES] == [MD5, "sha512", SHA512]
    assert shown["virtual_size"] is None
    assert not [name for name in shown if name.startswith("os_glance")]
    assert await post(three, image, {"url": url}) == 409
    (task,) = await three.tasks(image, "A")
    assert (task["type"], task["status"], task["result"]) == ("location_import", "success", {"image_id": image})
    assert task["input"] == {"image_id": image, "loc_url": url, "validation_data": {}}
    assert task["request_id"] == answer.headers["x-openstack-request-id"]
    same = await (await three.call("GET", f"/tasks/{task['id']}", "ADM")).json()
    assert (same["type"], same["input"], same["result"]) == ("location_import", task["input"], task["result"])
    data = await three.call("GET", f"/images/{image}/file")
    assert (await data.read(), data.headers["Content-MD5"]) == (DATA, MD5)
    await three.settled()
    assert of_tasks(three.notes.of(image)) == ["task.create", "task.processing", "task.success"]
    assert of_image(three.notes.of(image))[:2] == ["image.create", "image.activate"]
    assert not objects(three, "staging", image)


async def test_11_active_at_once_and_hashed_after_that(three: Site, m: Mirror) -> None:
    """The task holds the image until it is done; that a hash will follow shows by its algorithm, as in Glance."""
    image, url = await three.image(), a_file(m)
    m.gate.clear()
    try:
        assert await post(three, image, {"url": url}) == 202
        await three.until(lambda: has_status(three, image, "active"))
        shown = await three.show(image)
        assert [shown[name] for name in HASHES] == [None, "sha512", None]
        assert (shown["size"], shown["stores"]) == (len(DATA), "web")
        assert shown["os_glance_import_task"] == (await three.tasks(image))[-1]["id"]
        assert await three.do_import(image, "ADM", method={"name": "copy-image"}, stores=["cheap"]) == 409
        assert (await three.call("PATCH", f"/images/{image}", json=[], headers=PATCH)).status == 200
    finally:
        m.gate.set()
    assert (await three.ended(image))["os_hash_value"] == SHA512


PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


@pytest.mark.parametrize("algo", ["sha512", "sha256", "sha1", "md5"])
async def test_11_a_hash_that_is_right(three: Site, m: Mirror, algo: str) -> None:
    """It is compared before the image becomes active, whatever the site hashes with."""
    image, url = await three.image(), a_file(m)
    m.gate.clear()
    try:
        assert await post(three, image, {"url": url, "validation_data": vouched(algo=algo)}) == 202
        assert (await three.show(image))["status"] == "importing"
        await three.until(lambda: m.downloads(url.removeprefix(m.address)) > 0)
        shown = await three.show(image)
        assert (shown["status"], shown["os_hash_value"]) == ("importing", None)
        assert (await three.call("GET", f"/images/{image}/file")).status == 204
    finally:
        m.gate.set()
    shown = await three.ended(image)
    assert (shown["status"], *(shown[name] for name in HASHES)) == ("active", MD5, *vouched(algo=algo).values())
    await three.settled()
    notes = of_image(three.notes.of(image))
    assert notes.count("image.activate") == 1


async def test_11_a_hash_that_is_wrong(three: Site, m: Mirror) -> None:
    """The image is queued again; where nothing can be deleted it still tells where the data is."""
    shown = await registered(three, m, validation_data=vouched(b"other"))
    image = shown["id"]
    assert (shown["status"], shown["size"], shown["stores"]) == ("queued", None, "web")
    assert [shown[name] for name in HASHES] == [None, None, None]
    assert "os_glance_import_task" not in shown
    task = (await three.tasks(image))[-1]
    assert task["status"] == "failure"
    assert "differs" in task["message"]
    told = await three.call("GET", f"//ops/v1/imports/{task['id']}/explain", "ADM")
    assert told.status == 200, await told.text()
    assert "differs" in await told.text()
    again = await three.call("POST", f"//ops/v1/imports/{task['id']}/retry", "ADM")
    assert again.status == 409
    assert of_tasks(three.notes.of(image)) == ["task.create", "task.processing", "task.failure"]
    assert (await three.call("GET", f"/images/{image}/file")).status == 204
    assert await post(three, image, {"url": a_file(m), "validation_data": vouched()}) == 202
    shown = await three.ended(image)
    assert (shown["status"], shown["os_hash_value"]) == ("active", SHA512)
    locations = await (await three.call("GET", f"/images/{image}/locations", "SVC")).json()
    assert len(locations) == 1


@pytest.mark.parametrize("how", ["upload", "import"])
async def test_11_what_a_wrong_hash_left_is_forgotten_with_the_next_data(three: Site, m: Mirror, how: str) -> None:
    image = (await registered(three, m, validation_data=vouched(b"other")))["id"]
    if how == "upload":
        assert await three.upload(image, b"new") == 204
    else:
        assert await three.stage(image, b"new") == 204
        assert await three.do_import(image) == 202
    shown = await three.ended(image)
    assert (shown["status"], shown["stores"], shown["size"]) == ("active", "fast", 3)
    assert await (await three.call("GET", f"/images/{image}/file")).read() == b"new"


async def test_11_a_wrong_hash_in_a_store_that_can_be_written(postgres: Server) -> None:
    """The image forgets the location; the bytes were never its own, and stay."""
    async with passing(postgres, memory_stores(), also=(FAULTY,)) as site:
        image, fast, theirs = await site.image(), hooks(site, "fast"), a_name()
        fast.blobs[theirs] = (DATA,)
        body = {"url": fast.url(theirs), "validation_data": vouched(b"other")}
        assert await post(site, image, body) == 403
        assert await post(site, image, body, SERVED) == 202
        shown = await site.ended(image)
        assert shown["status"] == "queued"
        assert "stores" not in shown
        await site.settled()
        assert theirs in fast.blobs
        assert await post(site, image, {"url": fast.url(theirs)}, SERVED) == 202
        assert (await site.ended(image))["stores"] == "fast"
        assert (await site.call("DELETE", f"/images/{image}")).status == 204
        await site.until(lambda: theirs not in fast.blobs)


async def test_11_sites_that_do_not_hash(postgres: Server, m: Mirror) -> None:
    """What the client says is believed; nothing is read."""
    async with passing(postgres, three_stores(DEFAULT="do_secure_hash = False")) as site:
        before = len(m.asked)
        shown = await registered(site, m, validation_data=vouched(b"whatever", "sha256"))
        assert shown["status"] == "active"
        assert [shown[name] for name in HASHES] == [None, *vouched(b"whatever", "sha256").values()]
        shown = await registered(site, m)
        assert (shown["status"], *(shown[name] for name in HASHES)) == ("active", None, None, None)
        assert (await site.tasks(shown["id"]))[-1]["status"] == "success"
        assert {method for method, _ in m.asked[before:]} == {"HEAD"}


@pytest.mark.parametrize(("failures", "status"), [(2, "success"), (3, "failure")])
async def test_11_reading_is_tried_again(postgres: Server, m: Mirror, failures: int, status: str) -> None:
    """As often as http_retries says; without a hash to compare the image is active all the same."""
    async with passing(postgres, three_stores(DEFAULT="http_retries = 2")) as site:
        m.failures = failures
        shown = await registered(site, m)
        assert m.failures == 0
        assert (await site.tasks(shown["id"]))[-1]["status"] == status
        assert (shown["status"], shown["stores"]) == ("active", "web")
        assert shown["os_hash_value"] == (SHA512 if status == "success" else None)


async def test_11_a_single_store_site(postgres: Server, m: Mirror) -> None:
    """Where no store keeps what the URL names only services may ask, in vain."""
    async with passing(postgres, one_store()) as site:
        image, url = await site.image(), a_file(m)
        assert await post(site, image, {"url": url}) == 403
        assert await post(site, image, {"url": url}, "SVC") in (403, 404)
        assert await post(site, image, {"url": url}, SERVED) == 202
        shown = await site.ended(image)
        assert shown["status"] == "queued"
        assert "http" in (await site.tasks(image))[-1]["message"]


# --- refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": 5},
        {"url": ""},
        {"url": None},
        {"url": "x" * 256},
        {"url": "no url"},
        {"url": "http://u:secret@127.0.0.1/x"},
        {"url": "URL", "metadata": {}},
        {"url": "URL", "validation_data": []},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha512"}},
        {"url": "URL", "validation_data": {"os_hash_value": "ab"}},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha384", "os_hash_value": "0" * 96}},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha512", "os_hash_value": "x" * 128}},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha512", "os_hash_value": "0" * 64}},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha512", "os_hash_value": 5}},
        {"url": "URL", "validation_data": {"os_hash_algo": ["sha512"], "os_hash_value": "0" * 128}},
        {"url": "URL", "validation_data": {**vouched(), "checksum": MD5}},
        [],
        "x",
        None,
    ],
)
async def test_X11_what_is_no_location(three: Site, m: Mirror, body: Any) -> None:
    image = await three.image()
    if isinstance(body, dict) and body.get("url") == "URL":
        body = {**body, "url": a_file(m)}
    before, head = await three.show(image), await three.service.log.head()
    for target in (image, "unknown"):
        answer = await three.call("POST", f"/images/{target}/locations", json=body)
        assert answer.status == 400
        assert "secret" not in await answer.text()
    assert await three.show(image) == before
    assert await three.service.log.head() == head


async def test_X11_no_body(three: Site) -> None:
    assert (await three.call("POST", f"/images/{await three.image()}/locations")).status == 400


async def test_X12_who_may_register(three: Site, m: Mirror) -> None:
    image = await three.image()
    url, elsewhere = a_file(m), "rbd://cluster/pool/image/snap"
    for who, asked, status in (
        ("AR", url, 403),
        ("C", url, 404),
        ("NR", url, 404),
        (None, url, 401),
        ("A", elsewhere, 403),
        ("A", "file:///etc/passwd", 403),
        (SERVED, elsewhere, 202),
    ):
        assert await post(three, image, {"url": asked}, who) == status, who
    shown = await three.ended(image)
    assert (shown["status"], "stores" in shown) == ("queued", False)
    assert "rbd" in (await three.tasks(image))[-1]["message"]
    assert await post(three, image, {"url": "file:///etc/passwd"}, SERVED) == 202
    assert (await three.ended(image))["status"] == "queued"
    assert "'file'" in (await three.tasks(image))[-1]["message"]
    assert await post(three, image, {"url": url}) == 202
    assert (await three.ended(image))["status"] == "active"


@pytest.mark.parametrize("what", ["missing", "empty"])
async def test_11_nothing_to_register(three: Site, m: Mirror, what: str) -> None:
    """Found out by the task; the image is as it was."""
    image = await three.image()
    url = m.url("/missing") if what == "missing" else a_file(m, b"")
    for body in ({"url": url}, {"url": url, "validation_data": vouched(b"")}):
        assert await post(three, image, body) == 202
        shown = await three.ended(image)
        assert (shown["status"], shown["size"], "stores" in shown) == ("queued", None, False)
        assert (await three.tasks(image))[-1]["status"] == "failure"


async def test_11_states_and_formats(three: Site, m: Mirror) -> None:
    url = a_file(m)
    staged = await three.image()
    await three.stage(staged, b"x")
    assert await post(three, staged, {"url": url}) == 409
    bare = await three.image(disk_format=None)
    assert await post(three, bare, {"url": url}) == 400
    gone = await three.image()
    await three.call("DELETE", f"/images/{gone}")
    assert await post(three, gone, {"url": url}) == 404
    wrong = await three.call("PUT", f"/images/{staged}/locations")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, POST")


async def test_11_one_task_at_a_time(three: Site, m: Mirror) -> None:
    image, url = await three.image(), a_file(m)
    m.gate.clear()
    try:
        statuses = await asyncio.gather(*(post(three, image, {"url": url}) for _ in range(4)))
        assert sorted(statuses) == [202, 409, 409, 409]
    finally:
        m.gate.set()
    assert (await three.ended(image))["status"] == "active"
    assert len(await three.tasks(image)) == 1


async def test_11_an_image_that_is_deleted_while_it_is_hashed(three: Site, m: Mirror) -> None:
    """The task ends, and after `image.delete` nothing is said of the image."""
    image, url = await three.image(), a_file(m)
    m.gate.clear()
    try:
        assert await post(three, image, {"url": url, "validation_data": vouched()}) == 202
        await three.until(lambda: m.downloads(url.removeprefix(m.address)) > 0)
        assert (await three.call("DELETE", f"/images/{image}")).status == 204
        await three.settled()
    finally:
        m.gate.set()
    notes = [note.event_type for note in three.notes.of(image)]
    assert notes[notes.index("image.delete") :] == ["image.delete", "task.failure"]


async def test_11_an_operator_may_call_it_off(three: Site, m: Mirror) -> None:
    """Back to queued, with nothing to clean up."""
    image, url = await three.image(), a_file(m)
    m.gate.clear()
    try:
        assert await post(three, image, {"url": url, "validation_data": vouched()}) == 202
        await three.until(lambda: m.downloads(url.removeprefix(m.address)) > 0)
        (task,) = await three.tasks(image)
        assert (await three.call("POST", f"//ops/v1/imports/{task['id']}/cancel", "ADM")).status in (200, 202, 204)
        shown = await three.ended(image)
    finally:
        m.gate.set()
    assert (shown["status"], shown["size"]) == ("queued", None)
    await three.settled()


async def test_11_quotas(postgres: Server, m: Mirror) -> None:
    """The data counts as that of the project."""
    async with passing(postgres, three_stores(DEFAULT="user_storage_quota = 4000")) as site:
        who = somebody()
        for expected in ("active", "queued"):
            image = await site.image(who)
            assert await post(site, image, {"url": a_file(m)}, who) == 202
            assert (await site.ended(image))["status"] == expected
        assert "user_storage_quota" in (await site.tasks(image))[-1]["message"]


async def test_a_copy_of_registered_data(three: Site, m: Mirror) -> None:
    """It is read from where it lies, and compared with its hash."""
    image = (await registered(three, m))["id"]
    assert await three.do_import(image, "ADM", method={"name": "copy-image"}, all_stores=True) == 202
    assert (await three.ended(image))["stores"] == "cheap,fast,web"
    assert objects(three, "fast", image) == objects(three, "cheap", image) == [DATA]


# --- reading -----------------------------------------------------------------------------


async def test_X13_who_is_told(three: Site, m: Mirror) -> None:
    """Services and administrators, by the roles of the user's own token; whose image it is makes no difference."""
    shown = await registered(three, m)
    image = shown["id"]
    servant = {**headers("A"), "X-Roles": "member,reader,service"}
    for who, status in (("A", 403), ("C", 404), ("AR", 403), ("ADM", 200), (SERVED, 403), (servant, 200), ("SVC", 200)):
        answer = await three.call("GET", f"/images/{image}/locations", who)
        assert answer.status == status, who
        if status == 200:
            (location,) = await answer.json()
            assert set(location) == {"url", "metadata"}
            assert location["metadata"] == {"store": "web"}
            assert location["url"].startswith(m.address)
    assert (await three.call("GET", "/images/unknown/locations", "SVC")).status == 404
    queued = await three.image(visibility="private")
    answer = await three.call("GET", f"/images/{queued}/locations", "SVC")
    assert (answer.status, await answer.json()) == (200, [])
    assert (await three.call("GET", f"/images/{queued}/locations", "SVC", json={})).status == 400
    await three.call("DELETE", f"/images/{image}")
    assert (await three.call("GET", f"/images/{image}/locations", "SVC")).status == 404


async def test_nobody_registers_what_only_the_service_reaches(postgres: Server, m: Mirror) -> None:
    """By default; what is served on this very machine is not read, nor is anybody told whether it is there."""
    async with passing(postgres, three_stores(web="", DEFAULT="http_retries = 0")) as site:
        told = set()
        for url in (a_file(m), "http://127.0.0.1:9/nobody", "http://169.254.169.254/latest"):
            image = await site.image()
            assert await post(site, image, {"url": url}) == 202
            shown = await site.ended(image)
            assert (shown["status"], shown["size"]) == ("queued", None)
            (task,) = await site.tasks(image)
            assert task["status"] == "failure"
            told.add(task["message"])
        assert len(told) == 1
        assert "off limits" in told.pop()
