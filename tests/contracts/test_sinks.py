"""What every notification sink promises.  A sink that ships without a receiver to test it with is found here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from kernel.errors import EntrepotError
from kernel.extend import NotificationSink, Sink
from kernel.notifications import Notification
from kernel.registry import discover
from tests.support.sinks import RECEIVERS, Receiver, Told, told

SINKS = discover().sinks
BROKER = {"amqp": pytest.mark.amqp}


def message(stream: UUID, number: int, **more: Any) -> Notification:
    given = {
        "id": uuid4(),
        "event_type": f"image.{number}",
        "priority": "INFO",
        "payload": {"id": str(stream), "name": "Ünïcode ☃", "number": number},
        "at": datetime(2026, 1, 2, 3, 4, 5, 678, UTC),
        "position": number + 1,
        "stream": stream,
        "image_id": str(stream),
    }
    return Notification(**{**given, **more})


def several(images: int = 3, each: int = 15) -> list[Notification]:
    """Messages of several images, taking turns."""
    streams = [uuid4() for _ in range(images)]
    return [message(stream, number) for number in range(each) for stream in streams]


def first_told(arrived: list[Told]) -> dict[str, list[Told]]:
    """By image: what arrived, in the order in which it came for the first time."""
    seen: set[str] = set()
    by_image: dict[str, list[Told]] = {}
    for item in arrived:
        if item[0] not in seen:
            seen.add(item[0])
            by_image.setdefault(item[2]["id"], []).append(item)
    return by_image


def expected(messages: list[Notification]) -> dict[str, list[Told]]:
    return first_told([told(item) for item in messages])


@pytest.fixture(params=[pytest.param(name, marks=BROKER.get(name, ())) for name in RECEIVERS])
def driver(request: pytest.FixtureRequest) -> NotificationSink:
    return SINKS[request.param]


@pytest.fixture
async def receiver(driver: NotificationSink, tmp_path: Path) -> AsyncIterator[Receiver]:
    async with RECEIVERS[driver.name](tmp_path) as made:
        yield made


@pytest.fixture
async def sink(driver: NotificationSink, receiver: Receiver) -> AsyncIterator[Sink]:
    opened = await driver.connect(receiver.config)
    yield opened
    await opened.close()


def test_every_sink_in_the_box_is_held_to_the_contract() -> None:
    assert set(RECEIVERS) == set(SINKS)


async def test_everything_arrives_in_order_for_each_image(sink: Sink, receiver: Receiver) -> None:
    messages = several()
    await sink.deliver(messages[:20])
    await sink.deliver(messages[20:])
    arrived = await receiver.told()
    assert first_told(arrived) == expected(messages)
    assert len(arrived) == len(messages)


async def test_the_text_of_an_error_arrives_as_text(sink: Sink, receiver: Receiver) -> None:
    failed = message(uuid4(), 0, event_type="image.upload", priority="ERROR", payload="it failed: ☃")
    await sink.deliver([failed])
    assert await receiver.told() == [told(failed)]


async def test_a_batch_that_comes_again_carries_the_same_ids(sink: Sink, receiver: Receiver) -> None:
    messages = several(images=2, each=3)
    await sink.deliver(messages)
    await sink.deliver(messages)
    arrived = await receiver.told()
    assert {item[0] for item in arrived} == {str(item.id) for item in messages}
    assert first_told(arrived) == expected(messages)


async def test_while_the_receiver_is_away_delivery_fails_and_afterwards_nothing_is_missing(
    sink: Sink, receiver: Receiver
) -> None:
    before, after = several(each=4), several(each=4)
    async with receiver.away():
        for _ in range(2):
            with pytest.raises((EntrepotError, OSError, TimeoutError)):
                await sink.deliver(before)
    await sink.deliver(before)
    async with asyncio.timeout(30):
        await sink.deliver(after)
    assert first_told(await receiver.told()) == expected([*before, *after])


async def test_closing_twice_is_quiet_and_so_is_closing_what_was_never_used(
    driver: NotificationSink, receiver: Receiver
) -> None:
    opened = await driver.connect(receiver.config)
    await opened.close()
    await opened.close()
