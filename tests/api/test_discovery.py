"""What a site tells of itself: import methods, stores (import.md 3 and 4)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = ["glance-direct", "web-download", "copy-image"]


async def stores(site: Site, path: str = "/info/stores", who: str = "A") -> list[dict[str, Any]]:
    answer = await site.call("GET", path, who)
    assert answer.status == 200
    document: dict[str, Any] = await answer.json()
    assert set(document) == {"stores"}
    return list(document["stores"])


@pytest.mark.requirement("REQ-035")
async def test_IM05_only_methods_that_are_enabled(postgres: Server) -> None:
    """Without glance-direct there is nothing to stage for."""
    settings = "enabled_import_methods = ['web-download']"
    async with passing(postgres, one_store(DEFAULT=settings)) as site:
        image = await site.image()
        assert await site.stage(image, b"x") == 404
        assert await site.stage("unknown", b"x") == 404
        assert await site.do_import(image) == 400
        methods = (await (await site.call("GET", "/info/import")).json())["import-methods"]
        assert methods["value"] == ["web-download"]


async def test_IM06_no_method_at_all(postgres: Server) -> None:
    async with passing(postgres, one_store(DEFAULT="enabled_import_methods = []")) as site:
        created = await site.call("POST", "/images", json={"disk_format": "raw", "container_format": "bare"})
        assert created.status == 201
        assert "OpenStack-image-import-methods" not in created.headers
        methods = (await (await site.call("GET", "/info/import")).json())["import-methods"]
        assert methods["value"] == []
        image = (await created.json())["id"]
        assert await site.do_import(image) == 400
        assert await site.stage(image, b"x") == 404


@pytest.mark.requirement("REQ-022", "REQ-036")
async def test_IM07_info_import(one: Site) -> None:
    answer = await one.call("GET", "/info/import")
    assert answer.status == 200
    document = await answer.json()
    assert set(document) == {"import-methods"}
    methods = document["import-methods"]
    assert set(methods) == {"description", "type", "value"}
    assert isinstance(methods["description"], str)
    assert (methods["type"], methods["value"]) == ("array", METHODS)
    assert (await one.call("GET", "/info/import", json={})).status == 400
    wrong = await one.call("POST", "/info/import")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET")
    assert (await one.call("GET", "/info/import", None)).status == 401
    assert (await one.call("GET", "/info/import", "NR")).status == 200


async def test_IM08_info_stores(postgres: Server) -> None:
    """In configured order; every value a string, what is not true absent."""
    async with passing(postgres, four_stores(cheap="store_description = slow")) as site:
        assert await stores(site) == [
            {"id": "fast", "default": "true"},
            {"id": "cheap", "description": "slow"},
            {"id": "reliable"},
            {"id": "web", "read-only": "true"},
        ]
        assert (await site.call("GET", "/info/stores", json={})).status == 400
        assert (await site.call("GET", "/info/stores", None)).status == 401
        assert (await site.call("GET", "/info/stores", "NR")).status == 200
        wrong = await site.call("POST", "/info/stores")
        assert (wrong.status, wrong.headers["Allow"]) == (405, "GET")


async def test_IM09_a_single_store_site_has_no_list_of_stores(one: Site) -> None:
    for who in ("A", "ADM", "SVC"):
        for path in ("/info/stores", "/info/stores/detail"):
            for method in ("GET", "POST"):
                refused = await one.call(method, path, who)
                assert (refused.status, "Multi backend" in await refused.text()) == (404, True)


async def test_IM10_info_stores_detail(postgres: Server) -> None:
    """For admins and services; what operators need, with types and weights."""
    async with passing(postgres, four_stores(cheap="weight = 7")) as site:
        assert (await site.call("GET", "/info/stores/detail")).status == 403
        assert (await site.call("GET", "/info/stores/detail", "NR")).status == 403
        assert (await site.call("GET", "/info/stores/detail", None)).status == 401
        assert await stores(site, "/info/stores/detail", "SVC") == await stores(site, "/info/stores/detail", "ADM")
        fast, cheap, _, web = await stores(site, "/info/stores/detail", "ADM")
        assert (fast["id"], fast["default"], fast["weight"]) == ("fast", "true", 0)
        assert (cheap["type"], cheap["weight"]) == ("file", 7)
        assert cheap["properties"] == {
            "data_dir": str(site.directory / "cheap"),
            "chunk_size": 65536,
            "thin_provisioning": False,
        }
        assert (web["type"], web["properties"], web["read-only"]) == ("http", {}, "true")


async def test_IM11_headers_of_a_created_image(postgres: Server) -> None:
    settings = "enabled_import_methods = [glance-direct, web-download, copy-image, glance-download]"
    async with passing(postgres, four_stores(DEFAULT=settings)) as site:
        headers = (await site.call("POST", "/images", json={})).headers
        expected = "glance-direct,web-download,copy-image,glance-download"
        assert headers["OpenStack-image-import-methods"] == expected
        assert headers["OpenStack-image-store-ids"] == "fast,cheap,reliable,web"


async def test_the_order_of_methods_is_the_operators(postgres: Server) -> None:
    settings = 'enabled_import_methods = ["copy-image", "glance-direct"]'
    async with passing(postgres, one_store(DEFAULT=settings)) as site:
        methods = (await (await site.call("GET", "/info/import")).json())["import-methods"]
        assert methods["value"] == ["copy-image", "glance-direct"]


async def test_weights_decide_the_order_of_stores_on_images(postgres: Server) -> None:
    """Heaviest first, equal weights by name."""
    async with passing(postgres, four_stores(cheap="weight = -1", reliable="weight = 5")) as site:
        image = await site.image()
        await site.stage(image, b"x")
        assert await site.do_import(image, all_stores=True) == 202
        assert (await site.ended(image))["stores"] == "reliable,fast,cheap"
