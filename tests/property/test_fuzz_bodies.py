"""Whatever clients send: no 5xx, and what is refused has changed nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.postgres import Server
from tests.support.raw import Answer, Wire, ask, head
from tests.support.running import Site
from tests.support.standing import memory_stores, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

# One service for all examples is the point: nothing an example does may disturb the next.
FEW = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

OCTETS = "application/octet-stream"


Found = Callable[[], Site]
"""The site; behind a function, for hypothesis prints arguments to their very bottom."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(postgres: Server) -> AsyncIterator[Found]:
    """Several stores in memory, and an image of every kind that a request may meet."""
    config = memory_stores(entrepot="body_timeout = 0.2")
    async with standing(postgres, config, also=(FAULTY,)) as running:
        running.extra["queued"] = await running.image()
        running.extra["staged"] = await _staged(running)
        running.extra["active"] = await running.image()
        assert await running.upload(running.extra["active"], b"0" * 1024) == 204
        yield lambda: running


async def _staged(site: Site) -> str:
    image = await site.image()
    assert await site.stage(image, b"0" * 1024) == 204
    return image


# --- what is sent ------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.sampled_from("\0\udcff\ud800'\"\\%/~:,.\r\n{}[]\U0001f600"), max_size=8),
    st.sampled_from(["raw", "bare", "public", "fast", "web", "glance-direct", "copy-image", "x" * 300, "1", "true"]),
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 5.0, 2**31, 2**63, 10**400]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
IMAGE_NAMES = st.sampled_from(
    [
        *("id", "name", "owner", "visibility", "protected", "os_hidden", "disk_format", "container_format"),
        *("min_disk", "min_ram", "tags", "status", "size", "virtual_size", "checksum", "os_hash_algo"),
        *("os_hash_value", "created_at", "updated_at", "locations", "self", "stores", "deleted", "os_glance_x"),
        *("kernel_id", "rack", "", "__class__", "model_config"),
    ]
)


def deep(inner: SearchStrategy[Any]) -> SearchStrategy[str]:
    """JSON text far deeper than any document."""
    return st.builds(lambda n, value: "[" * n + json.dumps(value) + "]" * n, st.integers(1, 3000), inner)


def documents(names: SearchStrategy[str], values: SearchStrategy[Any] = VALUES) -> SearchStrategy[bytes]:
    """JSON bodies, most of them objects with names that mean something; some broken."""
    objects = st.dictionaries(st.one_of(names, TEXTS), values, max_size=6)
    whole = st.builds(lambda value: json.dumps(value).encode(), st.one_of(objects, values))
    unescaped = st.builds(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), objects)
    nested = st.builds(lambda name, text: f'{{"{name}": {text}}}'.encode(), names, deep(SCALARS))
    cut = st.builds(lambda body, at: body[: at % (len(body) + 1)], whole, st.integers(0, 200))
    return st.one_of(whole, unescaped, nested, cut, st.binary(max_size=40))


STORES = st.sampled_from(["fast", "cheap", "reliable", "web", "nope", "", "os_glance_staging_store"])
METHODS = st.one_of(
    st.fixed_dictionaries(
        {"name": st.one_of(st.sampled_from(["glance-direct", "copy-image", "web-download", "nope"]), VALUES)},
        optional={"uri": VALUES, "glance_image_id": VALUES, "x": VALUES},
    ),
    VALUES,
)
IMPORTS = st.one_of(
    st.builds(
        lambda value: json.dumps(value).encode(),
        st.fixed_dictionaries(
            {"method": METHODS},
            optional={
                "stores": st.one_of(st.lists(STORES, max_size=4), VALUES),
                "all_stores": st.one_of(st.booleans(), VALUES),
                "all_stores_must_succeed": st.one_of(st.booleans(), VALUES),
                "more": VALUES,
            },
        ),
    ),
    documents(st.sampled_from(["method", "stores", "all_stores", "all_stores_must_succeed"])),
)

