"""Sinks side by side: one that is slow, or refuses, holds up nobody else; anchors; who drives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel import consumers
from kernel.audit import Anchor, head, verify_chain
from kernel.dispatcher import ANCHOR, Dispatcher, Muted
from kernel.extend import NotificationSink, Refused
from kernel.notifications import Notification
from plugins.sinks import webhook
from plugins.sinks.webhook import WebhookConfig
from tests.support.collector import Collector
from tests.support.hook import Hook, hook
from tests.support.log_memory import MemoryLog
from tests.support.running import Site, single, site

DEADLINE = 30.0


class Stuck:
    """A sink that takes nothing until it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self.messages: list[Notification] = []

    async def deliver(self, batch: Sequence[Notification]) -> None:
        self.asked.set()
        await self.may.wait()
        self.messages.extend(batch)

    async def close(self) -> None:
        return None


class Picky(Collector):
    """A sink that refuses one kind of message."""

    refuses: str | None = "image.update"
    refused: int = 0

    async def deliver(self, batch: Sequence[Notification]) -> None:
        for message in batch:
            if message.event_type == self.refuses:
                self.refused += 1
                raise Refused(message.id, "that again")
            await super().deliver([message])


async def _same(config: Any) -> Any:
    return config


@asynccontextmanager
async def with_sink(dsn: str, directory: Path, driver: NotificationSink, config: object) -> AsyncIterator[Site]:
    async with site(dsn, directory, single(directory), sinks=[(driver, config)]) as running:
        yield running


async def test_a_slow_sink_lags_alone(dsn: str, directory: Path) -> None:
    stuck = Stuck()
    driver = NotificationSink(name="stuck", config=Collector, connect=_same)
    async with with_sink(dsn, directory, driver, stuck) as running:
        image = await running.image()
        async with asyncio.timeout(DEADLINE):
            await stuck.asked.wait()
        assert await running.upload(image, b"x") == 204
        await running.until(lambda: any(note.event_type == "image.activate" for note in running.notes.of(image)))
        assert not stuck.messages
        stuck.may.set()
        await running.settled(DEADLINE)
        mine = [note.id for note in stuck.messages if note.image_id == image]
        assert mine == [note.id for note in running.notes.of(image)]


async def test_who_is_not_the_driver_any_more_tells_nothing_more(dsn: str, directory: Path) -> None:
    """Not even what it has waited with since: by now another process has told it, and what followed."""
    stuck = Stuck()
    driver = NotificationSink(name="stuck", config=Collector, connect=_same)
    config = single(directory, import_worker="lease_seconds = 1")
    async with site(dsn, directory, config, sinks=[(driver, stuck)]) as running:
        await running.image()
        async with asyncio.timeout(DEADLINE):
            await stuck.asked.wait()
        (sink,) = (item for item in running.service.consumers if item.name == "sink stuck")
        await running.service.database.fetch(
            "UPDATE consumers SET owner = gen_random_uuid(), epoch = epoch + 1, until = 'infinity' WHERE name = $1",
            sink.name,
        )
        await running.until(lambda: not sink.driving, DEADLINE)
        stuck.may.set()
        await running.image()
        await running.until(lambda: len(running.notes.messages) >= 2)
        assert not stuck.messages


async def test_a_message_that_is_refused_parks_its_image_and_no_other(dsn: str, directory: Path) -> None:
    async with hook() as there:
        there.judge = lambda event: 400 if event["data"].get("name") == "poison" else 204
        config = WebhookConfig.model_validate({"url": there.url})
        async with with_sink(dsn, directory, webhook.EXTENSION, config) as running:
            bad, good = await running.image(name="poison"), await running.image(name="good")
            assert await running.upload(bad, b"x") == 204
            assert await running.upload(good, b"x") == 204
            await running.settled(DEADLINE)
            parked = await running.service.database.fetchval("SELECT parked FROM consumers WHERE name = 'sink webhook'")
            told = list(running.notes.of(good))
    assert b"answered 400" in parked
    assert [event["id"] for event in there.events if event.get("subject") == good] == [str(note.id) for note in told]
    assert not [event for event in there.events if event.get("subject") == bad]


