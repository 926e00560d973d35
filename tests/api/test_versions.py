"""The versions document, and which first path segments lead anywhere (images.md 1.1, import.md 2)."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from handlers.call import _forwarded
from tests.support.postgres import Server
from tests.support.raw import ask, head
from tests.support.running import Site
from tests.support.standing import one_store, passing, three_stores

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def document(site: Site, path: str = "//versions") -> tuple[int, dict[str, str]]:
    """Status of the answer, and version ids with their statuses in order."""
    answer = await site.call("GET", path, None)
    return answer.status, {entry["id"]: entry["status"] for entry in (await answer.json())["versions"]}


async def test_R01_versions_document(three: Site) -> None:
    """`/` answers 300 with every version, exactly one CURRENT, links on the host that was asked."""
    answer = await three.call("GET", "//", None, headers={"Host": "cloud.example:9292"})
    assert answer.status == 300
    assert answer.content_type == "application/json"
    entries: list[dict[str, Any]] = (await answer.json())["versions"]
    assert {"v2.0", "v2.9", "v2.13", "v2.17"} <= {entry["id"] for entry in entries}
    assert [entry["id"] for entry in entries if entry["status"] == "CURRENT"] == ["v2.17"]
    links = {(link["rel"], link["href"]) for entry in entries for link in entry["links"]}
    assert links == {("self", "http://cloud.example:9292/v2/")}


@pytest.mark.parametrize("path", ["//versions", "//versions/", "//versions/anything/at/all"])
async def test_R02_versions_of_a_single_store_site(one: Site, path: str) -> None:
    """`/versions` answers 200 with the same document, without the minors about stores."""
    status, ids = await document(one, path)
    assert status == 200
    assert not {"v2.8", "v2.10", "v2.11", "v2.12", "v2.13"} & set(ids)
    assert ids == (await document(one, "//"))[1]


@pytest.mark.parametrize(
    "path", ["//v1/images", "//images", "//v3", "//favicon.ico", "//v2.99/images", "//v2.x/images", "//V2/images"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "LOCK", "OPTIONS"])
@pytest.mark.requirement("REQ-040")
async def test_R03_unknown_first_segments_get_the_versions(one: Site, path: str, method: str) -> None:
    """Whatever the method, and without a token."""
    answer = await one.call(method, path, None)
    assert answer.status == 300
    assert "versions" in await answer.json()


@pytest.mark.parametrize(("version", "status"), [("v2", 200), ("v2.0", 200), ("v2.5", 200), ("v2.8", 300)])
async def test_R03_versions_in_the_path_on_a_single_store_site(one: Site, version: str, status: int) -> None:
    assert (await one.call("GET", f"//{version}/images")).status == status


async def test_R03_every_advertised_version_serves_the_api(three: Site) -> None:
    _, ids = await document(three)
    for version in ids:
        assert (await three.call("GET", f"//{version}/images")).status == 200
        assert (await three.call("GET", f"//{version}/info/stores")).status == 200


async def test_the_bare_version_redirects_and_its_root_is_nothing(one: Site) -> None:
    answer = await one.call("GET", "//v2", None)
    assert answer.status == 302
    assert answer.headers["Location"].endswith("/v2/")
    assert (await one.call("GET", "//v2/")).status == 404


async def test_a_doubled_leading_slash_is_served(one: Site) -> None:
    image = await one.image()
    answer = await ask(one, head("GET", f"//v2/images/{image}"))
    assert answer.status == 200
    assert (await ask(one, head("GET", f"///v2/images/{image}"))).status == 200


async def test_a_request_without_a_host_gets_links_all_the_same(one: Site) -> None:
    """HTTP/1.0 needs none."""
    answer = await ask(one, head("GET", "/versions", None, host=None, version="1.0"))
    assert answer.status == 200
    assert b"/v2/" in answer.body


@pytest.mark.requirement("REQ-002")
async def test_IM01_versions_of_a_site_with_several_stores(three: Site) -> None:
    status, ids = await document(three)
    assert status == 200
    minors = [17, 15, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert list(ids) == [f"v2.{minor}" for minor in minors]
    assert ids.pop("v2.17") == "CURRENT"
    assert set(ids.values()) == {"SUPPORTED"}


async def test_IM02_versions_of_a_single_store_site(one: Site) -> None:
    status, ids = await document(one, "//")
    assert status == 300
    assert len(ids) == 11
    assert "v2.6" in ids
    assert not {"v2.8", "v2.12"} & set(ids)


@pytest.mark.requirement("REQ-003", "REQ-004", "REQ-005")
async def test_IM03_import_switched_off(postgres: Server) -> None:
    """No v2.6, no import routes for anybody, everything else as it was."""
    async with passing(postgres, one_store(DEFAULT="enable_image_import = False")) as site:
        status, ids = await document(site)
        assert (status, len(ids)) == (200, 10)
        assert "v2.6" not in ids
        assert (await site.call("GET", "//v2.6/images")).status == 300
        created = await site.call("POST", "/images", json={"disk_format": "raw", "container_format": "bare"})
        assert created.status == 201
        assert "OpenStack-image-import-methods" not in created.headers
        image = (await created.json())["id"]
        for who in ("A", "ADM"):
            for target in (image, "unknown"):
                assert await site.stage(target, b"x", who) == 404
                assert await site.do_import(target, who) == 404
            for method, path in (("GET", "/info/import"), ("POST", "/info/import"), ("GET", f"/images/{image}/import")):
                refused = await site.call(method, path, who)
                assert (refused.status, "not supported" in await refused.text()) == (404, True)
        assert await site.upload(image, b"x") == 204


async def test_IM03_with_several_stores_fifteen_versions_are_left(postgres: Server) -> None:
    async with passing(postgres, three_stores(DEFAULT="enable_image_import = no")) as site:
        _, ids = await document(site)
        assert len(ids) == 15
        assert "v2.6" not in ids
        assert (await site.call("GET", "/info/stores")).status == 200


@pytest.mark.requirement("REQ-001")
async def test_IM04_the_pike_profile(postgres: Server) -> None:
    settings = "api_version_profile = pike\nenable_image_import = True"
    async with passing(postgres, three_stores(DEFAULT=settings)) as site:
        _, ids = await document(site)
        older = {f"v2.{minor}": "SUPPORTED" for minor in (4, 3, 2, 1, 0)}
        assert ids == {"v2.6": "EXPERIMENTAL", "v2.5": "CURRENT", **older}
        methods = (await (await site.call("GET", "/info/import")).json())["import-methods"]
        assert methods["value"] == ["glance-direct"]
        assert (await site.call("GET", "/info/stores")).status == 404


@pytest.mark.requirement("REQ-003")
async def test_IM04_the_pike_profile_has_import_off_unless_told(postgres: Server) -> None:
    async with passing(postgres, one_store(DEFAULT="api_version_profile = pike")) as site:
        _, ids = await document(site)
        assert ids == {"v2.5": "CURRENT", **{f"v2.{minor}": "SUPPORTED" for minor in (4, 3, 2, 1, 0)}}
        assert (await site.call("GET", "/info/import")).status == 404


async def test_public_endpoint_decides_the_links(postgres: Server) -> None:
    settings = "public_endpoint = https://images.example/"
    async with passing(postgres, one_store(DEFAULT=settings)) as site:
        answer = await site.call("GET", "//versions", None)
        hrefs = {entry["links"][0]["href"] for entry in (await answer.json())["versions"]}
        assert hrefs == {"https://images.example/v2/"}


PROXY = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "front.example", "X-Forwarded-Prefix": "/image"}


async def test_forwarded_headers_are_believed_only_where_the_operator_says_so(one: Site, postgres: Server) -> None:
    """They change the links of the versions and `Location`, nothing else."""
    document = await (await one.call("GET", "//versions", None, headers=PROXY)).json()
    assert "front.example" not in document["versions"][0]["links"][0]["href"]
    async with passing(postgres, one_store(oslo_middleware="enable_proxy_headers_parsing = true")) as site:
        document = await (await site.call("GET", "//versions", None, headers=PROXY)).json()
        assert document["versions"][0]["links"][0]["href"] == "https://front.example/image/v2/"
        created = await site.call("POST", "/images", json={}, headers=PROXY)
        assert created.headers["Location"].startswith("https://front.example/image/v2/images/")
        seven = {"Forwarded": 'for=1.2.3.4;proto=https;host="f.example", for=5.6.7.8'}
        document = await (await site.call("GET", "//versions", None, headers=seven)).json()
        assert document["versions"][0]["links"][0]["href"] == "https://f.example/v2/"


@pytest.mark.parametrize(
    ("headers", "href"),
    [
        ({"Forwarded": 'For="[2001:db8::1]:4711";Proto=https;Host="f.example:8443"'}, "https://f.example:8443/v2/"),
        ({"Forwarded": 'for="a,b;c";host="[::1]:9";proto=http, host=other'}, "http://[::1]:9/v2/"),
        ({"Forwarded": "host=f.example", "X-Forwarded-Prefix": "/image/"}, "http://f.example/image/v2/"),
        ({"X-Forwarded-Host": "a.example, b.example", "X-Forwarded-Proto": "HTTPS, http"}, "https://a.example/v2/"),
        ({"Forwarded": ";;,,=", "X-Forwarded-Prefix": "//"}, None),
        ({"Forwarded": "proto=javascript;host=a/b"}, None),
        ({"X-Forwarded-Host": "a b", "X-Forwarded-Proto": "gopher", "X-Forwarded-Prefix": "<x>"}, None),
    ],
)
async def test_what_a_proxy_says_is_read_with_care(headers: dict[str, str], href: str | None) -> None:
    seen = _forwarded(CIMultiDict(headers), "http", "own.example")
    assert "{}://{}{}/v2/".format(*seen) == (href or "http://own.example/v2/")
