"""Changing images by PATCH (images.md 8)."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from kernel import events as e
from tests.support.postgres import Server
from tests.support.raw import Wire, chunk, head
from tests.support.running import Site
from tests.support.standing import one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW = "application/openstack-images-v2.1-json-patch"
OLD = "application/openstack-images-v2.0-json-patch"


def add(name: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": f"/{name}", "value": value}


def replace(name: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": f"/{name}", "value": value}


def remove(name: str) -> dict[str, Any]:
    return {"op": "remove", "path": f"/{name}"}


async def statuses(site: Site, image: str, *documents: list[Any] | dict[str, Any], **more: Any) -> list[int]:
    """What each of these patches, one after another, is answered with."""
    listed = [item if isinstance(item, list) else [item] for item in documents]
    return [(await site.patch(image, *document, **more)).status for document in listed]


async def send(site: Site, image: str, body: bytes, content_type: str | None = NEW) -> int:
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with site.client.request(
        "PATCH",
        f"/v2/images/{image}",
        data=body,
        headers={"Accept": "application/json", **_identity(), **headers},
        skip_auto_headers=("Content-Type",),
    ) as answer:
        if answer.status == 415:
            assert sorted(answer.headers["Accept-Patch"].split(", ")) == sorted([NEW, OLD])
        return answer.status


def _identity() -> dict[str, str]:
    return {
        "X-Identity-Status": "Confirmed",
        "X-User-Id": "uA",
        "X-Project-Id": "pA",
        "X-Roles": "member,reader",
    }


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        (None, 415),
        ("", 415),
        ("application/openstack-images-v2.2-json-patch", 415),
        (f"{NEW}; charset=utf-8", 200),
        (OLD.upper(), 200),
    ],
)
async def test_U01_media_types(one: Site, content_type: str | None, status: int) -> None:
    assert await send(one, await one.image(), b"[]", content_type) == status


async def test_U02_an_empty_patch_changes_nothing(one: Site) -> None:
    image = await one.image()
    shown, before = await one.show(image), await one.service.log.head()
    answers = [await one.patch(image, who=who) for who in ("A", "AR", "C", "NR")]
    assert [answer.status for answer in answers] == [200, 200, 404, 404]
    assert await answers[0].json() == shown
    assert await one.service.log.head() == before


async def test_U03_the_whole_image_is_returned(one: Site) -> None:
    image = await one.image(rack="7")
    for operation, name, value in (
        (replace("name", "m"), "name", "m"),
        (add("name", "o"), "name", "o"),
        (add("rack", "8"), "rack", "8"),
        (replace("rack", "9"), "rack", "9"),
        (add("new", "v"), "new", "v"),
        (remove("new"), "new", None),
    ):
        answer = await one.patch(image, operation)
        assert answer.status == 200
        document = await answer.json()
        assert document.get(name) == value
        assert await one.show(image) == document
    assert "new" not in document


async def test_U04_what_is_absent_and_what_must_stay(one: Site) -> None:
    image = await one.image(rack="7")
    documents = [replace("none", "x"), remove("none"), remove("name"), remove("tags")]
    assert await statuses(one, image, *documents) == [409, 409, 403, 403]


async def test_U05_the_older_media_type(one: Site) -> None:
    image = await one.image(rack="7")
    documents: list[dict[str, Any]] = [
        {"replace": "/name", "value": "n"},
        {"add": "/name", "value": "n"},
        {"add": "/rack", "value": "n"},
        {"add": "/n2", "value": "n"},
        {"remove": "/n2"},
        {"op": "add", "path": "/b", "value": "x"},
        {"add": "/b", "replace": "/name", "value": "x"},
        {"value": "x"},
        {"add": "/b"},
    ]
    expected = [200, 409, 409, 200, 200, 400, 400, 400, 400]
    assert await statuses(one, image, *documents, version="v2.0") == expected


@pytest.mark.parametrize(
    "operation",
    [
        "x",
        5,
        None,
        [],
        {},
        {"path": "/a", "value": "x"},
        {"op": "move", "path": "/a", "value": "x"},
        {"op": "test", "path": "/a", "value": "x"},
        {"op": "copy", "path": "/a", "from": "/b"},
        {"op": ["add"], "path": "/a", "value": "x"},
        {"op": {"add": 1}, "path": "/a", "value": "x"},
        {"op": "add", "value": "x"},
        {"op": "add", "path": "/a"},
        {"op": "replace", "path": "/name"},
        {"op": "add", "path": 5, "value": "x"},
        {"op": "add", "path": None, "value": "x"},
        *({"op": "add", "path": path, "value": "x"} for path in ("name", "", "/", "/a/", "/a//b", "//a", "/a/b")),
        *({"op": "add", "path": path, "value": "x"} for path in ("/a~2b", "/a~", "/tags/-", "/tags/0", "/ ")),
        *({"op": "add", "path": path, "value": "x"} for path in (f"/a{' ' * 5000}", "/a" * 5000, "/~0" * 5000)),
        {"op": "remove", "path": "/a/b/c"},
    ],
    ids=lambda operation: repr(operation)[:60],
)
async def test_U06_malformed_operations(one: Site, operation: Any) -> None:
    """Whatever stands before them."""
    image = await one.image()
    before = await one.service.log.head()
    assert await statuses(one, image, [operation], [add("ok", "x"), operation]) == [400, 400]
    assert await one.service.log.head() == before


@pytest.mark.parametrize("body", [b"", b"{}", b'"x"', b"5", b"null", b"[", b"[NaN]", b'[{"op": "add\xff"}]'])
async def test_U06_malformed_bodies(one: Site, body: bytes) -> None:
    assert await send(one, await one.image(), body) == 400


async def test_U07_escapes_in_paths(one: Site) -> None:
    image = await one.image()
    assert (
        await statuses(one, image, add("k~1~0s", "v"), add("~01", "w"), add(" b ", "x"), add("ü☃.:", "y")) == [200] * 4
    )
    shown = await one.show(image)
    assert {"k/~s": "v", "~1": "w", "b": "x", "ü☃.:": "y"}.items() <= shown.items()


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (add("x", 1), 400),
        (add("x", None), 400),
        (add("x", ["a"]), 400),
        (add("x", ""), 200),
        (add("x", "a\0b"), 400),
        (add("a\0b", "x"), 400),
        (replace("name", None), 200),
        (replace("name", "x" * 256), 400),
        (replace("name", 5), 400),
        (replace("min_disk", None), 400),
        (replace("min_disk", -1), 400),
        (replace("min_disk", 2147483648), 400),
        (replace("min_ram", "5"), 400),
        (replace("min_ram", True), 400),
        (replace("protected", "true"), 400),
        (replace("protected", 1), 400),
        (replace("os_hidden", None), 400),
        (replace("visibility", None), 400),
        (replace("visibility", "bogus"), 400),
        (add("x" * 256, "v"), 400),
        (add("x" * 255, "v"), 200),
    ],
    ids=repr,
)
async def test_U08_values_are_validated(one: Site, operation: dict[str, Any], status: int) -> None:
    image = await one.image()
    assert await statuses(one, image, operation) == [status]


async def test_U08_whole_numbers_are_stored_as_such(one: Site) -> None:
    image = await one.image()
    answer = await one.patch(image, replace("min_disk", 5.0), replace("min_ram", 2147483647))
    assert b'"min_disk":5,' in await answer.read()
    assert await statuses(one, image, replace("min_disk", 5.5)) == [400]


@pytest.mark.parametrize(
    "name",
    [
        *("id", "size", "status", "checksum", "created_at", "updated_at", "direct_url", "self", "file", "schema"),
        *("stores", "virtual_size", "os_hash_algo", "os_hash_value", "location", "deleted", "deleted_at"),
        *("os_glance_x", "os_glancex", "os_glance_importing_to_stores"),
    ],
)
async def test_U09_what_nobody_may_touch(one: Site, name: str) -> None:
    """For admins neither, and whether the image exists or not."""
    image = await one.image()
    for operation in (add(name, "x"), replace(name, "x"), remove(name)):
        for who in ("A", "ADM"):
            assert await statuses(one, image, operation, who=who) == [403]
        assert await statuses(one, "nope", operation) == [403]
        assert await statuses(one, image, [remove("none"), operation]) == [403]


@pytest.mark.parametrize(
    "name", ["image_id", "extra_properties", "delete", "member", "context", "__class__", "is_public"]
)
async def test_names_that_mean_nothing_are_plain_properties(one: Site, name: str) -> None:
    """D2."""
    image = await one.image()
    assert await statuses(one, image, replace(name, "x"), add(name, "x"), replace(name, "y")) == [409, 200, 200]
    assert (await one.show(image))[name] == "y"
    assert await statuses(one, image, remove(name)) == [200]
    assert name not in await one.show(image)


async def test_X01_locations_are_closed_where_they_are_not_shown(three: Site) -> None:
    image = await three.image()
    entry = {"url": "http://127.0.0.1/x", "metadata": {}}
    for who, operation in (
        ("A", add("locations/-", entry)),
        ("A", replace("locations", [entry])),
        ("ADM", add("locations/-", entry)),
        ("ADM", remove("locations/0")),
    ):
        assert await statuses(three, image, operation, who=who) == [403]


@pytest.mark.parametrize(("second", "status"), [(replace("none", "x"), 409), (replace("visibility", "public"), 403)])
async def test_U10_U11_all_or_nothing(one: Site, second: dict[str, Any], status: int) -> None:
    image = await one.image()
    before = await one.show(image)
    assert await statuses(one, image, [replace("name", "changed"), add("new", "x"), second]) == [status]
    assert await one.show(image) == before


async def test_U12_operations_build_on_one_another(one: Site) -> None:
    image = await one.image()
    assert await statuses(one, image, [add("one", "1"), remove("one")]) == [200]
    assert "one" not in await one.show(image)
    assert await statuses(one, image, [add("one", "1"), replace("one", "2")]) == [200]
    assert (await one.show(image))["one"] == "2"
    assert await statuses(one, image, [remove("one"), replace("one", "3")]) == [409]
    assert await statuses(one, image, [remove("one"), add("one", "3")]) == [200]
    assert (await one.show(image))["one"] == "3"


async def test_U13_only_administrators_give_images_away(one: Site) -> None:
    """D1: neither by `replace` nor by `add`, not even to oneself."""
    image = await one.image()
    documents = [
        replace("owner", "pB"),
        replace("owner", "pA"),
        add("owner", "pB"),
        add("owner", "pA"),
        remove("owner"),
    ]
    assert await statuses(one, image, *documents) == [403] * 5
    assert (await one.show(image, "A"))["owner"] == "pA"
    assert await statuses(one, image, replace("owner", "pB"), who="ADM") == [200]
    assert (await one.call("GET", f"/images/{image}", "A")).status == 404
    assert (await one.show(image, "B"))["owner"] == "pB"
    answer = await one.patch(image, replace("owner", ""), who="ADM")
    assert (await answer.json())["owner"] is None


async def test_U14_publishing_takes_a_right_and_taking_back_does_not(one: Site) -> None:
    image = await one.image()
    assert await statuses(one, image, replace("visibility", "public"), who="ADM") == [200]
    assert await statuses(one, image, replace("name", "x"), who="C") == [403]
    documents = [replace("name", "x"), replace("visibility", "private"), replace("visibility", "public")]
    assert await statuses(one, image, *documents) == [200, 200, 403]
    assert await statuses(one, image, replace("visibility", "community"), add("visibility", "public")) == [200, 403]
    assert (await one.show(image))["visibility"] == "community"


async def test_U15_formats_of_queued_images(one: Site) -> None:
    image = await one.image()
    documents = [replace("disk_format", value) for value in ("qcow2", None, "bogus", 5)]
    assert await statuses(one, image, *documents, replace("container_format", "Bare")) == [200, 200, 400, 400, 400]


async def test_U16_formats_of_active_images_stay(one: Site) -> None:
    image = await one.image()
    assert await one.upload(image, b"x") == 204
    documents = [replace("disk_format", "raw"), add("container_format", "ovf")]
    assert await statuses(one, image, *documents) == [403, 403]
    assert await statuses(one, image, replace("container_format", "ovf"), who="ADM") == [403]
    assert await statuses(one, image, replace("name", "x"), replace("min_ram", 5)) == [200, 200]


async def test_U17_staged_images(one: Site) -> None:
    image = await one.image()
    assert await one.stage(image, b"x") == 204
    assert await statuses(one, image, replace("disk_format", "qcow2"), replace("name", "x")) == [403, 200]
    assert await one.upload(image, b"x") == 409


async def test_U18_as_many_properties_as_the_quota_allows(one: Site) -> None:
    image = await one.image(**{f"p{number}": "x" for number in range(128)})
    assert await statuses(one, image, add("more", "x"), replace("p0", "y"), add("p0", "z")) == [413, 200, 200]
    assert await statuses(one, image, [remove("p0"), add("more", "x")], [add("p0", "x"), remove("more")]) == [200, 200]


async def test_a_quota_that_was_lowered_breaks_no_image(postgres: Server) -> None:
    config = one_store(DEFAULT="image_property_quota = 2\nimage_tag_quota = 1")
    async with passing(postgres, config) as site:
        image = await site.image(a="1", b="2", tags=["x"])
        documents = [
            add("c", "3"),
            replace("tags", ["x", "y"]),
            replace("tags", ["y", "y"]),
            remove("a"),
            add("c", "3"),
        ]
        assert await statuses(site, image, *documents) == [413, 413, 200, 200, 200]
    async with passing(postgres, one_store(DEFAULT="image_property_quota = -1\nimage_tag_quota = -1")) as site:
        image = await site.image()
        many = [add(f"p{number}", "x") for number in range(200)]
        assert await statuses(site, image, many, replace("tags", [str(number) for number in range(200)])) == [200, 200]


async def test_U19_images_of_others_and_readers(one: Site) -> None:
    community, own = await one.image("B", visibility="community"), await one.image()
    assert await statuses(one, community, replace("name", "x")) == [403]
    assert await statuses(one, own, replace("name", "x"), who="AR") == [403]
    assert await statuses(one, own, replace("name", "x"), who="C") == [404]
    assert await statuses(one, "nope", replace("name", "x")) == [404]
    assert await statuses(one, "x" * 300, replace("name", "x")) == [404]


async def test_U20_tags_as_a_whole(one: Site) -> None:
    image = await one.image()
    answer = await one.patch(image, replace("tags", ["b", "c", "b"]))
    assert sorted((await answer.json())["tags"]) == ["b", "c"]
    documents = [replace("tags", ["x" * 256]), replace("tags", "b"), replace("tags", [1]), replace("tags", None)]
    assert await statuses(one, image, *documents, replace("tags", [])) == [400, 400, 400, 400, 200]
    assert (await one.show(image))["tags"] == []
    assert await statuses(one, image, replace("tags", [str(n) for n in range(129)])) == [413]


async def test_a_patch_that_changes_nothing_is_a_change_all_the_same(one: Site) -> None:
    """`updated_at` advances with every operation, and consumers are told."""
    image = await one.image()
    assert await statuses(one, image, replace("name", "n")) == [200]
    await one.settled()
    assert [message.event_type for message in one.notes.of(image)] == ["image.create", "image.update"]
    row = "SELECT updated_at > created_at FROM images WHERE image_id = $1"
    assert await one.service.database.fetchval(row, image)


async def test_patches_at_the_same_time_keep_one_anothers_fields(one: Site) -> None:
    """D3: both succeed, neither undoes the other."""
    image = await one.image(old="x", gone="y")
    documents = [
        *([add(f"p{number}", str(number))] for number in range(12)),
        [replace("name", "changed")],
        [remove("gone"), replace("min_ram", 7)],
    ]
    answers = await asyncio.gather(*(one.patch(image, *document) for document in documents))
    assert [answer.status for answer in answers] == [200] * len(documents)
    shown = await one.show(image)
    assert {f"p{number}": str(number) for number in range(12)}.items() <= shown.items()
    assert (shown["name"], shown["min_ram"], shown["old"], "gone" in shown) == ("changed", 7, "x", False)


async def test_F23_a_patch_during_an_upload_survives_its_end(one: Site) -> None:
    """D3."""
    image = await one.image(rack="7")
    octets = {"Content_Type": "application/octet-stream"}
    async with await Wire.to(one) as wire:
        await wire.send(head("PUT", f"/v2/images/{image}/file", Transfer_Encoding="chunked", **octets))
        await wire.send(chunk(b"x" * 1000))
        await one.until(lambda: _has_status(one, image, "saving"))
        document = [replace("name", "during"), add("new", "x"), remove("rack"), replace("tags", ["t"])]
        assert await statuses(one, image, document, replace("disk_format", "raw")) == [200, 403]
        await wire.send(b"0\r\n\r\n")
        assert (await wire.answer()).status == 204
    shown = await one.show(image)
    assert (shown["status"], shown["size"], shown["name"], shown["tags"]) == ("active", 1000, "during", ["t"])
    assert shown["new"] == "x"
    assert "rack" not in shown


async def _has_status(site: Site, image: str, status: str) -> bool:
    return bool((await site.show(image))["status"] == status)


async def test_one_patch_is_one_event_of_what_it_touched(one: Site) -> None:
    """Whatever it took to get there."""
    image = await one.image(a="1", b="2")
    before = await one.service.log.head()
    document = [replace("name", "x"), add("c", "3"), remove("c"), add("d", "4"), remove("a"), replace("name", "y")]
    assert await statuses(one, image, document) == [200]
    recorded = await one.service.log.read_all(before, 10)
    assert [item.event for item in recorded] == [
        e.ImageUpdated(name="y", properties_set={"d": "4"}, properties_removed=("a",))
    ]


async def test_long_texts_are_not_echoed_whole(one: Site) -> None:
    image = await one.image()
    body = orjson.dumps([{"op": "x" * 100_000, "path": "/a"}])
    answer = await one.call("PATCH", f"/images/{image}", data=body, headers={"Content-Type": NEW})
    assert answer.status == 400
    assert len(await answer.read()) < 1000


async def test_a_patch_has_an_end(one: Site) -> None:
    image = await one.image()
    many = [add("a", "x")] * 10_001
    assert await statuses(one, image, many, many[:-1]) == [413, 200]
