"""Locations shown, and changed by PATCH (images.md 3.1, 7, 8.5)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.mirror import Mirror, mirror
from tests.support.postgres import Server
from tests.support.retaining_store import EXTENSION as RETAINING
from tests.support.retaining_store import RetainingStore
from tests.support.running import Site
from tests.support.standing import (
    blocked,
    hooks,
    memory_stores,
    objects,
    one_store,
    passing,
    retaining_stores,
    somebody,
    standing,
    three_stores,
)
from tests.support.stores import a_name

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHOWN = "show_multiple_locations = True\nshow_image_direct_url = True"
DATA = bytes(3000)
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
_numbers = count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(postgres: Server) -> AsyncIterator[Site]:
    """Site L: fast (default), cheap, web; locations are shown."""
    async with standing(postgres, three_stores(DEFAULT=SHOWN)) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def m() -> AsyncIterator[Mirror]:
    async with mirror() as made:
        yield made


def a_file(m: Mirror, content: bytes = DATA) -> str:
    """The URL of a file that nobody else uses."""
    return m.add(f"/{next(_numbers)}", content)


async def patch(
    site: Site, image: str, *operations: dict[str, Any], who: str | dict[str, str] = "A"
) -> tuple[int, dict[str, Any]]:
    answer = await site.call("PATCH", f"/images/{image}", who, json=operations, headers=PATCH)
    return answer.status, await answer.json()


def add(url: str, at: str = "-", metadata: Any = None, **more: Any) -> dict[str, Any]:
    value = {"url": url, "metadata": {} if metadata is None else metadata, **more}
    return {"op": "add", "path": f"/locations/{at}", "value": value}


def remove(at: Any) -> dict[str, Any]:
    return {"op": "remove", "path": f"/locations/{at}"}


def replace(*locations: dict[str, Any]) -> dict[str, Any]:
    return {"op": "replace", "path": "/locations", "value": list(locations)}


async def registered(site: Site, m: Mirror, *more: str) -> tuple[str, list[str]]:
    """An active image with locations at the mirror; their URLs."""
    image = await site.image()
    urls = [a_file(m), *more]
    for url in urls:
        status, document = await patch(site, image, add(url))
        assert status == 200, document
    return image, urls


def urls_of(document: dict[str, Any]) -> list[str]:
    return [location["url"] for location in document["locations"]]


# --- showing -----------------------------------------------------------------------------


async def test_X01_where_locations_are_not_shown(three: Site, m: Mirror) -> None:
    image, url = await three.image(), a_file(m)
    for who in ("A", "ADM"):
        assert (await patch(three, image, add(url), who=who))[0] == 403
        assert (await patch(three, image, replace({"url": url, "metadata": {}}), who=who))[0] == 403
        assert (await patch(three, image, remove(0), who=who))[0] == 403
    assert not {"locations", "direct_url"} & set(await three.show(image))
    assert not m.downloads(url)


async def test_X02_an_image_without_data(lab: Site) -> None:
    shown = await lab.show(await lab.image())
    assert shown["locations"] == []
    assert "direct_url" not in shown
    assert "stores" not in shown


async def test_locations_of_our_own_are_shown(lab: Site) -> None:
    """In the order in which data is read, each with its store."""
    image = await lab.image()
    await lab.stage(image, DATA)
    assert await lab.do_import(image, stores=["fast", "cheap"]) == 202
    shown = await lab.ended(image)
    assert [location["metadata"] for location in shown["locations"]] == [{"store": "cheap"}, {"store": "fast"}]
    assert shown["direct_url"] == shown["locations"][0]["url"]
    assert shown["direct_url"].startswith("file://")
    listed = await (await lab.call("GET", f"/images?id={image}")).json()
    assert listed["images"][0]["locations"] == shown["locations"]


async def test_a_single_store_site_names_no_store(postgres: Server) -> None:
    async with passing(postgres, one_store(DEFAULT=SHOWN)) as site:
        image = await site.image()
        await site.upload(image, DATA)
        shown = await site.show(image)
        assert [location["metadata"] for location in shown["locations"]] == [{}]
        assert shown["direct_url"] == shown["locations"][0]["url"]


async def test_only_one_of_the_two_is_shown_if_so_told(postgres: Server) -> None:
    async with passing(postgres, one_store(DEFAULT="show_image_direct_url = True")) as site:
        image = await site.image()
        assert "direct_url" not in await site.show(image)
        await site.upload(image, DATA)
        shown = await site.show(image)
        assert "direct_url" in shown
        assert "locations" not in shown
        assert (await patch(site, image, remove(0), who="ADM"))[0] == 403


async def test_D08_a_deactivated_image_hides_where_it_is(lab: Site, m: Mirror) -> None:
    """From everybody but administrators."""
    image, (url,) = await registered(lab, m)
    assert (await lab.call("POST", f"/images/{image}/actions/deactivate")).status == 204
    for who in ("A", "AR"):
        shown = await lab.show(image, who)
        assert shown["locations"] == []
        assert not {"direct_url", "stores"} & set(shown)
    shown = await lab.show(image, "ADM")
    assert (urls_of(shown), shown["direct_url"], shown["stores"]) == ([url], url, "web")
    assert (await patch(lab, image, add(a_file(m))))[0] == 409
    assert (await patch(lab, image, remove(0), who="ADM"))[0] == 409
    assert (await patch(lab, image, replace({"url": url, "metadata": {"a": 1}})))[0] == 409


# --- adding ------------------------------------------------------------------------------


async def test_X03_a_location_makes_a_queued_image_active(lab: Site, m: Mirror) -> None:
    image, url = await lab.image(), a_file(m)
    status, document = await patch(lab, image, add(url))
    assert status == 200
    shown = await lab.show(image)
    assert document == shown
    assert (shown["status"], shown["size"], shown["stores"]) == ("active", 3000, "web")
    assert [shown[name] for name in ("checksum", "os_hash_algo", "os_hash_value", "virtual_size")] == [None] * 4
    assert shown["locations"] == [{"url": url, "metadata": {"store": "web"}}]
    assert shown["direct_url"] == url
    data = await lab.call("GET", f"/images/{image}/file")
    assert (await data.read(), data.headers.get("Content-MD5")) == (DATA, None)
    await lab.settled()
    told = [note.event_type for note in lab.notes.of(image)]
    assert told[:3] == ["image.create", "image.activate", "image.update"]
    assert (await lab.call("DELETE", f"/images/{image}")).status == 204
    await lab.settled()
    assert m.files[url.removeprefix(m.address)] == DATA


@pytest.mark.parametrize(
    "value",
    [
        {"metadata": {}},
        {"url": "URL"},
        {"url": "URL", "metadata": None},
        {"url": "URL", "metadata": []},
        {"url": 5, "metadata": {}},
        {"url": "", "metadata": {}},
        {"url": "URL", "metadata": {}, "validation_data": {}},
        {"url": "URL", "metadata": {}, "validation_data": {"os_hash_algo": "sha512"}},
        {"url": "URL", "metadata": {}, "validation_data": {"os_hash_value": "ab"}},
        {"url": "URL", "metadata": {}, "validation_data": {"os_hash_algo": 5, "os_hash_value": "ab"}},
        {"url": "URL", "metadata": {}, "unknown": 1},
        {"url": "URL", "metadata": {"store": "nope"}},
        {"url": "URL", "metadata": {"store": "fast"}},
        {"url": "URL", "metadata": {"store": ["web"]}},
        {"url": "MISSING", "metadata": {}},
        {"url": "EMPTY", "metadata": {}},
        {"url": "file:///etc/passwd", "metadata": {}},
        {"url": "FILE:///etc/passwd", "metadata": {}},
        {"url": "filesystem:///etc/passwd", "metadata": {}},
        {"url": "swift+config://x/y", "metadata": {}},
        {"url": "gopher://x", "metadata": {}},
        {"url": "no url", "metadata": {}},
        {"url": "http://[::1", "metadata": {}},
        {"url": "http://", "metadata": {}},
        {"url": "http://u:secret@127.0.0.1/x", "metadata": {}},
        {"url": "http://127.0.0.1:1/x", "metadata": {}},
        {"url": "http://127.0.0.1/" + "x" * 240, "metadata": {}},
        [],
        "URL",
        None,
    ],
)
async def test_X04_what_is_no_location(lab: Site, m: Mirror, value: Any) -> None:
    """400, and nothing has happened."""
    image = await lab.image()
    if isinstance(value, dict) and value.get("url") in ("URL", "MISSING", "EMPTY"):
        empty, missing = a_file(m, b""), m.url("/missing")
        value = {**value, "url": {"URL": a_file(m), "MISSING": missing, "EMPTY": empty}[value["url"]]}
    before = await lab.show(image)
    operation = {"op": "add", "path": "/locations/-", "value": value}
    status, answer = await patch(lab, image, operation)
    assert status == 400, answer
    assert "secret" not in str(answer)
    assert (await patch(lab, image, {"op": "replace", "path": "/locations", "value": [value]}))[0] == 400
    assert await lab.show(image) == before


@pytest.mark.parametrize("path", ["/locations", "/locations/x", "/locations/-1", "/locations/1.5", "/locations/--"])
async def test_paths_that_are_no_place_to_add_at(lab: Site, m: Mirror, path: str) -> None:
    image = await lab.image()
    value = {"url": a_file(m), "metadata": {}}
    assert (await patch(lab, image, {"op": "add", "path": path, "value": value}))[0] == 400
    assert (await lab.show(image))["status"] == "queued"


async def test_X05_formats_are_needed(lab: Site, m: Mirror) -> None:
    """They may come with the same patch, before the location."""
    image, url = await lab.image(disk_format=None, container_format=None), a_file(m)
    assert (await patch(lab, image, add(url)))[0] == 400
    assert (await lab.show(image))["status"] == "queued"
    formats = [
        {"op": "add", "path": f"/{name}", "value": value}
        for name, value in (("disk_format", "raw"), ("container_format", "bare"))
    ]
    assert (await patch(lab, image, add(url), *formats))[0] == 400
    assert (await lab.show(image))["disk_format"] is None
    status, shown = await patch(lab, image, *formats, add(url), {"op": "add", "path": "/p", "value": "v"})
    assert (status, shown["status"], shown["p"]) == (200, "active", "v")


async def test_X06_the_same_again(lab: Site, m: Mirror) -> None:
    """Url and metadata may not both be those of another location."""
    image, (url,) = await registered(lab, m)
    assert (await patch(lab, image, add(url)))[0] == 400
    assert (await patch(lab, image, add(url, metadata={"store": "web"})))[0] == 400
    status, shown = await patch(lab, image, add(url, metadata={"a": "b"}))
    assert (status, len(shown["locations"])) == (200, 2)
    assert shown["locations"][1] == {"url": url, "metadata": {"a": "b", "store": "web"}}
    assert shown["stores"] == "web"
    status, shown = await patch(lab, image, add(f"{url}#fragment"))
    assert (status, len(shown["locations"])) == (200, 3)
    assert shown["size"] == 3000


async def test_places(lab: Site, m: Mirror) -> None:
    """Before the location that has the number; beyond the end is the end."""
    image, (first,) = await registered(lab, m)
    second, third, last = a_file(m), a_file(m), a_file(m)
    await patch(lab, image, add(second, "0"))
    await patch(lab, image, add(third, "1"))
    status, shown = await patch(lab, image, add(last, "99"))
    assert (status, urls_of(shown)) == (200, [second, third, first, last])
    assert shown["direct_url"] == second


async def test_an_image_of_ours_can_have_locations_elsewhere(lab: Site, m: Mirror) -> None:
    """They are read in the order of their stores, whichever came first."""
    image = await lab.image()
    await lab.upload(image, DATA)
    status, shown = await patch(lab, image, add(a_file(m), "0"))
    assert (status, shown["stores"], shown["status"]) == (200, "fast,web", "active")
    assert (shown["size"], shown["checksum"]) == (3000, hashlib.md5(DATA).hexdigest())
    assert (await lab.call("DELETE", f"/stores/fast/{image}", "ADM")).status == 204
    await lab.until(lambda: not objects(lab, "fast", image))
    assert await (await lab.call("GET", f"/images/{image}/file")).read() == DATA


@pytest.mark.parametrize("sending", ["uploading", "deactivated"])
async def test_only_queued_and_active_images_take_locations(lab: Site, m: Mirror, sending: str) -> None:
    image = await lab.image()
    if sending == "uploading":
        await lab.stage(image, DATA)
    else:
        await lab.upload(image, DATA)
        await lab.call("POST", f"/images/{image}/actions/deactivate")
    assert (await patch(lab, image, add(a_file(m))))[0] == 409


async def test_X09_quotas(postgres: Server, m: Mirror) -> None:
    async with passing(postgres, three_stores(DEFAULT=f"{SHOWN}\nimage_location_quota = 2")) as site:
        image, urls = await registered(site, m, a_file(m))
        assert (await patch(site, image, add(a_file(m))))[0] == 413
        assert urls_of(await site.show(image)) == urls
        fresh = await site.image()
        three_of_them = [{"url": a_file(m), "metadata": {}} for _ in range(3)]
        assert (await patch(site, fresh, replace(*three_of_them)))[0] == 413
        assert (await site.show(fresh))["status"] == "queued"
        assert (await patch(site, fresh, replace(*three_of_them[:2])))[0] == 200


async def test_X09_no_store_is_asked_about_more_than_there_may_be(postgres: Server, m: Mirror) -> None:
    """Or one patch would have the service send thousands of requests to wherever somebody likes."""
    async with passing(postgres, three_stores(DEFAULT=f"{SHOWN}\nimage_location_quota = 2")) as site:
        image, _ = await registered(site, m)
        fresh = await site.image()
        urls = [a_file(m) for _ in range(3)]
        m.asked.clear()
        assert (await patch(site, image, *map(add, urls)))[0] == 413
        assert (await patch(site, fresh, *map(add, urls)))[0] == 413
        assert (await patch(site, fresh, replace(*({"url": url, "metadata": {}} for url in urls))))[0] == 413
        assert m.asked == []
        change = (add(urls[0]), remove(0), add(urls[1]), remove(0))
        assert (await patch(site, image, *change, who="ADM"))[0] == 200
        assert urls_of(await site.show(image)) == [urls[1]]


async def test_X09_every_location_counts_as_storage(postgres: Server, m: Mirror) -> None:
    async with passing(postgres, three_stores(DEFAULT=f"{SHOWN}\nuser_storage_quota = 6500")) as site:
        who = somebody()
        image = await site.image(who)
        for status in (200, 200, 413):
            assert (await patch(site, image, add(a_file(m)), who=who))[0] == status
        assert len((await site.show(image))["locations"]) == 2
        other = await site.image(who)
        assert (await patch(site, other, add(a_file(m)), who=who))[0] == 413
        assert (await site.show(other))["status"] == "queued"
        assert (await patch(site, image, remove(0), who="ADM"))[0] == 200
        assert (await patch(site, other, add(a_file(m)), who=who))[0] == 200


async def test_who_may(lab: Site, m: Mirror) -> None:
    """No store is asked on behalf of somebody who may not."""
    image, url = await lab.image(visibility="community"), a_file(m)
    path = url.removeprefix(m.address)
    for who, status in (("C", 403), ("AR", 403), ("NR", 404)):
        assert (await patch(lab, image, add(url), who=who))[0] == status
    private = await lab.image(visibility="private")
    assert (await patch(lab, private, add(url), who="C"))[0] == 404
    assert (await patch(lab, "unknown", add(url)))[0] == 404
    assert not any(asked == path for _, asked in m.asked)


async def test_rules(postgres: Server, m: Mirror) -> None:
    rules = {"set_image_location": "role:admin", "delete_image_location": "role:member"}
    async with passing(postgres, three_stores(DEFAULT=SHOWN), rules=rules) as site:
        image, url = await site.image(), a_file(m)
        assert (await patch(site, image, add(url)))[0] == 403
        assert (await patch(site, image, add(url), add(a_file(m)), who="ADM"))[0] == 200
        assert (await patch(site, image, replace({"url": url, "metadata": {}})))[0] == 403
        assert (await patch(site, image, remove(0)))[0] == 200


# --- hashes ------------------------------------------------------------------------------


def proof(data: bytes = DATA, algo: str = "sha512", **more: Any) -> dict[str, Any]:
    return {"os_hash_algo": algo, "os_hash_value": hashlib.new(algo, data).hexdigest(), **more}


async def test_8_5_hashes_come_with_the_first_location(lab: Site, m: Mirror) -> None:
    """They become the image's and are never shown as the location's."""
    image, url = await lab.image(), a_file(m)
    md5 = hashlib.md5(DATA).hexdigest()
    status, shown = await patch(lab, image, add(url, validation_data=proof(checksum=md5)))
    assert status == 200
    assert (shown["checksum"], shown["os_hash_algo"]) == (md5, "sha512")
    assert shown["os_hash_value"] == proof()["os_hash_value"]
    assert "validation_data" not in str(shown)
    other = a_file(m)
    assert (await patch(lab, image, add(other, validation_data=proof(b"x"))))[0] == 409
    assert (await patch(lab, image, add(other, validation_data=proof(checksum="0" * 32))))[0] == 409
    assert (await patch(lab, image, add(other, validation_data=proof())))[0] == 200
    assert (await patch(lab, image, add(a_file(m), validation_data=proof(checksum=md5))))[0] == 200
    data = await lab.call("GET", f"/images/{image}/file")
    assert data.headers["Content-MD5"] == md5


@pytest.mark.parametrize(
    "said",
    [
        proof(algo="sha256"),
        {"os_hash_algo": "sha512", "os_hash_value": "ab"},
        {"os_hash_algo": "sha512", "os_hash_value": "x" * 128},
        {"os_hash_algo": "nonsense", "os_hash_value": "ab"},
        proof(checksum="ab"),
        proof(checksum="x" * 32),
    ],
)
async def test_8_5_hashes_that_are_none(lab: Site, m: Mirror, said: dict[str, Any]) -> None:
    image = await lab.image()
    assert (await patch(lab, image, add(a_file(m), validation_data=said)))[0] == 409
    assert (await lab.show(image))["status"] == "queued"


async def test_8_5_hashes_cannot_be_given_later(lab: Site, m: Mirror) -> None:
    image, _ = await registered(lab, m)
    assert (await patch(lab, image, add(a_file(m), validation_data=proof())))[0] == 409
    assert (await lab.show(image))["os_hash_value"] is None


# --- removing ----------------------------------------------------------------------------


async def test_X07_removing(lab: Site, m: Mirror) -> None:
    image, (first, second) = await registered(lab, m, a_file(m))
    assert (await patch(lab, image, remove(0)))[0] == 403
    for at in (9, "x", "-", "-1"):
        assert (await patch(lab, image, remove(at), who="ADM"))[0] == 400
    assert (await patch(lab, image, {"op": "remove", "path": "/locations"}, who="ADM"))[0] == 400
    status, shown = await patch(lab, image, remove(0), who="ADM")
    assert (status, urls_of(shown)) == (200, [second])
    assert (await patch(lab, image, remove(0), who="ADM"))[0] == 403
    assert first.removeprefix(m.address) in m.files


async def test_removed_data_of_ours_goes(postgres: Server) -> None:
    """The number is that of the order shown."""
    async with passing(postgres, memory_stores(DEFAULT=SHOWN), also=(FAULTY,)) as site:
        image = await site.image()
        await site.stage(image, DATA)
        assert await site.do_import(image, stores=["reliable", "fast", "cheap"]) == 202
        assert (await site.ended(image))["stores"] == "cheap,fast,reliable"
        status, shown = await patch(site, image, remove(1), who="ADM")
        assert (status, shown["stores"]) == (200, "cheap,reliable")
        await site.until(lambda: not objects(site, "fast", image))
        status, shown = await patch(site, image, remove(0), remove(0), who="ADM")
        assert status == 403  # all or nothing: the last one stays
        assert (await site.show(image))["stores"] == "cheap,reliable"


async def test_data_that_somebody_depends_on_is_not_removed(postgres: Server) -> None:
    async with passing(postgres, retaining_stores(DEFAULT=SHOWN), also=(RETAINING,)) as site:
        image = await site.image()
        await site.stage(image, DATA)
        assert await site.do_import(image, stores=["fast", "cheap"]) == 202
        await site.ended(image)
        cheap = hooks(site, "cheap")
        assert isinstance(cheap, RetainingStore)
        cheap.in_use = "it has snapshots"
        assert (await patch(site, image, remove(0), who="ADM"))[0] == 409
        assert (await site.show(image))["stores"] == "cheap,fast"
        assert (await patch(site, image, remove(1), who="ADM"))[0] == 200
        cheap.in_use = None


async def test_data_of_a_store_that_can_be_written_goes_with_the_image(postgres: Server) -> None:
    """Whoever put it there: registering it made it the image's."""
    async with passing(postgres, memory_stores(DEFAULT=SHOWN), also=(FAULTY,)) as site:
        image, cheap = await site.image(), hooks(site, "cheap")
        theirs = a_name()
        cheap.blobs[theirs] = (DATA,)
        url = cheap.url(theirs)
        status, shown = await patch(site, image, add(url, metadata={"store": "cheap"}))
        assert (status, shown["stores"], shown["size"]) == (200, "cheap", 3000)
        assert (await site.call("DELETE", f"/images/{image}")).status == 204
        await site.until(lambda: theirs not in cheap.blobs)


