"""The s3 store and services that refuse, break or lack something; its configuration; and its absence."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from kernel import errors
from kernel.extend import StoreSite
from stores import _s3_client
from stores.s3 import S3Config, S3Store
from tests.support.s3 import MIB, s3_config, s3_store
from tests.support.stores import a_name, chunks, everything, within
from tests.support.tls import self_signed

SITE = StoreSite(name="one", deployment=uuid4())
URL = f"s3://images/entrepot-{SITE.deployment}/{a_name()}"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def _one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)


def refusal(status: int, code: str) -> web.Response:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    return web.Response(status=status, body=body.encode(), content_type="application/xml")


def config(host: str, **options: Any) -> S3Config:
    keys = {"s3_store_access_key": "key", "s3_store_secret_key": "secret"}
    return S3Config(s3_store_host=host, s3_store_bucket="images", s3_store_bucket_url_format="path", **keys, **options)


def starting_well(handler: Handler) -> web.Application:
    """A service that a store can connect to; every other request is the handler's."""

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path == "/images" and request.method == "HEAD":
            return web.Response()
        if request.path.endswith("/about.txt"):
            return refusal(412, "PreconditionFailed")
        return await handler(request)

    return application(serve)


def application(handler: Handler) -> web.Application:
    app = web.Application(client_max_size=64 * MIB)
    app.router.add_route("*", "/{anything:.*}", handler)
    return app


@asynccontextmanager
async def connected_to(app: web.Application) -> AsyncIterator[S3Store]:
    async with TestServer(app) as running:
        store = await S3Store.connect(config(str(running.make_url("/"))), SITE)
        yield store
        await store.close()


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", errors.StoreDenied),
        (403, "InvalidAccessKeyId", errors.StoreDenied),
        (403, "SignatureDoesNotMatch", errors.StoreDenied),
        (401, "Unauthorized", errors.StoreDenied),
        (400, "ExpiredToken", errors.StoreDenied),
        (403, "QuotaExceeded", errors.StoreFull),
        (400, "EntityTooLarge", errors.StoreFull),
        (507, "XMinioStorageFull", errors.StoreFull),
        (503, "SlowDown", errors.StoreUnavailable),
        (429, "TooManyRequests", errors.StoreUnavailable),
        (500, "InternalError", errors.StoreUnavailable),
        (502, "<html>", errors.StoreUnavailable),
        (400, "RequestTimeout", errors.StoreUnavailable),
        (400, "BadDigest", errors.StoreUnavailable),
        (409, "OperationAborted", errors.StoreUnavailable),
        (404, "NoSuchBucket", errors.StoreUnavailable),
        (412, "PreconditionFailed", errors.BlobExists),
        (409, "ConditionalRequestConflict", errors.BlobExists),
        (400, "InvalidRequest", errors.StoreError),
    ],
)
async def test_a_refusal_becomes_the_error_that_says_what_to_do(
    status: int, code: str, expected: type[errors.StoreError]
) -> None:
    async def refuse(request: web.Request) -> web.Response:
        await request.read()
        return refusal(status, code)

    async with connected_to(starting_well(refuse)) as store:
        with pytest.raises(errors.StoreError) as caught:
            await store.put(a_name(), chunks(b"x"), 1)
        assert type(caught.value) is expected
        for failing in (store.delete(URL), store.leftovers(""), store.remove(a_name())):
            with pytest.raises(expected):
                await failing
        with pytest.raises(expected):
            await everything(store.read(URL))


async def test_what_is_not_there_is_missing_however_the_service_puts_it() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return refusal(404, "NoSuchKey")

    async with connected_to(starting_well(refuse)) as store:
        with pytest.raises(errors.BlobMissing):
            await everything(store.read(URL))
        with pytest.raises(errors.BlobMissing):
            await store.size(URL)
        await store.delete(URL)


async def test_a_service_that_takes_no_data_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_s3_client, "SEND_TIMEOUT", 0.2)
    over = asyncio.Event()

    async def never(request: web.Request) -> web.Response:
        if request.method == "PUT":
            await over.wait()
        return web.Response(status=404)

    async with connected_to(starting_well(never)) as store:
        with pytest.raises(errors.StoreUnavailable, match="takes no data"):
            await within(store.put(a_name(), chunks(b"x" * 32 * MIB), 32 * MIB))
        over.set()


