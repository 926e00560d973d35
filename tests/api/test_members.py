"""With whom images are shared (images.md 12)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.notes import of_image
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import one_store, passing, somebody

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def share(site: Site, image: str, member: Any = "pB", who: Any = "A") -> int:
    return (await site.call("POST", f"/images/{image}/members", who, json={"member": member})).status


async def answer(site: Site, image: str, status: Any, who: Any = "B", member: str = "pB") -> int:
    body = {"status": status, "member": member}
    return (await site.call("PUT", f"/images/{image}/members/{member}", who, json=body)).status


async def get(site: Site, path: str, who: Any = "A") -> int:
    return (await site.call("GET", path, who)).status


async def listed(site: Site, image: str, who: Any = "B", query: str = "") -> bool:
    found = await site.call("GET", f"/images?limit=1000{query}", who)
    assert found.status == 200
    return image in [item["id"] for item in (await found.json())["images"]]


async def members(site: Site, image: str, who: Any = "A") -> list[str]:
    found = await site.call("GET", f"/images/{image}/members", who)
    assert found.status == 200
    document = await found.json()
    assert document["schema"] == "/v2/schemas/members"
    return [member["member_id"] for member in document["members"]]


async def shared(site: Site, *projects: str) -> str:
    """An active image of A's, shared."""
    image = await site.image()
    assert await site.upload(image, b"x") == 204
    for project in projects or ("pB",):
        assert await share(site, image, project) == 200
    return image


async def test_M01_sharing(one: Site) -> None:
    image = await one.image()
    before = await one.show(image)
    made = await one.call("POST", f"/images/{image}/members", json={"member": "pB", "status": "accepted"})
    assert made.status == 200
    document = await made.json()
    assert document == {
        "member_id": "pB",
        "image_id": image,
        "status": "pending",
        "created_at": document["created_at"],
        "updated_at": document["created_at"],
        "schema": "/v2/schemas/member",
    }
    shown = await one.call("GET", f"/images/{image}/members/pB")
    assert await shown.json() == document
    assert await one.show(image) == before  # sharing is no change of the image


async def test_M02_what_cannot_be_a_member(one: Site) -> None:
    image = await shared(one)
    path = f"/images/{image}/members"
    assert await share(one, image) == 409
    for member in ("", {"a": 1}, 5, None, ["pB"], True, "x" * 256, "a\0b"):
        assert await share(one, image, member) == 400
    for body in (b"{}", b"[]", b"", b"x", b'"pB"'):
        assert (await one.call("POST", path, data=body)).status == 400
    assert await share(one, image, "x" * 255) == 200
    assert await share(one, image, "pA") == 200
    assert await members(one, image) == ["pB", "x" * 255, "pA"]


async def test_M03_before_the_member_has_answered(one: Site) -> None:
    """He can get the image by its id, and finds it only when he looks for what he was offered."""
    image = await shared(one)
    assert await get(one, f"/images/{image}", "B") == 200
    assert await get(one, f"/images/{image}/file", "B") == 200
    assert not await listed(one, image)
    assert await listed(one, image, query="&member_status=pending&visibility=shared")
    assert not await listed(one, image, query="&member_status=rejected&visibility=shared")


async def test_M04_the_answer_steers_the_list(one: Site) -> None:
    image = await shared(one)
    assert await answer(one, image, "accepted") == 200
    assert await listed(one, image)
    assert await answer(one, image, "rejected") == 200
    assert not await listed(one, image)
    assert await listed(one, image, query="&member_status=all")
    assert await get(one, f"/images/{image}", "B") == 200
    for status in ("pending", "accepted", "accepted", "pending"):
        assert await answer(one, image, status) == 200


async def test_M05_only_the_member_answers(one: Site) -> None:
    image = await shared(one)
    assert await answer(one, image, "accepted", "A") == 403
    assert await answer(one, image, "accepted", "AR") == 403
    assert await answer(one, image, "accepted", "BR") == 403
    assert await answer(one, image, "accepted", "C") == 404
    assert await answer(one, image, "rejected", "ADM") == 200
    for status in ("bogus", "", None, 5, ["accepted"], {"a": 1}):
        assert await answer(one, image, status) == 400
    for body in (b"{}", b"[]", b""):
        assert (await one.call("PUT", f"/images/{image}/members/pB", "B", data=body)).status == 400
    for who in ("A", "B", "ADM"):
        assert await answer(one, image, "accepted", who, "pC") == 404


async def test_M06_who_sees_which_members(one: Site) -> None:
    image = await shared(one, "pB", "pC2")
    for who in ("A", "AR", "ADM"):
        assert await members(one, image, who) == ["pB", "pC2"]
    assert await members(one, image, "B") == ["pB"]
    assert await members(one, image, "BR") == ["pB"]
    for who in ("C", "NR"):
        assert await get(one, f"/images/{image}/members", who) == 404


