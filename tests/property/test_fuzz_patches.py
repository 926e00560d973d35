"""Whatever a patch says: no 5xx, all of it or nothing, and what it did is what it said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.property.test_fuzz_bodies import FEW, TEXTS, VALUES, Found, documents, judged
from tests.support.postgres import Server
from tests.support.raw import Answer, head
from tests.support.running import Site, single
from tests.support.standing import standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = """
[^hidden]
create = admin
read = admin
update = admin
delete = admin
[.*]
create = @
read = @
update = @
delete = @
"""

NEW = "application/openstack-images-v2.1-json-patch"
OLD = "application/openstack-images-v2.0-json-patch"

FIELDS = {
    "name": st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)),
    "visibility": st.sampled_from(["private", "shared", "community", "public"]),
    "protected": st.booleans(),
    "os_hidden": st.booleans(),
    "owner": st.sampled_from(["pA", "pB", ""]),
    "disk_format": st.sampled_from([None, "raw", "qcow2"]),
    "container_format": st.sampled_from([None, "bare"]),
    "min_disk": st.sampled_from([0, 5, 5.0, 2**31 - 1]),
    "min_ram": st.integers(0, 10),
    "tags": st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
}
PROPERTIES = ("p1", "p2", "p3", "p/~", "kernel_id", "hidden_1", "image_id", "__class__")
FORBIDDEN = ("id", "status", "size", "stores", "os_glance_x", "locations", "deleted")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(postgres: Server) -> AsyncIterator[Found]:
    """A site with protected properties, and an image of every kind that a patch may meet."""

    def config(directory: Path) -> str:
        (directory / "protection.conf").write_text(RULES)
        default = "property_protection_file = protection.conf\nimage_property_quota = 5\nimage_tag_quota = 2"
        return single(directory, DEFAULT=default, import_worker="fsync = off")

    async with standing(postgres, config) as running:
        for kind in ("queued", "active", "foreign"):
            image = await running.image("B" if kind == "foreign" else "A", p1="x", p2="y")
            await running.patch(image, {"op": "add", "path": "/hidden_1", "value": "h"}, who="ADM")
            running.extra[kind] = image
        assert await running.upload(running.extra["active"], b"0") == 204
        yield lambda: running


def pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def operation(old: bool, verb: Any, path: Any, value: Any, bare: bool) -> dict[str, Any]:
    named = {str(verb): path} if old else {"op": verb, "path": path}
    return named if bare else {**named, "value": value}


def operations(old: bool) -> SearchStrategy[Any]:
    """Most are in order; some are nonsense, or of the other media type."""
    verbs = st.sampled_from(["add", "replace", "add", "replace", "remove"])
    field = st.sampled_from(sorted(FIELDS)).flatmap(lambda name: st.tuples(st.just(pointer(name)), FIELDS[name]))
    custom = st.tuples(st.sampled_from(PROPERTIES).map(pointer), st.sampled_from(["x", "", "u" * 300]))
    strange = st.tuples(
        st.one_of(
            st.sampled_from(FORBIDDEN).map(pointer), TEXTS, VALUES, st.sampled_from(["/", "/a/b", "/locations/-"])
        ),
        VALUES,
    )

    def built(targets: SearchStrategy[Any], verb: SearchStrategy[Any]) -> SearchStrategy[Any]:
        return st.builds(
            lambda v, target, bare: operation(old, v, *target, bare and v == "remove"), verb, targets, st.booleans()
        )

    sound = built(st.one_of(field, custom, custom), verbs)
    wrong = built(st.one_of(field, custom, strange), st.one_of(verbs, TEXTS, VALUES.map(str)))
    return st.integers(0, 29).flatmap(lambda luck: wrong if luck == 0 else VALUES if luck == 1 else sound)


@st.composite
def patches(draw: st.DrawFn) -> tuple[str, bytes]:
    """A media type and a body."""
    old = draw(st.booleans())
    if draw(st.integers(0, 9)) == 0:
        body = draw(documents(st.sampled_from(["op", "path", "value"])))
    else:
        body = json.dumps(draw(st.lists(operations(old), min_size=1, max_size=4))).encode()
    return OLD if old else NEW, body


async def patch(site: Site, image: str, who: str, media: str, body: bytes) -> Answer:
    request = head(
        "PATCH",
        f"/v2/images/{image}",
        who,
        Content_Length=str(len(body)),
        Content_Type=media,
        Accept="application/json",
    )
    return await judged(site, request + body, 200)


@settings(FEW, max_examples=250)
@given(
    patches(),
    st.sampled_from(["queued", "queued", "active", "foreign"]),
    st.sampled_from(["A", "A", "A", "ADM", "ADM", "AR", "C"]),
)
async def test_patches(found: Found, sent: tuple[str, bytes], which: str, who: str) -> None:
    site, (media, body) = found(), sent
    image = site.extra[which]
    before = await site.show(image)
    answer = await patch(site, image, who, media, body)
    after = await site.show(image)
    if answer.status != 200:
        assert answer.status in (400, 403, 404, 409, 413), answer
        return
    wanted = orjson.loads(body)
    expected = as_told(before, wanted, media == OLD)
    assert comparable(after) == comparable(expected)
    assert (after["updated_at"] >= before["updated_at"]) if wanted else (after == before)
    if who != "ADM":
        assert "hidden_1" in after
        assert "hidden_1" not in json.loads(answer.body)
    site.images.validate(json.loads(answer.body))
    await put_back(site, image, after)


def as_told(before: dict[str, Any], wanted: list[Any], old: bool) -> dict[str, Any]:
    """The image as a naive reader of the patch would have it."""
    expected = dict(before)
    for item in wanted:
        verb = next(verb for verb in ("add", "replace", "remove") if verb in item) if old else item["op"]
        path = item[verb] if old else item["path"]
        name = path[1:].strip().replace("~1", "/").replace("~0", "~")
        if verb == "remove":
            del expected[name]
        else:
            expected[name] = item["value"]
    return expected


def comparable(image: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in image.items() if name != "updated_at"},
        "tags": sorted(set(image["tags"])),
        "owner": image["owner"] or None,
    }


async def put_back(site: Site, image: str, shown: dict[str, Any]) -> None:
    """Make the image what it was for the next example."""
    kept = {"p1": "x", "p2": "y", "hidden_1": "h"}
    custom = [name for name in shown if name in PROPERTIES or name not in BASE]
    document = [{"op": "remove", "path": pointer(name)} for name in custom if name not in kept]
    document += [{"op": "add", "path": pointer(name), "value": value} for name, value in kept.items()]
    owner = "pB" if image == site.extra["foreign"] else "pA"
    for name, value in (("owner", owner), ("visibility", "shared"), ("tags", []), ("name", "n")):
        document.append({"op": "replace", "path": f"/{name}", "value": value})
    answer = await site.patch(image, *document, who="ADM")
    assert answer.status == 200, await answer.text()


BASE = frozenset(
    {
        *FIELDS,
        *("id", "status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value", "created_at"),
        *("updated_at", "self", "file", "schema", "stores"),
    }
)


# --- members and tags --------------------------------------------------------------------


@FEW
@given(documents(st.sampled_from(["member", "status"])), st.sampled_from(["A", "B", "C", "ADM"]), st.booleans())
async def test_member_bodies(found: Found, body: bytes, who: str, answers: bool) -> None:
    site = found()
    image = site.extra["queued"]
    method, path = ("PUT", "/pB") if answers else ("POST", "")
    request = head(method, f"/v2/images/{image}/members{path}", who, Content_Length=str(len(body)))
    answer = await judged(site, request + body, 200)
    assert answer.status in (200, 400, 403, 404, 409, 413), answer
    listed = await (await site.call("GET", f"/images/{image}/members", "ADM")).json()
    for member in listed["members"]:
        await site.call("DELETE", f"/images/{image}/members/{member['member_id']}", "ADM")