@pytest.mark.parametrize("sent", ["less than promised", "another range", "everything"])
async def test_an_answer_with_other_bytes_than_were_asked_for_is_not_passed_on(sent: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        begin = {"another range": 0}.get(sent, 3)
        headers = {} if sent == "everything" else {"Content-Range": f"bytes {begin}-9/10"}
        response = web.StreamResponse(status=200 if sent == "everything" else 206, headers=headers)
        response.content_length = 7
        await response.prepare(request)
        await response.write(b"1234" if sent == "less than promised" else b"1234567")
        if sent == "less than promised" and request.transport is not None:
            request.transport.close()
        return response

    async with connected_to(starting_well(answer)) as store:
        with pytest.raises(errors.StoreUnavailable):
            await everything(store.read(URL, 3))


# --- connecting --------------------------------------------------------------------------------


async def test_a_missing_bucket_is_made_only_if_the_operator_wants_it() -> None:
    name = f"bucket-{uuid4()}"
    with pytest.raises(errors.ConfigError, match=f"s3_store_bucket = {name}: there is no such bucket"):
        await s3_store(s3_store_bucket=name, s3_store_create_bucket_on_put=False)
    made = await s3_store(s3_store_bucket=name, s3_store_create_bucket_on_put="yes", s3_store_region_name="eu-west-1")
    await made.close()
    found = await s3_store(s3_store_bucket=name, s3_store_create_bucket_on_put=False)
    stored = await found.put(a_name(), chunks(b"x"))
    assert stored.url.startswith(f"s3://{name}/entrepot-")
    await found.close()


async def test_many_nodes_may_make_the_bucket_at_once() -> None:
    name = f"bucket-{uuid4()}"
    stores = await within(asyncio.gather(*(s3_store(s3_store_bucket=name) for _ in range(5))))
    for store in stores:
        await store.close()


@pytest.mark.parametrize("step", ["HEAD", "PUT"])
async def test_a_bucket_that_may_not_be_used_is_a_fault_of_the_configuration(step: str) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return refusal(403, "AccessDenied") if request.method == step else web.Response()

    async with TestServer(application(refuse)) as running:
        with pytest.raises(errors.ConfigError, match="s3_store_bucket = images: the service answered"):
            await S3Store.connect(config(str(running.make_url("/"))), SITE)


async def test_a_service_that_does_not_answer_is_named(unused_tcp_port: int) -> None:
    with pytest.raises(errors.ConfigError, match=f"s3_store_host = http://127.0.0.1:{unused_tcp_port}: the connection"):
        await S3Store.connect(config(f"http://127.0.0.1:{unused_tcp_port}"), SITE)


@pytest.mark.parametrize("manners", ["ignores the condition", "does not know the condition", "is full"])
async def test_a_service_without_conditional_writes_is_asked_before_each_write(manners: str) -> None:
    puts: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        if request.method != "PUT":
            return web.Response(status=200 if request.path == "/images" else 404)
        if manners == "is full":
            return refusal(403, "QuotaExceeded")
        if manners == "does not know the condition" and "If-None-Match" in request.headers:
            return refusal(501, "NotImplemented")
        puts.append(request.path)
        return web.Response(headers={"ETag": '"x"'})

    async with TestServer(application(serve)) as running:
        store = await S3Store.connect(config(str(running.make_url("/"))), SITE)
        assert not store._bucket.conditional
        if manners != "is full":
            puts.clear()
            await store.put(a_name(), chunks(b"x"), 1)
            assert len(puts) == 1
        await store.close()


async def test_certificates_are_verified_against_the_operators_authorities(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    identity = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    identity.load_cert_chain(certificate, key)

    async def nothing(request: web.Request) -> web.Response:
        return web.Response(status=404)

    running = TestServer(starting_well(nothing))
    await running.start_server(ssl=identity)
    host = str(running.make_url("/"))
    with pytest.raises(errors.ConfigError, match=r"s3_store_host = https://127\.0\.0\.1"):
        await S3Store.connect(config(host), SITE)
    store = await S3Store.connect(config(host, s3_store_cacert=str(certificate)), SITE)
    with pytest.raises(errors.BlobMissing):
        await store.size(URL)
    await store.close()
    await running.close()


# --- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "endpoint", "region"),
    [
        ("s3.amazonaws.com", "https://s3.amazonaws.com", None),
        ("s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://s3-us-west-2.amazonaws.com/", "https://s3-us-west-2.amazonaws.com", "us-west-2"),
        ("s3.dualstack.ap-south-1.amazonaws.com", "https://s3.dualstack.ap-south-1.amazonaws.com", "ap-south-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("http://ceph:7480", "http://ceph:7480", None),
        ("https://s3.eu-west-1.amazonaws.com.evil.org", "https://s3.eu-west-1.amazonaws.com.evil.org", None),
    ],
)
def test_the_host_tells_endpoint_and_region(host: str, endpoint: str, region: str | None) -> None:
    assert (config(host).s3_store_host, config(host).region) == (endpoint, region)
    assert config(host, s3_store_region_name="here").region == "here"


@pytest.mark.parametrize("host", ["", "ftp://x", "https://", "https://key:secret@host"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="s3_store_host"):
        config(host)


@pytest.mark.parametrize(
    "wrong",
    [
        {"s3_store_large_object_chunk_size": 4},
        {"s3_store_large_object_size": 0},
        {"s3_store_thread_pools": 0},
        {"s3_store_bucket_url_format": "dns"},
    ],
)
def test_glances_bounds_hold(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        s3_config(**wrong)


def test_what_a_glance_file_says_besides_is_ignored_and_secrets_do_not_show() -> None:
    made = config("host", weight=3, s3_store_cacert="")
    assert "secret" not in repr(made).replace("s3_store_secret_key", "")
    assert "'key'" not in repr(made)


async def test_authorities_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"s3_store_cacert = .*missing\.pem: No such file"):
        await s3_store(s3_store_cacert=str(tmp_path / "missing.pem"))


# --- the library -------------------------------------------------------------------------------

_WITHOUT = """
import sys, importlib.util as util
find = util.find_spec
util.find_spec = lambda name: None if name == "aiobotocore" else find(name)
sys.modules["aiobotocore"] = sys.modules["botocore"] = None
"""


def _python(program: str) -> str:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_library_is_loaded_only_by_those_who_use_it() -> None:
    program = "import sys, stores.s3; print(stores.s3.EXTENSION.unavailable, 'botocore' in sys.modules)"
    assert _python(program) == "None False"


def test_without_the_library_the_driver_says_so() -> None:
    said = _python(f"{_WITHOUT}\nimport stores.s3; print(stores.s3.EXTENSION.unavailable)")
    assert said == "aiobotocore is not installed: pip install 'entrepot[s3]'"
