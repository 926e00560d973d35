"""Clients that break off, fall silent, wait to be told, or race: images.md 10.1, import.md 6."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from handlers import wire
from kernel.image import STAGING
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.postgres import Server
from tests.support.raw import DEADLINE, Answer, Wire, ask, chunk, head
from tests.support.running import Site
from tests.support.standing import memory_stores, objects, one_store, passing, standing
from tests.support.trouble import EXTENSION as TROUBLE
from tests.support.trouble import place

pytestmark = pytest.mark.asyncio(loop_scope="module")

OCTETS = {"Content_Type": "application/octet-stream"}
DATA = bytes(range(256)) * 8192
"""2 MiB: more than any buffer on the way holds back."""

STATUS = {"file": "saving", "stage": "uploading"}
STORE = {"file": "file", "stage": "staging"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(postgres: Server) -> AsyncIterator[Site]:
    """A site that gives silent senders up after a moment."""
    async with standing(postgres, one_store(entrepot="body_timeout = 0.5")) as site:
        yield site


def put(kind: str, image: str, **headers: str) -> bytes:
    return head("PUT", f"/v2/images/{image}/{kind}", **OCTETS, **headers)


async def has_status(site: Site, image: str, status: str) -> bool:
    return bool((await site.show(image))["status"] == status)


async def half_sent(site: Site, kind: str, image: str, length: str = "chunked") -> Wire:
    """A transfer that was accepted, half of its data on the way."""
    wire = await Wire.to(site)
    if length == "chunked":
        await wire.send(put(kind, image, Transfer_Encoding="chunked") + chunk(DATA))
    else:
        await wire.send(put(kind, image, Content_Length=str(2 * len(DATA))) + DATA)
    await site.until(lambda: has_status(site, image, STATUS[kind]))
    return wire


async def starts_over(site: Site, kind: str, image: str) -> None:
    """The image is as it was before, nothing is left, and the next attempt succeeds at once."""
    await site.until(lambda: has_status(site, image, "queued"))
    request = put(kind, image, Content_Length="3") + b"abc"
    assert (await ask(site, request)).status == 204
    assert (await site.show(image))["size"] == 3
    await site.until(lambda: objects(site, STORE[kind], image) == [b"abc"])


# --- breaking off ------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["chunked", "known"])
@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_F22_IM21_a_client_that_is_gone_in_the_middle(one: Site, kind: str, length: str) -> None:
    image = await one.image()
    wire = await half_sent(one, kind, image, length)
    wire.cut()
    await one.until(lambda: has_status(one, image, "queued"))
    assert (await one.show(image))["size"] is None
    await one.until(lambda: not objects(one, STORE[kind], image))
    await starts_over(one, kind, image)


@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_a_body_that_ends_early_politely(one: Site, kind: str) -> None:
    """Half closed, so that the client could still read an answer."""
    image = await one.image()
    async with await half_sent(one, kind, image, "known") as wire:
        wire.writer.write_eof()
        await wire.ended()
    await starts_over(one, kind, image)


@pytest.mark.parametrize(
    "rest", [b"nonsense\r\n", b"5\r\nabc\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"3\r\nabcdef\r\n", b"\0\0"]
)
@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_chunks_that_are_none(hasty: Site, kind: str, rest: bytes) -> None:
    """What follows them is never read as a request."""
    image = await hasty.image()
    async with await half_sent(hasty, kind, image) as wire:
        await wire.send(rest + head("DELETE", f"/v2/images/{image}"))
        assert (await wire.answer()).status == 400
    await starts_over(hasty, kind, image)


async def test_json_bodies_that_break_off(one: Site) -> None:
    """Nothing is created, nobody hears of a crash."""
    before = await one.service.log.head()
    for request in (
        head("POST", "/v2/images", Content_Length="100") + b'{"name":',
        head("POST", "/v2/images", Transfer_Encoding="chunked") + chunk(b"{"),
    ):
        async with await Wire.to(one) as wire:
            await wire.send(request)
            wire.writer.write_eof()
            await wire.ended()
    assert await one.service.log.head() == before


async def test_a_head_that_breaks_off(one: Site) -> None:
    async with await Wire.to(one) as wire:
        await wire.send(b"GET /v2/images HTTP/1.1\r\nHost: h\r\n")
        wire.writer.write_eof()
        await wire.ended()
    assert (await one.call("GET", "/images")).status == 200


# --- the end of the service --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_data_under_way_still_arrives_when_the_service_stops(postgres: Server, kind: str) -> None:
    async with passing(postgres, one_store()) as site:
        image = await site.image()
        async with await half_sent(site, kind, image) as wire, await Wire.to(site) as idle:
            await idle.send(head("GET", "/v2/images"))
            await idle.answer()
            stopping = asyncio.create_task(stopped(site, DEADLINE))
            assert await idle.ended() == b""
            await wire.send(chunk(DATA) + chunk(b"") + head("DELETE", f"/v2/images/{image}"))
            answer = await wire.answer()
            assert (answer.status, answer.header("Connection")) == (204, "close")
            assert await wire.ended() == b""
            await stopping
        assert (await site.service.queries.image(image)).status == {"file": "active", "stage": "uploading"}[kind]


@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_senders_that_take_too_long_are_asked_to_come_back(postgres: Server, kind: str) -> None:
    async with passing(postgres, one_store()) as site:
        image = await site.image()
        async with await half_sent(site, kind, image) as wire:
            await stopped(site, 0.01)
            answer = await wire.answer()
            assert (answer.status, answer.header("Connection")) == (503, "close")
            assert int(answer.header("Retry-After") or 0) > 0
        assert (await site.service.queries.image(image)).status == "queued"
        assert objects(site, STORE[kind], image) == []


async def test_a_download_that_is_broken_off_in_a_thread(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files stay open for as long as the thread uses them: their numbers may be those of others next."""
    entered, go_on, done = asyncio.Event(), threading.Event(), asyncio.Event()
    loop, sendfile = asyncio.get_running_loop(), os.sendfile
    numbers: list[int] = []
    found: list[os.stat_result | OSError] = []

    def held_up(out: int, file: int, offset: int, count: int) -> int:
        numbers.extend((out, file))
        loop.call_soon_threadsafe(entered.set)
        go_on.wait(DEADLINE)
        for number in (out, file):
            try:
                found.append(os.fstat(number))
            except OSError as error:
                found.append(error)
        loop.call_soon_threadsafe(done.set)
        return sendfile(out, file, offset, count)

    async with passing(postgres, one_store()) as site:
        image = await site.image()
        assert await site.upload(image, DATA[: 1 << 19]) == 204
        sent_before = await site.service.log.head()

        async def noted() -> bool:
            return await site.service.log.head() > sent_before

        monkeypatch.setattr("handlers.sendfile.os.sendfile", held_up)
        async with await Wire.to(site) as wire:
            await wire.send(head("GET", f"/v2/images/{image}/file"))
            async with asyncio.timeout(DEADLINE):
                await entered.wait()
                before = [os.fstat(number) for number in numbers]
                await stopped(site, 0.01)
                await site.until(noted)  # which comes after everything about the file is done
                go_on.set()
                await done.wait()
        assert [item if isinstance(item, OSError) else item.st_ino for item in found] == [was.st_ino for was in before]


