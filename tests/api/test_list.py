"""Filters, sorting and paging of the image list (images.md 6).

Every test lists for a project of its own; sites are shared, projects are not.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from itertools import product
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import orjson
import pytest

from handlers.rendering import Rendered
from handlers.views import Viewer
from kernel.listing import Listing
from tests.support.postgres import Server
from tests.support.raw import ask, head
from tests.support.running import Site
from tests.support.standing import one_store, passing, somebody

pytestmark = pytest.mark.asyncio(loop_scope="module")

Who = dict[str, str]


async def make(site: Site, who: Who, **attributes: Any) -> str:
    """An image with these attributes and no others."""
    answer = await site.call("POST", "/images", who, json=attributes)
    assert answer.status == 201, await answer.text()
    return str((await answer.json())["id"])


async def make_named(site: Site, *names: str) -> Who:
    """Somebody with images of these names, created in this order."""
    who = somebody()
    for name in names:
        await make(site, who, name=name)
    return who


async def page(site: Site, who: Who, query: str = "") -> dict[str, Any]:
    answer = await site.call("GET", f"/images{query}", who)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def names(site: Site, who: Who, query: str = "") -> list[str]:
    return [image["name"] for image in (await page(site, who, query))["images"]]


async def ids(site: Site, who: Who, query: str = "") -> set[str]:
    return {image["id"] for image in (await page(site, who, query))["images"]}


async def status(site: Site, query: str) -> int:
    return (await site.call("GET", f"/images{query}")).status


async def walk(site: Site, who: Who, query: str) -> list[str]:
    """Ids over all pages, in order."""
    found: list[str] = []
    document = await page(site, who, query)
    while True:
        found += [image["id"] for image in document["images"]]
        if "next" not in document:
            return found
        assert document["next"].startswith("/v2/images?")
        document = await page(site, who, document["next"].removeprefix("/v2/images"))


# --- paging and sorting ------------------------------------------------------------------


async def test_L05_protected(one: Site) -> None:
    who = somebody()
    kept = await make(one, who, protected=True)
    free = await make(one, who)
    assert await ids(one, who, "?protected=true") == {kept}
    assert await ids(one, who, "?protected=false") == {free}
    for value in ("True", "1", "", "FALSE"):
        assert await status(one, f"?protected={value}") == 400


async def test_L07_pages(one: Site) -> None:
    who = await make_named(one, *"abcde")
    first = await page(one, who, "?limit=2")
    assert first["first"] == "/v2/images?limit=2"
    last = first["images"][-1]["id"]
    assert first["next"] == f"/v2/images?limit=2&marker={last}"
    assert len(await walk(one, who, "?limit=2")) == len(set(await walk(one, who, "?limit=2"))) == 5
    nothing = await page(one, who, "?limit=0")
    assert (nothing["images"], "next" in nothing) == ([], False)
    assert len((await page(one, who, "?limit=100000"))["images"]) == 5
    for wrong in ("-1", "x", "", "1.5", "1e3", "%F0%9D%9F%8F"):
        assert await status(one, f"?limit={wrong}") == 400


async def test_queries_say_what_is_wrong_with_them(one: Site) -> None:
    for query, told in (("x=&" * 1001, "more than 1000 parameters"), ("x=%FF", "not valid UTF-8")):
        answer = await one.call("GET", f"//v2/images?{query}")
        assert answer.status == 400
        assert told in (await answer.json())["message"]


async def test_long_lists_are_like_short_ones(one: Site) -> None:
    """They are sent piece by piece, so that others are served in between."""
    who = somebody()
    made = [await make(one, who, name=name, large="\u00fc" * 300_000) for name in "abc"]
    sent = {"X-OpenStack-Request-ID": "req-of-my-own"}
    answer = await one.call("GET", "/images?limit=2&sort=name:asc", who, headers=sent)
    body = await answer.read()
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.headers["x-openstack-request-id"] == "req-of-my-own"
    assert answer.headers["Content-Length"] == str(len(body))
    document = orjson.loads(body)
    assert document["images"] == [await one.show(image) for image in made[:2]]
    assert document["first"] == "/v2/images?limit=2&sort=name%3Aasc"
    assert document["next"] == f"/v2/images?limit=2&sort=name%3Aasc&marker={made[1]}"
    assert set(document) == {"images", "first", "next", "schema"}
    single = await page(one, who, "?limit=1&sort=name:asc")
    assert [image["id"] for image in single["images"]] == made[:1]


async def test_large_images_give_others_a_turn(one: Site) -> None:
    who = somebody()
    for _ in range(4):
        await make(one, who, large="x" * 300_000)
    site, turns = one.service.site, 0
    shown = await one.service.queries.images(Listing(project=who["X-Project-Id"], admin=False))
    viewer = Viewer(site=site, admin=False, nullable=())

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    try:
        assert len(await Rendered().images(shown, viewer)) == 4
        assert turns >= 4
    finally:
        task.cancel()


async def test_L07_a_page_that_is_just_full_has_no_next(one: Site) -> None:
    who = await make_named(one, *"ab")
    assert "next" not in await page(one, who, "?limit=2")


async def test_L08_site_limits(postgres: Server) -> None:
    """The operator's longest page holds however much is asked for, silently."""
    async with passing(postgres, one_store(DEFAULT="api_limit_max = 5\nlimit_param_default = 3")) as site:
        who = await make_named(site, *"abcdefgh")
        short = await page(site, who)
        assert (len(short["images"]), "next" in short) == (3, True)
        long = await page(site, who, "?limit=50")
        assert len(long["images"]) == 5
        assert "limit=50" in long["next"]
        assert "limit=50" in long["first"]
        assert len(await walk(site, who, "")) == 8


