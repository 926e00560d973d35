"""Creating images, and showing what was created (images.md 3 and 5)."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest

from tests.support.postgres import Server
from tests.support.raw import ask, chunk, head
from tests.support.running import Site
from tests.support.standing import one_store, passing, somebody

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def create(site: Site, document: Any, who: str = "A") -> int:
    return (await site.call("POST", "/images", who, json=document)).status


async def events(site: Site) -> int:
    return await site.service.log.head()


async def test_C01_an_empty_object_is_enough(one: Site) -> None:
    answer = await one.call("POST", "/images", json={})
    assert answer.status == 201
    shown = await answer.json()
    expected = {
        "status": "queued",
        "visibility": "shared",
        "owner": "pA",
        "name": None,
        "disk_format": None,
        "container_format": None,
        "min_disk": 0,
        "min_ram": 0,
        "protected": False,
        "os_hidden": False,
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "os_hash_algo": None,
        "os_hash_value": None,
        "tags": [],
        "self": f"/v2/images/{shown['id']}",
        "file": f"/v2/images/{shown['id']}/file",
        "schema": "/v2/schemas/image",
        "id": shown["id"],
        "created_at": shown["created_at"],
        "updated_at": shown["created_at"],
    }
    assert shown == expected
    location = answer.headers["Location"]
    assert location == str(one.client.make_url(f"/v2/images/{shown['id']}"))
    assert answer.headers["OpenStack-image-import-methods"].split(",")[0] == "glance-direct"
    assert "OpenStack-image-store-ids" not in answer.headers
    assert answer.content_type == "application/json"


async def test_C02_sites_with_several_stores_name_them(three: Site) -> None:
    """All that are configured, the read-only one too, in a header; the image has none yet."""
    answer = await three.call("POST", "/images", json={})
    assert answer.headers["OpenStack-image-store-ids"] == "fast,cheap,web"
    assert "stores" not in await answer.json()


async def test_C03_properties_and_tags(one: Site) -> None:
    body = {"name": "ü☃𝄞", "disk_format": "raw", "container_format": "bare", "rack": "7", "tags": ["x", "y", "x"]}
    answer = await one.call("POST", "/images", json=body)
    assert answer.status == 201
    shown = await answer.json()
    assert (shown["name"], shown["rack"], sorted(shown["tags"])) == ("ü☃𝄞", "7", ["x", "y"])
    assert TIME.fullmatch(shown["created_at"])
    assert "ü☃𝄞".encode() in await answer.read()
    again = await one.call("GET", f"/images/{shown['id']}")
    assert (again.status, await again.json()) == (200, shown)


async def test_C04_an_id_is_taken_for_ever(one: Site) -> None:
    """By other projects, and by images that were deleted; in another case it is the same id."""
    wanted = str(uuid4())
    assert await create(one, {"id": wanted}) == 201
    assert await create(one, {"id": wanted}) == 409
    assert await create(one, {"id": wanted}, "B") == 409
    assert await create(one, {"id": wanted.upper()}, "B") == 409
    assert (await one.call("DELETE", f"/images/{wanted}")).status == 204
    assert await create(one, {"id": wanted}) == 409


@pytest.mark.parametrize(
    "document",
    [
        {"id": "abc"},
        {"id": ""},
        {"id": None},
        {"id": f"{uuid4()}\n"},
        {"id": uuid4().hex},
        {"name": "x" * 256},
        {"name": 5},
        {"owner": "x" * 256},
        {"visibility": "bogus"},
        {"visibility": None},
        {"disk_format": "wrong"},
        {"disk_format": "RAW"},
        {"disk_format": 5},
        {"container_format": "wrong"},
        {"tags": [1]},
        {"tags": "x"},
        {"tags": None},
        {"tags": ["x" * 256]},
        {"min_ram": None},
        {"min_ram": "1"},
        {"protected": "true"},
        {"protected": 1},
        {"os_hidden": None},
    ],
)
async def test_C05_base_properties_are_validated(one: Site, document: dict[str, Any]) -> None:
    assert await create(one, document) == 400


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"foo": 1}, 400),
        ({"foo": None}, 400),
        ({"foo": True}, 400),
        ({"foo": ["x"]}, 400),
        ({"foo": {"a": "b"}}, 400),
        ({"": "x"}, 400),
        ({"x" * 256: "x"}, 400),
        ({"x" * 255: "x"}, 201),
        ({"foo": ""}, 201),
        ({"foo": "x" * 100_000}, 201),
        ({"foo": "a\0b"}, 400),
        ({"a\0b": "foo"}, 400),
        ({"name": "a\0b"}, 400),
        ({"tags": ["a\0b"]}, 400),
    ],
)
async def test_C06_custom_properties_are_strings(one: Site, document: dict[str, Any], status: int) -> None:
    answer = await one.call("POST", "/images", json=document)
    assert answer.status == status
    if status == 201:
        assert document.items() <= (await one.show((await answer.json())["id"])).items()


ODD_NAMES = [
    *("properties", "is_public", "metadata", "image_id", "member", "context", "extra_properties", "__class__"),
    *("model_config", "model_fields", "dict", "copy", "json", "status_", "version", "state", "hidden", "locations_"),
    *("trait:X", "hw:cpu", "owner_specified.openstack.md5", "a/b~c", "   ", "ü☃", "os_glanc", "stores_"),
]


async def test_names_that_only_look_special_are_plain_properties(one: Site) -> None:
    """None of them means anything to the service."""
    document = dict.fromkeys(ODD_NAMES, "v")
    answer = await one.call("POST", "/images", json=document)
    assert answer.status == 201
    assert document.items() <= (await one.show((await answer.json())["id"])).items()


FORBIDDEN = [
    *({name: value} for name in ("direct_url", "self", "file", "schema", "stores") for value in ("x", 1, None, [])),
    *({name: 1} for name in ("size", "virtual_size")),
    *({name: None} for name in ("size", "virtual_size", "checksum")),
    *({name: "a"} for name in ("checksum", "created_at", "updated_at", "location", "deleted", "deleted_at")),
    {"status": "active"},
    {"locations": []},
    {"os_glance_foo": "x"},
    {"os_glancefoo": "x"},
    {"os_glance_importing_to_stores": "fast"},
    {"os_glance_import_task": "x"},
    {"os_glance_failed_import": "x"},
]


@pytest.mark.parametrize("document", FORBIDDEN)
async def test_C07_IM33_attributes_that_nobody_may_set(one: Site, document: dict[str, Any]) -> None:
    before = await events(one)
    assert await create(one, document) == 403
    assert await events(one) == before


@pytest.mark.parametrize(
    "document",
    [
        {"size": "big"},
        {"size": 1.5},
        {"size": True},
        {"checksum": 5},
        {"checksum": "x" * 33},
        {"status": "bogus"},
        {"status": None},
        {"created_at": None},
        {"updated_at": 5},
        {"location": 5},
        {"deleted": True},
        {"os_glance_foo": 5},
    ],
)
async def test_C08_values_of_the_wrong_type_are_400_before_they_are_403(one: Site, document: dict[str, Any]) -> None:
    assert await create(one, document) == 400


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"self": "x", "foo": 1}, 403),
        ({"size": 1, "foo": 1}, 400),
        ({"size": 1, "visibility": "public"}, 403),
        ({"os_glance_x": "x", "visibility": "public"}, 403),
        ({"x" * 256: "v", "visibility": "public"}, 400),
        ({"tags": [str(n) for n in range(129)], "size": 1}, 413),
        ({"size": 1, **{f"k{n}": "v" for n in range(129)}}, 403),
    ],
)
async def test_the_order_of_refusals(one: Site, document: dict[str, Any], status: int) -> None:
    assert await create(one, document) == status


async def test_hashes_may_be_given_and_mean_nothing(one: Site) -> None:
    answer = await one.call("POST", "/images", json={"os_hash_algo": "md5", "os_hash_value": "abc"})
    assert answer.status == 201
    shown = await answer.json()
    assert (shown["os_hash_algo"], shown["os_hash_value"]) == (None, None)


BAD_BODIES = [
    *(b"", b"not json", b'"text"', b"[]", b"5", b"null", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe"),
    *(b'{"name": "\xff"}', b'{"name": "\\ud800"}', b"{'a': 1}", b'{"a": "\x01"}', b"\xef\xbb\xbf[]", b"{}{}", b"\0"),
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" * 60_000,
    b'{"min_disk": 1e999}',
    b'{"min_disk": 123456789012345678901234567890}',
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_C09_bodies_that_are_no_object(one: Site, body: bytes) -> None:
    before = await events(one)
    assert (await one.call("POST", "/images", data=body)).status == 400
    assert await events(one) == before


async def test_C09_no_body_at_all(one: Site) -> None:
    assert (await ask(one, head("POST", "/v2/images"))).status == 400
    assert (await ask(one, head("POST", "/v2/images", Transfer_Encoding="chunked") + chunk(b""))).status == 400


@pytest.mark.parametrize("depth", [100, 250, 600, 1000, 1024, 3000])
@pytest.mark.parametrize("inner", ['"x"', '"\\u0000"'])
async def test_deeply_nested_bodies_are_400(one: Site, depth: int, inner: str) -> None:
    """Whether or not the parser can read them."""
    for name in ("locations", "foo", "tags"):
        body = f'{{"{name}": {"[" * depth}{inner}{"]" * depth}}}'
        assert (await one.call("POST", "/images", data=body.encode())).status == 400


async def test_bodies_beyond_all_measure_are_413(one: Site) -> None:
    """Announced or chunked; the connection need not swallow the rest."""
    body = b'{"name": "' + b"x" * (9 << 20) + b'"}'
    assert (await ask(one, head("POST", "/v2/images", Content_Length=str(len(body))) + body)).status == 413
    chunked = head("POST", "/v2/images", Transfer_Encoding="chunked") + chunk(body) + chunk(b"")
    assert (await ask(one, chunked)).status == 413


MANY = 1 << 16


@pytest.mark.parametrize(
    "body",
    [
        b'{"foo": [' + b",".join([b"[]"] * MANY) + b"]}",
        b'{"tags": [' + b"1," * MANY + b"1]}",
        b"{" + b",".join(b'"%d": 1' % number for number in range(MANY + 1)) + b"}",
        b'{"foo": "' + rb"\"," * 9 + b'", "tags": [' + b'"",' * MANY + b'""]}',
        b"[" * 200_000,
        b'"' * 200_000,
        b'"' + rb"\"," * 2_000_000,
    ],
    ids=["lists", "numbers", "members", "strings", "no end", "quotes", "an open string"],
)
async def test_bodies_of_too_many_values_are_refused_unread(one: Site, body: bytes) -> None:
    """Making millions of values takes seconds, in which nobody else is served."""
    answer = await ask(one, head("POST", "/v2/images", Content_Length=str(len(body))) + body)
    assert answer.status == (400 if body.startswith(b'"') else 413)


async def test_commas_and_brackets_in_strings_are_no_values(one: Site) -> None:
    text = '[{,"\\' * MANY
    assert await create(one, {"foo": text, "bar": "x"}) == 201


async def test_chunked_bodies_and_repeated_keys(one: Site) -> None:
    """Chunks may cut anywhere; of a key given twice the last counts."""
    body = b'{"name": "a", "name": "\xc3\xbc"}'
    pieces = b"".join(chunk(body[at : at + 1]) for at in range(len(body)))
    answer = await ask(one, head("POST", "/v2/images", Transfer_Encoding="chunked") + pieces + chunk(b""))
    assert answer.status == 201
    assert '"name":"ü"' in answer.body.decode()


async def test_C10_owners(one: Site) -> None:
    """Ordinary callers own what they create; admins may say otherwise."""
    assert await create(one, {"owner": "pB"}) == 403
    assert await create(one, {"owner": None}) == 403
    assert await create(one, {"owner": ""}) == 403
    assert await create(one, {"owner": "pA"}) == 201
    for owner, shown in (("pB", "pB"), (None, None), ("", None), ("nobody at all", "nobody at all")):
        answer = await one.call("POST", "/images", "ADM", json={"owner": owner})
        assert answer.status == 201
        assert (await answer.json())["owner"] == shown


async def test_C11_visibilities(one: Site) -> None:
    assert await create(one, {"visibility": "public"}) == 403
    for visibility in ("community", "private", "shared"):
        assert await create(one, {"visibility": visibility}) == 201
    assert await create(one, {"visibility": "public"}, "ADM") == 201


async def test_C12_who_may_create(one: Site) -> None:
    assert await create(one, {}, "AR") == 403
    assert await create(one, {}, "NR") == 403
    assert (await one.call("POST", "/images", None, json={})).status == 401


@pytest.mark.parametrize(
    ("value", "status"),
    [(-1, 400), (2147483648, 400), (2147483647, 201), (5.0, 201), (5.5, 400), ("5", 400), (True, 400), (0, 201)],
)
@pytest.mark.parametrize("name", ["min_disk", "min_ram"])
async def test_C13_minima(one: Site, name: str, value: Any, status: int) -> None:
    answer = await one.call("POST", "/images", json={name: value})
    assert answer.status == status
    if status == 201:
        assert f'"{name}":{int(value)},' in await answer.text()


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "x", ""])
async def test_C14_the_content_type_does_not_matter(one: Site, content_type: str) -> None:
    answer = await ask(one, head("POST", "/v2/images", Content_Type=content_type, Content_Length="2") + b"{}")
    assert answer.status == 201


async def test_C15_private_images_are_not_there_for_others(one: Site) -> None:
    image = await one.image(visibility="private")
    for who, status in (("B", 404), ("C", 404), ("NR", 404), ("AR", 200), ("ADM", 200), ("A", 200)):
        assert (await one.call("GET", f"/images/{image}", who)).status == status


async def test_C16_images_without_an_owner(one: Site) -> None:
    """Everybody who knows the id can see them; only admins find them in lists."""
    image = await one.image("ADM", owner=None, visibility="shared")
    assert (await one.call("GET", f"/images/{image}", "C")).status == 200
    for who, listed in (("C", False), ("ADM", True)):
        images = (await (await one.call("GET", "/images?limit=1000", who)).json())["images"]
        assert (image in {item["id"] for item in images}) == listed


async def test_C18_quotas(one: Site) -> None:
    tags = [f"t{number}" for number in range(129)]
    properties = {f"k{number}": "v" for number in range(129)}
    assert await create(one, {"tags": tags}) == 413
    assert await create(one, properties) == 413
    properties.pop("k0")
    assert await create(one, {"tags": tags[1:], **properties}) == 201
    assert await create(one, {"tags": [*tags[1:], *tags[1:]]}) == 201


async def test_C18_negative_quotas_are_none_and_zero_is_zero(postgres: Server) -> None:
    settings = "image_tag_quota = -1\nimage_property_quota = 0"
    async with passing(postgres, one_store(DEFAULT=settings)) as site:
        assert await create(site, {"tags": [f"t{number}" for number in range(500)]}) == 201
        assert await create(site, {"foo": "bar"}) == 413
        assert await create(site, {}) == 201


async def test_members_of_a_project_share_its_images(one: Site) -> None:
    mine = somebody()
    colleague = {**mine, "X-User-Id": "another"}
    answer = await one.call("POST", "/images", mine, json={"visibility": "private"})
    image = (await answer.json())["id"]
    assert (await one.call("GET", f"/images/{image}", colleague)).status == 200
    assert (await one.call("DELETE", f"/images/{image}", colleague)).status == 204


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"OpenStack-System-Scope": "all"}, 403),
        ({"X-Domain-Id": "d"}, 403),
        ({}, 201),
    ],
)
async def test_tokens_of_other_scopes_may_nothing(one: Site, scope: dict[str, str], status: int) -> None:
    """Not even an admin's: every rule is about projects."""
    admin = {"X-Identity-Status": "Confirmed", "X-Roles": "admin,member,reader", "X-User-Id": "u", **scope}
    answer = await one.call("POST", "/images", admin, json={})
    assert answer.status == status
    image = await one.image(visibility="public", who="ADM")
    assert (await one.call("GET", f"/images/{image}", admin)).status == (404 if scope else 200)
    assert (await one.call("GET", "/images", admin)).status == (403 if scope else 200)


async def test_store_headers_of_glanceclient_are_ignored_on_create(three: Site) -> None:
    answer = await three.call("POST", "/images", json={}, headers={"X-Image-Meta-Store": "nope"})
    assert answer.status == 201


async def test_a_refused_creation_leaves_nothing(one: Site) -> None:
    before = await events(one)
    wanted = str(uuid4())
    assert await create(one, {"id": wanted, "tags": ["x" * 256]}) == 400
    assert await create(one, {"id": wanted, "visibility": "public"}) == 403
    assert await events(one) == before
    assert (await one.call("GET", f"/images/{wanted}", "ADM")).status == 404
    assert await create(one, {"id": wanted}) == 201
