"""web-download: scenarios IM51 to IM63, and servers that mean no good (import.md 9.2, 10)."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kernel import acquire
from plugins.methods import _filtering as filtering
from plugins.methods._filtering import Address, Target
from tests.support import identities
from tests.support.formats import RAW1K
from tests.support.notes import of_job, prepare, upload
from tests.support.origin import Flaky, Origin, digest_of, origin, redirect, verbatim, whole
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, objects, passing, standing
from tests.support.tls import self_signed

pytestmark = pytest.mark.asyncio(loop_scope="module")

MD5 = "9d0ef2e3d00a0793bd4c5f31b8ad9e8a"
OPEN = "allowed_ports = []\ndisallowed_networks = []\nstall_timeout = 2\nconnect_timeout = 5"
GUARDED = (
    "allowed_ports = []\nstall_timeout = 2\ndisallowed_hosts = blocked.example, 127.0.0.9\n"
    "disallowed_networks = 127.0.0.2/32, 127.0.0.3/32, 169.254.0.0/16, ::1/128\nmax_redirects = 4"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(postgres: Server) -> AsyncIterator[Site]:
    """M4 as the scenarios have it: any address may be downloaded from."""
    async with standing(postgres, four_stores(import_filtering_opts=OPEN)) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(postgres: Server) -> AsyncIterator[Site]:
    """M4 with some of the loopback addresses off limits, and a path to O all the same."""
    async with standing(postgres, four_stores(import_filtering_opts=GUARDED)) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def o() -> AsyncIterator[Origin]:
    async with origin() as made:
        yield made


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is read anew is read anew at once."""
    monkeypatch.setattr(acquire, "_PAUSE", 0.01)


def web(uri: Any) -> dict[str, Any]:
    return {"method": {"name": "web-download", "uri": uri}}


async def ask(site: Site, image: str, uri: Any) -> tuple[int, str]:
    """Status and text of the answer to an import of this URI."""
    response = await site.call("POST", f"/images/{image}/import", json=web(uri))
    return response.status, await response.text()


async def fetched(site: Site, uri: Any, seconds: float = 20, **attributes: Any) -> dict[str, Any]:
    """The image after an import from this URI, whatever came of it, with nothing left to do."""
    image = await site.image(**attributes)
    status, text = await ask(site, image, uri)
    assert status == 202, text
    shown = await site.ended(image, seconds)
    await site.settled()
    return shown


async def failed(site: Site, shown: dict[str, Any]) -> str:
    """Row A: as if never asked for, the store blamed, nothing left.  Returns the message of the task."""
    image = shown["id"]
    assert shown["status"] == "queued"
    for name in ("size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"):
        assert shown[name] is None
    assert "stores" not in shown
    assert "os_glance_import_task" not in shown
    assert (shown["os_glance_importing_to_stores"], shown["os_glance_failed_import"]) == ("", "fast")
    for store in ("staging", "fast", "cheap", "reliable"):
        assert not objects(site, store, image)
    assert of_job(site.notes.of(image)) == ["task.create", "task.processing", "task.failure"]
    task = (await site.tasks(image))[-1]
    assert (task["status"], task["result"]) == ("failure", None)
    assert task["message"]
    assert str(site.directory) not in task["message"]
    return str(task["message"])


# --- the scenarios -----------------------------------------------------------------------


@pytest.mark.requirement("REQ-039", "REQ-041")
async def test_IM51_a_download(many: Site, o: Origin) -> None:
    o.asked.clear()
    image = await many.image()
    response = await many.call(
        "POST", f"/images/{image}/import", {**identities.headers("A"), "X-Auth-Token": "tok"}, json=web(o.url("/raw"))
    )
    assert response.status == 202
    shown = await many.ended(image)
    await many.settled()
    assert (shown["status"], shown["size"], shown["checksum"]) == ("active", 1024, MD5)
    assert of_job(many.notes.of(image)) == [
        "task.create",
        "task.processing",
        prepare("importing", "fast", ["fast"], []),
        upload("active", "fast", [], []),
        "image.activate",
        "task.success",
    ]
    (asked,) = o.of("/raw")
    assert (asked.method, asked.headers["accept-encoding"]) == ("GET", "identity")
    assert "tok" not in asked.raw.decode()
    assert not asked.headers.keys() & {"authorization", "x-auth-token", "cookie", "range"}
    assert not objects(many, "staging", image)


