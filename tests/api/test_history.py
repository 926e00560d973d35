"""The story of one image: `GET /ops/v1/images/{id}/history`."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.support.running import Site
from tests.support.standing import somebody

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def history(site: Site, image: str, who: Any = "A", query: str = "") -> dict[str, Any]:
    answer = await site.call("GET", f"//ops/v1/images/{image}/history{query}", who)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def test_the_owner_sees_everything_that_happened(one: Site) -> None:
    image = await one.image()
    await one.stage(image, b"x")
    await one.do_import(image)
    await one.ended(image)
    document = await history(one, image)
    assert document["image_id"] == image
    events = document["events"]
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "ImageCreated"
    assert events[-1]["type"] == "ImportCompleted"
    assert events == sorted(events, key=lambda event: event["at"])
    assert {event["meta"]["by"]["user"] for event in events} == {"uA"}
    assert "next" not in document


async def test_who_sees_it(one: Site) -> None:
    """Those of the owner's project who may see the image, and admins; not even members it is shared with."""
    private, public = await one.image(visibility="private"), await one.image("ADM", visibility="public")
    community = await one.image(visibility="community")
    for image, who, status in (
        (private, "A", 200),
        (private, "AR", 200),
        (private, "ADM", 200),
        (private, "B", 404),
        (private, "NR", 404),
        (private, None, 401),
        (community, "B", 404),
        (public, "A", 404),
        (public, "ADM", 200),
        (str(uuid4()), "ADM", 404),
        ("nonsense", "ADM", 404),
        ("%00", "ADM", 404),
    ):
        answer = await one.call("GET", f"//ops/v1/images/{image}/history", who)
        assert answer.status == status, (image, who)
    assert (await one.call("POST", f"//ops/v1/images/{private}/history")).status == 405


async def test_images_without_an_owner_are_the_admins_alone(one: Site) -> None:
    image = await one.image("ADM", owner=None)
    assert (await one.call("GET", f"//ops/v1/images/{image}/history", "A")).status == 404
    nobody = {"X-Identity-Status": "Confirmed", "X-Roles": "member,reader", "X-User-Id": "u"}
    assert (await one.call("GET", f"//ops/v1/images/{image}/history", nobody)).status == 404
    assert (await history(one, image, "ADM"))["events"]


async def test_deleted_images_live_on_for_admins(one: Site) -> None:
    image = await one.image()
    await one.call("DELETE", f"/images/{image}")
    assert (await one.call("GET", f"//ops/v1/images/{image}/history")).status == 404
    events = (await history(one, image, "ADM"))["events"]
    assert [event["type"] for event in events] == ["ImageCreated", "ImageDeleted"]


async def test_actors_of_other_projects_are_reduced(one: Site) -> None:
    """Who else acted, and by which request, is not the owner's business; admins see it."""
    image = await one.image()
    assert await one.upload(image, b"x", "ADM") == 204
    mine, theirs, *_ = (await history(one, image))["events"]
    assert mine["meta"]["by"]["user"] == "uA"
    assert theirs["meta"]["by"] == {"user": "someone else"}
    assert "request" not in theirs["meta"]
    assert "uADM" not in str(await history(one, image))
    full = (await history(one, image, "ADM"))["events"][1]
    assert full["meta"]["by"]["user"] == "uADM"
    assert full["meta"]["request"].startswith("req-")


async def test_members_are_not_told_where_things_lie(one: Site) -> None:
    """Paths, inodes and nodes of the service are the operators' alone."""
    image = await one.image()
    await one.stage(image, b"x")
    await one.do_import(image)
    await one.ended(image)
    answer = await one.call("GET", f"//ops/v1/images/{image}/history")
    text = await answer.text()
    assert str(one.directory) not in text
    assert "file://" not in text
    assert "inode" not in text
    admin = await one.call("GET", f"//ops/v1/images/{image}/history", "ADM")
    assert str(one.directory) in await admin.text()


async def test_paging(one: Site) -> None:
    image = await one.image()
    await one.stage(image, b"x")
    await one.do_import(image)
    await one.ended(image)
    everything = (await history(one, image))["events"]
    seen: list[dict[str, Any]] = []
    query = "?limit=2"
    while True:
        document = await history(one, image, query=query)
        seen += document["events"]
        if "next" not in document:
            break
        path, _, rest = document["next"].partition("?")
        assert path == f"/ops/v1/images/{image}/history"
        query = f"?{rest}"
    assert seen == everything
    assert (await history(one, image, query="?limit=0"))["events"] == []


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?limit=x", "?limit=", "?after=" + "9" * 19])
async def test_queries_that_make_no_sense(one: Site, query: str) -> None:
    image = await one.image()
    assert (await one.call("GET", f"//ops/v1/images/{image}/history{query}")).status == 400


async def test_a_version_beyond_the_end_is_an_empty_page(one: Site) -> None:
    image = await one.image()
    for after in (100, 2**31 - 1, 2**31, 10**18 - 1):
        assert (await history(one, image, query=f"?after={after}"))["events"] == []


async def test_colleagues_are_named(one: Site) -> None:
    mine = somebody()
    created = await one.call("POST", "/images", mine, json={})
    image = (await created.json())["id"]
    colleague = {**mine, "X-User-Id": "colleague"}
    await one.stage(image, b"x", colleague)  # type: ignore[arg-type]
    users = [event["meta"]["by"]["user"] for event in (await history(one, image, mine))["events"]]
    assert users == [mine["X-User-Id"], "colleague", "colleague"]