@pytest.mark.parametrize("marker", ["bogus", "", "00000000-0000-4000-8000-000000000000", "a" * 36, "%00"])
async def test_L09_markers_that_are_no_image(one: Site, marker: str) -> None:
    assert await status(one, f"?marker={marker}") == 400
    assert await status(one, f"?limit=0&marker={marker}") == 400


async def test_a_marker_need_not_match_the_filters(one: Site) -> None:
    who = await make_named(one, "x", "y", "x")
    middle = next(iter(await ids(one, who, "?name=y")))
    assert await names(one, who, f"?name=x&sort=created_at:asc&marker={middle}") == ["x"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?sort_key=name&sort_dir=asc", "abc"),
        ("?sort=name", "cba"),
        ("?sort=name:asc,created_at:desc", "abc"),
        ("?sort=%20name%20:%20asc%20", "abc"),
        ("?sort_key=name", "cba"),
        ("?sort_key=%20name%20&sort_dir=%20asc%20", "abc"),
        ("?sort_key=status&sort_key=name&sort_dir=asc", "abc"),
        ("?sort_key=status&sort_key=name&sort_dir=desc&sort_dir=asc", "abc"),
        ("?sort=status,name:asc", "abc"),
        ("?sort=name:asc,name:desc", "abc"),
        ("?sort_dir=asc", "bac"),
        ("", "cab"),
        ("?sort=created_at:asc", "bac"),
        ("?sort=container_format,disk_format,size,updated_at,id,name:asc", None),
    ],
)
async def test_L10_orders(one: Site, query: str, expected: str | None) -> None:
    who = await make_named(one, *"bac")
    found = "".join(await names(one, who, query))
    assert found == expected or (expected is None and len(found) == 3)


@pytest.mark.parametrize(
    "query",
    [
        "?sort_key=min_ram",
        "?sort_key=",
        "?sort_dir=up",
        "?sort_dir=",
        "?sort_dir=ASC",
        "?sort=name:ASC",
        "?sort=name:",
        "?sort=name:asc:desc",
        "?sort=name,",
        "?sort=,",
        "?sort=owner",
        "?sort=name&sort_key=name",
        "?sort=name&sort_dir=asc",
        "?sort=",
        "?sort_key=name&sort_dir=asc&sort_dir=desc",
        "?sort_key=name&sort_key=id&sort_key=size&sort_dir=asc&sort_dir=desc",
    ],
)
async def test_L11_orders_that_make_no_sense(one: Site, query: str) -> None:
    assert await status(one, query) == 400


async def test_a_sort_key_a_thousand_times_is_one(one: Site) -> None:
    who = await make_named(one, *"bac")
    query = "?limit=1&sort_dir=asc" + "&sort_key=name" * 900
    assert len(await walk(one, who, query)) == 3
    assert await status(one, query + "&sort_key=name" * 200) == 400


