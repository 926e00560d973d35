"""glance-download: scenarios IM71 to IM73 between two services, and regions that mean no good (import.md 9.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio

from tests.support import identities
from tests.support.formats import RAW1K
from tests.support.notes import of_job, prepare, upload
from tests.support.origin import Origin, origin, redirect, whole
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, objects, passing, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

MD5 = "9d0ef2e3d00a0793bd4c5f31b8ad9e8a"
METHODS = "enabled_import_methods = [glance-direct, web-download, copy-image, glance-download]"
FILTERS = "allowed_ports = []\nstall_timeout = 2"
"""Loopback is off limits, except for what the catalogue names."""
FORMATS = {"disk_format": "iso", "container_format": "ovf"}


def open_to_all(directory: Path) -> str:
    return four_stores()(directory).replace("auth = headers", "auth = none")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there(postgres: Server) -> AsyncIterator[Site]:
    """The other region."""
    async with standing(postgres, open_to_all) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, four_stores(DEFAULT=METHODS, import_filtering_opts=FILTERS)) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def o() -> AsyncIterator[Origin]:
    """A region that answers whatever a test wants."""
    async with origin() as made:
        yield made


def catalog(url: str, region: str = "R1") -> str:
    endpoints = [
        {"interface": "public", "region": region, "region_id": region, "url": url},
        {"interface": "internal", "region": region, "region_id": region, "url": f"{url}/v2/"},
    ]
    other = {"interface": "public", "region": "R2", "region_id": "R2", "url": "http://127.0.0.1:9"}
    return orjson.dumps(
        [
            {"type": "compute", "name": "nova", "endpoints": endpoints},
            {"type": "image", "name": "glance", "endpoints": [other, *endpoints]},
        ]
    ).decode()


def url_of(site: Site) -> str:
    return str(site.client.make_url("")).rstrip("/")


def caller(listed: str, token: str = "t0ken") -> Mapping[str, str]:
    return {**identities.headers("A"), "X-Auth-Token": token, "X-Service-Catalog": listed}


def method(image: Any, region: Any = "r1", **more: Any) -> dict[str, Any]:
    return {"name": "glance-download", "glance_image_id": image, "glance_region": region, **more}


async def source(site: Site, data: bytes = RAW1K, **attributes: Any) -> str:
    """An active image in the other region."""
    image = await site.image(**attributes)
    assert await site.upload(image, data) == 204
    return image


async def ended(site: Site, image: str, listed: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """The image after this import, whatever came of it."""
    assert await site.do_import(image, caller(listed), method=chosen) == 202  # type: ignore[arg-type]
    shown = await site.ended(image, 20)
    await site.settled()
    return shown


async def failed(site: Site, shown: dict[str, Any], **kept: Any) -> str:
    """Row M or A: formats and properties as before, nothing left.  Returns the message of the task."""
    image = shown["id"]
    assert shown["status"] == "queued"
    assert (shown["size"], shown["checksum"], shown["os_hash_value"]) == (None, None, None)
    for name, value in {**FORMATS, **kept}.items():
        assert shown[name] == value
    assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("", "fast")
    assert not shown.keys() & {"os_glance_import_task", "stores", "os_distro", "trait:X"}
    assert not any(objects(site, store, image) for store in ("staging", "fast"))
    assert of_job(site.notes.of(image)) == ["task.create", "task.processing", "task.failure"]
    task = (await site.tasks(image))[-1]
    assert task["status"] == "failure"
    assert await site.service.database.fetchval("SELECT count(*) FROM secrets") == 0
    return str(task["message"])


# --- the scenarios -----------------------------------------------------------------------


@pytest.mark.parametrize("interface", [{}, {"glance_service_interface": "internal"}], ids=["public", "internal"])
async def test_IM71_an_image_of_another_region(there: Site, here: Site, interface: dict[str, str]) -> None:
    properties = {"hw_cpu_cores": "5", "trait:X": "required", "os_distro": "rhel", "speed": "88"}
    image = await source(there, name="theirs", min_disk=3, tags=["theirs"], **properties)
    target = await here.image(name="ours", hw_cpu_cores="1", mine="kept", **FORMATS)
    shown = await ended(here, target, catalog(url_of(there)), method(image, **interface))
    assert (shown["status"], shown["size"], shown["checksum"]) == ("active", 1024, MD5)
    assert (shown["disk_format"], shown["container_format"]) == ("raw", "bare")
    assert (shown["hw_cpu_cores"], shown["trait:X"], shown["os_distro"], shown["mine"]) == (
        "5",
        "required",
        "rhel",
        "kept",
    )
    assert "speed" not in shown
    assert (shown["name"], shown["min_disk"], shown["tags"]) == ("ours", 0, [])
    original = await there.show(image)
    assert (shown["checksum"], shown["os_hash_value"]) == (original["checksum"], original["os_hash_value"])
    assert of_job(here.notes.of(target)) == [
        "task.create",
        "task.processing",
        prepare("importing", "fast", ["fast"], []),
        upload("active", "fast", [], []),
        "image.activate",
        "task.success",
    ]


async def test_IM72_images_that_cannot_be_had(there: Site, here: Site) -> None:
    image, queued = await source(there), await there.image()
    listed = catalog(url_of(there))
    for chosen, said in (
        (method(image, "nowhere"), "no public image endpoint in region nowhere"),
        (method(str(uuid4())), "404"),
        (method(queued), "not active"),
        (method(image, glance_service_interface="foo"), "no foo image endpoint"),
    ):
        target = await here.image(hw_cpu_cores="1", **FORMATS)
        assert said in await failed(here, await ended(here, target, listed, chosen), hw_cpu_cores="1")


async def test_IM73_malformed(here: Site) -> None:
    target = await here.image()
    for chosen, said in (
        (method("foo"), "image id does not look like a UUID"),
        (method(5), "glance_image_id"),
        (method(None), "glance_image_id"),
        (method("not-a-uuid"), "image id does not look like a UUID"),
        ({"name": "glance-download", "glance_image_id": str(uuid4())}, "glance_region"),
        (method(str(uuid4()), 5), "glance_region"),
        (method(str(uuid4()), uri="http://h/x"), "uri"),
        (method(str(uuid4()), glance_service_interface=["public"]), "glance_service_interface"),
    ):
        response = await here.call("POST", f"/images/{target}/import", json={"method": chosen})
        assert response.status == 400
        assert said in await response.text()
    assert await here.tasks(target) == []


async def test_it_is_off_unless_asked_for(four: Site) -> None:
    image = await four.image()
    assert await four.do_import(image, method=method(str(uuid4()))) == 400


# --- catalogues --------------------------------------------------------------------------


async def test_a_catalogue_of_the_older_form(there: Site, here: Site) -> None:
    """As Keystone's own middleware hands it on."""
    image, url = await source(there), url_of(there)
    endpoint = {"region": "R1", "publicURL": f"{url}/", "internalURL": "http://127.0.0.1:9", "adminURL": None}
    listed = orjson.dumps([{"type": "image", "endpoints": [endpoint]}]).decode()
    target = await here.image(**FORMATS)
    assert (await ended(here, target, listed, method(image)))["status"] == "active"


