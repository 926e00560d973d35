"""Whatever is said of locations: no 5xx, and what is refused has changed nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_fuzz_bodies import FEW, TEXTS, VALUES, Found, documents, judged
from tests.property.test_fuzz_patches import NEW
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.postgres import Server
from tests.support.raw import head
from tests.support.standing import hooks, memory_stores, standing
from tests.support.stores import a_name

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA = b"0" * 1024
SOME = settings(FEW, max_examples=80)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(postgres: Server) -> AsyncIterator[Found]:
    """Stores in memory with bytes of others in one of them, and an image of every kind."""
    config = memory_stores(DEFAULT="show_multiple_locations = True\nimage_location_quota = 4")
    async with standing(postgres, config, also=(FAULTY,)) as running:
        store = hooks(running, "fast")
        for place in ("one", "two"):
            name = a_name()
            store.blobs[name] = (DATA,)
            running.extra[place] = store.url(name)
        running.extra["queued"] = await running.image()
        running.extra["active"] = await running.image()
        assert await running.upload(running.extra["active"], DATA) == 204
        yield lambda: running


# Places are filled in where the site is known: what hypothesis makes has to be the same in every run.
URLS = st.one_of(
    st.sampled_from(
        ["ONE", "TWO", "http://127.0.0.1:1/x", "file:///etc/passwd", "rbd://a/b/c/d", "http://[", "memory://"]
    ),
    TEXTS,
    VALUES,
)
HASHES = st.one_of(
    st.fixed_dictionaries(
        {
            "os_hash_algo": st.sampled_from(["sha512", "md5", "sha384"]),
            "os_hash_value": st.sampled_from(["0" * 128, "z"]),
        },
        optional={"checksum": st.sampled_from(["0" * 32, "x"]), "more": VALUES},
    ),
    VALUES,
)
LOCATIONS = st.one_of(
    st.fixed_dictionaries(
        {"url": URLS, "metadata": st.one_of(st.just({}), st.dictionaries(TEXTS, VALUES, max_size=3), VALUES)},
        optional={"validation_data": HASHES},
    ),
    VALUES,
)
PLACES = st.one_of(st.sampled_from(["-", "0", "1", "7", "x", "-1", "٣", "9" * 30]), st.none())
OPERATIONS = st.builds(
    lambda verb, place, value: {
        "op": verb,
        "path": "/locations" if place is None else f"/locations/{place}",
        "value": value,
    },
    st.sampled_from(["add", "add", "replace", "remove"]),
    PLACES,
    st.one_of(LOCATIONS, st.lists(LOCATIONS, max_size=3)),
)


def placed(found: Found, document: Any) -> bytes:
    extra = found().extra
    return json.dumps(document).replace('"ONE"', f'"{extra["one"]}"').replace('"TWO"', f'"{extra["two"]}"').encode()


@SOME
@given(
    st.lists(OPERATIONS, min_size=1, max_size=3),
    st.sampled_from(["queued", "active", "active"]),
    st.sampled_from(["A", "ADM", "AR"]),
)
async def test_patches_of_locations(found: Found, operations: list[dict[str, Any]], which: str, who: str) -> None:
    """All of it or nothing; an image that is active keeps at least one place."""
    site, body = found(), placed(found, operations)
    image = site.extra[which]
    request = head("PATCH", f"/v2/images/{image}", who, Content_Length=str(len(body)), Content_Type=NEW)
    answer = await judged(site, request + body, 200)
    shown = await site.show(image)
    assert (shown["status"] == "active") == bool(shown["locations"])
    assert len(shown["locations"]) <= 4
    if answer.status == 200 and which == "queued" and shown["status"] == "active":
        site.extra["queued"] = await site.image()


@SOME
@given(
    st.one_of(
        st.fixed_dictionaries({"url": URLS}, optional={"validation_data": HASHES}).map(json.dumps).map(str.encode),
        documents(st.sampled_from(["url", "validation_data"])),
    ),
    st.sampled_from(["queued", "queued", "active"]),
    st.sampled_from(["A", "ADM", "AR"]),
    st.booleans(),
)
async def test_registrations(found: Found, body: bytes, which: str, who: str, served: bool) -> None:
    """What is accepted ends, whatever was in it."""
    site = found()
    extra = site.extra
    body = body.replace(b'"ONE"', f'"{extra["one"]}"'.encode()).replace(b'"TWO"', f'"{extra["two"]}"'.encode())
    more = {"X_Service_Roles": "service", "X_Service_Identity_Status": "Confirmed"} if served else {}
    image = extra[which]
    request = head("POST", f"/v2/images/{image}/locations", who, Content_Length=str(len(body)), **more)
    answer = await judged(site, request + body, 202)
    if answer.status == 202:
        shown = await site.ended(image)
        assert shown["status"] in ("queued", "active")
        await site.settled()
        if shown["status"] == "active":
            extra["queued"] = await site.image()