async def stopped(site: Site, grace: float) -> None:
    """Stop the server, though not what is behind it, as an operator does."""
    runner = site.client.server.runner
    assert runner is not None
    assert runner.server is not None
    runner.server.pre_shutdown()
    await runner.server.shutdown(grace)


# --- silence -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["chunked", "known"])
@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_silent_senders_are_given_up(hasty: Site, kind: str, length: str) -> None:
    image = await hasty.image()
    async with await half_sent(hasty, kind, image, length) as wire:
        assert (await wire.answer()).status == 400
    await starts_over(hasty, kind, image)


async def test_silent_senders_of_json_are_given_up(hasty: Site) -> None:
    async with await Wire.to(hasty) as wire:
        await wire.send(head("POST", "/v2/images", Content_Length="100") + b"{")
        assert (await wire.answer()).status == 400


async def test_a_body_that_is_never_sent_where_none_belongs(hasty: Site) -> None:
    """A chunked body of which nothing comes is not waited for beyond measure."""
    async with await Wire.to(hasty) as wire:
        await wire.send(head("GET", "/v2/images/x", Transfer_Encoding="chunked"))
        assert (await wire.answer()).status == 400


async def test_readers_that_stand_still_are_given_up(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they are sent: files have a limit of their own, other answers and other stores do not."""
    monkeypatch.setattr(wire, "_STALLED", 0.1)
    async with passing(postgres, memory_stores(), also=(FAULTY,)) as site:
        image = await site.image()
        async with await Wire.to(site) as sender:
            size = 32 * len(DATA)
            await sender.send(put("file", image, Content_Length=str(size)) + 32 * DATA)
            assert (await sender.answer()).status == 204
        before = await site.service.log.head()

        async def noted() -> bool:
            return await site.service.log.head() > before

        async with await Wire.to(site) as reader:
            reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await reader.send(head("GET", f"/v2/images/{image}/file"))
            await site.until(noted)
            reader.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert len(await reader.ended()) < size


async def test_slow_senders_are_not_silent(hasty: Site) -> None:
    """A byte now and then is enough, however long it takes."""
    image = await hasty.image()
    async with await Wire.to(hasty) as wire:
        await wire.send(put("stage", image, Content_Length="8"))
        for _ in range(8):
            await wire.send(b"x")
            tick = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.1, tick.set_result, None)
            await tick
        assert (await wire.answer()).status == 204


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stuck(postgres: Server) -> AsyncIterator[Site]:
    """A site that gives stores up soon, on disks that can be told to hang."""
    made = one_store(glance_store="default_store = trouble", import_worker="store_stall_timeout = 0.5")

    def config(directory: Path) -> str:
        return made(directory).replace("file://", "trouble://")

    async with standing(postgres, config, also=(TROUBLE,)) as site:
        yield site


@pytest.mark.parametrize(("kind", "call"), [("file", "put"), ("stage", "put"), ("stage", "identify")])
async def test_disks_that_hang_are_given_up(stuck: Site, kind: str, call: str) -> None:
    """Clients hear of it, and nothing is left behind."""
    image = await stuck.image()
    disk = place(stuck.service.site.deployment, STAGING if kind == "stage" else "trouble")
    disk.plan[call] = "hang"
    answer = await ask(stuck, put(kind, image, Content_Length=str(len(DATA))) + DATA)
    struck = call in disk.struck
    disk.plan.clear()
    disk.struck.clear()
    assert (answer.status, struck) == (503, True)
    await starts_over(stuck, kind, image)


# --- Expect: 100-continue ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_data_is_asked_for_once_it_is_welcome(one: Site, kind: str) -> None:
    image = await one.image()
    async with await Wire.to(one) as wire:
        await wire.send(put(kind, image, Content_Length=str(len(DATA)), Expect="100-continue"))
        assert (await wire.answer()).status == 100
        assert await has_status(one, image, STATUS[kind])
        await wire.send(DATA)
        assert (await wire.answer()).status == 204
        await wire.send(head("GET", f"/v2/images/{image}"))
        assert (await wire.answer()).status == 200


async def test_json_is_asked_for_too(one: Site) -> None:
    """By curl, say, that sends more than a megabyte."""
    body = json.dumps({"name": "n", "long": "x" * 1_100_000}).encode()
    async with await Wire.to(one) as wire:
        await wire.send(head("POST", "/v2/images", Content_Length=str(len(body)), Expect="100-continue"))
        assert (await wire.answer()).status == 100
        await wire.send(body)
        assert (await wire.answer()).status == 201


@pytest.mark.parametrize(
    ("kind", "headers", "status"),
    [
        ("file", {}, 409),
        ("stage", {}, 409),
        ("file", {"Content_Type": "text/plain"}, 415),
        ("file", {"X_OpenStack_Image_Size": "x"}, 400),
    ],
)
async def test_data_that_is_not_welcome_is_never_asked_for(
    one: Site, kind: str, headers: dict[str, str], status: int
) -> None:
    """And the connection ends, for nobody can tell whether the data will still come."""
    image = await one.image()
    assert await one.upload(image, b"x") == 204
    sent = {"Content_Length": "1000", "Expect": "100-continue", **OCTETS, **headers}
    async with await Wire.to(one) as wire:
        await wire.send(head("PUT", f"/v2/images/{image}/{kind}", **sent))
        answer = await wire.answer()
        assert answer.status == status
        assert answer.header("Connection") == "close"


async def test_old_clients_are_not_told_to_go_on(one: Site) -> None:
    """HTTP/1.0 knows no interim answers."""
    image = await one.image()
    request = head(
        "PUT", f"/v2/images/{image}/stage", version="1.0", Content_Length="3", Expect="100-continue", **OCTETS
    )
    assert (await ask(one, request + b"abc")).status == 204


# --- refusals while data comes -----------------------------------------------------------


async def test_a_refusal_does_not_wait_for_the_data(one: Site) -> None:
    """The answer is there while the body is still to come; whatever came of it is never a request."""
    image = await one.image()
    await one.upload(image, b"x")
    async with await Wire.to(one) as wire:
        await wire.send(put("file", image, Content_Length=str(len(DATA))))
        assert (await wire.answer()).status == 409
        await wire.send(DATA)
        await wire.send(head("GET", f"/v2/images/{image}"))
        assert (await wire.answer()).status == 200


async def test_data_beyond_what_was_announced_is_refused_midway(one: Site) -> None:
    image = await one.image()
    async with await Wire.to(one) as wire:
        await wire.send(put("stage", image, Transfer_Encoding="chunked", X_OpenStack_Image_Size="1000"))
        await wire.send(chunk(DATA) * 2)
        assert (await wire.answer()).status == 400
    await starts_over(one, "stage", image)


# --- races -------------------------------------------------------------------------------


async def statuses(site: Site, requests: list[bytes]) -> list[int]:
    answers: list[Answer] = await asyncio.gather(*(ask(site, request) for request in requests))
    return sorted(answer.status for answer in answers)


@pytest.mark.parametrize("kinds", [("file", "file"), ("stage", "stage"), ("file", "stage")])
async def test_of_two_first_transfers_one_wins(one: Site, kinds: tuple[str, str]) -> None:
    """The other gets 409 and changes nothing: the winner's data arrive whole."""
    for _ in range(5):
        image = await one.image()
        bodies = (b"first" * 1000, b"other" * 2000)
        requests = [
            put(kind, image, Content_Length=str(len(body))) + body for kind, body in zip(kinds, bodies, strict=True)
        ]
        assert await statuses(one, requests) == [204, 409]
        shown = await one.show(image)
        assert shown["status"] in ("active", "uploading")
        assert shown["size"] in map(len, bodies)
        left = objects(one, "file", image) + objects(one, "staging", image)
        assert [len(item) for item in left] == [shown["size"]]


async def test_F23_an_image_that_is_being_saved(one: Site) -> None:
    image = await one.image()
    async with await half_sent(one, "file", image) as wire:
        assert await one.upload(image, b"x") == 409
        assert await one.stage(image, b"x") == 409
        assert await one.do_import(image) == 409
        assert (await one.call("GET", f"/images/{image}/file")).status == 204
        assert await has_status(one, image, "saving")
        await wire.send(chunk(b""))
        assert (await wire.answer()).status == 204
    assert (await one.show(image))["size"] == len(DATA)


async def test_an_image_that_is_being_staged(one: Site) -> None:
    image = await one.image()
    async with await half_sent(one, "stage", image) as wire:
        assert await one.stage(image, b"x") == 409
        assert await one.upload(image, b"x") == 409
        assert await one.do_import(image) == 409
        assert (await one.call("GET", f"/images/{image}/file")).status == 204
        assert (await one.show(image))["size"] is None
        await wire.send(chunk(b""))
        assert (await wire.answer()).status == 204
    assert await one.do_import(image) == 202
    assert (await one.ended(image))["size"] == len(DATA)


async def test_of_several_imports_at_once_one_is_accepted(one: Site) -> None:
    for _ in range(5):
        image = await one.image()
        await one.stage(image, b"x")
        body = b'{"method": {"name": "glance-direct"}}'
        request = head("POST", f"/v2/images/{image}/import", Content_Length=str(len(body))) + body
        assert await statuses(one, [request] * 4) == [202, 409, 409, 409]
        assert (await one.ended(image))["status"] == "active"
        assert len(await one.tasks(image)) == 1


async def test_of_several_creations_of_one_id_one_succeeds(one: Site) -> None:
    body = json.dumps({"id": str(uuid4())}).encode()
    request = head("POST", "/v2/images", Content_Length=str(len(body))) + body
    assert await statuses(one, [request] * 4) == [201, 409, 409, 409]


async def test_of_several_deletions_one_deletes(one: Site) -> None:
    image = await one.image()
    request = head("DELETE", f"/v2/images/{image}")
    assert await statuses(one, [request] * 4) == [204, 404, 404, 404]


@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_a_failed_transfer_can_be_repeated_at_once(one: Site, kind: str) -> None:
    """However the clean-up after the failure and the next attempt fall together."""
    for _ in range(8):
        image = await one.image()
        short = put(kind, image, Content_Length="3", X_OpenStack_Image_Size="5") + b"abc"
        for _ in range(3):
            assert (await ask(one, short)).status == 400
        assert (await ask(one, put(kind, image, Content_Length="3") + b"abc")).status == 204


async def test_too_many_transfers_are_asked_to_come_back(postgres: Server) -> None:
    crowded = one_store(entrepot="most_uploads = 1\nmost_waiting_uploads = 0")
    async with passing(postgres, crowded) as site:
        image, other = await site.image(), await site.image()
        async with await half_sent(site, "stage", image) as wire:
            answer = await ask(site, put("stage", other, Content_Length="1") + b"x")
            assert answer.status == 503
            assert int(answer.header("Retry-After") or 0) > 0
            assert await has_status(site, other, "queued")
            await wire.send(chunk(b""))
            assert (await wire.answer()).status == 204
        assert await site.stage(other, b"x") == 204


@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_a_transfer_waits_for_its_turn(postgres: Server, kind: str) -> None:
    async with passing(postgres, one_store(entrepot="most_uploads = 1")) as site:
        image, other = await site.image(), await site.image()
        async with await half_sent(site, "stage", image) as wire:
            waiting = asyncio.create_task(ask(site, put(kind, other, Content_Length="1") + b"x"))
            # What cannot be taken is refused at once, however many wait.
            assert (await ask(site, put(kind, image, Content_Length="1") + b"x")).status == 409
            assert (await ask(site, put(kind, str(uuid4()), Content_Length="1") + b"x")).status == 404
            assert await has_status(site, other, "queued")
            assert not waiting.done()
            await wire.send(chunk(b""))
            assert (await wire.answer()).status == 204
        assert (await waiting).status == 204


async def test_nobody_waits_for_his_turn_for_ever(postgres: Server) -> None:
    async with passing(postgres, one_store(entrepot="most_uploads = 1\nupload_wait = 0.05")) as site:
        image, other = await site.image(), await site.image()
        async with await half_sent(site, "stage", image):
            assert (await ask(site, put("stage", other, Content_Length="1") + b"x")).status == 503
            assert await has_status(site, other, "queued")