# --- replacing ---------------------------------------------------------------------------


async def test_X08_what_replacing_cannot_do(lab: Site, m: Mirror) -> None:
    image, (url,) = await registered(lab, m)
    assert (await patch(lab, image, replace()))[0] == 403
    one_of_them = {"op": "replace", "path": "/locations/0", "value": {"url": url, "metadata": {}}}
    assert (await patch(lab, image, one_of_them))[0] == 400
    for value in ({}, {"url": url, "metadata": {}}, None, "x", [url], [{"url": url}]):
        assert (await patch(lab, image, {"op": "replace", "path": "/locations", "value": value}))[0] == 400
    assert (await patch(lab, image, replace({"url": a_file(m), "metadata": {}})))[0] == 400
    twice = {"url": url, "metadata": {}}
    assert (await patch(lab, image, replace(twice, twice)))[0] == 400
    assert urls_of(await lab.show(image)) == [url]


async def test_8_5_replacing_changes_metadata(lab: Site, m: Mirror) -> None:
    image, (first, second) = await registered(lab, m, a_file(m))
    changed = [{"url": second, "metadata": {"a": {"b": [1]}}}, {"url": first, "metadata": {"store": "web"}}]
    status, shown = await patch(lab, image, replace(*changed))
    assert (status, urls_of(shown)) == (200, [second, first])
    assert shown["locations"][0]["metadata"] == {"a": {"b": [1]}, "store": "web"}
    status, again = await patch(lab, image, replace(*shown["locations"]))
    assert (status, again["locations"]) == (200, shown["locations"])


