"""How errors look (images.md 2.1): by Accept, in a form that each known client can read."""

from __future__ import annotations

import html
import json
import re

import pytest

from tests.support.raw import Answer, Wire, ask, head
from tests.support.running import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

HTML = "text/html; charset=UTF-8"
JSON = "application/json"
PLAIN = "text/plain; charset=UTF-8"

FORMS = {
    None: PLAIN,
    "": PLAIN,
    "*/*": HTML,
    "text/html": HTML,
    "application/json, text/plain, */*": HTML,
    "text/html;q=0.5, application/json;q=0.5": HTML,
    "application/json": JSON,
    "application/json, */*;q=0.1": JSON,
    "APPLICATION/JSON": JSON,
    "application/*": JSON,
    "text/html;q=0.1, application/json;q=0.2": JSON,
    "text/html;q=0, */*": JSON,
    "text/*": HTML,
    "text/plain": PLAIN,
    "image/png": PLAIN,
    "text/html;q=0": PLAIN,
    "*/*;q=0": PLAIN,
    "*/*;q=nonsense": PLAIN,
    "*/*;q=nan": PLAIN,
    ",,;;=,q": PLAIN,
    "\udcff\udcfe": PLAIN,
}
"""Accept -> content type of the error."""


async def refused(site: Site, path: str, accept: str | None) -> Answer:
    headers = {} if accept is None else {"Accept": accept}
    return await ask(site, head("GET", f"/v2{path}", **headers))


@pytest.mark.parametrize("accept", FORMS)
async def test_R11_R12_R13_the_form_follows_from_accept(one: Site, accept: str | None) -> None:
    answer = await refused(one, "/images/nope", accept)
    assert (answer.status, answer.header("Content-Type")) == (404, FORMS[accept])


async def test_R11_html_reads_line_by_line(one: Site) -> None:
    """As glanceclient and openstacksdk do: without tags and repetitions `404 Not Found` and the message are left."""
    answer = await refused(one, "/images/nope", "*/*")
    lines = [re.sub("<.+?>", "", line).strip() for line in answer.body.decode().splitlines()]
    left = list(dict.fromkeys(line for line in lines if line))
    assert left[0] == "404 Not Found"
    assert len(left) == 2
    assert "<title>404 Not Found</title>\n" in answer.body.decode()
    assert "<h1>404 Not Found</h1>\n" in answer.body.decode()


async def test_R11_html_is_escaped_as_far_as_it_must_be(one: Site) -> None:
    """Clients take tags out, but leave references to characters as they are; people read quotes."""
    answer = await refused(one, "/images?sort_key=%3Cb%3E%26", "*/*")
    assert b"'&lt;b&gt;&amp;'" in answer.body


async def test_R12_json_is_flat(one: Site) -> None:
    answer = await refused(one, "/images/nope", "application/json")
    document = json.loads(answer.body)
    assert set(document) == {"message", "code", "title"}
    assert (document["code"], document["title"]) == ("404 Not Found", "Not Found")
    assert isinstance(document["message"], str)
    assert "<" not in document["message"]


async def test_R13_plain_text_has_the_reason_first(one: Site) -> None:
    answer = await refused(one, "/images/nope", None)
    assert answer.body.decode().startswith("404 Not Found\n\n")


async def test_IM32_conflicts_in_all_three_forms(one: Site) -> None:
    image = await one.image()
    body = b'{"method": {"name": "glance-direct"}}'
    path, length = f"/v2/images/{image}/import", str(len(body))
    page = await ask(one, head("POST", path, Accept="*/*", Content_Length=length) + body)
    flat = await ask(one, head("POST", path, Accept="application/json", Content_Length=length) + body)
    plain = await ask(one, head("POST", path, Accept="", Content_Length=length) + body)
    assert {answer.status for answer in (page, flat, plain)} == {409}
    assert page.body.decode().count("409 Conflict") == 2
    assert json.loads(flat.body)["code"] == "409 Conflict"
    assert plain.body.startswith(b"409 Conflict\n\n")


