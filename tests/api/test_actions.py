"""Taking data out of reach, and images out of lists (images.md 9 and 3.4)."""

from __future__ import annotations

import pytest

from tests.support.running import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def act(site: Site, image: str, action: str, who: str = "A") -> int:
    return (await site.call("POST", f"/images/{image}/actions/{action}", who)).status


async def download(site: Site, image: str, who: str = "A") -> int:
    return (await site.call("GET", f"/images/{image}/file", who)).status


async def active(site: Site, **attributes: object) -> str:
    image = await site.image(**attributes)
    assert await site.upload(image, b"x" * 1024) == 204
    return image


async def test_D05_there_and_back(one: Site) -> None:
    image = await active(one)
    assert [await act(one, image, "deactivate"), await act(one, image, "deactivate")] == [204, 204]
    assert [await download(one, image), await download(one, image, "ADM")] == [403, 200]
    assert (await one.show(image, "A"))["status"] == "deactivated"
    rename = {"op": "replace", "path": "/name", "value": "x"}
    assert (await one.patch(image, rename)).status == 200
    assert [await act(one, image, "reactivate"), await act(one, image, "reactivate")] == [204, 204]
    assert await download(one, image) == 200
    await one.settled()
    types = [note.event_type for note in one.notes.of(image)]
    assert types.count("image.update") == 5  # two of the upload, one each of what came after
    assert types.count("image.activate") == 1


async def test_D06_only_data_that_is_there(one: Site) -> None:
    image = await one.image()
    for action in ("deactivate", "reactivate"):
        assert await act(one, image, action) == 403
    assert await one.stage(image, b"x") == 204
    for action in ("deactivate", "reactivate"):
        assert await act(one, image, action, "ADM") == 403
        assert await act(one, "nope", action) == 404


async def test_D07_who_may(one: Site) -> None:
    image, community = await active(one), await active(one, visibility="community")
    assert (await one.call("POST", f"/images/{image}/members", json={"member": "pB"})).status == 200
    for action in ("deactivate", "reactivate"):
        assert await act(one, image, action, "B") == 403
        assert await act(one, community, action, "C") == 403
        assert await act(one, image, action, "C") == 404
        assert await act(one, image, action, "AR") == 403
        assert (await one.call("POST", f"/images/{image}/actions/{action}", json={})).status == 400
        assert (await one.call("GET", f"/images/{image}/actions/{action}")).status == 405
    assert (await one.call("POST", f"/images/{image}/actions/explode")).status == 404
    assert [await act(one, image, "deactivate", "ADM"), await act(one, image, "reactivate")] == [204, 204]


async def test_D08_what_is_shown_of_deactivated_images(four: Site) -> None:
    image = await active(four)
    assert await act(four, image, "deactivate") == 204
    assert "stores" not in await four.show(image, "A")
    assert (await four.show(image, "ADM"))["stores"] == "fast"
    listed = await (await four.call("GET", f"/images?id={image}")).json()
    assert ["stores" in item for item in listed["images"]] == [False]


async def test_D11_deleting_a_deactivated_image(one: Site) -> None:
    """Its data goes, whoever deletes it."""
    for who in ("A", "ADM"):
        image = await active(one)
        assert await act(one, image, "deactivate", who) == 204
        assert (await one.call("DELETE", f"/images/{image}", who)).status == 204
        await one.until(lambda image=image: not [f for f in one.files("file") if f.name.startswith(image)])


async def test_D02_protection_can_be_lifted(one: Site) -> None:
    image = await one.image(protected=True)
    assert (await one.call("DELETE", f"/images/{image}")).status == 403
    lift = {"op": "replace", "path": "/protected", "value": False}
    assert (await one.patch(image, lift)).status == 200
    assert (await one.call("DELETE", f"/images/{image}")).status == 204


async def test_hiding_takes_an_image_out_of_lists_only(one: Site) -> None:
    image = await one.image()
    hide = {"op": "replace", "path": "/os_hidden", "value": True}
    assert (await one.patch(image, hide)).status == 200

    async def found(query: str) -> bool:
        page = await (await one.call("GET", f"/images?limit=1000{query}")).json()
        return image in [item["id"] for item in page["images"]]

    assert [await found(""), await found("&os_hidden=true")] == [False, True]
    assert (await one.show(image, "A"))["os_hidden"] is True
    assert (await one.patch(image, {**hide, "value": False})).status == 200
    assert [await found(""), await found("&os_hidden=true")] == [True, False]
