"""Following the log on real Postgres: several writers, other processes, connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from kernel import feed as feed_module
from kernel.database import connect
from kernel.events import TagAdded
from kernel.feed import Feed
from kernel.ids import new_id
from kernel.log import Request
from kernel.log_postgres import PostgresLog
from kernel.recorded import Recorded
from kernel.rows import Rows
from tests.support import appending
from tests.support.logs import positions, postgres_log, request

DEADLINE = 60.0
"""Seconds after which a test that waits has failed."""

LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'entrepot listener'
"""


def one(tag: object) -> Request:
    return request(new_id(), TagAdded(tag=str(tag)))


class Interrupts:
    """What the feed says about interruptions, and a way to wait for it."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[UUID | None] = asyncio.Queue()

    def __call__(self, stream: UUID | None) -> None:
        self.seen.put_nowait(stream)

    async def next(self) -> UUID | None:
        async with asyncio.timeout(DEADLINE):
            return await self.seen.get()


@pytest.fixture
async def operator(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def ours(dsn: str) -> AsyncIterator[tuple[PostgresLog, Feed, Interrupts]]:
    """A log of this process with its feed, listening."""
    interrupts = Interrupts()
    async with postgres_log(dsn, lambda events: feed.committed(events)) as log:
        feed = Feed(log, dsn, interrupts)
        await feed.start()
        try:
            assert await interrupts.next() is None  # it listens
            yield log, feed, interrupts
        finally:
            await feed.stop()


async def collect(feed: Feed, count: int) -> list[Recorded]:
    """The first so many events that a new follower gets."""
    seen: list[Recorded] = []
    async with asyncio.timeout(DEADLINE):
        async for batch in feed.follow(0, page=50):
            seen += batch
            if len(seen) >= count:
                return seen
    raise AssertionError("a follower ends when it is told to")


async def test_every_event_comes_once_and_in_order_whoever_writes_and_whatever_breaks(
    dsn: str, ours: tuple[PostgresLog, Feed, Interrupts], operator: Any
) -> None:
    log, feed, interrupts = ours
    appends, elsewhere = 150, 200
    process = await appending.begun(dsn, elsewhere)
    async with postgres_log(dsn, feed.committed) as second:
        followers = [asyncio.create_task(collect(feed, 2 * 10 * appends + elsewhere)) for _ in range(3)]

        async def caller(to: PostgresLog) -> None:
            for number in range(appends):
                await to.append(one(number), patient=True)

        async def killer() -> None:
            for _ in range(6):
                await operator.execute(LISTENERS)
                assert await interrupts.next() is None  # it listens again, and looks at everything anew

        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(killer())
            for _ in range(10):
                group.create_task(caller(log))
                group.create_task(caller(second))
        async with asyncio.timeout(DEADLINE):
            assert await process.wait() == 0
            seen = await asyncio.gather(*followers)
    everything = list(range(1, 2 * 10 * appends + elsewhere + 1))
    assert [positions(events) for events in seen] == [everything] * 3
    assert await log.head() == len(everything)


async def test_what_another_process_writes_is_heard_of_without_looking(
    dsn: str, ours: tuple[PostgresLog, Feed, Interrupts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "POLL", DEADLINE * 2)
    _, feed, _ = ours
    async with postgres_log(dsn) as another, asyncio.timeout(DEADLINE):
        batches = feed.follow(0)
        for number in range(1, 6):
            heard = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            await another.append(one(number))
            assert positions(await heard) == [number]


async def test_what_was_written_while_nobody_listened_is_found_when_listening_again(
    dsn: str, ours: tuple[PostgresLog, Feed, Interrupts], operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "POLL", DEADLINE * 2)
    _, feed, interrupts = ours
    async with postgres_log(dsn) as another, asyncio.timeout(DEADLINE):
        batches = feed.follow(0)
        heard = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        await operator.execute(LISTENERS)
        await another.append(one(1))
        assert positions(await heard) == [1]
        assert await interrupts.next() is None


async def test_whoever_may_have_missed_an_interruption_is_told_to_look(
    ours: tuple[PostgresLog, Feed, Interrupts], operator: Any
) -> None:
    _, _, interrupts = ours
    await operator.execute(LISTENERS)
    assert await interrupts.next() is None


async def test_an_interruption_reaches_every_process(dsn: str, ours: tuple[PostgresLog, Feed, Interrupts]) -> None:
    _, _, interrupts = ours
    stream = new_id()
    async with postgres_log(dsn) as another:
        await another.append(request(stream, TagAdded(tag="t"), expected=0, rows=Rows(interrupt=True)))
    assert await interrupts.next() == stream


async def test_those_who_do_not_read_the_log_are_told_that_something_happened(
    dsn: str, ours: tuple[PostgresLog, Feed, Interrupts]
) -> None:
    _, feed, _ = ours
    hint = feed.hint()
    async with postgres_log(dsn) as another, asyncio.timeout(DEADLINE):
        await another.append(one(1))
        await hint.wait()


async def test_a_feed_that_finds_no_database_keeps_trying(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    again = asyncio.Event()
    tries: list[str] = []

    async def counted(where: str, name: str) -> Any:
        tries.append(where)
        if len(tries) == 3:
            again.set()
        return await connect(where, name)

    monkeypatch.setattr(feed_module, "connect", counted)
    async with postgres_log(dsn) as log:
        feed = Feed(log, dsn.replace("/entrepot_test", "/there_is_no_such_database"))
        await feed.start()
        async with asyncio.timeout(DEADLINE):
            await again.wait()
        assert feed._task is not None
        assert not feed._task.done()
        await feed.stop()
        assert feed._task.cancelled()