@pytest.mark.parametrize("form", ["*/*", "application/json", "text/plain"])
async def test_what_clients_sent_comes_back_harmless(one: Site, form: str) -> None:
    """Markup is escaped, bytes that are no UTF-8 do not break the answer."""
    answer = await refused(one, "/images/%3Cscript%3E%26", form)
    assert answer.status == 404
    text = answer.body.decode()
    assert ("<script>" in text) == (form != "*/*")
    assert "<script>&" in (html.unescape(text))
    odd = head("PUT", "/v2/images/x/file", Accept=form, Content_Type="a/\udcff\udcfe", Content_Length="0")
    answer = await ask(one, odd)
    assert answer.status == 415
    answer.body.decode()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415, 416, 431, 501])
async def test_every_error_has_code_and_reason(one: Site, status: int) -> None:
    image = await one.image()
    other = await one.image("B", visibility="community")
    await one.upload(other, b"x", "B")
    active = await one.image()
    await one.upload(active, b"x")
    causes: dict[int, bytes] = {
        400: head("GET", "/v2/images?limit=x", Accept=JSON),
        401: head("GET", "/v2/images", None, Accept=JSON),
        403: head("DELETE", f"/v2/images/{other}", Accept=JSON),
        404: head("GET", "/v2/images/x", Accept=JSON),
        405: head("PUT", "/v2/images", Accept=JSON),
        409: head("PUT", f"/v2/images/{active}/file", Accept=JSON, Content_Type="application/octet-stream"),
        413: head(
            "PUT",
            f"/v2/images/{image}/file",
            Accept=JSON,
            Content_Type="application/octet-stream",
            X_OpenStack_Image_Size="2000000000000",
        ),
        415: head("PUT", f"/v2/images/{image}/file", Accept=JSON),
        416: head("GET", f"/v2/images/{active}/file", Accept=JSON, Range="bytes=9-"),
        431: head("GET", "/v2/images", Accept=JSON, X_OpenStack_Request_ID="x" * 65),
        501: head("LOCK", "/v2/bogus", Accept=JSON),
    }
    answer = await ask(one, causes[status])
    document = json.loads(answer.body)
    assert answer.status == status
    assert document["code"] == f"{status} {answer.reason}"
    assert document["title"] == answer.reason
    assert document["message"]


async def test_what_is_no_http_is_answered_and_closed(one: Site) -> None:
    """Malformed requests get a 4xx, not silence; methods nobody knows 501."""
    for request, status in [
        (b"nonsense\r\n\r\n", 400),
        (b"FOO /v2/images HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"GET /v2/images HTTP/9.9\r\nHost: h\r\n\r\n", 400),
        (b"GET /v2/images HTTP/1.1\r\nHost h\r\n\r\n", 400),
        (b"GET /v2/images HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /v2/images HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /v2/images HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /v2/images HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ]:
        async with await Wire.to(one) as wire:
            await wire.send(request)
            assert (await wire.answer()).status == status, request
            assert await wire.ended() == b""


@pytest.mark.parametrize(
    "request_",
    [
        head("GET", "/v2/images", X_Long="x" * 100_000),
        head("GET", "/v2/images", **{f"X-{number}": "x" for number in range(2000)}),
        head("GET", "/v2/images?name=" + "x" * 100_000),
        head("GET", "/v2/images/" + "x" * 100_000),
        head("G" * 100_000, "/v2/images"),
    ],
    ids=["a header", "many headers", "a query", "a path", "a method"],
)
async def test_heads_beyond_all_measure_are_refused(one: Site, request_: bytes) -> None:
    """With a 4xx (or 501 for a method that long), never by silence."""
    answer = await ask(one, request_)
    assert 400 <= answer.status < 500 or answer.status == 501


async def test_large_but_reasonable_headers_are_fine(one: Site) -> None:
    """A Keystone token with a catalogue in it, say."""
    answer = await ask(one, head("GET", "/v2/images", X_Service_Catalog="x" * 30_000))
    assert answer.status == 200