async def test_paging_survives_ties_and_nulls_in_every_order(one: Site) -> None:
    """No image twice, none lost, and nulls come before everything else, last in descending order."""
    who = somebody()
    for name, disk, container in product((None, "a", "b"), (None, "raw"), (None, "bare")):
        image = await make(one, who, name=name, disk_format=disk, container_format=container)
        if disk and container:
            assert await one.upload(image, b"x" * len(name or ""), who) == 204  # type: ignore[arg-type]
    everything = await ids(one, who, "?limit=100")
    for key, direction, second in product(
        ("name", "size", "disk_format", "container_format", "status"), ("asc", "desc"), ("", ",name:asc", ",size:desc")
    ):
        query = f"?sort={key}:{direction}{second}"
        found = await walk(one, who, f"{query}&limit=5")
        assert (len(found), set(found)) == (len(everything), everything)
        shown = (await page(one, who, f"{query}&limit=100"))["images"]
        assert [image["id"] for image in shown] == found
        values = [image[key] for image in shown]
        ordered = sorted(values, key=lambda value: (value is not None, value), reverse=direction == "desc")
        assert values == ordered


async def test_repeated_parameters_survive_paging(one: Site) -> None:
    who = somebody()
    wanted = {await make(one, who, tags=["t1", "t2"], name=str(number)) for number in range(5)}
    await make(one, who, tags=["t1"])
    query = "?limit=2&tag=t1&tag=t2&sort_key=status&sort_key=name&sort_dir=asc&sort_dir=desc"
    document = await page(one, who, query)
    assert document["first"] == f"/v2/images{query}"
    assert document["next"].startswith(f"/v2/images{query}&marker=")
    found = await walk(one, who, query)
    assert (len(found), set(found)) == (5, wanted)


async def test_links_are_encoded(one: Site) -> None:
    who = await make_named(one, "a b&c=d", "a b&c=d")
    document = await page(one, who, f"?limit=1&name={quote('a b&c=d')}")
    assert "next" in document
    assert len((await page(one, who, document["next"].removeprefix("/v2/images")))["images"]) == 1


# --- filters -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?name=x", {"x"}),
        ("?name=in:x,y", {"x", "y"}),
        ('?name=in:"a,b",x', {"a,b", "x"}),
        (r'?name=in:"q\"q",x', {'q"q', "x"}),
        ("?name=in:x,,y,", {"x", "y"}),
        ("?name=a,b", {"a,b"}),
        ("?name=X", set()),
        ("?name=in:", set()),
        ("?name=in:,", set()),
        ('?name=in:""', set()),
        ("?name=eq:x", {"x"}),
        ("?name=eq:in:x", set()),
        ("?name=ubuntu:22.04", {"ubuntu:22.04"}),
        ("?name=ubuntu", set()),
        ("?name=x&name=y", {"y"}),
        ("?name=", {""}),
        ("?name=%20x", set()),
        ("?name=q%22q", {'q"q'}),
        ("?name=%E2%98%83", {"☃"}),
    ],
)
async def test_L12_names(one: Site, query: str, expected: set[str]) -> None:
    who = await make_named(one, "x", "y", "a,b", "ubuntu:22.04", 'q"q', "☃", "")
    await make(one, who)
    assert set(await names(one, who, query)) == expected


@pytest.mark.parametrize(
    "value", ['in:"x', 'in:x"y', 'in:"x"y', 'in:x"', 'in:"x",y"', "neq:x", "gt:x", "gte:x", "lt:x", "lte:x"]
)
@pytest.mark.parametrize("name", ["name", "status", "id", "container_format", "disk_format"])
async def test_L13_operators_that_do_not_fit(one: Site, name: str, value: str) -> None:
    assert await status(one, f"?{name}={quote(value)}") == 400


async def test_filters_by_id_and_formats(one: Site) -> None:
    who = somebody()
    raw = await make(one, who, disk_format="raw", container_format="bare")
    iso = await make(one, who, disk_format="iso")
    assert await ids(one, who, f"?id={raw}") == {raw}
    assert await ids(one, who, f"?id=in:{raw},{iso},{uuid4()}") == {raw, iso}
    assert await ids(one, who, f"?id=in:{raw},nonsense") == {raw}
    for nothing in ("nonsense", "", str(uuid4()), raw.upper(), "in:x"):
        assert await ids(one, who, f"?id={nothing}") == set()
    assert await ids(one, who, "?disk_format=raw") == {raw}
    assert await ids(one, who, "?disk_format=in:raw,iso") == {raw, iso}
    assert await ids(one, who, "?container_format=bare") == {raw}
    assert await ids(one, who, "?disk_format=RAW") == set()