PARAMETERS = st.sampled_from(
    [
        *("limit", "marker", "sort", "sort_key", "sort_dir", "name", "status", "id", "visibility", "owner", "tag"),
        *("member_status", "os_hidden", "protected", "size", "size_min", "size_max", "min_ram", "min_disk_max"),
        *("created_at", "updated_at", "checksum", "changes-since", "deleted", "disk_format", "foo_min", "rack"),
    ]
)
ARGUMENTS = st.one_of(
    st.sampled_from(
        [
            *("1", "0", "-1", "", "25", "all", "public", "true", "True", "asc", "desc", "name", "name:asc,id", "raw"),
            *(
                "in:a,b",
                'in:"a,b",c',
                'in:"',
                "neq:x",
                "gt:2000-01-01T00:00:00Z",
                "9999-12-31T23:59:59Z",
                "gt:0001-01-01",
            ),
            *("99999999999999999999", "1e5", "created_at:asc,name", "nan", "accepted", "lt:2000-01-01T00:00:00+99:99"),
        ]
    ).map(str.encode),
    st.binary(max_size=12),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
)

HEADERS = st.sampled_from(
    [
        *("Accept", "Content-Type", "X-OpenStack-Request-ID", "Range", "Content-Range", "X-Image-Meta-Store"),
        *(
            "X-OpenStack-Image-Size",
            "Origin",
            "Forwarded",
            "X-Forwarded-Host",
            "Host",
            "Last-Event-ID",
            "Accept-Encoding",
        ),
        *(
            "Content-Encoding",
            "If-None-Match",
            "If-Modified-Since",
            "Cookie",
            "Connection",
            "Upgrade",
            "Content-Length",
        ),
        *("Transfer-Encoding", "TE", "Trailer", "Access-Control-Request-Method", "X-Service-Roles", "Accept-Language"),
    ]
)
HEADER_VALUES = st.one_of(
    st.sampled_from(
        [
            *("*/*", "application/json", "text/html;q=0.5, */*;q=0.1", "bytes=0-1", "bytes=-1", "bytes=5-2", "chunked"),
            *("bytes 0-9/*", "0", "5", "-1", "gzip", "deflate", "br", "close", "upgrade", "websocket", "req-1", "fast"),
            *("for=1;host=x", "text/event-stream", "application/octet-stream", "MANY", "bytes=MANY", "bytes=MANY-", ""),
        ]
    ).map(str.encode),
    st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte not in (0, 10, 13))),
)


# --- what must hold ----------------------------------------------------------------------


async def state(site: Site) -> tuple[Any, ...]:
    """Everything that a refused request must leave as it was."""
    rows = "SELECT image_id, i.version, status, s.state::text FROM images i JOIN states s USING (id) ORDER BY image_id"
    images = await site.service.database.fetch(rows)
    tasks = await site.service.database.fetchval("SELECT count(*) FROM tasks")
    return [tuple(row) for row in images], tasks, await site.service.log.head()


async def judged(site: Site, request: bytes, *accepted: int) -> Answer:
    """The answer to a request; refused with a 4xx and without a trace, or answered in one of these ways."""
    before = await state(site)
    answer = await ask(site, request)
    assert answer.status in accepted or 400 <= answer.status < 500, answer
    if answer.status >= 400:
        assert await state(site) == before
    return answer


@FEW
@given(body=documents(IMAGE_NAMES))
async def test_create_bodies(found: Found, body: bytes) -> None:
    """What is accepted can be shown, listed and deleted."""
    site = found()
    request = head("POST", "/v2/images", Content_Length=str(len(body)), Accept="application/json") + body
    answer = await judged(site, request, 201)
    if answer.status == 201:
        image = json.loads(answer.body)
        assert await site.show(image["id"]) == image
        assert (await site.call("GET", "/images?limit=1000&visibility=all", "ADM")).status == 200
        protected = image["protected"]
        assert (await site.call("DELETE", f"/images/{image['id']}")).status == (403 if protected else 204)


