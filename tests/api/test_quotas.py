"""What projects may use (images.md 18, import.md 17): checked at every door, and hard however many come at once."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.support.fake_keystone import FakeKeystone, keystone
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.origin import Answer, chunked, origin, until_close, whole
from tests.support.postgres import Server
from tests.support.running import OCTETS, Site
from tests.support.standing import (
    Config,
    blocked,
    broken,
    memory_stores,
    objects,
    one_store,
    passing,
    somebody,
    standing,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
RESOURCES = ("image_size_total", "image_stage_total", "image_count_total", "image_count_uploading")


@dataclass
class World:
    site: Site
    fake: FakeKeystone

    def project(self, **limits: int) -> dict[str, str]:
        """Somebody of a project of his own with these limits; the others are open."""
        who = somebody()
        for name, limit in limits.items():
            self.fake.limits[who["X-Project-Id"], f"image_{name}"] = limit
        return who

    async def usage(self, who: dict[str, str], name: str) -> dict[str, int]:
        response = await self.site.call("GET", "/info/usage", who)
        assert response.status == 200
        found: dict[str, int] = (await response.json())["usage"][f"image_{name}"]
        return found

    async def create(self, who: dict[str, str], **more: Any) -> Any:
        document = {"name": "n", "disk_format": "raw", "container_format": "bare", **more}
        return await self.site.call("POST", "/images", who, json=document)

    async def image(self, who: dict[str, str]) -> str:
        response = await self.create(who)
        assert response.status == 201, await response.text()
        return str((await response.json())["id"])

    async def send(self, who: dict[str, str], image: str, data: bytes, to: str = "file", chunked: bool = False) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            yield data

        body: Any = pieces() if chunked else io.BytesIO(data)
        response = await self.site.call("PUT", f"/images/{image}/{to}", who, data=body, headers=OCTETS)
        if response.status == 413:
            assert "limit" in (await response.json())["message"]
        return response.status


def unified(
    fake: FakeKeystone, stores: Any = memory_stores, endpoint: str = "endpoint_id = image-endpoint", **sections: str
) -> Config:
    options = fake.options.replace("project_name = service\nproject_domain_name = Default", "system_scope = all")
    text = "use_keystone_limits = true\nenabled_import_methods = glance-direct, web-download, copy-image"
    config: Config = stores(DEFAULT=text, oslo_limit=f"{options}\n{endpoint}", **sections)
    return config


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: Server) -> AsyncIterator[World]:
    async with keystone() as fake:
        fake.registered = dict.fromkeys(RESOURCES, -1)
        config = unified(fake, import_filtering_opts="allowed_hosts = 127.0.0.1\nallowed_ports = []")
        async with standing(postgres, config, also=(FAULTY,)) as site:
            yield World(site, fake)


# --- requests ----------------------------------------------------------------------------


async def test_A13_so_many_images_and_no_more(world: World) -> None:
    who = world.project(count_total=3)
    assert [(await world.create(who)).status for _ in range(4)] == [201, 201, 201, 413]
    assert await world.usage(who, "count_total") == {"usage": 3, "limit": 3}
    message = (await (await world.create(who)).json())["message"]
    assert message == "Resource image_count_total is over limit of 3 due to current usage 3 and delta 1"


async def test_the_order_of_refusals(world: World) -> None:
    """images.md 5: form and policy, then how many images there may be, then what single attributes may be."""
    full, free = world.project(count_total=0), world.project(count_total=1)
    for document, status in (({"min_ram": "x"}, 400), ({"os_glance_x": "y"}, 403), ({"visibility": "public"}, 403)):
        assert (await world.create(full, **document)).status == status
    for document, status in (({"size": 1}, 403), ({"tags": [str(number) for number in range(129)]}, 413)):
        answer = await world.create(full, **document)
        assert answer.status == 413
        assert "image_count_total" in await answer.text()
        answer = await world.create(free, **document)
        assert answer.status == status
        assert "image_count_total" not in await answer.text()


async def test_A14_so_many_bytes_and_one_upload_of_unknown_length_beyond(world: World) -> None:
    who = world.project(size_total=1)
    image, other = await world.image(who), await world.image(who)
    assert await world.send(who, image, bytes(3 * MIB)) == 413
    assert (await world.site.show(image))["status"] == "queued"
    assert await world.send(who, image, bytes(3 * MIB), chunked=True) == 204
    assert await world.usage(who, "size_total") == {"usage": 3, "limit": 1}
    assert await world.send(who, other, b"x") == 413
    assert await world.send(who, other, b"x", chunked=True) == 413
    assert (await world.site.show(other))["status"] == "queued"


async def test_IM98_so_many_bytes_staged(world: World) -> None:
    who, other = world.project(stage_total=1), world.project(stage_total=1)
    first, second, theirs = await world.image(who), await world.image(who), await world.image(other)
    assert await world.send(who, first, bytes(MIB), "stage") == 204
    assert await world.send(who, second, bytes(MIB), "stage") == 413
    assert (await world.site.show(second))["status"] == "queued"
    assert await world.send(other, theirs, bytes(MIB), "stage") == 204
    assert await world.usage(who, "stage_total") == {"usage": 1, "limit": 1}


async def test_IM99_so_many_uploading(world: World) -> None:
    who = world.project(count_uploading=1)
    first, second = await world.image(who), await world.image(who)
    assert await world.send(who, first, b"x", "stage") == 204
    assert await world.send(who, second, b"x", "stage") == 413
    assert await world.send(who, second, b"x") == 413
    assert (await world.site.call("DELETE", f"/images/{first}", who)).status == 204
    assert await world.send(who, second, b"x", "stage") == 204


async def test_A15_IM12_without_unified_limits_nothing_is_told(postgres: Server) -> None:
    async with passing(postgres, one_store()) as site:
        response = await site.call("GET", "/info/usage")
        assert (response.status, await response.json()) == (200, {"usage": {}})
        for method in ("POST", "PUT", "PATCH", "DELETE", "HEAD"):
            refused = await site.call(method, "/info/usage")
            assert (refused.status, refused.headers["Allow"]) == (405, "GET")


async def test_a_limit_that_is_registered_nowhere_is_nought(postgres: Server) -> None:
    async with keystone() as fake:
        fake.registered = {"image_count_total": 1}
        async with passing(postgres, unified(fake, one_store)) as site:
            world, who = World(site, fake), somebody()
            assert await world.usage(who, "count_total") == {"usage": 0, "limit": 1}
            assert await world.usage(who, "size_total") == {"usage": 0, "limit": 0}
            assert await world.send(who, await world.image(who), bytes(MIB)) == 413


async def test_a_project_that_has_too_much_imports_nothing(world: World) -> None:
    who = world.project(size_total=0)
    image, staged = await world.image(who), await world.image(who)
    assert await world.send(who, staged, b"x", "stage") == 204
    assert await world.send(who, image, bytes(MIB), chunked=True) == 204
    response = await world.site.call(
        "POST", f"/images/{staged}/import", who, json={"method": {"name": "glance-direct"}}
    )
    assert response.status == 413
    assert "image_size_total" in (await response.json())["message"]
    unknown = await world.site.call("POST", "/images/nope/import", who, json={"method": {"name": "glance-direct"}})
    assert unknown.status == 413, "this check does not look at the image"


@pytest.mark.parametrize(
    "endpoint",
    [
        "endpoint_service_type = image",
        "endpoint_service_name = glance\nendpoint_interface = adminURL",
        "endpoint_service_type = image\nendpoint_service_name = glance\nendpoint_region_name = R",
    ],
)
async def test_our_endpoint_is_found_by_what_it_is_like(postgres: Server, endpoint: str) -> None:
    async with keystone() as fake:
        fake.registered = {"image_count_total": 1}
        async with passing(postgres, unified(fake, one_store, endpoint)) as site:
            assert await World(site, fake).usage(somebody(), "count_total") == {"usage": 0, "limit": 1}


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("endpoint_service_type = image\nendpoint_region_name = S", "0 endpoints"),
        ("endpoint_service_type = image\nendpoint_interface = internal", "0 endpoints"),
        ("endpoint_service_type = image\nendpoint_service_name = keystone", "0 services"),
        ("endpoint_service_name = twin", "2 services"),
        ("endpoint_service_type = identity", "2 endpoints"),
    ],
)
async def test_an_endpoint_that_cannot_be_told_is_503(postgres: Server, endpoint: str, told: str) -> None:
    async with keystone() as fake:
        fake.registered = dict.fromkeys(RESOURCES, -1)
        fake.services += [{"id": kind, "type": kind, "name": "twin"} for kind in ("one", "another")]
        fake.endpoints.append({"id": "x", "service_id": "identity", "region_id": "S", "interface": "public"})
        async with passing(postgres, unified(fake, one_store, endpoint)) as site:
            response = await site.call("GET", "/info/usage")
            assert response.status == 503
            assert told in (await response.json())["message"]


@pytest.mark.parametrize("trouble", ["down", "model"])
async def test_limits_that_nobody_can_tell_are_503(postgres: Server, trouble: str) -> None:
    async with keystone() as fake:
        fake.registered = dict.fromkeys(RESOURCES, -1)
        async with passing(postgres, unified(fake, one_store)) as site:
            world, who = World(site, fake), somebody()
            if trouble == "down":
                fake.down = 500
            else:
                fake.model = "strict_two_level"
            for response in (await world.create(who), await site.call("GET", "/info/usage", who)):
                assert response.status == 503
                assert "Retry-After" in response.headers
            fake.down, fake.model = None, "flat"
            assert (await world.create(who)).status == 201


async def test_limits_are_not_asked_for_every_time(world: World) -> None:
    who = world.project(count_total=100)
    await world.image(who)
    before = world.fake.asked_for_limits
    await asyncio.gather(*(world.image(who) for _ in range(5)))
    assert world.fake.asked_for_limits == before


# --- jobs --------------------------------------------------------------------------------


async def ended(world: World, image: str, who: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    shown = await world.site.ended(image)
    return shown, (await world.site.tasks(image))[-1]


async def download(world: World, image: str, who: dict[str, str], url: str) -> None:
    body = {"method": {"name": "web-download", "uri": url}}
    assert (await world.site.call("POST", f"/images/{image}/import", who, json=body)).status == 202


async def ending(world: World, task: dict[str, Any]) -> str:
    response = await world.site.call("GET", f"//ops/v1/imports/{task['id']}/explain", "ADM")
    return str((await response.json())["ending"])


async def test_row_Q_a_staged_image_that_does_not_fit(world: World) -> None:
    who = world.project(size_total=1)
    image = await world.image(who)
    assert await world.send(who, image, bytes(2 * MIB), "stage") == 204
    assert await world.site.do_import(image, who) == 202
    shown, task = await ended(world, image, who)
    assert (shown["status"], shown["size"], shown["os_glance_failed_import"]) == ("queued", None, "fast")
    assert shown["os_glance_importing_to_stores"] == ""
    assert task["status"] == "failure"
    assert "Resource image_size_total is over limit of 1 due to current usage 0 and delta 2" in task["message"]
    assert objects(world.site, "staging", image) == []
    assert await world.usage(who, "size_total") == {"usage": 0, "limit": 1}


@pytest.mark.parametrize("name", ["stage_total", "count_uploading"])
async def test_row_Q_a_download_that_may_not_begin(world: World, name: str) -> None:
    who = world.project(**{name: 0})
    image = await world.image(who)
    if name == "stage_total":
        other = await world.image(who)
        assert await world.send(who, other, bytes(MIB), "stage", chunked=True) == 204
    body = {"method": {"name": "web-download", "uri": "http://127.0.0.1:9/never"}}
    assert (await world.site.call("POST", f"/images/{image}/import", who, json=body)).status == 202
    shown, task = await ended(world, image, who)
    assert (shown["status"], shown["os_glance_failed_import"]) == ("queued", "fast")
    assert f"Resource image_{name} is over limit of 0" in task["message"]


@pytest.mark.parametrize("answer", [whole, chunked, until_close])
async def test_9_2_a_download_is_held_to_what_may_be_staged(world: World, answer: Callable[[bytes], Answer]) -> None:
    """Counted as it arrives, announced or not; beside what is staged already."""
    who = world.project(stage_total=3)
    other, fits, image = [await world.image(who) for _ in range(3)]
    assert await world.send(who, other, bytes(MIB), "stage") == 204
    async with origin() as o:
        o.answers |= {"/two": answer(bytes(2 * MIB)), "/three": answer(bytes(3 * MIB))}
        await download(world, image, who, o.url("/three"))
        shown, task = await ended(world, image, who)
        assert (shown["status"], shown["size"], shown["os_glance_failed_import"]) == ("queued", None, "fast")
        assert "Resource image_stage_total is over limit of 3 due to current usage 1 and delta 3" in task["message"]
        assert await ending(world, task) == "quota"
        assert not objects(world.site, "staging", image)
        await download(world, fits, who, o.url("/two"))
        assert (await ended(world, fits, who))[0]["status"] == "active"
    assert await world.usage(who, "stage_total") == {"usage": 1, "limit": 3}


async def test_9_2_a_download_without_end_is_stopped_at_the_limit(world: World) -> None:
    who = world.project(stage_total=3)
    other, image = [await world.image(who) for _ in range(2)]
    assert await world.send(who, other, bytes(MIB), "stage") == 204
    async with origin() as o:
        await download(world, image, who, o.url("/endless"))
        shown, task = await ended(world, image, who)
    assert shown["status"] == "queued"
    # How much had arrived by then is a matter of buffers.
    assert "Resource image_stage_total is over limit of 3 due to current usage 1 and delta " in task["message"]
    assert await ending(world, task) == "quota"
    assert not objects(world.site, "staging", image)
    assert await world.usage(who, "stage_total") == {"usage": 1, "limit": 3}


async def test_9_2_of_unannounced_downloads_at_once_as_many_are_kept_as_may_be_staged(world: World) -> None:
    who = world.project(stage_total=2)
    images = [await world.image(who) for _ in range(4)]

    async def statuses() -> list[str]:
        return sorted([(await world.site.show(image))["status"] for image in images])

    async def two_are_left() -> bool:
        return await statuses() == ["importing", "importing", "queued", "queued"]

    async with origin() as o, blocked(world.site, "fast"):
        o.answers["/one"] = chunked(bytes(MIB), 1 << 16)
        for image in images:
            await download(world, image, who, o.url("/one"))
        await world.site.until(two_are_left)
        assert await world.usage(who, "stage_total") == {"usage": 2, "limit": 2}
    for image in images:
        await world.site.ended(image)
    assert await statuses() == ["active", "active", "queued", "queued"]
    await world.site.settled()
    assert [data for image in images for data in objects(world.site, "staging", image)] == []


async def test_11_4_what_comes_out_of_an_archive_is_staged_too(postgres: Server) -> None:
    """Who may have two MiB staged does not get eight by packing them; others are not in his way."""
    async with keystone() as fake:
        fake.registered = dict.fromkeys(RESOURCES, -1)
        config = unified(fake, one_store, image_import_opts="image_import_plugins = [image_decompression]")
        async with standing(postgres, config) as site:
            world = World(site, fake)
            who, free = world.project(stage_total=2), world.project()
            for caller, size, status in ((who, 8, "queued"), (who, 2, "active"), (free, 8, "active")):
                image = await world.image(caller)
                assert await world.send(caller, image, gzip.compress(bytes(size * MIB)), "stage") == 204
                assert await site.do_import(image, caller) == 202
                shown, task = await ended(world, image, caller)
                assert shown["status"] == status
                if status == "queued":
                    told = "The plugin image_decompression failed: Resource image_stage_total is over limit of 2"
                    assert task["message"].startswith(told)
                    assert await ending(world, task) == "quota"
                await site.settled()
                assert not objects(site, "staging", image)
                assert await world.usage(caller, "stage_total") == {"usage": 0, "limit": 2 if caller is who else -1}


async def test_row_CA_a_copy_that_may_not_begin(world: World) -> None:
    who = world.project(stage_total=0)
    image = await world.image(who)
    assert await world.send(who, image, bytes(2 * MIB)) == 204
    body = {"method": {"name": "copy-image"}, "stores": ["cheap"]}
    assert (await world.site.call("POST", f"/images/{image}/import", "ADM", json=body)).status == 202
    shown, task = await ended(world, image, who)
    assert (shown["status"], shown["stores"], shown["os_glance_failed_import"]) == ("active", "fast", "cheap")
    assert "Resource image_stage_total is over limit of 0 due to current usage 0 and delta 2" in task["message"]


async def test_a_store_for_which_there_is_no_room_fails_alone(world: World) -> None:
    who = world.project(size_total=5)
    image = await world.image(who)
    assert await world.send(who, image, bytes(2 * MIB), "stage") == 204
    stores = {"stores": ["fast", "cheap", "reliable"], "all_stores_must_succeed": False}
    assert await world.site.do_import(image, who, **stores) == 202
    shown, task = await ended(world, image, who)
    assert (shown["status"], shown["stores"], shown["os_glance_failed_import"]) == ("active", "cheap,fast", "reliable")
    assert task["status"] == "success"
    assert await world.usage(who, "size_total") == {"usage": 4, "limit": 5}


async def test_a_job_whose_limits_nobody_can_tell_fails(postgres: Server) -> None:
    async with keystone() as fake:
        fake.registered = dict.fromkeys(RESOURCES, -1)
        async with passing(postgres, unified(fake, one_store)) as site:
            world, who = World(site, fake), somebody()
            image = await world.image(who)
            assert await world.send(who, image, b"x", "stage") == 204
            source = site.service.site.quotas._source
            asked = []

            async def failing(project: str) -> Any:
                """Keystone goes away between the request and the job."""
                asked.append(project)
                if len(asked) > 1:
                    fake.down = 500
                    source._known.clear()  # type: ignore[union-attr]
                assert source is not None
                return await source(project)

            site.service.site.quotas._source = failing
            assert await site.do_import(image, who) == 202
            shown, task = await ended(world, image, who)
            assert shown["status"] == "queued"
            assert "Keystone" in task["message"]


# --- user_storage_quota ------------------------------------------------------------------


async def test_F13_a_project_has_so_many_bytes(postgres: Server) -> None:
    async with passing(postgres, one_store(DEFAULT="user_storage_quota = 1MB")) as site:
        world, who, other = World(site, FakeKeystone()), somebody(), somebody()
        first, second, third = [await world.image(who) for _ in range(3)]
        assert await world.send(who, first, bytes(800_000)) == 204
        for chunked in (False, True):
            assert await world.send(who, second, bytes(400_000), chunked=chunked) == 413
            shown = await site.show(second)
            assert (shown["status"], shown["size"]) == ("queued", None)
        await site.settled()
        assert len([path for path in site.files("file") if path.stat().st_size]) == 1
        assert await world.send(who, second, bytes(MIB - 800_000)) == 204
        assert await world.send(who, third, b"", chunked=True) == 413, "nothing is left"
        assert await world.send(other, await world.image(other), bytes(MIB)) == 204
        assert (await site.call("DELETE", f"/images/{first}", who)).status == 204
        assert await world.send(who, third, bytes(800_000), chunked=True) == 204


async def test_an_import_that_exceeds_the_storage_quota_fails_at_the_store(postgres: Server) -> None:
    async with passing(postgres, memory_stores(DEFAULT="user_storage_quota = 1MB"), also=(FAULTY,)) as site:
        world, who = World(site, FakeKeystone()), somebody()
        image = await world.image(who)
        assert await world.send(who, image, bytes(600_000), "stage") == 204
        assert await site.do_import(image, who, stores=["fast", "cheap"]) == 202
        shown = await site.ended(image)
        assert (shown["status"], shown["os_glance_failed_import"]) == ("queued", "cheap")
        task = (await site.tasks(image))[-1]
        assert "Resource user_storage_quota is over limit of 1048576 due to current usage 600000" in task["message"]
        await site.settled()
        assert objects(site, "fast", image) == []
        assert await world.send(who, image, bytes(600_000), "stage") == 204
        assert await site.do_import(image, who, stores=["fast", "cheap"], all_stores_must_succeed=False) == 202
        assert (await site.ended(image))["stores"] == "fast"


# --- many at once ------------------------------------------------------------------------


# --- image_location_quota ----------------------------------------------------------------


async def staged(site: Site) -> str:
    image = await site.image()
    assert await site.stage(image, bytes(1024)) == 204
    return image


@pytest.mark.parametrize("parallel", [1, 3])
async def test_a_store_beyond_the_location_quota_fails(postgres: Server, parallel: int) -> None:
    """17.2: copies count like any location; where one fails another may take its place."""
    config = memory_stores(DEFAULT="image_location_quota = 2", image_import_opts=f"max_parallel_stores = {parallel}")
    wanted: dict[str, Any] = {"stores": ["fast", "cheap", "reliable"], "all_stores_must_succeed": False}
    async with passing(postgres, config, also=(FAULTY,)) as site:
        image = await staged(site)
        assert await site.do_import(image, **wanted) == 202
        shown = await site.ended(image)
        assert (shown["status"], shown["stores"]) == ("active", "cheap,fast")
        assert shown["os_glance_failed_import"] == "reliable"
        assert not objects(site, "reliable", image)
        strict = await staged(site)
        assert await site.do_import(strict, stores=wanted["stores"]) == 202
        shown = await site.ended(strict)
        assert (shown["status"], shown["os_glance_failed_import"]) == ("queued", "reliable")
        assert "image_location_quota" in (await site.tasks(strict))[-1]["message"]
        with broken(site, "cheap"):
            other = await staged(site)
            assert await site.do_import(other, **wanted) == 202
            shown = await site.ended(other)
        assert (shown["stores"], shown["os_glance_failed_import"]) == ("fast,reliable", "cheap")


async def test_many_at_once_never_exceed(world: World) -> None:
    """Creates, stages, uploads and imports by the dozen: exactly as many pass as there is room for."""
    who = world.project(count_total=7)
    answers = await asyncio.gather(*(world.create(who) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [201] * 7 + [413] * 13

    who = world.project(count_uploading=3)
    images = [await world.image(who) for _ in range(10)]
    sent = await asyncio.gather(*(world.send(who, image, b"x", "stage") for image in images))
    assert sorted(sent) == [204] * 3 + [413] * 7

    who = world.project(size_total=4)
    images = [await world.image(who) for _ in range(10)]
    sent = await asyncio.gather(*(world.send(who, image, bytes(MIB)) for image in images))
    assert sorted(sent) == [204] * 4 + [413] * 6
    assert await world.usage(who, "size_total") == {"usage": 4, "limit": 4}

    who = world.project(size_total=3)
    images = [await world.image(who) for _ in range(6)]
    await asyncio.gather(*(world.send(who, image, bytes(MIB), "stage") for image in images))
    wanted = await asyncio.gather(*(world.site.do_import(image, who) for image in images))
    assert set(wanted) == {202}
    ends = [(await world.site.ended(image))["status"] for image in images]
    assert sorted(ends) == ["active"] * 3 + ["queued"] * 3
    assert await world.usage(who, "size_total") == {"usage": 3, "limit": 3}


async def test_of_uploads_of_unknown_length_one_may_overshoot(world: World) -> None:
    who = world.project(size_total=1)
    images = [await world.image(who) for _ in range(6)]
    sent = await asyncio.gather(*(world.send(who, image, bytes(2 * MIB), chunked=True) for image in images))
    assert sorted(sent) == [204] + [413] * 5
    assert await world.usage(who, "size_total") == {"usage": 2, "limit": 1}


async def test_downloads_at_once_are_as_many_as_may_be(world: World) -> None:
    """Those that wait for their turn do not count; none of them fails for the others' sake only."""
    who = world.project(count_uploading=2)
    images = [await world.image(who) for _ in range(2)]
    body = {"method": {"name": "web-download", "uri": "http://127.0.0.1:9/never"}}
    for image in images:
        assert (await world.site.call("POST", f"/images/{image}/import", who, json=body)).status == 202
    for image in images:
        _, task = await ended(world, image, who)
        assert "image_count_uploading" not in task["message"]
    assert await world.usage(who, "count_uploading") == {"usage": 0, "limit": 2}
