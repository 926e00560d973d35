"""Identity from a trusted proxy's headers, and from nobody at all (images.md 15.4)."""

from __future__ import annotations

import json

import pytest

from kernel.errors import ConfigError
from ops.server import Options, authenticator
from plugins.auth.headers import HeadersConfig, TrustedHeaders, actor_of
from plugins.auth.none import EXTENSION as NOBODY
from tests.support.identities import headers
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIRMED = {"X-Identity-Status": "Confirmed", "X-User-Id": "u", "X-Project-Id": "p", "X-Roles": "member,reader"}


@pytest.mark.parametrize("status", [None, "", "Invalid", "unconfirmed", "Confirmed "])
async def test_only_a_confirmed_identity_is_one(one: Site, status: str | None) -> None:
    who = {name: value for name, value in CONFIRMED.items() if name != "X-Identity-Status"}
    if status is not None:
        who["X-Identity-Status"] = status
    assert (await one.call("GET", "/images", who)).status == (200 if (status or "").strip() == "Confirmed" else 401)
    assert (await one.call("GET", "/nowhere", who)).status == (404 if (status or "").strip() == "Confirmed" else 401)


async def test_old_names_and_roles_in_any_case(one: Site) -> None:
    who = {"X-Identity-Status": "confirmed", "X-Tenant-Id": "p-old", "X-Role": " Member , READER,"}
    created = await one.call("POST", "/images", who, json={"name": "n"})
    assert created.status == 201
    assert (await created.json())["owner"] == "p-old"


async def test_roles_imply_nothing_here(one: Site) -> None:
    """That is Keystone's work: `member` alone may create, but sees nothing."""
    who = {**CONFIRMED, "X-Roles": "member"}
    created = await one.call("POST", "/images", who, json={"name": "n"})
    assert created.status == 201
    assert (await one.call("GET", f"/images/{(await created.json())['id']}", who)).status == 404
    assert (await one.call("GET", "/images", who)).status == 403


@pytest.mark.parametrize("scope", [{"OpenStack-System-Scope": "all"}, {"X-Domain-Id": "d"}])
async def test_every_rule_is_about_projects(one: Site, scope: dict[str, str]) -> None:
    image = await one.image(visibility="community")
    who = {"X-Identity-Status": "Confirmed", "X-User-Id": "u", "X-Roles": "admin,member,reader", **scope}
    assert (await one.call("GET", f"/images/{image}", who)).status == 404
    assert (await one.call("DELETE", f"/images/{image}", who)).status == 404
    assert (await one.call("GET", "/images", who)).status == 403
    assert (await one.call("POST", "/images", who, json={"name": "n"})).status == 403


async def test_a_caller_without_a_project_owns_nothing(one: Site) -> None:
    """Not even what nobody owns; he sees what is there for all."""
    who = {"X-Identity-Status": "Confirmed", "X-User-Id": "u", "X-Roles": "member,reader"}
    nobodys = {"name": "n", "owner": None}
    created = await one.call("POST", "/images", "ADM", json={**nobodys, "visibility": "community"})
    image = (await created.json())["id"]
    theirs = await one.image(visibility="community")
    hidden = (await (await one.call("POST", "/images", "ADM", json={**nobodys, "visibility": "private"})).json())["id"]
    for seen in (image, theirs):
        assert (await one.call("GET", f"/images/{seen}", who)).status == 200
        assert (await one.patch(seen, {"op": "replace", "path": "/name", "value": "m"}, who=who)).status == 403
        assert (await one.call("DELETE", f"/images/{seen}", who)).status == 403
        assert (await one.call("PUT", f"/images/{seen}/members/p", who, json={"status": "accepted"})).status in (
            403,
            404,
        )
        assert (await one.call("GET", f"/images/{seen}/members", who)).status in (403, 404)
        assert (await one.upload(seen, b"x", who)) == 403  # type: ignore[arg-type]
    assert (await one.call("GET", f"/images/{hidden}", who)).status == 404
    assert (await one.call("DELETE", f"/images/{hidden}", who)).status == 404
    assert (await one.call("POST", "/images", who, json={"name": "n"})).status == 403
    assert (await one.call("GET", "/images", who)).status == 200


