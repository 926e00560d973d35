"""Staging (import.md 6)."""

from __future__ import annotations

import hashlib

import pytest

from kernel.errors import StoreDenied, StoreFull, StoreUnavailable
from tests.support.postgres import Server
from tests.support.raw import ask, chunk, head
from tests.support.running import OCTETS, Site
from tests.support.standing import blocked, objects, one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW1K = b"0" * 1024
OCTET = {"Content_Type": "application/octet-stream"}


async def is_queued(site: Site, image: str) -> bool:
    """Whether nothing of an attempt is left on the image, and nothing in staging."""
    shown = await site.show(image)
    assert (shown["status"], shown["size"]) == ("queued", None)
    await site.settled()
    return not objects(site, "staging", image)


async def test_IM13_staging(four: Site) -> None:
    """Uploading, with a size and nothing else; no store is touched."""
    image = await four.image()
    request = head("PUT", f"/v2/images/{image}/stage", Accept="", Transfer_Encoding="chunked", **OCTET)
    answer = await ask(four, request + chunk(RAW1K[:1000]) + chunk(RAW1K[1000:]) + chunk(b""))
    assert (answer.status, answer.body) == (204, b"")
    assert "octet-stream" not in (answer.header("Content-Type") or "")
    shown = await four.show(image)
    assert (shown["status"], shown["size"]) == ("uploading", 1024)
    for name in ("checksum", "virtual_size", "os_hash_algo", "os_hash_value"):
        assert shown[name] is None
    assert not [name for name in shown if name.startswith("os_glance") or name == "stores"]
    assert (await four.call("GET", f"/images/{image}/file")).status == 204
    assert objects(four, "staging", image) == [RAW1K]
    for store in ("fast", "cheap", "reliable"):
        assert not objects(four, store, image)


async def test_IM15_declared_sizes(four: Site) -> None:
    image = await four.image()
    for size in ("abc", "-1", "2048", "512", ""):
        assert await four.stage(image, RAW1K, **{"x-openstack-image-size": size}) == 400
        assert await is_queued(four, image)
    assert await four.stage(image, RAW1K) == 204


async def test_IM15_zero_means_unknown(four: Site) -> None:
    image = await four.image()
    assert await four.stage(image, RAW1K, **{"x-openstack-image-size": "0"}) == 204
    assert (await four.show(image))["size"] == 1024


async def test_IM16_staging_twice(faulty: Site) -> None:
    """Refused while staged, while imported, and afterwards; nothing changes by it."""
    image = await faulty.image()
    assert await faulty.stage(image, RAW1K) == 204
    assert await faulty.stage(image, b"other") == 409
    assert objects(faulty, "staging", image) == [RAW1K]
    async with blocked(faulty, "fast"):
        assert await faulty.do_import(image) == 202
        assert await faulty.stage(image, b"other") == 409
    shown = await faulty.ended(image)
    assert (shown["status"], shown["checksum"]) == ("active", hashlib.md5(RAW1K).hexdigest())
    assert await faulty.stage(image, b"other") == 409
    assert await faulty.show(image) == shown


async def test_IM17_the_size_cap(postgres: Server) -> None:
    async with passing(postgres, one_store(DEFAULT="image_size_cap = 1000")) as site:
        image = await site.image()
        assert await site.stage(image, RAW1K) == 413
        assert await is_queued(site, image)
        request = head("PUT", f"/v2/images/{image}/stage", Transfer_Encoding="chunked", **OCTET)
        assert (await ask(site, request + chunk(RAW1K) + chunk(b""))).status == 413
        assert await is_queued(site, image)
        assert await site.stage(image, b"x", **{"x-openstack-image-size": "1001"}) == 413
        assert await site.stage(image, RAW1K[:1000]) == 204


async def test_IM18_who_may_stage(one: Site) -> None:
    community, private = await one.image(visibility="community"), await one.image(visibility="private")
    assert await one.stage(community, RAW1K, "AR") == 403
    assert await one.stage(private, RAW1K, "C") == 404
    assert await one.stage(community, RAW1K, "B") == 403
    assert await one.stage(community, RAW1K, "NR") == 404
    assert (await one.call("PUT", f"/images/{private}/stage", None, data=RAW1K, headers=OCTETS)).status == 401
    assert await is_queued(one, community)
    assert await one.stage(community, RAW1K, "ADM") == 204


async def test_IM20_a_site_that_forces_imports(postgres: Server) -> None:
    """Uploads can be reserved for services; staging and importing ask another rule."""
    rules = {"upload_image": "role:admin or (service_user_id:u) or (service_roles:svc)"}
    async with passing(postgres, one_store(), rules=rules) as site:
        image, other = await site.image(), await site.image()
        assert await site.upload(image, RAW1K) == 403
        assert await site.stage(image, RAW1K) == 204
        assert await site.do_import(image) == 202
        assert (await site.ended(image))["status"] == "active"
        assert await site.upload(other, RAW1K, **{"X-Service-Roles": "svc"}) == 204


async def test_the_order_of_refusals(one: Site) -> None:
    """Content type, size, image, policy, job, status, and the cap last."""
    huge, bad = {"x-openstack-image-size": str(2 << 40)}, {"x-openstack-image-size": "x"}
    other = await one.image("B", visibility="community")
    staged, fine = await one.image(), await one.image()
    await one.stage(staged, RAW1K)

    async def put(image: str, headers: dict[str, str], content_type: str = OCTETS["Content-Type"]) -> int:
        sent = {"Content-Type": content_type, **headers}
        return (await one.call("PUT", f"/images/{image}/stage", data=b"x", headers=sent)).status

    assert await put("unknown", bad, "text/plain") == 415
    assert await put("unknown", bad) == 400
    assert await put("unknown", huge) == 404
    assert await put(other, huge) == 403
    assert await put(staged, huge) == 409
    assert await put(fine, huge) == 413
    assert await is_queued(one, fine)


async def test_formats_need_not_be_set_yet(one: Site) -> None:
    """And the store header is for the import to look at."""
    answer = await one.call("POST", "/images", json={})
    image = (await answer.json())["id"]
    assert await one.stage(image, RAW1K, **{"X-Image-Meta-Store": "nope"}) == 204
    assert (await one.call("PUT", f"/images/{image}/stage?x=y", data=b"", headers=OCTETS)).status == 409


async def test_staging_nothing(one: Site) -> None:
    image = await one.image()
    assert await one.stage(image, b"") == 204
    shown = await one.show(image)
    assert (shown["status"], shown["size"]) == ("uploading", 0)


async def test_what_is_told_of_staging(one: Site) -> None:
    """The status, then the size; a failure takes both back."""
    image = await one.image()
    assert await one.stage(image, RAW1K, **{"x-openstack-image-size": "5"}) == 400
    assert await one.stage(image, RAW1K) == 204
    await one.settled()
    told = [(m.event_type, m.payload["status"], m.payload["size"]) for m in one.notes.of(image)]  # type: ignore[index]
    assert told == [
        ("image.create", "queued", None),
        ("image.update", "uploading", None),
        ("image.update", "queued", None),
        ("image.update", "uploading", None),
        ("image.update", "uploading", 1024),
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreFull("staging"), 413),
        (StoreDenied("staging"), 503),
        (StoreUnavailable("staging"), 503),
    ],
)
async def test_a_staging_area_that_fails(
    one: Site, error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    image = await one.image()
    with monkeypatch.context() as patch:
        patch.setattr(one.service.site.staging, "put", fail)
        assert await one.stage(image, RAW1K) == status
    assert await is_queued(one, image)
    assert await one.stage(image, RAW1K) == 204
