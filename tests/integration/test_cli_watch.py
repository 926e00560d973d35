"""What `import` and `watch` make of services that are slow, go away, refuse, or are none at all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.cli import DIFFERENCE, INTERRUPTED, OK, Ran, ended, here, line_with, started

IMAGE = "6f1b4a3e-0c5d-4f6a-9d35-1f2c3b4a5d6e"
ACTIVE = {"id": IMAGE, "name": "n", "status": "active", "checksum": "abc", "stores": "fast,cheap"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def service(**handlers: Handler) -> AsyncIterator[str]:
    """A service that answers as it is told: its URL."""
    app = web.Application()
    paths = {
        "create": ("POST", "/v2/images"),
        "show": ("GET", f"/v2/images/{IMAGE}"),
        "delete": ("DELETE", f"/v2/images/{IMAGE}"),
        "stage": ("PUT", f"/v2/images/{IMAGE}/stage"),
        "request": ("POST", f"/v2/images/{IMAGE}/import"),
        "tasks": ("GET", f"/v2/images/{IMAGE}/tasks"),
    }
    for name, handler in handlers.items():
        app.router.add_route(*paths[name], handler)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("")).rstrip("/")


def answer(document: Any, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(document, status=status)

    return handler


def task(status: str, **more: Any) -> dict[str, Any]:
    times = {"created_at": "2026-01-02T03:04:05.000000", "updated_at": "2026-01-02T03:04:07.500000"}
    return {"id": "t", "status": status, "message": "", **times, **more}


def progress(stage: str, done: int, store: str | None = None) -> dict[str, Any]:
    return {"stage": stage, "store": store, "done": done, "total": 4 << 20, "rate": 1 << 20}


def in_turn(*answers: web.Response | dict[str, Any]) -> Handler:
    """One answer after another, the last one from then on."""
    left = list(answers)

    async def handler(request: web.Request) -> web.StreamResponse:
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, dict):
            return web.json_response({"tasks": [now]})
        return now.__class__(status=now.status, text=now.text)

    return handler


async def watch(url: str, *more: str) -> Ran:
    return await asyncio.to_thread(here, "watch", IMAGE, "--url", url, *more)


async def test_progress_is_told_by_stage_and_store() -> None:
    tasks = in_turn(
        task("pending"),
        task("pending"),
        task("processing", progress=progress("fetching", 1 << 20)),
        task("processing", progress=progress("storing", 0, "fast")),
        task("processing", progress=progress("storing", 3 << 20, "fast")),
        task("processing", progress=progress("storing", 1 << 20, "cheap")),
        task("success"),
    )
    async with service(tasks=tasks, show=answer(ACTIVE)) as url:
        ran = (await watch(url, "--json")).ended(OK)
    assert ran.err.splitlines() == ["waiting for a worker", "fetching", "storing to fast", "storing to cheap"]
    assert ran.json["seconds"] == 2.5
    assert ran.json["stores"] == ["fast", "cheap"]


async def test_a_restart_of_the_service_is_ridden_out() -> None:
    away = web.Response(status=503, text="The database is not available")
    tasks = in_turn(task("processing"), task("processing"), away, away, task("success"))
    async with service(tasks=tasks, show=answer(ACTIVE)) as url:
        (await watch(url)).ended(OK)


async def test_a_service_that_was_never_there_is_not_waited_for() -> None:
    async with service(tasks=answer({"message": "not today"}, 503)) as url:
        assert "not today" in (await watch(url)).refused()


async def test_an_image_that_is_deleted_meanwhile_is_a_failed_import() -> None:
    gone = web.Response(status=404, text="No image found")
    async with service(tasks=in_turn(task("processing"), task("processing"), gone)) as url:
        ran = (await watch(url, "--json")).ended(DIFFERENCE)
    assert ran.json["status"] == "deleted"
    assert "The image has been deleted" in ran.err


async def test_a_refusal_in_html_is_read_like_any_other() -> None:
    page = "<html><head><title>403 Forbidden</title></head><body><h1>403 Forbidden</h1>Not for you.<br /></body></html>"
    async with service(tasks=in_turn(web.Response(status=403, text=page))) as url:
        said = (await watch(url)).refused()
    assert said.endswith("was refused: 403 Forbidden Not for you. (HTTP 403)")


async def test_something_that_is_no_image_service() -> None:
    async with service(tasks=in_turn(web.Response(status=200, text="hello"))) as url:
        assert "is no image service" in (await watch(url)).refused()


async def test_what_others_wrote_cannot_command_the_terminal() -> None:
    failure = task("failure", message="no\x1b[2Jthing\nat all")
    async with service(tasks=in_turn(failure), show=answer({**ACTIVE, "status": "queued"})) as url:
        ran = (await watch(url)).ended(DIFFERENCE)
    assert ran.err.splitlines() == ["entrepot: The import failed: no\\x1b[2Jthing\\nat all"]


async def test_a_url_is_sent_as_web_download_with_the_token() -> None:
    seen: dict[str, Any] = {}

    async def create(request: web.Request) -> web.StreamResponse:
        seen["image"] = await request.json()
        return web.json_response({"id": IMAGE}, status=201)

    async def request_import(request: web.Request) -> web.StreamResponse:
        seen["import"], seen["token"] = await request.json(), request.headers["X-Auth-Token"]
        return web.Response(status=202)

    handlers = {"create": create, "request": request_import, "tasks": in_turn(task("success")), "show": answer(ACTIVE)}
    async with service(**handlers) as url:
        source = "https://example.org/disks/small%20one.qcow2?x=1"
        asked = ("--stores", "fast,cheap", "--allow-failure", "--token", "secret", "--url", url)
        (await ended(await started("import", source, *asked))).ended(OK)
    assert seen == {
        "image": {"name": "small one.qcow2", "disk_format": "qcow2", "container_format": "bare"},
        "import": {
            "method": {"name": "web-download", "uri": source},
            "stores": ["fast", "cheap"],
            "all_stores_must_succeed": False,
        },
        "token": "secret",
    }


async def test_ctrl_c_while_bytes_are_sent_leaves_nothing_behind(tmp_path: Path) -> None:
    sending, deleted = asyncio.Event(), asyncio.Event()

    async def stage(request: web.Request) -> web.StreamResponse:
        sending.set()
        await deleted.wait()
        return web.Response(status=204)

    async def delete(request: web.Request) -> web.StreamResponse:
        deleted.set()
        return web.Response(status=204)

    file = tmp_path / "large"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 30)
    async with service(create=answer({"id": IMAGE}, 201), stage=stage, delete=delete) as url:
        process = await started("import", file, "--url", url)
        async with asyncio.timeout(30):
            await sending.wait()
        process.send_signal(signal.SIGINT)
        ran = (await ended(process)).ended(INTERRUPTED)
        assert deleted.is_set()
    assert ran.err.strip() == "interrupted; nothing was imported"


async def test_a_refused_upload_leaves_nothing_behind(tmp_path: Path) -> None:
    deleted = asyncio.Event()

    async def delete(request: web.Request) -> web.StreamResponse:
        deleted.set()
        return web.Response(status=204)

    async def stage(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"message": "over quota"}, status=413)

    file = tmp_path / "small"
    file.write_bytes(b"bytes")
    async with service(create=answer({"id": IMAGE}, 201), stage=stage, delete=delete) as url:
        said = (await asyncio.to_thread(here, "import", file, "--url", url)).refused()
    assert said == "The data was refused: over quota (HTTP 413)"
    assert deleted.is_set()


async def test_bars_are_drawn_on_a_terminal() -> None:
    tasks = in_turn(
        task("processing", progress=progress("storing", 1 << 20, "fast")),
        task("processing", progress=progress("storing", 2 << 20, "fast")),
        task("success"),
    )
    async with service(tasks=tasks, show=answer(ACTIVE)) as url:
        process = await started("watch", IMAGE, "--url", url, FORCE_COLOR="1", TERM="xterm", COLUMNS="100")
        drawn = await line_with(process.stderr, "storing to fast")
        ran = (await ended(process)).ended(OK)
    assert "MiB" in drawn + ran.err
    assert "active" in ran.out