@FEW
@given(
    body=IMPORTS, which=st.sampled_from(["queued", "staged", "active"]), who=st.sampled_from(["A", "ADM", "AR", "C"])
)
async def test_import_bodies(found: Found, body: bytes, which: str, who: str) -> None:
    """What is accepted ends, whatever was in it."""
    site = found()
    image = site.extra[which]
    request = head("POST", f"/v2/images/{image}/import", who, Content_Length=str(len(body))) + body
    answer = await judged(site, request, 202)
    if answer.status == 202:
        await site.ended(image)
        assert (await site.tasks(image))[-1]["input"]["import_req"] is not None
        await site.settled()
        if which == "staged":
            site.extra["staged"] = await _staged(site)


@FEW
@given(pairs=st.lists(st.tuples(st.one_of(PARAMETERS.map(str.encode), st.binary(max_size=6)), ARGUMENTS), max_size=5))
async def test_list_queries(found: Found, pairs: list[tuple[bytes, bytes]]) -> None:
    """A page, or 400."""
    site = found()
    query = "&".join(f"{quote_from_bytes(name)}={quote_from_bytes(value)}" for name, value in pairs)
    answer = await judged(site, head("GET", f"/v2/images?{query}", Accept="application/json"), 200)
    if answer.status == 200:
        document = json.loads(answer.body)
        assert {"images", "first", "schema"} <= set(document)
        if "next" in document:
            following = await ask(site, head("GET", document["next"], Accept="application/json"))
            assert following.status == 200
    else:
        assert answer.status == 400


@FEW
@given(query=st.binary(max_size=30), path=st.lists(st.one_of(st.binary(max_size=8), st.just(b"images")), max_size=4))
async def test_paths(found: Found, query: bytes, path: list[bytes]) -> None:
    """Any bytes, escaped, after the version or instead of it."""
    site = found()
    target = "/".join(quote_from_bytes(segment, safe="") for segment in path)
    for prefix in ("/v2/", "/ops/v1/", "/"):
        await judged(site, head("GET", f"{prefix}{target}?{quote_from_bytes(query)}"), 200, 300, 302)


TARGETS = st.sampled_from(
    [
        ("GET", "/v2/images/{active}"),
        ("GET", "/v2/images/{active}/file"),
        ("GET", "/v2/images/{queued}/file"),
        ("GET", "/v2/images?limit=1"),
        ("GET", "/versions"),
        ("GET", "/healthcheck"),
        ("GET", "/ops/v1/events"),
        ("PUT", "/v2/images/{active}/file"),
        ("PUT", "/v2/images/{staged}/stage"),
        ("POST", "/v2/images/{queued}/import"),
        ("OPTIONS", "/v2/images"),
    ]
)


@FEW
@given(target=TARGETS, sent=st.lists(st.tuples(HEADERS, HEADER_VALUES), max_size=4))
async def test_headers(found: Found, target: tuple[str, str], sent: list[tuple[str, bytes]]) -> None:
    """Whatever their values; a connection may be closed, but not before an answer."""
    site = found()
    method, path = target
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in sent).replace(b"MANY", b"9" * 5000)
    request = head(method, path.format(**site.extra))
    before = await state(site)
    async with await Wire.to(site) as wire:
        await wire.send(request[:-2] + lines + b"\r\n")
        answer = await wire.answer(body=False)
    assert answer.status < 500, answer
    after = await state(site)
    assert after[:2] == before[:2]


@FEW
@given(
    raw=st.one_of(
        st.binary(max_size=60),
        st.builds(lambda a, b: a + b, st.just(b"GET /v2/images HTTP/1.1\r\n"), st.binary(max_size=60)),
    )
)
async def test_bytes_that_are_hardly_http(found: Found, raw: bytes) -> None:
    """Refused or not understood, but never a crash, and the next client is served."""
    site = found()
    before = await state(site)
    async with await Wire.to(site) as wire:
        await wire.send(raw + b"\r\n\r\n")
        wire.writer.write_eof()
        got = await wire.ended()
    assert not got or int(got[9:12]) < 500 or int(got[9:12]) == 501, got[:200]
    assert await state(site) == before
    assert (await site.call("GET", "/images?limit=1")).status == 200
