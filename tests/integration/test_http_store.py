"""The http store against servers that behave, servers that do not, and nobody at all."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from kernel import errors
from kernel.extend import StoreSite
from stores.http import HttpConfig, HttpStore
from tests.support.stores import a_name, chunks, everything, within
from tests.support.tls import self_signed

DATA = bytes(range(256)) * 12_000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def http_store(**options: Any) -> HttpStore:
    """A store that reaches this machine, unless told otherwise."""
    return await HttpStore.connect(
        HttpConfig(**{"disallowed_networks": (), **options}), StoreSite(name="web", deployment=uuid4())
    )


@pytest.fixture
async def store() -> AsyncIterator[HttpStore]:
    made = await http_store()
    yield made
    await made.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TestServer]:
    """Serves files as a good web server does, and `/plain/…` without ranges."""
    (tmp_path / "image").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")

    async def plain(request: web.Request) -> web.StreamResponse:
        return web.Response(body=(tmp_path / request.match_info["name"]).read_bytes())

    app = web.Application()
    app.router.add_get("/plain/{name}", plain)
    app.router.add_static("/", tmp_path)
    running = TestServer(app)
    async with running:
        yield running


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server that answers everything with this handler."""
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", handler)
    async with TestServer(app) as running:
        yield str(running.make_url("/image"))


@asynccontextmanager
async def saying(text: bytes) -> AsyncIterator[str]:
    """The URL of a server that says this, whatever it is asked, and hangs up; nothing at all means: never answers."""
    over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if text:
            writer.write(text)
            await writer.drain()
        else:
            await over.wait()
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with running:
        host, port = running.sockets[0].getsockname()
        yield f"http://{host}:{port}/image"
        over.set()


@pytest.mark.parametrize("place", ["/image", "/plain/image"])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, 0),
        (0, 1),
        (1, None),
        (1 << 20, 5),
        (70_000, 1 << 20),
        (len(DATA) - 1, 9),
        (len(DATA), None),
        (len(DATA), 4),
        (0, len(DATA)),
    ],
)
async def test_a_range_is_exactly_that_range_whether_the_server_knows_ranges_or_not(
    store: HttpStore, server: TestServer, place: str, offset: int, length: int | None
) -> None:
    wanted = DATA[offset:] if length is None else DATA[offset : offset + length]
    assert await everything(store.read(str(server.make_url(place)), offset, length)) == wanted


@pytest.mark.parametrize("place", ["/empty", "/plain/empty"])
async def test_an_empty_object_is_an_object(store: HttpStore, server: TestServer, place: str) -> None:
    url = str(server.make_url(place))
    assert await everything(store.read(url)) == b""
    assert await everything(store.read(url, 0, 5)) == b""
    assert await store.size(url) == 0


@pytest.mark.parametrize("place", ["/image", "/plain/image"])
async def test_beyond_the_end_there_is_no_object(store: HttpStore, server: TestServer, place: str) -> None:
    with pytest.raises(errors.BlobMissing):
        await everything(store.read(str(server.make_url(place)), len(DATA) + 1))


async def test_a_missing_object_is_said_to_be_missing(store: HttpStore, server: TestServer) -> None:
    url = str(server.make_url("/nothing"))
    with pytest.raises(errors.BlobMissing, match="store web"):
        await everything(store.read(url))
    with pytest.raises(errors.BlobMissing):
        await everything(store.read(url, 3, 0))
    with pytest.raises(errors.BlobMissing):
        await store.size(url)
    await store.delete(url)


async def test_nothing_is_written(store: HttpStore) -> None:
    with pytest.raises(errors.StoreReadOnly):
        await store.put(a_name(), chunks(b"x"))
    assert store.properties == {}


@pytest.mark.parametrize("place", ["/image", "/plain/image"])
async def test_the_size_is_asked_for_without_the_data(store: HttpStore, server: TestServer, place: str) -> None:
    assert await store.size(str(server.make_url(place))) == len(DATA)


