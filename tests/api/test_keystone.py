"""Identity from Keystone (images.md 15), against one in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse
from msgspec.structs import replace

from tests.support.fake_keystone import OWN, FakeKeystone, keystone
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import one_store, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class World:
    site: Site
    fake: FakeKeystone

    async def get(self, token: str | None = None, path: str = "/images", **headers: str) -> ClientResponse:
        sent = {"X-Auth-Token": token} if token is not None else {}
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.site.call("GET", path, None, headers={**sent, **more})

    async def create(self, token: str, **attributes: Any) -> ClientResponse:
        document = {"name": "n", **attributes}
        return await self.site.call("POST", "/images", None, json=document, headers={"X-Auth-Token": token})


def with_keystone(fake: FakeKeystone, more: str = "", **sections: str) -> Any:
    options = f"{fake.options}\nwww_authenticate_uri = https://keystone.example/v3\n{more}"
    text = one_store(keystone_authtoken=options, **sections)
    return lambda directory: text(directory).replace("auth = headers", "auth = keystone")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: Server) -> AsyncIterator[World]:
    async with keystone() as fake, standing(postgres, with_keystone(fake)) as site:
        yield World(site, fake)


async def test_A01_no_token_or_a_bad_one_is_challenged(world: World) -> None:
    for response in (
        await world.get(),
        await world.get("nonsense"),
        await world.get("  "),
        await world.get("x" * 9000),
    ):
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == 'Keystone uri="https://keystone.example/v3"'
    unknown_path = await world.get(path="/nowhere")
    assert unknown_path.status == 401


async def test_A02_a_token_is_validated_once(world: World) -> None:
    token = world.fake.token()
    before = len(world.fake.validations)
    assert (await world.get(token)).status == 200
    assert (await world.get(token)).status == 200
    assert (await world.get(f"  {token} ")).status == 200
    assert (await world.get(X_Storage_Token=token)).status == 200
    (asked,) = world.fake.validations[before:]
    assert asked.headers["X-Subject-Token"] == token
    assert asked.headers["X-Auth-Token"] == OWN
    assert asked.headers["OpenStack-Identity-Access-Rules"] == "1"
    assert asked.headers["Accept"] == "application/json"


async def test_many_at_once_ask_once_too(world: World) -> None:
    token = world.fake.token()
    before = len(world.fake.validations)
    answers = await asyncio.gather(*(world.get(token) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len(world.fake.validations) == before + 1


async def test_a_bad_token_is_not_asked_about_again_at_once(world: World) -> None:
    before = len(world.fake.validations)
    for _ in range(3):
        assert (await world.get("never-issued")).status == 401
    assert len(world.fake.validations) == before + 1


async def test_A03_forged_identity_headers_are_worth_nothing(world: World) -> None:
    forged = {"X-Identity-Status": "Confirmed", "X-Roles": "admin", "X-Project-Id": "pA"}
    assert (await world.site.call("GET", "/images", forged)).status == 401
    token = world.fake.token("pB", "member,reader")
    response = await world.site.call("POST", "/images", {**forged, "X-Auth-Token": token}, json={"name": "n"})
    assert response.status == 201
    assert (await response.json())["owner"] == "pB"
    refused = await world.site.call("GET", "/info/stores/detail", {**forged, "X-Auth-Token": token})
    assert refused.status in (403, 404)


async def test_A04_an_expired_token_is_no_token(world: World) -> None:
    assert (await world.get(world.fake.token(lives=-10))).status == 401


async def test_A04_a_token_that_expires_in_the_cache_is_none_either(world: World) -> None:
    """Keystone's clock lags behind ours here: what it still vouches for has run out all the same."""
    token = world.fake.token()
    assert (await world.get(token)).status == 200
    cache = world.site.client.server._app._authenticator._cache  # type: ignore[attr-defined]
    for key, (until, known) in list(cache.items()):
        cache[key] = until, replace(known, expires_at=datetime.now(UTC)) if known is not None else None
    assert (await world.get(token)).status == 401


async def test_A05_a_service_token_alone_is_not_enough(world: World) -> None:
    service = world.fake.token("service", "service")
    response = await world.get(X_Service_Token=service)
    assert response.status == 401
    assert "WWW-Authenticate" in response.headers


