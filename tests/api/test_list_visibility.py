"""Who finds which images in lists (images.md 3.4 and 6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import one_store, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

MADE = {
    "a-private": ("A", {"visibility": "private"}),
    "a-shared": ("A", {"visibility": "shared"}),
    "a-community": ("A", {"visibility": "community"}),
    "a-hidden": ("A", {"visibility": "shared", "os_hidden": True}),
    "public": ("ADM", {"visibility": "public"}),
    "b-private": ("B", {"visibility": "private"}),
    "b-shared": ("B", {"visibility": "shared"}),
    "b-community": ("B", {"visibility": "community"}),
}
"""The images of L01 in the order of their creation: who makes each, and how."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, one_store()) as site:
        for name, (who, attributes) in MADE.items():
            await site.image(who, name=name, **attributes)
        yield site


async def listed(site: Site, query: str = "", who: str = "A") -> list[str]:
    """Names of the images in the order of the answer."""
    answer = await site.call("GET", f"/images{query}", who)
    assert answer.status == 200, await answer.text()
    return [image["name"] for image in (await answer.json())["images"]]


async def test_L01_the_default_list(world: Site) -> None:
    answer = await world.call("GET", "/images")
    document: dict[str, Any] = await answer.json()
    assert [image["name"] for image in document["images"]] == ["public", "a-community", "a-shared", "a-private"]
    assert set(document) == {"images", "first", "schema"}
    assert (document["first"], document["schema"]) == ("/v2/images", "/v2/schemas/images")
    for image in document["images"]:
        assert image == await world.show(image["id"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("?visibility=community", {"a-community", "b-community"}),
        ("?visibility=all", {"a-private", "a-shared", "a-community", "public", "b-community"}),
        ("?visibility=private", {"a-private"}),
        ("?visibility=shared", {"a-shared"}),
        ("?visibility=public", {"public"}),
        ("?visibility=", set()),
        ("?visibility=private&visibility=public", {"public"}),
        ("?owner=pB", set()),
        ("?owner=pB&visibility=community", {"b-community"}),
        ("?owner=pA", {"a-private", "a-shared", "a-community"}),
        ("?owner=pa", set()),
        ("?member_status=all", {"a-private", "a-shared", "a-community", "public"}),
        ("?member_status=pending", {"a-private", "a-shared", "a-community", "public"}),
    ],
)
async def test_L02_visibility_filters(world: Site, query: str, names: set[str]) -> None:
    found = await listed(world, query)
    assert set(found) == names
    assert len(found) == len(names)


@pytest.mark.parametrize("query", ["?visibility=bogus", "?visibility=Public", "?visibility=all,public"])
async def test_L02_unknown_visibilities_are_400(world: Site, query: str) -> None:
    assert (await world.call("GET", f"/images{query}")).status == 400


async def test_L03_admins_see_everything_but_the_community_images_of_others(world: Site) -> None:
    everything = set(MADE) - {"a-hidden"}
    assert set(await listed(world, who="ADM")) == everything - {"a-community", "b-community"}
    assert set(await listed(world, "?visibility=all", "ADM")) == everything
    assert set(await listed(world, "?visibility=community", "ADM")) == {"a-community", "b-community"}
    assert set(await listed(world, "?visibility=private", "ADM")) == {"a-private", "b-private"}
    assert set(await listed(world, "?owner=pB", "ADM")) == {"b-private", "b-shared"}


async def test_L04_hidden_images(world: Site) -> None:
    assert await listed(world, "?os_hidden=true") == ["a-hidden"]
    assert await listed(world, "?os_hidden=True") == ["a-hidden"]
    assert await listed(world, "?os_hidden=TRUE", "ADM") == ["a-hidden"]
    assert await listed(world, "?os_hidden=true", "B") == []
    assert "a-hidden" not in await listed(world, "?os_hidden=FALSE")
    for value in ("1", "", "yes", "tru"):
        assert (await world.call("GET", f"/images?os_hidden={value}")).status == 400


async def test_L06_who_may_list(world: Site) -> None:
    assert (await world.call("GET", "/images", "NR")).status == 403
    assert set(await listed(world, who="AR")) == {"a-private", "a-shared", "a-community", "public"}
    assert await listed(world, who="C") == ["public"]
    assert set(await listed(world, "?visibility=all", "C")) == {"public", "a-community", "b-community"}


async def test_callers_without_a_project_find_what_is_public(world: Site) -> None:
    nobody = {"X-Identity-Status": "Confirmed", "X-Roles": "reader", "X-User-Id": "u"}
    assert await listed(world, who=nobody) == ["public"]  # type: ignore[arg-type]
    ownerless = await world.image("ADM", name="ownerless", owner=None, visibility="public")
    try:
        for who in (nobody, "A", "ADM"):
            assert "ownerless" in await listed(world, who=who)  # type: ignore[arg-type]
    finally:
        await world.call("DELETE", f"/images/{ownerless}", "ADM")


async def test_L20_deleted_images_are_in_no_list(world: Site) -> None:
    gone = await world.image(name="gone")
    assert "gone" in await listed(world)
    assert (await world.call("DELETE", f"/images/{gone}")).status == 204
    for who in ("A", "ADM"):
        for query in ("", "?visibility=all", "?deleted=true", "?status=deleted", f"?id={gone}", "?name=gone"):
            assert "gone" not in await listed(world, query, who)
    assert (await world.call("GET", f"/images?marker={gone}")).status == 400


async def test_markers_that_the_caller_cannot_see_are_like_unknown_ones(world: Site) -> None:
    hidden_from_a = await world.image("B", visibility="private")
    visible = await world.image("B", visibility="community")
    assert (await world.call("GET", f"/images?marker={hidden_from_a}")).status == 400
    assert (await world.call("GET", f"/images?marker={visible}")).status == 200
    for image in (hidden_from_a, visible):
        await world.call("DELETE", f"/images/{image}", "B")