async def test_what_was_taken_before_the_refused_message_is_not_told_again(
    dsn: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the refused one is tried."""
    monkeypatch.setattr(consumers, "_RETRY_PARKED", 0.1)
    picky = Picky()
    sinks = [(NotificationSink(name="picky", config=Collector, connect=_same), picky)]
    async with site(dsn, directory, single(directory), role="api", sinks=sinks) as running:
        image = await running.image()
        assert (await running.patch(image, {"op": "replace", "path": "/name", "value": "m"})).status == 200
    async with site(dsn, directory, single(directory), sinks=sinks) as running:
        await running.until(lambda: picky.refused > 3, DEADLINE)
        assert [note.event_type for note in picky.messages if note.image_id == image] == ["image.create"]
        picky.refuses = None
        await running.until(lambda: picky.messages[-1].event_type == "image.update", DEADLINE)
    told = [note.event_type for note in picky.messages if note.image_id == image]
    assert told == ["image.create", "image.update"]


async def test_what_is_parked_is_told_of_downloads_too_once_the_receiver_takes_it(
    dsn: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in a stream of their own beside the image's; the order of both is that of the log."""
    monkeypatch.setattr(consumers, "_RETRY_PARKED", 0.3)
    monkeypatch.setattr(consumers, "_PAGE", 3)
    async with hook() as there:
        there.judge = lambda event: 400 if event["type"] == "image.send" else 204
        config = WebhookConfig.model_validate({"url": there.url})
        async with with_sink(dsn, directory, webhook.EXTENSION, config) as running:
            image = await running.image()
            assert await running.upload(image, b"x") == 204
            for name in ("a", "b"):
                assert (await running.call("GET", f"/images/{image}/file")).status == 200
                await running.until(lambda name=name: len(sent(running, image)) == 1 + (name == "b"))  # type: ignore[misc]
                assert (await running.patch(image, {"op": "replace", "path": "/name", "value": name})).status == 200
            await running.settled(DEADLINE)
            there.judge = lambda event: 204
            await running.until(lambda: events_of(there, image)[-1:] == [str(running.notes.of(image)[-1].id)], DEADLINE)
            told = [str(note.id) for note in running.notes.of(image)]
        assert len(told) == len(set(told))
        assert list(dict.fromkeys(events_of(there, image))) == told


def sent(running: Site, image: str) -> list[Notification]:
    return [note for note in running.notes.of(image) if note.event_type == "image.send"]


def events_of(there: Hook, image: str) -> list[str]:
    """Ids of what was taken, as often as it was."""
    return [event["id"] for event in there.events if event.get("subject") == image]


async def test_a_receiver_that_refuses_everything_holds_the_sink_up(
    dsn: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong URL, say: few images are parked, the rest waits in the log, and all arrives once it is put right."""
    monkeypatch.setattr(consumers, "_MOST_PARKED", 3)
    monkeypatch.setattr(consumers, "_RETRY_PARKED", 0.5)
    monkeypatch.setattr(consumers, "_LONGEST_PAUSE", 0.5)
    parked = "SELECT coalesce((SELECT count(*) FROM json_object_keys(parked)), 0) FROM consumers WHERE name = $1"
    async with hook() as there:
        there.judge = lambda event: 404
        config = WebhookConfig.model_validate({"url": there.url})
        async with with_sink(dsn, directory, webhook.EXTENSION, config) as running:
            images = [await running.image() for _ in range(8)]
            for image in images:
                assert (await running.patch(image, {"op": "replace", "path": "/name", "value": "m"})).status == 200
            (sink,) = (item for item in running.service.consumers if item.name == "sink webhook")
            refused = there.seen
            await running.until(lambda: there.seen > refused + 20, DEADLINE)
            assert await running.service.database.fetchval(parked, sink.name) <= 3
            assert sink.position < await running.service.log.head()
            there.judge = lambda event: 204
            await running.settled(DEADLINE)

            async def resumed() -> bool:
                return bool(await running.service.database.fetchval(parked, sink.name) == 0)

            await running.until(resumed, DEADLINE)
            for image in images:
                told = [str(note.id) for note in running.notes.of(image)]
                came = [event["id"] for event in there.events if event.get("subject") == image]
                assert list(dict.fromkeys(came)) == told


async def test_the_head_of_the_log_is_told_as_an_anchor(dsn: str, directory: Path) -> None:
    async with hook() as there:
        config = WebhookConfig.model_validate({"url": there.url})
        async with with_sink(dsn, directory, webhook.EXTENSION, config) as running:
            await running.image()
            await running.settled(DEADLINE)
        async with with_sink(dsn, directory, webhook.EXTENSION, config) as running:
            await running.until(lambda: any(event["type"] == ANCHOR for event in there.events), DEADLINE)
        told = [event["data"] for event in there.events if event["type"] == ANCHOR]
    anchor = Anchor.parse(told[-1]["anchor"])
    assert anchor == await head(dsn)
    assert (told[-1]["position"], told[-1]["hash"]) == (anchor.position, anchor.hash.hex())
    report = await verify_chain(dsn, anchors=[anchor])
    assert report.intact


async def anchors(heads: list[Anchor], muted: Sequence[str] = ()) -> list[Notification]:
    """What a sink is given while the head of the log moves from hour to hour."""
    notes, looked = Collector(), asyncio.Event()
    left = list(heads)

    async def newest() -> Anchor:
        if len(left) == 1:
            looked.set()
        return left.pop(0) if len(left) > 1 else left[0]

    task = asyncio.ensure_future(Dispatcher(notes, MemoryLog(), Muted(muted)).anchor(newest, every=0))
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait({task, asyncio.ensure_future(looked.wait())}, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(5):
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    looked.set()
    return notes.messages


async def test_an_anchor_is_told_again_only_when_the_log_has_grown() -> None:
    one, two = Anchor(1, b"\1" * 32), Anchor(2, b"\2" * 32)
    told = await anchors([Anchor(0, b""), one, one, two, two])
    assert [note.payload["position"] for note in told if isinstance(note.payload, dict)] == [1, 2]
    assert len({note.id for note in told}) == 2


@pytest.mark.parametrize("muted", ["log", ANCHOR])
async def test_anchors_can_be_switched_off(muted: str) -> None:
    assert await anchors([Anchor(1, b"\1" * 32)], [muted]) == []


async def test_a_sink_that_is_new_is_told_what_happens_from_then_on(dsn: str, directory: Path) -> None:
    """From the first start of any process that knows it, be it one that drives no sinks."""
    async with site(dsn, directory, single(directory)) as running:
        before = await running.image()
    async with hook() as there:
        sinks = [(webhook.EXTENSION, WebhookConfig.model_validate({"url": there.url}))]
        async with site(dsn, directory, single(directory), role="api", sinks=sinks) as running:
            between = await running.image()
        async with site(dsn, directory, single(directory), sinks=sinks) as running:
            after = await running.image()
            await running.settled(DEADLINE)
        told = [event["subject"] for event in there.events if "subject" in event]
    assert told == [between, after]
    assert before not in told