async def test_8_5_replacing_nothing_sets_them(lab: Site, m: Mirror) -> None:
    image = await lab.image()
    urls = [a_file(m), a_file(m)]
    status, shown = await patch(lab, image, replace(*({"url": url, "metadata": {}} for url in urls)))
    assert (status, shown["status"], urls_of(shown)) == (200, "active", urls)


async def test_metadata_of_our_own_copies_can_be_changed(lab: Site) -> None:
    """They stay ours: the bytes go with the image."""
    image = await lab.image()
    await lab.upload(image, DATA)
    (mine,) = (await lab.show(image))["locations"]
    status, shown = await patch(lab, image, replace({"url": mine["url"], "metadata": {"k": "v"}}))
    assert (status, shown["locations"][0]["metadata"]) == (200, {"k": "v", "store": "fast"})
    assert await (await lab.call("GET", f"/images/{image}/file")).read() == DATA
    assert (await lab.call("DELETE", f"/images/{image}")).status == 204
    await lab.until(lambda: not objects(lab, "fast", image))


# --- altogether --------------------------------------------------------------------------


async def test_a_patch_with_a_fault_changes_nothing(lab: Site, m: Mirror) -> None:
    image, url = await lab.image(), a_file(m)
    name = {"op": "replace", "path": "/name", "value": "changed"}
    bad = {"op": "replace", "path": "/none", "value": "x"}
    assert (await patch(lab, image, name, add(url), bad))[0] == 409
    shown = await lab.show(image)
    assert (shown["name"], shown["status"], shown["locations"]) == ("n", "queued", [])


async def test_a_running_import_keeps_the_locations_as_they_are(postgres: Server, m: Mirror) -> None:
    """409: what it reads from and what falls with it must not change under it."""
    async with passing(postgres, memory_stores(DEFAULT=SHOWN), also=(FAULTY,)) as site:
        image = await site.image()
        await site.upload(image, DATA)
        copying = {"method": {"name": "copy-image"}, "stores": ["cheap"]}
        async with blocked(site, "cheap"):
            assert (await site.call("POST", f"/images/{image}/import", "ADM", json=copying)).status == 202
            for operation in (add(a_file(m)), remove(0), replace(*(await site.show(image))["locations"])):
                assert (await patch(site, image, operation, who="ADM"))[0] == 409
        assert (await site.ended(image))["stores"] == "cheap,fast"
        assert (await patch(site, image, add(a_file(m))))[0] == 200