async def test_L14_tags(one: Site) -> None:
    who = somebody()
    both = await make(one, who, tags=["t1", "t2"])
    only = await make(one, who, tags=["t1"])
    assert await ids(one, who, "?tag=t1") == {both, only}
    assert await ids(one, who, "?tag=t1&tag=t2") == {both}
    assert await ids(one, who, "?tag=%20t2%20") == {both}
    for nothing in ("?tag=T1", "?tag=t1,t2", "?tag=", "?tag=t1&tag=t3"):
        assert await ids(one, who, nothing) == set()


async def test_L15_custom_properties(one: Site) -> None:
    who = somebody()
    bar = await make(one, who, foo="bar")
    baz = await make(one, who, foo="baz", size_of_it="1")
    odd = await make(one, who, **{"a=b": "c", "in": "in:x,y"})
    assert await ids(one, who, "?foo=bar") == {bar}
    assert await ids(one, who, "?foo=in:bar,baz") == set()
    assert await ids(one, who, "?nosuch=1") == set()
    assert await ids(one, who, "?foo=bar&foo=baz") == {baz}
    assert await ids(one, who, "?foo=") == set()
    assert await ids(one, who, "?a%3Db=c") == {odd}
    assert await ids(one, who, "?a=b=c") == set()
    assert await ids(one, who, "?in=in:x,y") == {odd}
    assert await ids(one, who, "?foo=baz&size_of_it=1") == {baz}


async def test_L16_sizes_and_statuses(one: Site) -> None:
    who = somebody()
    active = await make(one, who, disk_format="raw", container_format="bare", min_ram=3)
    queued = await make(one, who)
    assert await one.upload(active, bytes(1024), who) == 204  # type: ignore[arg-type]
    for query, expected in {
        "?size_min=1024": {active},
        "?size_max=1023": set(),
        "?size_min=0": {active},
        "?size_min=-5": {active},
        "?size_max=99999999999999999999": {active},
        "?size_min=99999999999999999999": set(),
        "?size=1024": {active},
        "?size=x": set(),
        "?size=": set(),
        "?size=99999999999999999999": set(),
        "?virtual_size=1024": {active},
        "?virtual_size_min=1025": set(),
        "?min_ram=3": {active},
        "?min_ram_min=1": {active},
        "?min_ram_max=2": {queued},
        "?min_disk_max=0": {active, queued},
        "?status=active": {active},
        "?status=in:active,queued": {active, queued},
        "?status=bogus": set(),
        "?status=": set(),
        "?size_min=1000&size_max=2000&status=active": {active},
    }.items():
        assert await ids(one, who, query) == expected, query
    for wrong in ("size_min=x", "size_max=", "virtual_size_min=1.5", "min_ram_max=x", "min_disk_min=%20"):
        assert await status(one, f"?{wrong}") == 400
    shown = await one.show(active)
    for name in ("checksum", "os_hash_value"):
        assert await ids(one, who, f"?{name}={shown[name]}") == {active}
        assert await ids(one, who, f"?{name}=x") == set()
    assert await ids(one, who, "?os_hash_algo=sha512") == {active}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("gt:2000-01-01T00:00:00Z", 1),
        ("lt:2000-01-01T00:00:00Z", 0),
        ("gte:2000-01-01", 1),
        ("gt:2000-01-01T00:00:00%2B02:00", 1),
        ("gt:20000101T000000Z", 1),
        ("gt:20000101", 1),
        ("neq:2000-01-01T00:00:00.5Z", 1),
        ("gt:9999-12-31T23:59:59Z", 0),
        ("lte:9999-12-31T23:59:59Z", 1),
        ("eq:9999-12-31T23:59:59.9Z", 0),
        ("gte:9999-12-31T23:59:59.9Z", 0),
        ("neq:9999-12-31T23:59:59Z", 1),
        ("gt:0001-01-01T00:00:00Z", 1),
        ("bogus:2000-01-01T00:00:00Z", None),
        ("gt:yesterday", None),
        ("in:2000-01-01", None),
        ("gt:", None),
        ("", None),
        ("gt:2000-13-01", None),
        ("gt:0001-01-01T00:00:00%2B02:00", None),
        ("gt:9999-12-31T23:59:59-02:00", None),
    ],
)
@pytest.mark.parametrize("name", ["created_at", "updated_at"])
async def test_L17_times(one: Site, name: str, value: str, expected: int | None) -> None:
    if expected is None:
        assert await status(one, f"?{name}={value}") == 400
    else:
        who = await make_named(one, "x")
        assert len(await names(one, who, f"?{name}={value}")) == expected