async def test_A06_a_bad_service_token_is_ignored(world: World) -> None:
    token = world.fake.token()
    assert (await world.get(token, X_Service_Token="nonsense")).status == 200
    without_role = world.fake.token("service", "member")
    assert (await world.get(world.fake.token(lives=-5), X_Service_Token=without_role)).status == 401


async def test_A06_a_good_one_brings_its_roles_and_time(world: World) -> None:
    """A long operation of nova's or cinder's may outlive the user's token."""
    service = world.fake.token("service", "service,reader")
    assert (await world.get(world.fake.token(lives=-5), X_Service_Token=service)).status == 200


async def test_A07_keystone_down(world: World) -> None:
    known, unknown = world.fake.token(), world.fake.token()
    assert (await world.get(known)).status == 200
    world.fake.down = 503
    try:
        assert (await world.get(known)).status == 200
        refused = await world.get(unknown)
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
    finally:
        world.fake.down = None
    assert (await world.get(unknown)).status == 200


async def test_A07_the_service_renews_its_own_token(world: World) -> None:
    world.fake.own_token_valid = False
    assert (await world.get(world.fake.token())).status == 200


async def test_A08_roles_compare_without_case(world: World) -> None:
    response = await world.create(world.fake.token("pX", "Admin,Member,Reader"), visibility="public")
    assert response.status == 201


async def test_access_rules_are_kept_on_every_request(world: World) -> None:
    """Also when the token is in the cache already; a service token lifts them."""
    listing = {"service": "image", "method": "GET", "path": "/v2/images"}
    token = world.fake.token(rules=[listing, {"service": "image", "method": "GET", "path": "/v2/images/{image_id}"}])
    assert (await world.get(token)).status == 200
    assert (await world.get(token, "/images/nope")).status == 404
    assert (await world.get(token, "/images/nope/members")).status == 401
    assert (await world.create(token)).status == 401
    assert (await world.get(world.fake.token(rules=[]))).status == 401
    elsewhere = world.fake.token(rules=[{"service": "compute", "method": "GET", "path": "/v2/images"}])
    assert (await world.get(elsewhere)).status == 401
    service = world.fake.token("service", "service")
    assert (await world.get(elsewhere, X_Service_Token=service)).status == 200


async def test_system_scope_sees_nothing(world: World) -> None:
    token = world.fake.token(None, "admin,member,reader", system=True)
    assert (await world.get(token)).status == 403
    image = (await (await world.create(world.fake.token())).json())["id"]
    assert (await world.get(token, f"/images/{image}")).status == 404
    assert (await world.create(token)).status == 403


async def test_anonymous_reading(postgres: Server) -> None:
    async with keystone() as fake:
        config = with_keystone(fake, DEFAULT="allow_anonymous_access = true")
        async with standing(postgres, config) as site:
            world = World(site, fake)
            assert (await world.get()).status == 403
            assert (await world.get(path="/images/nope")).status == 404
            assert (await site.call("POST", "/images", None, json={"name": "n"})).status == 403
            assert (await site.call("DELETE", "/images/nope", None)).status == 403
            assert (await world.get("nonsense")).status == 401


async def test_a_keystone_that_cannot_be_reached_is_left_alone(postgres: Server) -> None:
    async with keystone() as fake:
        config = with_keystone(fake)
        url = fake.url
    async with standing(postgres, config) as site:
        world = World(site, fake)
        answers = await asyncio.gather(*(world.get(fake.token()) for _ in range(20)))
        assert {answer.status for answer in answers} == {503}
        assert url


async def test_a_keystone_that_hangs_holds_nobody_up_for_long(postgres: Server) -> None:
    async with keystone() as fake:
        retrying = with_keystone(fake, "http_connect_timeout = 0.2")
        config = lambda directory: retrying(directory).replace("max_retries = 0", "max_retries = 3")  # noqa: E731
        async with standing(postgres, config) as site:
            world = World(site, fake)
            known, unknown = fake.token(), fake.token()
            assert (await world.get(known)).status == 200
            fake.hanging = asyncio.Event()
            try:
                async with asyncio.timeout(10):
                    answers = await asyncio.gather(*(world.get(unknown) for _ in range(5)), world.get(known))
            finally:
                fake.hanging.set()
            assert [answer.status for answer in answers] == [503] * 5 + [200]