async def test_M07_one_member(one: Site) -> None:
    image = await shared(one, "pB", "pC2")
    path = f"/images/{image}/members"
    assert await get(one, f"{path}/pC2", "B") == 404
    assert await get(one, f"{path}/pB", "B") == 200
    assert await get(one, f"{path}/pB", "ADM") == 200
    assert await get(one, f"{path}/none", "A") == 404
    assert await get(one, f"{path}/pB", "C") == 404
    assert await get(one, f"{path}/%00", "A") == 404
    assert await get(one, "/images/nope/members/pB", "A") == 404


async def test_M08_sharing_no_more(one: Site) -> None:
    image = await shared(one)
    path = f"/images/{image}/members/pB"
    statuses = [(await one.call("DELETE", path, who)).status for who in ("B", "AR", "C", "A", "A")]
    assert statuses == [403, 403, 404, 204, 404]
    assert await get(one, f"/images/{image}", "B") == 404
    assert await members(one, image) == []


async def test_M09_who_may_share(one: Site) -> None:
    image = await shared(one)
    assert [await share(one, image, "pZ", who) for who in ("B", "C", "AR", "ADM")] == [403, 404, 403, 200]


async def test_M10_images_that_are_not_shared_have_no_members(one: Site) -> None:
    private, community = await one.image(visibility="private"), await one.image(visibility="community")
    for image in (private, community):
        for who in ("A", "ADM"):
            assert await get(one, f"/images/{image}/members", who) == 403
            assert await share(one, image, who=who) == 403
            assert await answer(one, image, "accepted", who) == 403
            assert (await one.call("DELETE", f"/images/{image}/members/pB", who)).status == 403
        assert await get(one, f"/images/{image}/members/pB", "A") == 404
    assert await get(one, f"/images/{community}/members", "B") == 403


async def test_members_wait_while_the_image_is_something_else(one: Site) -> None:
    image = await shared(one)
    assert await answer(one, image, "accepted") == 200
    hidden = {"op": "replace", "path": "/visibility", "value": "private"}
    assert (await one.patch(image, hidden)).status == 200
    assert await get(one, f"/images/{image}", "B") == 404
    assert not await listed(one, image)
    assert (await one.patch(image, {**hidden, "value": "shared"})).status == 200
    assert await listed(one, image)


async def test_M11_members_only_look(one: Site) -> None:
    image = await shared(one)
    rename = {"op": "replace", "path": "/name", "value": "x"}
    assert (await one.patch(image, rename, who="B")).status == 403
    assert (await one.call("DELETE", f"/images/{image}", "B")).status == 403
    assert (await one.call("PUT", f"/images/{image}/tags/x", "B")).status == 403


async def test_a_member_that_comes_back_is_as_old_as_before(one: Site) -> None:
    image = await shared(one)
    first = await (await one.call("GET", f"/images/{image}/members/pB")).json()
    row = "SELECT created_at FROM members WHERE member = 'pB' AND image = $1::uuid"
    since = await one.service.database.fetchval(row, image)
    assert await answer(one, image, "accepted") == 200
    assert (await one.call("DELETE", f"/images/{image}/members/pB")).status == 204
    again = await one.call("POST", f"/images/{image}/members", json={"member": "pB"})
    assert (await again.json())["status"] == "pending"
    assert (await again.json())["created_at"] == first["created_at"]
    assert await one.service.database.fetchval(row, image) == since


async def test_as_many_members_as_the_quota_allows(postgres: Server) -> None:
    """Also when all are added at once; at the limit the limit is what is said, whoever it is."""
    async with passing(postgres, one_store(DEFAULT="image_member_quota = 3")) as site:
        image = await site.image()
        statuses = await asyncio.gather(*(share(site, image, f"p{number}") for number in range(6)))
        assert sorted(statuses) == [200] * 3 + [413] * 3
        present = await members(site, image)
        assert await share(site, image, present[0]) == 413
        assert (await site.call("DELETE", f"/images/{image}/members/{present[0]}")).status == 204
        assert [await share(site, image, name) for name in (present[1], "new", "newer")] == [409, 200, 413]


async def test_consumers_are_told_of_members(one: Site) -> None:
    owner = somebody()
    image = await one.image(owner)
    assert await share(one, image, "pB", owner) == 200
    assert await answer(one, image, "accepted") == 200
    assert (await one.call("DELETE", f"/images/{image}/members/pB", owner)).status == 204
    await one.settled()
    notes = one.notes.of(image)
    told = ["image.create", "image.member.create", "image.member.update", "image.member.delete"]
    assert of_image(notes) == told
    assert len(notes) == len(told)  # no `image.update`
    payloads = [note.payload for note in notes[1:]]
    assert [set(payload) for payload in payloads] == [
        {"image_id", "member_id", "status", "created_at", "updated_at", "deleted", "deleted_at"}
    ] * 3
    assert [(p["image_id"], p["member_id"], p["status"], p["deleted"]) for p in payloads] == [
        (image, "pB", "pending", False),
        (image, "pB", "accepted", False),
        (image, "pB", "accepted", True),
    ]
    assert [p["deleted_at"] is None for p in payloads] == [True, True, False]