async def test_L17_times_are_compared_as_they_are_shown(one: Site) -> None:
    """The second that a client reads is the second it can ask for, whatever the fraction behind it."""
    who = await make_named(one, "x")
    shown = (await page(one, who))["images"][0]["created_at"]
    second = datetime.fromisoformat(shown)
    later, earlier = (f"{second + timedelta(seconds=step):%Y-%m-%dT%H:%M:%SZ}" for step in (1, -1))
    for value, found in {
        shown: 1,
        f"eq:{shown}": 1,
        f"neq:{shown}": 0,
        f"gte:{shown}": 1,
        f"lte:{shown}": 1,
        f"gt:{shown}": 0,
        f"lt:{shown}": 0,
        f"gt:{earlier}": 1,
        f"lt:{later}": 1,
        f"eq:{earlier}": 0,
        f"neq:{earlier}": 1,
        f"{second:%Y-%m-%dT%H:%M:%S}": 1,
    }.items():
        assert len(await names(one, who, f"?created_at={value}")) == found, value


async def test_L18_deleted_changes_since_and_member_status(one: Site) -> None:
    who = await make_named(one, "x")
    assert await status(one, "?changes-since=2000") == 400
    for value in ("true", "false", "x", ""):
        assert await names(one, who, f"?deleted={value}") == ["x"]
    for value in ("pending", "accepted", "rejected", "all"):
        assert await names(one, who, f"?member_status={value}") == ["x"]
    for value in ("bogus", "", "ALL"):
        assert await status(one, f"?member_status={value}") == 400


@pytest.mark.parametrize(
    "name",
    ["locations", "properties", "members", "tags", "self", "stores", "foo_min", "foo_max", "_min", "_max", "version"],
)
async def test_L19_names_of_insides_are_plain_properties(one: Site, name: str) -> None:
    """Equality with a custom property of that name, for want of which nothing matches."""
    who = await make_named(one, "x")
    assert await names(one, who, f"?{name}=3") == []
    if name not in ("locations", "self", "stores", "tags"):
        await make(one, who, **{name: "3", "name": "y"})
        assert await names(one, who, f"?{name}=3") == ["y"]


@pytest.mark.parametrize("query", ["?name=%FF", "?%FF=x", "?tag=a%C3", "?name=\udcff", "?name=%00", "?%00=x"])
async def test_queries_that_are_not_utf8_are_400(one: Site, query: str) -> None:
    answer = await ask(one, head("GET", f"/v2/images{query}"))
    assert answer.status == 400


@pytest.mark.parametrize("query", ["?", "?&", "?=", "?name", "?name=%zz", "?;", "?a=1&b", "?%"])
async def test_odd_queries_are_answered(one: Site, query: str) -> None:
    answer = await ask(one, head("GET", f"/v2/images{query}"))
    assert answer.status == 200


async def test_reserved_properties_can_be_filtered_by(one: Site) -> None:
    """`os_glance_failed_import` and its kin, as Tempest and nova poll them."""
    who = somebody()
    image = await make(one, who, disk_format="raw", container_format="bare")
    assert await one.stage(image, b"x", who) == 204  # type: ignore[arg-type]
    assert await ids(one, who, "?os_glance_failed_import=") == set()
    assert await one.do_import(image, who) == 202  # type: ignore[arg-type]
    await one.ended(image)
    assert await ids(one, who, "?os_glance_failed_import=") == {image}


async def test_a_write_shows_in_the_very_next_list(one: Site) -> None:
    """From any connection, at once."""
    who = somebody()
    made = await asyncio.gather(*(make(one, who, name=str(number)) for number in range(20)))
    assert await ids(one, who, "?limit=100") == set(made)
    for image in made:
        assert (await one.call("DELETE", f"/images/{image}", who)).status == 204
        assert image not in await ids(one, who, "?limit=100")


async def test_a_long_property_is_kept_and_found(one: Site) -> None:
    """Longer than an index takes: kept whole, and found by its whole value only."""
    value = "v" * 50_000
    image = await one.image(long=value)
    assert (await one.show(image))["long"] == value
    found = await one.call("GET", f"/images?long={value[:5000]}")
    assert (await found.json())["images"] == []
    listed = await one.call("GET", "/images?long=in:x")
    assert (await listed.json())["images"] == []
    short = await one.image(long="v" * 600)
    found = await one.call("GET", f"/images?long={'v' * 600}")
    assert [image["id"] for image in (await found.json())["images"]] == [short]