@pytest.mark.parametrize("refusal", [403, 405, 501])
@pytest.mark.parametrize("ranges", [True, False])
async def test_a_server_that_refuses_head_is_asked_for_one_byte(store: HttpStore, refusal: int, ranges: bool) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=refusal)
        assert request.headers["Range"] == "bytes=0-0"
        if ranges:
            return web.Response(status=206, body=b"x", headers={"Content-Range": "bytes 0-0/1234567"})
        return web.Response(body=b"x" * 1000)

    async with serving(handler) as url:
        assert await store.size(url) == (1234567 if ranges else 1000)


async def test_one_byte_of_an_empty_object_cannot_be_had_and_that_tells_its_size(store: HttpStore) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=405)
        return web.Response(status=416, headers={"Content-Range": "bytes */0"})

    async with serving(handler) as url:
        assert await store.size(url) == 0


async def test_a_length_that_nobody_tells_is_not_guessed(store: HttpStore) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=405)
        return web.Response(status=206, body=b"x", headers={"Content-Range": "bytes 0-0/*"})

    async with serving(handler) as url:
        with pytest.raises(errors.StoreError, match="does not tell the length"):
            await store.size(url)


async def test_bytes_come_as_they_lie_there(store: HttpStore) -> None:
    packed, asked = gzip.compress(DATA), []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["Accept-Encoding"])
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with serving(handler) as url:
        assert await everything(store.read(url)) == packed
    assert asked == ["identity"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-11/12\r\n\r\nshort",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/12\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\n\r\n0123456789",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 ",
    ],
)
async def test_a_body_that_is_not_what_was_promised_is_no_success(store: HttpStore, answer: bytes) -> None:
    async with saying(answer) as url:
        with pytest.raises(errors.StoreUnavailable):
            await within(everything(store.read(url, 2)))


async def test_a_server_that_is_not_there_is_unavailable(store: HttpStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        url = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}/image"
        with pytest.raises(errors.StoreUnavailable) as caught:
            await within(everything(store.read(url)))
        with pytest.raises(errors.StoreUnavailable):
            await within(store.size(url))
    assert "secret" not in str(caught.value)