async def test_IM52_a_status_that_is_no_success(many: Site, o: Origin) -> None:
    shown = await fetched(many, o.url("/404"), p="1")
    assert "404" in await failed(many, shown)
    assert shown["p"] == "1"
    assert (await ask(many, shown["id"], o.url("/raw")))[0] == 202
    again = await many.ended(shown["id"])
    assert (again["status"], again["os_glance_failed_import"], again["p"]) == ("active", "", "1")


@pytest.mark.parametrize("path", ["/500", "/short", "/empty", "/empty-chunked", "/cut-chunked", "/nowhere"])
async def test_IM53_servers_that_do_not_deliver(many: Site, o: Origin, path: str) -> None:
    await failed(many, await fetched(many, o.url(path)))


@pytest.mark.parametrize("path", ["/chunked", "/nolength"])
async def test_IM53_lengths_that_nobody_announced(many: Site, o: Origin, path: str) -> None:
    shown = await fetched(many, o.url(path))
    assert (shown["status"], shown["size"], shown["checksum"]) == ("active", 1024, MD5)


async def test_IM54_the_size_cap_counts_what_arrives(postgres: Server, o: Origin) -> None:
    """Announced or not, and without end."""
    config = four_stores(import_filtering_opts=OPEN, DEFAULT="image_size_cap = 1000")
    async with passing(postgres, config) as site:
        for path in ("/raw", "/chunked", "/endless"):
            assert "1000" in await failed(site, await fetched(site, o.url(path)))


async def test_IM55_silence(many: Site, o: Origin) -> None:
    message = await failed(many, await fetched(many, o.url("/slow"), seconds=10))
    assert "nothing for too long" in message
    assert "no answer in time" in await failed(many, await fetched(many, o.url("/silent"), seconds=20))


@pytest.mark.requirement("REQ-044", "REQ-045", "REQ-047", "REQ-048", "REQ-049", "REQ-051")
@pytest.mark.parametrize(
    "uri",
    [
        *("ftp://127.0.0.1/x", "127.0.0.1/x", "http:///x", "http://127.0.0.1:8080/x", "file:///etc/passwd"),
        *("http://does-not.exist/x", "http://127.0.0.1/x", "http://2130706433/x", "http://[::ffff:127.0.0.1]/x"),
        *("http://localhost/x", "http://169.254.169.254/latest/meta-data/", "http://0/", "http://[::]/x"),
    ],
)
async def test_IM56_refused_by_default(four: Site, uri: str) -> None:
    image = await four.image()
    status, text = await ask(four, image, uri)
    assert status == 400
    assert "does not pass filtering" in text
    assert (await four.show(image))["status"] == "queued"
    assert await four.tasks(image) == []


async def test_IM56_no_uri(four: Site) -> None:
    image = await four.image()
    assert (await ask(four, image, ""))[0] == 400
    response = await four.call("POST", f"/images/{image}/import", json={"method": {"name": "web-download"}})
    assert response.status == 400


@pytest.mark.requirement("REQ-050")
async def test_IM57_default_ports(postgres: Server) -> None:
    async with passing(postgres, four_stores(import_filtering_opts="disallowed_networks = []")) as site:
        for uri in ("http://127.0.0.1", "http://127.0.0.1:80", "https://127.0.0.1:443", "http://127.0.0.1:443"):
            assert (await ask(site, await site.image(), f"{uri}/x"))[0] == 202


@pytest.mark.requirement("REQ-046")
async def test_IM58_lists_of_hosts(postgres: Server, o: Origin) -> None:
    name, address = o.url("/raw", host="localhost"), o.url("/raw")
    for allowed, statuses in (("[localhost]", (202, 400)), ("[]", (400, 202))):
        filters = f"{OPEN}\nallowed_hosts = {allowed}\ndisallowed_hosts = [localhost]"
        async with passing(postgres, four_stores(import_filtering_opts=filters)) as site:
            asked = [(await ask(site, await site.image(), uri))[0] for uri in (name, address)]
            assert tuple(asked) == statuses
            await site.settled()