async def test_the_service_identity_comes_along_if_it_is_confirmed() -> None:
    service = {"X-Service-User-Id": "nova", "X-Service-Project-Id": "s", "X-Service-Roles": "Service,admin"}
    for status, known in ((None, True), ("Confirmed", True), ("Invalid", False)):
        sent = {**CONFIRMED, **service, **({"X-Service-Identity-Status": status} if status else {})}
        actor = actor_of(sent)
        assert actor.service_roles == (frozenset({"service", "admin"}) if known else frozenset())
        assert actor.service_user_id == ("nova" if known else None)
        assert actor.roles == frozenset({"member", "reader"})


async def test_of_a_catalogue_only_what_matters_is_kept() -> None:
    image = {"type": "image", "endpoints": [{"region": "R", "interface": "public", "url": "http://x"}]}
    for sent, kept in (
        ([image, {"type": "compute"}, 7], [image]),
        ({"access": 1}, []),
    ):
        actor = actor_of({**CONFIRMED, "X-Service-Catalog": json.dumps(sent), "X-Auth-Token": "t"})
        assert (json.loads(actor.catalog), actor.token) == (kept, "t")
    assert actor_of({**CONFIRMED, "X-Service-Catalog": "{no json"}).catalog == ""


@pytest.mark.parametrize(
    "sections", [{"DEFAULT": "allow_anonymous_access = true"}, {"auth_headers": "allow_anonymous = on"}]
)
async def test_anonymous_callers_may_read_what_policy_lets_them(postgres: Server, sections: dict[str, str]) -> None:
    async with passing(postgres, one_store(**sections)) as site:
        image = await site.image(visibility="community")
        assert (await site.call("GET", "/images", None)).status == 403
        assert (await site.call("GET", f"/images/{image}", None)).status == 404
        assert (await site.call("GET", "/schemas/image", None)).status == 200
        for method, path in (("POST", "/images"), ("DELETE", f"/images/{image}"), ("PUT", f"/images/{image}/file")):
            assert (await site.call(method, path, None)).status == 403
        assert (await site.call("GET", "/nowhere", None)).status == 404
        assert (await site.call("GET", f"/images/{image}", headers("B"))).status == 200


async def test_anonymous_reading_opened_by_policy(postgres: Server) -> None:
    rules = {"get_image": "'community':%(visibility)s or rule:context_is_admin or role:reader", "get_images": ""}
    async with passing(postgres, one_store(DEFAULT="allow_anonymous_access = true"), rules=rules) as site:
        image, private = await site.image(visibility="community"), await site.image()
        assert (await site.call("GET", f"/images/{image}", None)).status == 200
        assert (await site.call("GET", f"/images/{private}", None)).status == 404
        assert (await site.call("GET", "/images", None)).status == 200


async def test_nobody_is_asked(postgres: Server) -> None:
    """Everybody is an administrator, whatever the headers say."""
    config = one_store(auth_none="project = p1\nuser = root")
    async with passing(postgres, lambda d: config(d).replace("auth = headers", "auth = none")) as site:
        created = await site.call("POST", "/images", headers("NR"), json={"name": "n", "visibility": "public"})
        assert created.status == 201
        assert (await created.json())["owner"] == "p1"
        assert (await site.call("GET", "/info/stores/detail", None)).status == 404  # one store only, so nothing to see
        assert (await site.call("GET", "/images", {"OpenStack-System-Scope": "all"})).status == 200


async def test_nobody_is_asked_on_loopback_only(one: Site) -> None:
    settings = one.service.settings
    chosen = settings.model_copy(update={"entrepot": settings.entrepot.model_copy(update={"auth": "none"})})
    registry = one.service.registry
    assert registry.auth["none"] is NOBODY
    with pytest.raises(ConfigError, match="loopback"):
        await authenticator(Options(settings=chosen, registry=registry, dsn=None, host="0.0.0.0", port=0))
    await authenticator(Options(settings=chosen, registry=registry, dsn=None, host="::1", port=0))


async def test_trusted_headers_hold_no_challenge() -> None:
    assert (await TrustedHeaders.open(HeadersConfig())).challenge is None
