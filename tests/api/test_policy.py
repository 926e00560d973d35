"""Operators' own rules at work (images.md 16, import.md 18.5)."""

from __future__ import annotations

import pytest

from tests.support.identities import headers
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import Config, one_store, passing


def with_rules(text: str) -> Config:
    def config(directory):  # type: ignore[no-untyped-def]
        (directory / "policy.yaml").write_text(text)
        return one_store()(directory)

    return config


async def test_A09_listing_may_be_forbidden_alone(postgres: Server) -> None:
    async with passing(postgres, with_rules('"get_images": "!"')) as site:
        image = await site.image()
        assert (await site.call("GET", "/images")).status == 403
        assert (await site.call("GET", f"/images/{image}")).status == 200


async def test_A10_downloads_may_depend_on_a_property(postgres: Server) -> None:
    rules = '"download_image": "role:member and not \'secret\':%(cls)s"'
    async with passing(postgres, with_rules(rules)) as site:
        for more, status in (({"cls": "secret"}, 403), ({"cls": "open"}, 200), ({}, 200)):
            image = await site.image(**more)
            assert await site.upload(image, b"data") == 204
            assert (await site.call("GET", f"/images/{image}/file")).status == status


@pytest.mark.requirement("REQ-030", "REQ-031")
async def test_IM20_uploads_for_services_only(postgres: Server) -> None:
    """The recipe that makes users import: the expression runs over several lines, as in the guide."""
    rules = '"upload_image": "role:admin or\n  (service_user_id:u) or\n  (service_roles:svc)"'
    async with passing(postgres, with_rules(rules)) as site:
        image, other, third = [await site.image() for _ in range(3)]
        assert await site.upload(image, b"data") == 403
        assert await site.stage(image, b"data") == 204
        assert await site.do_import(image) == 202
        assert (await site.ended(image))["status"] == "active"
        assert await _upload(site, other, {"X-Service-Roles": "other,SVC"}) == 204
        assert await _upload(site, third, {"X-Service-Roles": "svc", "X-Service-Identity-Status": "Invalid"}) == 403
        assert await _upload(site, third, {"X-Service-User-Id": "u"}) == 204


async def _upload(site: Site, image: str, more: dict[str, str]) -> int:
    who = {**headers("A"), **more, "Content-Type": "application/octet-stream"}
    return (await site.call("PUT", f"/images/{image}/file", who, data=b"x")).status


async def test_a_changed_file_counts_from_the_next_request_on(postgres: Server) -> None:
    async with passing(postgres, with_rules('"get_images": "!"')) as site:
        path = site.directory / "policy.yaml"
        assert (await site.call("GET", "/images")).status == 403
        path.write_text("{}\n")
        assert (await site.call("GET", "/images")).status == 200
        path.write_text("get_images: [nonsense\n")
        assert (await site.call("GET", "/images")).status == 200
