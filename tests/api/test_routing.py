"""Paths, methods, bodies where none belongs, and the order in which they are judged (images.md 1.1 to 1.4)."""

from __future__ import annotations

import re
from uuid import UUID, uuid4

import pytest

from handlers.app import API
from tests.support.postgres import Server
from tests.support.raw import ask, chunk, head
from tests.support.running import OCTETS, Site
from tests.support.standing import one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALLOW = {
    "/images": "GET, POST",
    "/images/{image_id}": "GET, PATCH, DELETE",
    "/images/{image_id}/file": "GET, PUT",
    "/images/{image_id}/stage": "PUT",
    "/images/{image_id}/import": "POST",
    "/images/{image_id}/tasks": "GET",
    "/info/import": "GET",
    "/info/stores": "GET",
    "/info/stores/detail": "GET",
}
"""What 405 says, from the tables of the contract."""

SERVED = {path: [route.method for route in API if route.path == path] for path in {route.path for route in API}}
WITHOUT_BODY = [(route.method, route.path) for route in API if route.body == "none"]


def filled(path: str, image: str) -> str:
    """A route's path with an image, and with anything for its other parameters."""
    return re.sub(r"{\w+}", "x", path.replace("{image_id}", image))


def allowed(path: str) -> str:
    """The contract's Allow of a path, as far as its methods are served yet."""
    return ", ".join(method for method in ALLOW[path].split(", ") if method in SERVED[path])


