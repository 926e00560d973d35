"""Properties that not everybody may touch (images.md 17)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from kernel.errors import ConfigError
from tests.support.postgres import Server
from tests.support.running import Site, single
from tests.support.standing import Config, passing, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = """
[^x_.*]
create = admin,member
read = admin,member
update = admin,member
delete = admin,member
[^ro_.*]
create = admin
read = @
update = admin
delete = !
[^hidden_.*]
create = admin,maker
read = admin
update = admin
delete = admin
"""


def protected(rules: str, more: str = "") -> Config:
    def config(directory: Path) -> str:
        (directory / "protection.conf").write_text(rules)
        default = f"property_protection_file = protection.conf\n{more}"
        return single(directory, DEFAULT=default, import_worker="fsync = off")

    return config


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, protected(RULES)) as site:
        yield site


def operation(verb: str, name: str, value: str = "v") -> dict[str, Any]:
    return {"op": verb, "path": f"/{name}", "value": value}


async def create(site: Site, who: Any = "A", **properties: Any) -> int:
    return (await site.call("POST", "/images", who, json=properties)).status


async def patch(site: Site, image: str, *operations: Any, who: Any = "A") -> int:
    return (await site.patch(image, *operations, who=who)).status


async def image_with(site: Site, **properties: Any) -> str:
    """An image of A's with properties that an administrator has set."""
    image = await site.image()
    assert await patch(site, image, *(operation("add", *item) for item in properties.items()), who="ADM") == 200
    return image


async def test_A11_creating(guarded: Site) -> None:
    """What no section names is nobody's, not even an administrator's."""
    assert await create(guarded, other="1") == 403
    assert await create(guarded, "ADM", other="1") == 403
    assert await create(guarded, x_a="1") == 201
    assert await create(guarded, ro_a="1") == 403
    assert await create(guarded, name="base attributes are free", min_ram=5, tags=["t"]) == 201
    assert await create(guarded, architecture="x") == 403  # described properties are protected like any other


async def test_A11_the_order_of_refusals(guarded: Site) -> None:
    """The schema first, then policy, then protection, then quotas."""
    many = [str(number) for number in range(129)]
    assert await create(guarded, other=5) == 400
    assert await create(guarded, other="1", tags=many) == 403
    assert await create(guarded, tags=many, size=1) == 413
    assert await create(guarded, other="1", size=1) == 403


async def test_A12_reading_and_changing(guarded: Site) -> None:
    image = await image_with(guarded, ro_a="1", x_a="2")
    assert (await guarded.show(image, "A"))["ro_a"] == "1"
    assert await patch(guarded, image, operation("replace", "ro_a")) == 403
    assert await patch(guarded, image, operation("add", "ro_a")) == 403
    assert await patch(guarded, image, operation("remove", "ro_a")) == 403
    assert await patch(guarded, image, operation("remove", "ro_a"), who="ADM") == 403
    assert await patch(guarded, image, operation("replace", "ro_a"), who="ADM") == 200
    reader = await guarded.show(image, "AR")
    assert reader["ro_a"] == "v"
    assert "x_a" not in reader


async def test_D16_what_one_cannot_read_is_absent(guarded: Site) -> None:
    """From show, list and the answer to a patch, from the history too; and filters on it match nothing."""
    image = await image_with(guarded, hidden_a="1", x_a="2")
    answer = await guarded.patch(image, operation("replace", "x_a", "3"))
    listed = await (await guarded.call("GET", f"/images?id={image}")).json()
    for document in (await guarded.show(image, "A"), await answer.json(), listed["images"][0]):
        assert "hidden_a" not in document
        assert document["x_a"] == "3"
    story = await (await guarded.call("GET", f"//ops/v1/images/{image}/history")).read()
    assert b"x_a" in story
    assert b"hidden_a" not in story
    assert (await guarded.show(image, "ADM"))["hidden_a"] == "1"

    async def found(query: str, who: str) -> bool:
        page = await (await guarded.call("GET", f"/images?{query}&visibility=all", who)).json()
        return image in [item["id"] for item in page["images"]]

    assert await found("hidden_a=1", "ADM")
    assert not await found("hidden_a=1", "A")
    assert not await found(f"hidden_a=1&id={image}", "A")
    assert await found("x_a=3", "A")
    assert not await found("x_a=3", "AR")
    assert not await found("hidden_a_min=1", "A")


async def test_D16_what_one_cannot_read_survives_ones_patches(guarded: Site) -> None:
    image = await image_with(guarded, hidden_a="1")
    assert await patch(guarded, image, operation("replace", "name"), operation("add", "x_a")) == 200
    assert await patch(guarded, image, operation("replace", "hidden_a")) == 409
    assert await patch(guarded, image, operation("remove", "hidden_a")) == 409
    assert await patch(guarded, image, operation("add", "hidden_a")) == 403
    older = {"add": "/hidden_a", "value": "v"}
    assert (await guarded.patch(image, older, version="v2.0")).status == 403
    shown = await guarded.show(image)
    assert (shown["hidden_a"], shown["x_a"]) == ("1", "v")


async def test_who_may_create_may_write_blindly(guarded: Site) -> None:
    """`add` of what one cannot read is judged as if it were new."""
    image = await image_with(guarded, hidden_a="1")
    maker = {
        "X-Identity-Status": "Confirmed",
        "X-User-Id": "u",
        "X-Project-Id": "pA",
        "X-Roles": "member,reader,Maker",
    }
    answer = await guarded.patch(image, operation("add", "hidden_a", "2"), who=maker)
    assert answer.status == 200
    assert "hidden_a" not in await answer.json()
    assert (await guarded.show(image))["hidden_a"] == "2"
    assert await create(guarded, maker, hidden_b="1") == 201


async def test_a_refusal_changes_nothing(guarded: Site) -> None:
    image = await image_with(guarded, ro_a="1", x_a="2")
    before = await guarded.service.log.head()
    assert await patch(guarded, image, operation("replace", "x_a"), operation("replace", "ro_a")) == 403
    assert await guarded.service.log.head() == before


async def test_the_services_own_properties_are_always_shown(guarded: Site) -> None:
    image = await guarded.image()
    assert await guarded.stage(image, b"x") == 204
    assert await guarded.do_import(image) == 202
    shown = await guarded.ended(image)
    assert shown["status"] == "active"
    assert {"os_glance_importing_to_stores", "os_glance_failed_import"} <= set(await guarded.show(image, "A"))


async def test_rules_may_be_policies(postgres: Server) -> None:
    """They are asked about the caller, as they are by now."""
    rules = "[.*]\ncreate = makers\nread = @\nupdate = makers\ndelete = !\n"

    def config(directory: Path) -> str:
        (directory / "policy.yaml").write_bytes(orjson.dumps({"makers": "role:maker"}))
        return protected(rules, "property_protection_rule_format = policies")(directory)

    async with passing(postgres, config) as site:
        assert await create(site, a="1") == 403
        maker = {
            "X-Identity-Status": "Confirmed",
            "X-User-Id": "u",
            "X-Project-Id": "pA",
            "X-Roles": "member,reader,maker",
        }
        assert await create(site, maker, a="1") == 201
        (site.directory / "policy.yaml").write_bytes(orjson.dumps({"makers": "role:member or role:nobody"}))
        assert await create(site, a="1") == 201


@pytest.mark.parametrize("rules", ["[(]\n", "[x]\ncreate = @\n", "nonsense"])
async def test_a_faulty_file_refuses_the_start(postgres: Server, rules: str) -> None:
    with pytest.raises(ConfigError, match="property_protection_file"):
        async with passing(postgres, protected(rules)):
            pass
