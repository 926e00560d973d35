"""Following the log: every event once and in order, however it is handed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from kernel import feed as feed_module
from kernel.events import TagAdded
from kernel.feed import Feed
from kernel.ids import new_id
from kernel.recorded import Recorded
from tests.support.log_memory import MemoryLog
from tests.support.logs import positions, request

DEADLINE = 10.0
"""Seconds after which a test that waits has failed."""


class Reader:
    """One follower, read batch by batch; counts how often the log itself was asked."""

    def __init__(self) -> None:
        self.log = _CountingLog()
        self.feed = Feed(self.log, None)
        self._batches: AsyncIterator[Sequence[Recorded]] = self.feed.follow(0)

    async def append(self, count: int = 1) -> list[Recorded]:
        """Events of somebody whose process does not hand them over to us."""
        head = await self.log.head()
        await self.log.append(request(new_id(), *(TagAdded(tag=str(number)) for number in range(count))))
        return (await self.log.read_all(head))[:count]

    async def handed(self, count: int = 1) -> None:
        """Events of our own process."""
        self.feed.committed(await self.append(count))

    async def next(self) -> list[int]:
        async with asyncio.timeout(DEADLINE):
            return positions(await anext(self._batches))

    async def waiting(self) -> asyncio.Task[list[int]]:
        """A reader that has read everything and waits for more."""
        task = asyncio.create_task(self.next())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        return task


class _CountingLog(MemoryLog):
    reads = 0

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        self.reads += 1
        return await super().read_all(after, limit)


@pytest.fixture
def reader() -> Reader:
    return Reader()


async def test_what_is_there_is_read(reader: Reader) -> None:
    await reader.append(3)
    assert await reader.next() == [1, 2, 3]


async def test_pages_follow_one_another(reader: Reader) -> None:
    await reader.append(5)
    batches = reader.feed.follow(1, page=2)
    assert [positions(await anext(batches)) for _ in range(2)] == [[2, 3], [4, 5]]


async def test_what_is_handed_over_needs_no_reading(reader: Reader) -> None:
    await reader.append(1)
    assert await reader.next() == [1]
    task = await reader.waiting()
    await reader.handed(2)
    before = reader.log.reads
    assert await task == [2, 3]
    await reader.handed(1)
    reads = reader.log.reads
    assert await reader.next() == [4]
    assert (before, reads) == (reads - 1, reader.log.reads)  # the one read is that of the test itself


async def test_what_was_handed_over_too_late_or_twice_is_not_seen_twice(reader: Reader) -> None:
    events = await reader.append(3)
    assert await reader.next() == [1, 2, 3]
    task = await reader.waiting()
    reader.feed.committed(events)
    reader.feed.committed(events[1:])
    await reader.handed(1)
    assert await task == [4]


async def test_what_others_appended_in_between_is_read(reader: Reader) -> None:
    await reader.append(1)
    assert await reader.next() == [1]
    task = await reader.waiting()
    await reader.append(2)
    await reader.handed(1)
    assert await task == [2, 3, 4]


async def test_a_hand_over_with_a_hole_is_read_instead(reader: Reader) -> None:
    """A batch that was sent again holds what was recorded the first time beside what was recorded now."""
    await reader.append(1)
    assert await reader.next() == [1]
    task = await reader.waiting()
    (first,) = await reader.append(1)
    await reader.append(2)
    (second,) = await reader.append(1)
    reader.feed.committed([first, second])
    assert await task == [2, 3, 4, 5]


async def test_a_follower_that_lags_behind_goes_back_to_reading(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_MOST_HANDED", 2)
    await reader.append(1)
    assert await reader.next() == [1]
    task = await reader.waiting()
    for _ in range(6):
        await reader.handed(1)
    seen = await task
    while len(seen) < 6:
        seen += await reader.next()
    assert seen == [2, 3, 4, 5, 6, 7]


async def test_what_nobody_told_us_of_is_found_by_looking_now_and_then(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "POLL", 0.01)
    await reader.append(1)
    assert await reader.next() == [1]
    task = asyncio.create_task(reader.next())
    await reader.append(1)
    assert await task == [2]


async def test_every_follower_gets_everything(reader: Reader) -> None:
    await reader.append(1)
    others = [reader.feed.follow(0), reader.feed.follow(1)]
    assert await reader.next() == [1]
    task = await reader.waiting()
    await reader.handed(1)
    assert await task == [2]
    assert positions(await anext(others[0])) == [1, 2]
    assert positions(await anext(others[1])) == [2]