@pytest.mark.requirement("REQ-049", "REQ-050")
async def test_IM59_lists_of_ports(postgres: Server, o: Origin) -> None:
    filters = f"{OPEN}\ndisallowed_ports = [80, 9999]"
    uris = ("http://127.0.0.1/x", "http://127.0.0.1:80/x", "http://127.0.0.1:9999/x", o.url("/raw"))
    async with passing(postgres, four_stores(import_filtering_opts=filters)) as site:
        assert [(await ask(site, await site.image(), uri))[0] for uri in uris] == [202, 400, 400, 202]
        await site.settled()


@pytest.mark.requirement("REQ-047")
async def test_IM60_lists_of_schemes(postgres: Server) -> None:
    filters = f"{OPEN}\nallowed_schemes = []\ndisallowed_schemes = [http]"
    uris = ("http://127.0.0.1/x", "https://127.0.0.1/x", "file://localhost/etc/passwd")
    async with passing(postgres, four_stores(import_filtering_opts=filters)) as site:
        assert [(await ask(site, await site.image(), uri))[0] for uri in uris] == [400, 202, 400]
        await site.settled()


@pytest.mark.parametrize(
    "uri",
    [
        *("http://127.0.0.1:99999/x", "http://127.0.0.1:abc/x", "http://[::1/x", 5, ["x"], None, {}),
        *("http://user:secret@127.0.0.1:70000/x", "http://user:se/cret@127.0.0.1/x", "http://127.0.0.1:0/x"),
        *("http://u:secret@[::1/x", "ftp://u:secret@h/x", "http://127.0.0.1\\@h/x"),
    ],
)
async def test_IM61_malformed(many: Site, uri: Any) -> None:
    image = await many.image()
    status, text = await ask(many, image, uri)
    assert status == 400
    assert "secret" not in text
    assert "cret@" not in text
    assert await many.tasks(image) == []


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_IM62_redirects(many: Site, o: Origin, code: int) -> None:
    o.answers["/moved"] = redirect("raw?here", code)  # relative, as servers like to
    o.answers["/first"] = redirect(o.url("/moved"), code)
    shown = await fetched(many, o.url(f"/to?u={o.url('/first')}"))
    assert (shown["status"], shown["checksum"]) == ("active", MD5)


@pytest.mark.requirement("REQ-056", "REQ-057")
async def test_IM63_all_stores_of_one_download(many: Site, o: Origin) -> None:
    o.asked.clear()
    image = await many.image()
    response = await many.call("POST", f"/images/{image}/import", json={**web(o.url("/raw")), "all_stores": True})
    assert response.status == 202
    shown = await many.ended(image)
    assert (shown["status"], shown["stores"]) == ("active", "cheap,fast,reliable")
    assert len(o.of("/raw")) == 1


@pytest.mark.requirement("REQ-040")
async def test_the_old_copy_from_is_gone(many: Site) -> None:
    assert (await many.call("POST", "//v1/images", headers={"x-glance-api-copy-from": "http://h/x"})).status == 300


# --- hostile servers ---------------------------------------------------------------------

