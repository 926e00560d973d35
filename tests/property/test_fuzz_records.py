"""Whatever clients ask of tasks and image imports: no 5xx, what is refused has changed nothing, what is taken ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.test_fuzz_bodies import IMAGE_NAMES, STORES, TEXTS, VALUES, Found, documents, judged
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.origin import origin
from tests.support.postgres import Server
from tests.support.raw import head
from tests.support.standing import memory_stores, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
O_RAW = "http://the.origin/raw"
"""Stands for what can be fetched, as its address is not known before the examples run."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(postgres: Server) -> AsyncIterator[Found]:
    open_to_all = "allowed_ports = []\ndisallowed_networks = []\nconnect_timeout = 1\nstall_timeout = 1"
    async with (
        origin() as o,
        standing(postgres, memory_stores(import_filtering_opts=open_to_all), also=(FAULTY,)) as it,
    ):
        it.extra["raw"] = o.url("/raw")
        yield lambda: it


PLACES = st.one_of(st.sampled_from([O_RAW, "http://127.0.0.1:1/x", "file:///x", "http://", "", " "]), VALUES)
PROPERTIES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "name": VALUES,
            "disk_format": st.one_of(st.sampled_from(["raw", "qcow2", None]), VALUES),
            "container_format": st.one_of(st.sampled_from(["bare", "ovf", None]), VALUES),
            "tags": VALUES,
            "foo": TEXTS,
        },
    ),
    st.dictionaries(st.one_of(IMAGE_NAMES, TEXTS), VALUES, max_size=4),
    VALUES,
)


def body_of(value: Any) -> bytes:
    return json.dumps(value).encode()


IMPORTS = st.one_of(
    st.builds(
        body_of,
        st.fixed_dictionaries(
            {"location": PLACES},
            optional={
                "image_properties": PROPERTIES,
                "stores": st.one_of(st.lists(STORES, max_size=4), VALUES),
                "all_stores": st.one_of(st.booleans(), VALUES),
                "all_stores_must_succeed": st.one_of(st.booleans(), VALUES),
            },
        ),
    ),
    documents(st.sampled_from(["location", "image_properties", "stores", "all_stores"])),
)
TASKS = st.one_of(
    st.builds(
        body_of,
        st.fixed_dictionaries(
            {
                "type": st.one_of(st.just("import"), VALUES),
                "input": st.one_of(
                    st.fixed_dictionaries(
                        {"import_from": PLACES},
                        optional={
                            "import_from_format": st.one_of(st.just("raw"), VALUES),
                            "image_properties": PROPERTIES,
                        },
                    ),
                    VALUES,
                ),
            },
            optional={"status": VALUES, "x": VALUES},
        ),
    ),
    documents(st.sampled_from(["type", "input", "id", "status", "owner"])),
)
PARAMETERS = st.sampled_from([b"limit", b"marker", b"sort_key", b"sort_dir", b"status", b"type", b"all_projects", b"x"])
ARGUMENTS = st.one_of(
    st.binary(max_size=10),
    st.sampled_from([b"0", b"2", b"-1", b"9" * 30, b"asc", b"id", b"created_at", b"success", b"import", b"true"]),
)


@pytest.mark.parametrize(("resource", "who"), [("image-imports", "A"), ("tasks", "ADM")])
@FEW
@given(data=st.data())
async def test_bodies(found: Found, resource: str, who: str, data: st.DataObject) -> None:
    site = found()
    body: bytes = data.draw(IMPORTS if resource == "image-imports" else TASKS)
    body = body.replace(O_RAW.encode(), site.extra["raw"].encode())
    request = head("POST", f"/v2/{resource}", who, Content_Length=str(len(body)), Accept="application/json") + body
    answer = await judged(site, request, 201)
    if answer.status == 201:
        record = json.loads(answer.body)["id"]

        async def ended() -> bool:
            shown = await site.call("GET", f"/{resource}/{record}", who)
            assert shown.status == 200
            return (await shown.json())["status"] in ("success", "failure")

        await site.until(ended)
        assert (await site.call("GET", "/images?limit=1000", "ADM")).status == 200
        assert (await site.call("GET", f"//ops/v1/imports/{record}/explain", who)).status == 200
        await site.settled()
        assert not site.files("staging")


@pytest.mark.parametrize(("resource", "who"), [("image-imports", "A"), ("tasks", "ADM")])
@FEW
@given(pairs=st.lists(st.tuples(st.one_of(PARAMETERS, st.binary(max_size=6)), ARGUMENTS), max_size=5))
async def test_queries(found: Found, resource: str, who: str, pairs: list[tuple[bytes, bytes]]) -> None:
    site = found()
    query = "&".join(f"{quote_from_bytes(name)}={quote_from_bytes(value)}" for name, value in pairs)
    answer = await judged(site, head("GET", f"/v2/{resource}?{query}", who, Accept="application/json"), 200)
    if answer.status == 200:
        assert {resource, "first", "schema"} <= set(json.loads(answer.body))
