"""Tags of images, one at a time (images.md 13)."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def put(site: Site, image: str, tag: str, who: str = "A") -> int:
    return (await site.call("PUT", f"/images/{image}/tags/{tag}", who)).status


async def delete(site: Site, image: str, tag: str, who: str = "A") -> int:
    return (await site.call("DELETE", f"/images/{image}/tags/{tag}", who)).status


async def test_T01_adding_and_removing(one: Site) -> None:
    image = await one.image()
    assert [await put(one, image, "abc"), await put(one, image, "abc")] == [204, 204]
    assert (await one.show(image))["tags"] == ["abc"]
    assert [await delete(one, image, "abc"), await delete(one, image, "abc")] == [204, 404]
    assert (await one.show(image))["tags"] == []
    await one.settled()
    assert [note.event_type for note in one.notes.of(image)] == ["image.create", "image.update", "image.update"]


async def test_T02_what_cannot_be_a_tag(one: Site) -> None:
    image = await one.image()
    assert await put(one, image, "x" * 255) == 204
    assert [await put(one, image, tag) for tag in ("x" * 256, "", "a/b", "a%2Fb", "a%00b")] == [400, 404, 404, 404, 400]
    assert (await one.call("PUT", f"/images/{image}/tags/q", json={})).status == 400
    assert (await one.call("DELETE", f"/images/{image}/tags/q", json={})).status == 400
    octets = {"Content-Type": "application/octet-stream"}
    assert (await one.call("PUT", f"/images/{image}/tags/q", headers=octets)).status == 204
    assert [await delete(one, image, "x" * 300), await delete(one, image, "a%00b")] == [404, 400]


async def test_T03_tags_are_text(one: Site) -> None:
    """D15, D12."""
    image = await one.image()
    assert await put(one, image, "%E2%98%83") == 204
    assert await put(one, image, "%F0%9D%84%9E%20x") == 204
    assert (await one.show(image))["tags"] == ["☃", "𝄞 x"]
    assert await put(one, image, "%FF") == 404
    assert await delete(one, image, "%E2%98%83") == 204


async def test_T04_who_may_tag(one: Site) -> None:
    image, community = await one.image(), await one.image(visibility="community")
    assert (await one.call("POST", f"/images/{image}/members", json={"member": "pB"})).status == 200
    assert [await put(one, image, "q", who) for who in ("AR", "B", "C")] == [403, 403, 404]
    assert await put(one, community, "q", "C") == 403
    assert await put(one, "nope", "q") == 404
    assert [await delete(one, image, "q", who) for who in ("AR", "B", "C", "ADM")] == [403, 403, 404, 404]


async def test_T05_as_many_tags_as_the_quota_allows(one: Site) -> None:
    image = await one.image(tags=[str(number) for number in range(128)])
    assert [await put(one, image, "new"), await put(one, image, "5")] == [413, 204]


async def test_the_quota_holds_when_all_come_at_once(postgres: Server) -> None:
    async with passing(postgres, one_store(DEFAULT="image_tag_quota = 3")) as site:
        image = await site.image()
        statuses = await asyncio.gather(*(put(site, image, str(number)) for number in range(8)))
        assert sorted(statuses) == [204] * 3 + [413] * 5
        assert len((await site.show(image))["tags"]) == 3