@pytest.mark.parametrize("path", sorted(ALLOW))
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "LOCK"])
async def test_R06_wrong_methods_are_405_with_allow(three: Site, path: str, method: str) -> None:
    """Whatever the method, known or not, and whether or not the image exists."""
    if method in SERVED[path]:
        method = "LOCK"
    answer = await three.call(method, path.format(image_id=uuid4()))
    assert answer.status == 405
    assert answer.headers["Allow"] == allowed(path)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/images", "GET, POST"),
        ("PUT", "/images/x", "GET, PATCH, DELETE"),
        ("POST", "/images/x/file", "GET, PUT"),
        ("GET", "/images/x/tags/t", "PUT, DELETE"),
        ("PATCH", "/images/x/members", "GET, POST"),
        ("POST", "/images/x/members/m", "GET, PUT, DELETE"),
        ("GET", "/images/x/actions/deactivate", "POST"),
    ],
)
async def test_R06_the_methods_that_clients_know(one: Site, method: str, path: str, allow: str) -> None:
    answer = await one.call(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/images", "/images/{id}", "/images/{id}/file", "/info/import"])
async def test_R07_head_is_405_without_a_body(one: Site, path: str) -> None:
    answer = await ask(one, head("HEAD", "/v2" + path.format(id=await one.image())), body=False)
    assert answer.status == 405
    assert answer.header("Allow")


async def test_R07_a_connection_goes_on_after_head(one: Site) -> None:
    """No byte of a body follows that would be taken for the next answer."""
    request = head("HEAD", "/v2/images") + head("GET", "/v2/images", Connection="close")
    answer = await ask(one, request, body=False)
    assert answer.status == 405


async def test_R04_trailing_slashes_are_404(one: Site) -> None:
    image = await one.image()
    for method, path in [
        ("GET", "/images/"),
        ("DELETE", "/images/"),
        ("POST", "/images/"),
        ("GET", f"/images/{image}/"),
        ("DELETE", f"/images/{image}/"),
        ("GET", f"/images/{image}/file/"),
        ("GET", "/info/import/"),
    ]:
        assert (await one.call(method, path)).status == 404, (method, path)
    assert (await one.call("GET", f"/images/{image}")).status == 200


@pytest.mark.parametrize("path", ["/images", "/bogus", "/images/x", "/images/x/file", "/info/import", "/"])
async def test_R05_without_an_identity_everything_is_401(one: Site, path: str) -> None:
    """Unknown paths and wrong methods too: authentication comes before routing."""
    for method in ("GET", "POST", "LOCK"):
        answer = await one.call(method, path, None)
        assert answer.status == 401
    unconfirmed = {"X-Identity-Status": "Invalid", "X-Roles": "admin", "X-Project-Id": "pA"}
    assert (await one.call("GET", path, unconfirmed)).status == 401


async def test_R08_unknown_paths(one: Site) -> None:
    """404 for methods there are, 501 for those there are not."""
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
        assert (await one.call(method, "/bogus")).status == 404
    for method in ("FOO", "LOCK", "TRACE", "PROPFIND"):
        assert (await one.call(method, "/bogus")).status == 501
    for path in ("/images/x/y", "/images/x/file/y", "/info", "/info/nope", "/schemas/nope"):
        assert (await one.call("GET", path)).status == 404


@pytest.mark.parametrize(("method", "path"), WITHOUT_BODY)
async def test_R09_a_body_where_none_belongs_is_400(three: Site, method: str, path: str) -> None:
    """Of known length or chunked, and before the image is looked up."""
    image = await three.image()
    for target in (image, str(uuid4())):
        url = "/v2" + filled(path, target)
        assert (await ask(three, head(method, url, Content_Length="2") + b"{}")).status == 400
        chunked = head(method, url, Transfer_Encoding="chunked") + chunk(b"{}") + chunk(b"")
        assert (await ask(three, chunked)).status == 400
    assert (await three.show(image))["status"] == "queued"


@pytest.mark.parametrize(("method", "path"), WITHOUT_BODY)
async def test_R09_an_empty_body_is_no_body(one: Site, method: str, path: str) -> None:
    """With any content type: glanceclient names one on every request."""
    for extra, body in (({"Content_Length": "0"}, b""), ({"Transfer_Encoding": "chunked"}, chunk(b""))):
        image = await one.image()
        url = "/v2" + filled(path, image)
        answer = await ask(one, head(method, url, Content_Type="application/octet-stream", **extra) + body)
        assert answer.status in (200, 204, 404, 403, 409)


async def test_R09_a_list_may_carry_a_body(one: Site) -> None:
    assert (await one.call("GET", "/images", json={})).status == 200


async def test_R09_a_body_without_an_identity_is_401(one: Site) -> None:
    assert (await one.call("GET", "/images/x", None, json={})).status == 401


@pytest.mark.parametrize("path", ["/images/ubuntu", "/images/" + "a" * 37, "/images/" + "0" * 36, "/images/%E2%98%83"])
async def test_R16_ids_of_any_form_are_404(one: Site, path: str) -> None:
    """Clients look images up by name through this path first."""
    for suffix in ("", "/file", "/tasks"):
        assert (await one.call("GET", path + suffix)).status == 404
    assert (await one.call("DELETE", path)).status == 404
    assert await one.stage(path.removeprefix("/images/"), b"x") == 404
    assert await one.upload(path.removeprefix("/images/"), b"x") == 404
    assert await one.do_import(path.removeprefix("/images/")) == 404


@pytest.mark.parametrize(
    ("method", "target"),
    [("OPTIONS", "*"), ("GET", "http://h"), ("GET", "http://h?x=1"), ("CONNECT", "h:80"), ("GET", "/" * 16_000)],
)
async def test_targets_without_a_path_ask_for_the_versions(one: Site, method: str, target: str) -> None:
    answer = await ask(one, head(method, target, None))
    assert answer.status == 300
    assert b'"versions"' in answer.body


async def test_slashes_before_a_path_do_not_count(one: Site) -> None:
    for slashes in (1, 2, 15_000):
        assert (await ask(one, head("GET", f"{'/' * slashes}v2/images?limit=0"))).status == 200


async def test_ids_are_compared_case_sensitively(one: Site) -> None:
    upper = str(uuid4()).upper()
    created = await one.call("POST", "/images", json={"id": upper})
    assert (await created.json())["id"] == upper
    assert (await one.call("GET", f"/images/{upper}")).status == 200
    assert (await one.call("GET", f"/images/{upper.lower()}")).status == 404
    assert (await one.call("DELETE", f"/images/{upper.lower()}")).status == 404
    assert await one.upload(upper.lower(), b"x") == 404
    assert (await one.call("GET", f"/images?marker={upper.lower()}")).status == 400


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", [b"/v2/images/%FF", b"/v2/images/a%FFb", b"/v2/images/\xff", b"/v2/%FF/x"])
async def test_paths_that_are_not_utf8_are_404(one: Site, method: str, path: bytes) -> None:
    """Answered, not dropped; a server may refuse raw bytes as malformed."""
    answer = await ask(one, head(method, path.decode("utf-8", "surrogateescape")))
    assert answer.status == 404 or (b"\xff" in path and answer.status == 400)


@pytest.mark.parametrize("path", ["/v2/images/%00", "/v2/images/a%00b/file", "/v2/images/%2F", "/v2/images/a%2Ffile"])
async def test_nul_and_escaped_slashes_in_paths_are_404(one: Site, path: str) -> None:
    assert (await ask(one, head("GET", path))).status == 404


async def test_escapes_in_a_path_mean_what_they_stand_for(one: Site) -> None:
    image = await one.image()
    escaped = "".join(f"%{ord(char):02X}" for char in image)
    assert (await ask(one, head("GET", f"/v2/images/{escaped}"))).status == 200
    assert (await ask(one, head("GET", f"/v2/im%61ges/{image}"))).status == 200


async def test_R10_request_ids_are_adopted_or_made(one: Site) -> None:
    sent = "req-11111111-2222-3333-4444-555555555555"
    answer = await one.call("GET", "/images/nope", headers={"X-OpenStack-Request-ID": sent})
    assert (answer.status, answer.headers["x-openstack-request-id"]) == (404, sent)
    made = (await one.call("GET", "/images/nope")).headers["x-openstack-request-id"]
    assert made.startswith("req-")
    assert UUID(made.removeprefix("req-")).version == 4
    bare = await one.call("GET", "/images", headers={"X-OpenStack-Request-ID": "abc"})
    assert bare.headers["x-openstack-request-id"] == "req-abc"


async def test_every_answer_after_authentication_carries_a_request_id(one: Site) -> None:
    image = await one.image()
    for method, path, status in [
        ("GET", "/images", 200),
        ("GET", f"/images/{image}/file", 204),
        ("GET", "/bogus", 404),
        ("PUT", "/images", 405),
        ("PUT", f"/images/{image}/file", 415),
        ("LOCK", "/bogus", 501),
        ("POST", "/images", 400),
    ]:
        answer = await one.call(method, path, headers={"Content-Type": "text/plain"})
        assert answer.status == status
        assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert await one.upload(image, b"x") == 204
    downloaded = await one.call("GET", f"/images/{image}/file")
    assert downloaded.headers["x-openstack-request-id"].startswith("req-")


@pytest.mark.parametrize(("length", "status"), [(64, 200), (65, 431), (5000, 431)])
async def test_long_request_ids_are_431(one: Site, length: int, status: int) -> None:
    """And the refusal carries an id of its own."""
    sent = "r" * length
    answer = await one.call("GET", "/images", headers={"X-OpenStack-Request-ID": sent})
    assert answer.status == status
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert (answer.headers["x-openstack-request-id"] == f"req-{sent}") == (status == 200)


@pytest.mark.parametrize("sent", ["a b", "ümlaut", "\udcff", "tab\tbed"])
async def test_request_ids_that_cannot_be_sent_back_are_400(one: Site, sent: str) -> None:
    answer = await ask(one, head("GET", "/v2/images", X_OpenStack_Request_ID=sent))
    assert answer.status == 400


async def test_R15_healthcheck(postgres: Server) -> None:
    async with passing(postgres, lambda d: one_store(healthcheck=f"disable_by_file_path = {d}/down")(d)) as site:
        ok = await ask(site, head("GET", "/healthcheck", None))
        assert (ok.status, ok.body, ok.header("Content-Type")) == (200, b"OK", "text/plain; charset=utf-8")
        assert (await ask(site, head("HEAD", "/healthcheck", None), body=False)).status == 204
        assert (await ask(site, head("POST", "/healthcheck/x/y", None, Content_Length="0"))).status == 200
        json = await site.call("GET", "//healthcheck", None)
        assert await json.json() == {"detailed": False, "reasons": ["OK"]}
        html = await site.call("GET", "//healthcheck", None, headers={"Accept": "text/html"})
        assert html.content_type == "text/html"
        (site.directory / "down").touch()
        down = await ask(site, head("GET", "/healthcheck", None))
        assert (down.status, down.body) == (503, b"DISABLED BY FILE")
        assert (await ask(site, head("HEAD", "/healthcheck", None), body=False)).status == 503
        assert (await site.call("GET", "/images")).status == 200


async def test_the_node_tells_orchestrators_that_it_lives_and_serves(one: Site) -> None:
    for path in ("//livez", "//readyz"):
        assert (await one.call("GET", path, None)).status == 200


ORIGIN = "http://ui.example"
CORS = {"cors": f"allowed_origin = {ORIGIN}"}
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-auth-token,content-type"}


async def test_R14_preflight(postgres: Server) -> None:
    """Before authentication and routing; bare when anything asked for is not allowed."""
    async with passing(postgres, one_store(**CORS)) as site:
        for path in ("/images/x/file", "//v9/anything", "//"):
            answer = await site.call("OPTIONS", path, None, headers={"Origin": ORIGIN, **PREFLIGHT})
            assert (answer.status, await answer.read()) == (200, b"")
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert answer.headers["Access-Control-Allow-Methods"] == "PUT"
            assert answer.headers["Access-Control-Allow-Headers"] == "x-auth-token,content-type"
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert answer.headers["Access-Control-Max-Age"] == "3600"
            assert answer.headers["Vary"] == "Origin"
            assert answer.content_type != "application/octet-stream"
        refused = [
            {"Origin": "http://evil.example", **PREFLIGHT},
            {"Origin": ORIGIN, **PREFLIGHT, "Access-Control-Request-Method": "TRACE"},
            {"Origin": ORIGIN, **PREFLIGHT, "Access-Control-Request-Headers": "x-auth-token,x-other"},
            {"Origin": ORIGIN},
            PREFLIGHT,
        ]
        for headers in refused:
            answer = await site.call("OPTIONS", "/images/x/file", None, headers=headers)
            assert answer.status == 200
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_R14_actual_requests_of_an_allowed_origin(postgres: Server) -> None:
    """Errors, the versions and downloads carry the headers, too."""
    async with passing(postgres, one_store(**CORS)) as site:
        image = await site.image()
        await site.upload(image, b"x")
        for who, path, status in [
            ("A", "/images", 200),
            ("A", f"/images/{image}/file", 200),
            ("A", "/images/x", 404),
            (None, "/images", 401),
            (None, "//", 300),
        ]:
            answer = await site.call("GET", path, who, headers={"Origin": ORIGIN})
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "X-OpenStack-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
            other = await site.call("GET", path, who, headers={"Origin": "http://evil.example"})
            assert "Access-Control-Allow-Origin" not in other.headers


async def test_origins_have_sections_of_their_own(postgres: Server) -> None:
    """What [cors.…] leaves out is as in [cors]; `*` stands for everybody else."""
    sections = {
        "cors": "allowed_origin = http://one.example\nmax_age = 60\nexpose_headers = X-One",
        "cors.two": "allowed_origin = http://two.example, http://three.example\nallow_methods = GET",
        "cors.all": "allowed_origin = *\nallow_credentials = false\nexpose_headers = X-All",
        "cors.nobody": "allow_methods = DELETE",
    }
    async with passing(postgres, one_store(**sections)) as site:

        async def told(origin: str, name: str, method: str = "GET") -> str | None:
            asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
            answer = await site.call(method, "/images", headers=asked)
            return answer.headers.get(f"Access-Control-{name}")

        one, two, three, other = (f"http://{name}.example" for name in ("one", "two", "three", "other"))
        for origin, allowed in ((one, one), (two, two), (three, three), (other, "*")):
            assert await told(origin, "Allow-Origin") == allowed
        for origin, allowed in ((one, one), (two, None), (three, None), (other, "*")):
            assert await told(origin, "Allow-Origin", "OPTIONS") == allowed
        for origin, exposed in ((one, "X-One"), (two, "X-One"), (other, "X-All")):
            assert await told(origin, "Expose-Headers") == exposed
        for origin, credentials in ((one, "true"), (two, "true"), (other, None)):
            assert await told(origin, "Allow-Credentials") == credentials
        assert await told(other, "Max-Age", "OPTIONS") == "60"


async def test_a_section_alone_turns_cors_on(postgres: Server) -> None:
    async with passing(postgres, one_store(**{"cors.ui": f"allowed_origin = {ORIGIN}"})) as site:
        answer = await site.call("OPTIONS", "/images", None, headers={"Origin": ORIGIN, **PREFLIGHT})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)


async def test_options_is_405_while_cors_is_off(one: Site) -> None:
    answer = await one.call("OPTIONS", "/images", headers={"Origin": ORIGIN, **PREFLIGHT})
    assert answer.status == 405


async def test_answers_without_a_body_are_not_taken_for_image_data(one: Site) -> None:
    """204 and 202 have no body, and no content type that glanceclient reads as data."""
    image = await one.image()
    octets = {k.replace("-", "_"): v for k, v in OCTETS.items()}
    answers = [
        await ask(one, head("GET", f"/v2/images/{image}/file")),
        await ask(one, head("PUT", f"/v2/images/{image}/stage", Content_Length="1", **octets) + b"x"),
        await ask(one, head("POST", f"/v2/images/{image}/import", Content_Length=str(len(IMPORT))) + IMPORT),
    ]
    await one.ended(image)
    answers.append(await ask(one, head("DELETE", f"/v2/images/{image}")))
    assert [answer.status for answer in answers] == [204, 204, 202, 204]
    for answer in answers:
        assert answer.body == b""
        assert "octet-stream" not in (answer.header("Content-Type") or "")


IMPORT = b'{"method": {"name": "glance-direct"}}'