GARBAGE = {
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcde",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\nabcde",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "nothing": b"",
    "a chunk of nonsense": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc",
    "a part without a name": b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc",
    "half of it": b"HTTP/1.1 206 P\r\nContent-Length: 3\r\nContent-Range: bytes 0-2/9\r\n\r\nabc",
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\nContent-Length: 1\r\n\r\n0",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_answers_that_are_no_http(many: Site, o: Origin, name: str) -> None:
    o.answers["/garbage"] = verbatim(GARBAGE[name])
    await failed(many, await fetched(many, o.url("/garbage")))


@pytest.mark.parametrize(
    "head", [b"101 Elsewhere\r\nUpgrade: x\r\nConnection: upgrade", b"404 No\r\nContent-Length: 9999"]
)
async def test_a_refused_answer_lets_go_of_its_connection(many: Site, o: Origin, head: bytes) -> None:
    """One that is left to the garbage collector is reported by it."""
    o.answers["/unread"] = verbatim(b"HTTP/1.1 " + head + b"\r\n\r\nabc")
    await failed(many, await fetched(many, o.url("/unread")))
    gc.collect()


async def test_more_than_announced_is_never_stored(many: Site, o: Origin) -> None:
    shown = await fetched(many, o.url("/long"))
    assert shown["status"] == "queued" or shown["size"] == 1000


async def test_a_server_that_is_never_done(postgres: Server, o: Origin) -> None:
    """Neither in its headers nor in its body; memory and staging stay as they are."""
    filters = OPEN.replace("stall_timeout = 2", "stall_timeout = 1\ntotal_timeout = 2").replace("= 5", "= 1")
    async with passing(postgres, four_stores(import_filtering_opts=filters)) as site:
        assert "too long" in await failed(site, await fetched(site, o.url("/drip")))
        assert "no answer in time" in await failed(site, await fetched(site, o.url("/headers-drip")))


async def test_a_redirect_loop_ends(guarded: Site, o: Origin) -> None:
    o.asked.clear()
    assert "redirects more than 4 times" in await failed(guarded, await fetched(guarded, o.url("/loop")))
    assert len(o.of("/loop")) == 5


@pytest.mark.parametrize(
    "there",
    [
        *("http://127.0.0.2:PORT/raw", "http://[::ffff:127.0.0.2]:PORT/raw", "http://[::1]:PORT/raw"),
        *("http://169.254.169.254/latest/meta-data/", "http://2130706434:PORT/raw", "http://0x7f000002:PORT/raw"),
        *("http://0177.0.0.2:PORT/raw", "http://127.2:PORT/raw", "//127.0.0.2:PORT/raw", "http://127.0.0.9:PORT/raw"),
        *("http://blocked.example./raw", "file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:PORT/x"),
        *(
            "http://127.0.0.1:0/x",
            "http://127.0.0.1:99999/x",
            "http://[::1",
            "http://@",
            "http://127.0.0.1\\@127.0.0.2/",
        ),
        *("http://１２７.0.0.2:PORT/raw", "data:,x", "http://does-not.exist/x", "http://u:secret@127.0.0.2:PORT/raw"),
    ],
)
async def test_redirects_to_where_nobody_may_go(guarded: Site, o: Origin, there: str) -> None:
    """CVE-2026-34881: every hop is judged like the first URI, numeric host forms included."""
    o.answers["/away"] = verbatim(
        f"HTTP/1.1 302 Found\r\nLocation: {there.replace('PORT', str(o.port))}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    message = await failed(guarded, await fetched(guarded, o.url("/away")))
    assert "does not pass filtering" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (b"http://h\xff\xfe.example/", "does not pass filtering"),
        (b"http://us\xff:s3cr3t\xfe@127.0.0.2:PORT/\xff", "does not pass filtering"),
        (b"/caf\xe9\xff?\xfe", "answered 404"),
    ],
)
async def test_redirects_in_no_known_script(guarded: Site, o: Origin, there: bytes, said: str) -> None:
    """Bytes that are no text can be asked for, and told of; the import comes to its end."""
    location = there.replace(b"PORT", str(o.port).encode())
    o.answers["/away"] = verbatim(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")
    message = await failed(guarded, await fetched(guarded, o.url("/away")))
    assert said in message
    assert "s3cr3t" not in message


async def test_a_redirect_to_bytes_that_are_no_text(guarded: Site, o: Origin) -> None:
    o.answers["/away"] = verbatim(b"HTTP/1.1 302 Found\r\nLocation: /caf\xe9\r\nContent-Length: 0\r\n\r\n")
    o.answers["/caf%E9"] = whole(RAW1K)
    assert (await fetched(guarded, o.url("/away")))["status"] == "active"


async def test_an_etag_that_is_no_text(many: Site, o: Origin) -> None:
    o.answers["/odd-tag"] = verbatim(b'HTTP/1.1 200 OK\r\nETag: "\xff\xfe"\r\nContent-Length: 1024\r\n\r\n' + RAW1K)
    assert (await fetched(many, o.url("/odd-tag")))["status"] == "active"


async def test_the_certificate_is_verified(many: Site, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(tmp_path))
    async with origin(context) as secure:
        message = await failed(many, await fetched(many, secure.url("/raw")))
        assert "certificate" in message
        assert not secure.asked


async def test_bytes_are_stored_as_they_were_received(many: Site, o: Origin) -> None:
    """Whatever Content-Encoding says."""
    packed = gzip.compress(RAW1K)
    o.answers["/encoded"] = whole(packed, "Content-Encoding: gzip", "Content-Type: text/plain")
    shown = await fetched(many, o.url("/encoded"))
    assert (shown["status"], shown["size"]) == ("active", len(packed))
    assert objects(many, "fast", shown["id"]) == [packed]


@pytest.mark.requirement("REQ-042", "REQ-085")
async def test_a_compressed_image_is_downloaded_and_unpacked(postgres: Server, o: Origin) -> None:
    config = four_stores(import_filtering_opts=OPEN, image_import_opts="image_import_plugins = [image_decompression]")
    async with passing(postgres, config) as site:
        shown = await fetched(site, o.url("/gz"))
        assert (shown["status"], shown["size"], shown["checksum"]) == ("active", 1024, MD5)


async def test_bytes_of_a_refused_format_reach_no_store(many: Site, o: Origin) -> None:
    shown = await fetched(many, o.url("/raw"), disk_format="qcow2")
    assert shown["status"] == "queued"
    assert not any(objects(many, store, shown["id"]) for store in ("staging", "fast"))


# --- names -------------------------------------------------------------------------------


def names(monkeypatch: pytest.MonkeyPatch, **answers: list[list[str]]) -> list[str]:
    """Let names mean what a hostile DNS says: one list of addresses a look-up, the last one for good."""
    looked_up: list[str] = []
    real = filtering.look_up

    async def look_up(target: Target) -> list[Address]:
        told = answers.get(target.host.removesuffix(".example"))
        if told is None:
            return await real(target)
        looked_up.append(target.host)
        return [ipaddress.ip_address(text) for text in (told.pop(0) if len(told) > 1 else told[0])]

    monkeypatch.setattr(filtering, "look_up", look_up)
    return looked_up


async def test_a_name_that_is_bound_anew(guarded: Site, o: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine when the import is asked for, off limits when it is fetched."""
    names(monkeypatch, rebinding=[["127.0.0.1"], ["127.0.0.2"]])
    o.asked.clear()
    message = await failed(guarded, await fetched(guarded, o.url("/raw", host="rebinding.example")))
    assert "does not pass filtering" in message
    assert not o.asked


async def test_a_name_is_looked_up_once_a_hop(guarded: Site, o: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged is what is connected to: nobody asks the DNS again in between."""
    looked_up = names(monkeypatch, once=[["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]], other=[["127.0.0.1"]])
    o.answers["/to-other"] = redirect(o.url("/raw", host="other.example"))
    shown = await fetched(guarded, o.url("/to-other", host="once.example"))
    assert (shown["status"], shown["checksum"]) == ("active", MD5)
    assert looked_up == ["once.example", "once.example", "other.example"]  # at the request, then once for each hop
    assert o.of("/raw")[-1].headers["host"] == f"other.example:{o.port}"


async def test_all_addresses_that_pass_are_tried(guarded: Site, o: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those off limits are not, and one that does not answer is not the end."""
    names(monkeypatch, dual=[["127.0.0.2", "127.0.0.4", "::1", "127.0.0.1"]])
    shown = await fetched(guarded, o.url("/raw", host="dual.example"))
    assert (shown["status"], shown["checksum"]) == ("active", MD5)


# --- credentials -------------------------------------------------------------------------


async def everything_recorded(site: Site, image: str) -> str:
    """Events, rows, messages, tasks and lists: all that anybody may ever read of an image."""
    database = site.service.database
    events = await database.fetch("SELECT data::text, meta::text FROM events")
    rows = await database.fetch("SELECT state::text FROM states")
    tasks = await database.fetch("SELECT document::text FROM tasks")
    secrets = await database.fetchval("SELECT count(*) FROM secrets")
    assert secrets == 0
    told = [repr(message) for message in site.notes.messages]
    return "\n".join([*(str(tuple(row)) for row in (*events, *rows, *tasks)), *told, str(await site.tasks(image))])


async def test_credentials_go_to_the_first_origin_only(
    many: Site, o: Origin, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not to where it redirects, not back from there, and into no record."""
    async with origin() as other:
        o.asked.clear()
        o.answers["/here"] = redirect("/there")
        o.answers["/there"] = redirect(other.url("/back", user="evil:twin"))
        other.answers["/back"] = redirect(o.url("/raw"))
        shown = await fetched(many, o.url("/here", user="us%40er:s3cr3t%2Fpw"))
        assert shown["status"] == "active"
        sent = [asked.headers.get("authorization") for asked in (*o.of("/here"), *o.of("/there"))]
        assert sent == ["Basic dXNAZXI6czNjcjN0L3B3"] * 2
        assert other.of("/back")[0].headers.get("authorization") is None
        assert o.of("/raw")[0].headers.get("authorization") is None
    recorded = await everything_recorded(many, shown["id"])
    assert "us%40er:***@" in recorded
    printed = capfd.readouterr()
    for place in (recorded, printed.out, printed.err, caplog.text):
        assert "s3cr3t" not in place


@pytest.mark.parametrize("path", ["/404", "/short", "/silent", "/loop", "/empty", "/to?u=http://u:s3cr3t@127.0.0.1:0/"])
async def test_failures_do_not_tell_credentials(
    many: Site, o: Origin, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    joint = "&" if "?" in path else "?"
    uri = o.url(f"{path}{joint}X-Amz-Signature=s3cr3t&token=s3cr3t", user="user:s3cr3t")
    shown = await fetched(many, uri)
    message = await failed(many, shown)
    printed = capfd.readouterr()
    for place in (message, await everything_recorded(many, shown["id"]), printed.out, printed.err):
        assert "s3cr3t" not in place


# --- interruptions -----------------------------------------------------------------------

MIB = 1 << 20


@pytest.mark.parametrize("gently", [False, True], ids=["reset", "closed"])
async def test_an_interrupted_download_goes_on(many: Site, o: Origin, gently: bool) -> None:
    """8 MiB, the line cut after every MiB: no more is sent than what was lost on the way."""
    o.asked.clear()
    flaky = o.answers["/flaky"] = Flaky(o, 8 * MIB, cut=MIB, gently=gently)
    o.sent = 0
    shown = await fetched(many, o.url("/flaky"), seconds=30)
    assert (shown["status"], shown["size"], shown["os_hash_value"]) == ("active", 8 * MIB, digest_of(8 * MIB))
    assert flaky.cuts >= 7
    first, *later = o.of("/flaky")
    assert first.begin is None
    assert all(asked.headers["if-range"] == '"v1"' for asked in later)
    assert o.sent <= 8 * MIB + flaky.cuts * MIB // 4


async def test_a_source_that_changes_is_read_anew(many: Site, o: Origin) -> None:
    flaky = o.answers["/flaky"] = Flaky(o, 2 * MIB, cut=MIB)

    async def answer(asked: Any, writer: Any) -> None:
        if asked.begin is not None:
            flaky.etag, flaky.salt, flaky.cut = '"v2"', 1, None
        await flaky(asked, writer)

    o.answers["/changing"] = answer
    shown = await fetched(many, o.url("/changing"))
    assert (shown["status"], shown["os_hash_value"]) == ("active", digest_of(2 * MIB, salt=1))


@pytest.mark.parametrize("how", ["shorter", "ranges ignored", "another part"])
async def test_parts_that_are_not_what_was_asked_for(many: Site, o: Origin, how: str) -> None:
    """The file is gone shorter, or the server sends another place than the one asked for: from the beginning then."""
    flaky = Flaky(o, 2 * MIB, cut=MIB)

    async def answer(asked: Any, writer: Any) -> None:
        if asked.begin is None:
            flaky.cut = MIB if len(o.of("/odd")) == 1 else None
            return await flaky(asked, writer)
        if how == "shorter":
            return await verbatim(b"HTTP/1.1 416 No\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n")(
                asked, writer
            )
        if how == "another part":
            part = b'HTTP/1.1 206 P\r\nETag: "v1"\r\nContent-Length: 3\r\nContent-Range: bytes 0-2/2097152\r\n\r\nabc'
            return await verbatim(part)(asked, writer)
        flaky.ranges, flaky.cut = False, None
        return await flaky(asked, writer)

    o.asked.clear()
    o.answers["/odd"] = answer
    shown = await fetched(many, o.url("/odd"))
    assert (shown["status"], shown["os_hash_value"]) == ("active", digest_of(2 * MIB))


async def test_a_source_that_vouches_for_nothing_starts_over(many: Site, o: Origin) -> None:
    flaky = Flaky(o, 2 * MIB, cut=MIB, etag=None)

    async def answer(asked: Any, writer: Any) -> None:
        assert asked.begin is None
        await flaky(asked, writer)
        flaky.cut = None

    o.answers["/nameless"] = answer
    shown = await fetched(many, o.url("/nameless"))
    assert (shown["status"], shown["os_hash_value"]) == ("active", digest_of(2 * MIB))


@pytest.mark.parametrize("etag", ['"v1"', None, 'W/"v1"'])
async def test_a_source_that_keeps_breaking_off_is_given_up(many: Site, o: Origin, etag: str | None) -> None:
    """A few bytes a time are no progress."""
    o.asked.clear()
    o.answers["/flaky"] = Flaky(o, 2 * MIB, cut=1000, etag=etag)
    await failed(many, await fetched(many, o.url("/flaky"), seconds=30))
    assert len(o.of("/flaky")) <= 8


async def test_progress_is_told_in_bytes(many: Site, o: Origin) -> None:
    size = 4 * MIB
    slow = Flaky(o, size, cut=5 * MIB // 2)
    gate = asyncio.Event()

    async def answer(asked: Any, writer: Any) -> None:
        if asked.begin is not None:
            await gate.wait()
            slow.cut = None
        await slow(asked, writer)

    o.answers["/slowly"] = answer
    image = await many.image()
    assert (await ask(many, image, o.url("/slowly")))[0] == 202

    async def moving() -> bool:
        task = (await many.tasks(image))[-1]
        progress = task.get("progress") or {}
        assert "message" in task
        return progress.get("stage") == "fetching" and progress["total"] == size and 0 < progress["done"] < size

    await many.until(moving, 20)
    gate.set()
    assert (await many.ended(image))["status"] == "active"


async def test_deleting_the_image_stops_its_download(many: Site, o: Origin) -> None:
    image = await many.image()
    assert (await ask(many, image, o.url("/endless")))[0] == 202
    await many.until(lambda: objects(many, "staging", image), 20)
    assert (await many.call("DELETE", f"/images/{image}")).status == 204
    await many.settled()
    await many.until(lambda: not objects(many, "staging", image), 20)


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
async def test_a_source_that_is_busy_for_a_moment_in_the_middle(many: Site, o: Origin, code: int) -> None:
    """What breaks a download off is often what stands in front of the source, which then says so once or twice."""
    flaky = Flaky(o, 2 * MIB, cut=MIB)
    refused = 0

    async def answer(asked: Any, writer: Any) -> None:
        nonlocal refused
        if asked.begin is not None and refused < 2:
            refused += 1
            return await whole(b"busy", status=f"{code} Busy")(asked, writer)
        return await flaky(asked, writer)

    o.answers["/busy"] = answer
    shown = await fetched(many, o.url("/busy"))
    assert (shown["status"], shown["os_hash_value"], refused) == ("active", digest_of(2 * MIB), 2)


@pytest.mark.parametrize("code", [403, 404, 503])
async def test_a_source_that_is_refused_in_the_middle(many: Site, o: Origin, code: int) -> None:
    """No for good ends it at once, and so does a busy source that stays so; the message has the status."""
    flaky = Flaky(o, 2 * MIB, cut=MIB)

    async def answer(asked: Any, writer: Any) -> None:
        if asked.begin is not None:
            return await whole(b"no", status=f"{code} No")(asked, writer)
        return await flaky(asked, writer)

    o.asked.clear()
    o.answers["/refused"] = answer
    assert str(code) in await failed(many, await fetched(many, o.url("/refused")))
    assert len(o.of("/refused")) == (5 if code == 503 else 2)