@pytest.mark.parametrize(
    "listed",
    [
        *("", "{", "[]", "null", "5", "[5]", '[{"type": "image"}]', '[{"type": "image", "endpoints": {}}]'),
        *('[{"type": "image", "endpoints": [{}]}]', '[{"type": "image", "endpoints": [{"region": "r1"}]}]'),
        '[{"type": "image", "endpoints": [{"region": "r1", "interface": "public", "url": 5}]}]',
    ],
)
async def test_catalogues_that_name_nothing(here: Site, listed: str) -> None:
    target = await here.image(**FORMATS)
    message = await failed(here, await ended(here, target, listed, method(str(uuid4()))))
    assert "no public image endpoint in region r1" in message


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/x", "http://", "http://2130706433", "http://[::1", "nonsense", "http://u:s3cr3t@[::1/"]
)
async def test_catalogues_that_name_nonsense(here: Site, url: str) -> None:
    target = await here.image(**FORMATS)
    message = await failed(here, await ended(here, target, catalog(url), method(str(uuid4()))))
    assert "does not pass filtering" in message
    assert "s3cr3t" not in message


# --- filters and tokens ------------------------------------------------------------------


async def test_the_six_lists_hold_here_too(postgres: Server, there: Site) -> None:
    """A port that is not allowed is not allowed, whoever names it; so with hosts."""
    image = await source(there)
    for filters in ("allowed_ports = [80, 443]", "allowed_ports = []\ndisallowed_hosts = 127.0.0.1"):
        config = four_stores(DEFAULT=METHODS, import_filtering_opts=filters)
        async with passing(postgres, config) as site:
            target = await site.image(**FORMATS)
            message = await failed(site, await ended(site, target, catalog(url_of(there)), method(image)))
            assert "does not pass filtering" in message


def remote(o: Origin, size: int | None = 1024, **more: Any) -> tuple[str, str]:
    """An image of the made-up region: its id, and where its data is."""
    image = str(uuid4())
    document = {"id": image, "status": "active", "disk_format": "raw", "container_format": "bare", "size": size, **more}
    o.answers[f"/v2/images/{image}"] = whole(orjson.dumps(document))
    o.answers[f"/v2/images/{image}/file"] = whole(RAW1K)
    return image, f"/v2/images/{image}/file"