async def test_a_server_that_never_answers_is_unavailable() -> None:
    store = await http_store(stall_timeout=0.05, unknown="ignored")
    async with saying(b"") as url:
        with pytest.raises(errors.StoreUnavailable):
            await within(everything(store.read(url)))
    await store.close()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.StoreError),
        (401, errors.StoreDenied),
        (403, errors.StoreDenied),
        (410, errors.BlobMissing),
        (429, errors.StoreUnavailable),
        (500, errors.StoreUnavailable),
        (503, errors.StoreUnavailable),
        (204, errors.StoreError),
    ],
)
async def test_every_answer_has_a_meaning(store: HttpStore, status: int, expected: type[Exception]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with serving(handler) as url:
        with pytest.raises(expected) as caught:
            await everything(store.read(url))
        assert type(caught.value) is expected
        with pytest.raises(expected):
            await store.size(url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(store: HttpStore, server: TestServer, status: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/image":
            return web.Response(status=status, headers={"Location": "again?x=1"})
        return web.Response(status=status, headers={"Location": str(server.make_url("/image"))})

    async with serving(handler) as url:
        assert await everything(store.read(url, 100)) == DATA[100:]
        assert await store.size(url) == len(DATA)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/x", "/image", "", "http://[", "//"])
async def test_redirects_to_other_schemes_or_without_end_are_refused(store: HttpStore, target: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": target})

    async with serving(handler) as url:
        with pytest.raises(errors.StoreError):
            await within(everything(store.read(url)))


@pytest.mark.parametrize("url", ["", "image", "file:///etc/passwd", "http://", "http://[", "http:///x", "https://:1/"])
async def test_what_is_no_web_address_is_refused(store: HttpStore, url: str) -> None:
    with pytest.raises(errors.StoreError):
        await everything(store.read(url))
    with pytest.raises(errors.StoreError):
        await store.size(url)


async def test_a_reader_may_leave_early(store: HttpStore, server: TestServer) -> None:
    async for chunk in store.read(str(server.make_url("/image"))):
        assert chunk
        break
    assert await store.size(str(server.make_url("/image"))) == len(DATA)


async def test_certificates_that_cannot_be_read_are_named_together_with_their_option(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    with pytest.raises(errors.ConfigError, match=f"https_ca_certificates_file = {missing}"):
        await http_store(https_ca_certificates_file=missing)
    missing.write_text("not a certificate")
    with pytest.raises(errors.ConfigError, match=f"https_ca_certificates_file = {missing}"):
        await http_store(https_ca_certificates_file=missing)


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[TestServer, Path]]:
    """A server with a certificate that only its own authority vouches for; `/away` redirects as it is told."""
    certificate, key = self_signed(tmp_path)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(certificate, key)

    async def image(request: web.Request) -> web.StreamResponse:
        return web.Response(body=DATA)

    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    app = web.Application()
    app.router.add_get("/image", image)
    app.router.add_get("/away", away)
    running = TestServer(app, scheme="https")
    await running.start_server(ssl=trust)
    yield running, certificate
    await running.close()


async def test_a_certificate_must_be_vouched_for_unless_the_operator_says_otherwise(
    secure: tuple[TestServer, Path],
) -> None:
    url, certificate = str(secure[0].make_url("/image")), secure[1]
    stores = [await http_store(https_ca_certificates_file=certificate), await http_store(https_insecure=True)]
    for store in stores:
        assert await everything(store.read(url)) == DATA
    stores.append(await http_store())
    with pytest.raises(errors.StoreUnavailable):
        await everything(stores[-1].read(url))
    for store in stores:
        await store.close()


async def test_a_redirect_may_lead_to_https_and_never_from_it_to_http(
    secure: tuple[TestServer, Path], server: TestServer
) -> None:
    store = await http_store(https_ca_certificates_file=secure[1])
    down = secure[0].make_url("/away").with_query(to=str(server.make_url("/image")))
    with pytest.raises(errors.StoreError, match="a redirect from https to http"):
        await everything(store.read(str(down)))

    async def upward(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": str(secure[0].make_url("/image"))})

    async with serving(upward) as url:
        assert await everything(store.read(url)) == DATA
    await store.close()


# --- networks that are off limits --------------------------------------------------------

NEAR = ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
ODD = ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"]


@pytest.mark.parametrize("host", [*NEAR, *ODD])
async def test_what_only_the_service_reaches_is_off_limits(host: str) -> None:
    """Under any spelling, and before anybody there hears of it; it looks the same where nobody listens."""
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(body=DATA)

    async with serving(answer) as base, denying() as store:
        said = set()
        for port in (URL(base).port, 9):
            for call in (store.size, lambda url: everything(store.read(url))):
                with pytest.raises(errors.StoreError, match=r"off limits|not a usable URL") as refused:
                    await within(call(f"http://{host}:{port}/x"))
                said.add(str(refused.value))
        assert not asked
        assert len(said) == 1


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[64:ff9b::a9fe:a9fe]", "[::]", "224.0.0.1"])
async def test_other_networks_that_are_off_limits(host: str) -> None:
    async with denying() as store:
        with pytest.raises(errors.StoreDenied, match="off limits"):
            await within(store.size(f"http://{host}/x"))


async def test_every_hop_is_judged() -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{request.url.port}/inner"})

    async with serving(answer) as base, denying(exempt_hosts="LOCALHOST.") as store:
        with pytest.raises(errors.StoreDenied, match="off limits"):
            await within(store.size(f"http://localhost:{URL(base).port}/outer"))
    assert asked == ["/outer"]


async def test_an_operator_can_exempt_hosts_or_name_other_networks(server: TestServer) -> None:
    url = f"http://127.0.0.1:{server.port}/image"
    for options in ({"exempt_hosts": "[127.0.0.1]"}, {"disallowed_networks": "[10.0.0.0/8]"}):
        async with denying(**options) as store:
            assert await store.size(url) == len(DATA)
    async with denying(disallowed_networks="10.0.0.0/8, 127.0.0.1") as store:
        with pytest.raises(errors.StoreDenied):
            await store.size(url)


@asynccontextmanager
async def denying(**options: Any) -> AsyncIterator[HttpStore]:
    """A store with the defaults that operators get."""
    store = await HttpStore.connect(HttpConfig(**options), StoreSite(name="web", deployment=uuid4()))
    yield store
    await store.close()