async def test_the_callers_token_goes_to_the_region_and_no_further(here: Site, o: Origin) -> None:
    """A redirect within the origin keeps it; one away from it loses it, and trust in the host besides."""
    image, data = remote(o)
    o.answers[data] = redirect("/data")
    o.answers["/data"] = whole(RAW1K)
    target = await here.image(**FORMATS)
    assert (await ended(here, target, catalog(o.url("")), method(image)))["status"] == "active"
    for path in (f"/v2/images/{image}", data, "/data"):
        assert [asked.headers.get("x-auth-token") for asked in o.of(path)] == ["t0ken"]
    async with origin() as elsewhere:
        o.answers[data] = redirect(elsewhere.url("/raw"))
        target = await here.image(**FORMATS)
        message = await failed(here, await ended(here, target, catalog(o.url("")), method(image)))
        assert "does not pass filtering" in message  # only the catalogue's own host may be on loopback
        assert not elsewhere.asked
    events = await here.service.database.fetch("SELECT data::text AS data FROM events")
    assert not any("t0ken" in row["data"] for row in events)
    assert "t0ken" not in repr(here.notes.messages)


async def test_a_redirect_to_where_one_may_go_has_no_token(postgres: Server, o: Origin) -> None:
    config = four_stores(DEFAULT=METHODS, import_filtering_opts="allowed_ports = []\ndisallowed_networks = []")
    image, data = remote(o)
    async with passing(postgres, config) as site, origin() as elsewhere:
        o.answers[data] = redirect(elsewhere.url("/raw"))
        target = await site.image(**FORMATS)
        assert (await ended(site, target, catalog(o.url("")), method(image)))["status"] == "active"
        assert [asked.headers.get("x-auth-token") for asked in elsewhere.of("/raw")] == [None]


# --- hostile regions ---------------------------------------------------------------------

GOOD = {"status": "active", "disk_format": "raw", "container_format": "bare", "size": 1024}
DOCUMENTS: dict[str, Any] = {
    "no JSON": b"<html>",
    "no object": [],
    "no status": {"disk_format": "raw", "container_format": "bare"},
    "no formats": {"status": "active"},
    "no size": {**GOOD, "size": None},
    "a size that is none": {**GOOD, "size": "1024"},
    "a size that is a boolean": {**GOOD, "size": True},
    "formats that are none": {"status": "active", "disk_format": 5, "container_format": ["bare"]},
    "too long": b'{"status": "active", "x": "' + b"x" * (9 << 20),
    "a disk format that this site does not take": {**GOOD, "disk_format": "nonsense"},
    "a container format that this site does not take": {**GOOD, "container_format": "crate"},
    "a property that cannot be recorded": {**GOOD, "hw_x": "a\0b"},
    "a name that cannot be recorded": {**GOOD, "hw_\0": "x"},
    "a format that cannot be recorded": {**GOOD, "disk_format": "ra\0w"},
}


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_descriptions_that_are_none(here: Site, o: Origin, name: str) -> None:
    image, _ = remote(o)
    document = DOCUMENTS[name]
    o.answers[f"/v2/images/{image}"] = whole(document if isinstance(document, bytes) else orjson.dumps(document))
    target = await here.image(hw_cpu_cores="1", **FORMATS)
    await failed(here, await ended(here, target, catalog(o.url("")), method(image)), hw_cpu_cores="1")


async def test_what_describes_the_image_itself_is_not_taken_over(postgres: Server, o: Origin) -> None:
    """Whatever prefixes an operator lists: neither attributes nor reserved names."""
    config = four_stores(
        DEFAULT=METHODS,
        import_filtering_opts=FILTERS,
        glance_download_properties="extra_properties = ['os_', 'n', 'v', 'st', 'own', 'check', 'x']",
    )
    more = {"name": "evil", "visibility": "public", "owner": "pB", "checksum": "0", "x": "1", "xn": 5, "xo": None}
    reserved = {"os_glance_importing_to_stores": "fast", "os_hash_value": "0", "os_hidden": True, "stores": "cheap"}
    image, _ = remote(o, **more, **reserved)
    async with passing(postgres, config) as site:
        target = await site.image(**FORMATS)
        shown = await ended(site, target, catalog(o.url("")), method(image))
        assert (shown["status"], shown["name"], shown["visibility"], shown["owner"]) == ("active", "n", "shared", "pA")
        assert (shown["checksum"], shown["stores"], shown["os_hidden"], shown["x"]) == (MD5, "fast", False, "1")
        assert shown["os_glance_importing_to_stores"] == ""
        assert not shown.keys() & {"xn", "xo"}


@pytest.mark.parametrize("size", [1000, 2000])
async def test_data_of_another_size_than_the_images(here: Site, o: Origin, size: int) -> None:
    image, _ = remote(o, size)
    target = await here.image(hw_cpu_cores="1", **FORMATS)
    await failed(here, await ended(here, target, catalog(o.url("")), method(image)), hw_cpu_cores="1")


async def test_formats_and_properties_come_back_when_the_data_fails(here: Site, o: Origin) -> None:
    image, data = remote(o, hw_cpu_cores="8", os_distro="rhel")
    o.answers[data] = whole(b"no", status="503 Away")
    target = await here.image(hw_cpu_cores="1", **FORMATS)
    message = await failed(here, await ended(here, target, catalog(o.url("")), method(image)), hw_cpu_cores="1")
    assert "503" in message
