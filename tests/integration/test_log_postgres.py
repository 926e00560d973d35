"""What only a real database can promise: the log is for ever, chained, and one with what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from kernel import events as e
from kernel.audit import event_hash
from kernel.batch import APPEND, Parts, arguments
from kernel.codec import encode
from kernel.database import connect
from kernel.events import ImageUpdated, TagAdded
from kernel.ids import new_id
from kernel.recorded import ACCESS
from tests.support.builders import TRANSFER, blob
from tests.support.logs import Changed, PostgresBench, created, postgres_bench, postgres_log, request

DEADLINE = 30.0
"""Seconds after which a test that waits has failed."""


@pytest.fixture
async def bench(dsn: str) -> AsyncIterator[PostgresBench]:
    async with postgres_bench(dsn) as made:
        yield made


@pytest.fixture
async def operator(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


# --- for ever --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET type = 'x'",
        "UPDATE events SET at = now() WHERE false",
        "DELETE FROM events",
        "DELETE FROM events WHERE position > 1",
        "TRUNCATE events",
        "TRUNCATE events CASCADE",
    ],
)
async def test_events_are_never_changed_or_deleted(bench: PostgresBench, operator: Any, statement: str) -> None:
    await bench.log.append(request(new_id(), TagAdded(tag="a"), TagAdded(tag="b")))
    before = await operator.fetch("SELECT * FROM events")
    with pytest.raises(asyncpg.RaiseError, match="never changed"):
        await operator.execute(statement)
    assert await operator.fetch("SELECT * FROM events") == before


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_an_append_that_might_not_see_the_newest_event_is_refused(operator: Any, level: str) -> None:
    empty = arguments([], "x")
    with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
        async with operator.transaction(isolation=level):
            await operator.fetch(APPEND, *empty)
    assert await operator.fetch(APPEND, *empty) == []


async def test_what_was_written_is_kept_to_the_byte(bench: PostgresBench, operator: Any) -> None:
    event = created(new_id(), name='"ü" ☃ \\ 😀', properties={"z": "1", "a": None})
    await bench.log.append(request(new_id(), event))
    (row,) = await operator.fetch("SELECT type, data::text AS data, octet_length(data::text) AS size FROM events")
    assert (row["type"], row["data"].encode()) == ("ImageCreated", encode(event))
    assert row["size"] == len(encode(event))


# --- chained ---------------------------------------------------------------------------


async def hashes(operator: Any) -> tuple[list[bytes], list[bytes]]:
    """The hashes in the log, and those made anew from the events."""
    rows = await operator.fetch("SELECT *, data::text AS data, meta::text AS meta FROM events ORDER BY position")
    made: list[bytes] = []
    for row in rows:
        before = made[-1] if made else b""
        place = row["category"], row["stream"], row["version"], row["event_id"], row["type"]
        made.append(event_hash(before, *place, row["data"].encode(), row["meta"].encode()))
    return [row["hash"] for row in rows], made


async def test_every_event_carries_the_hash_of_all_before_it(bench: PostgresBench, operator: Any) -> None:
    streams = [new_id() for _ in range(10)]
    await asyncio.gather(*(bench.log.append(request(s, created(s, name="ü ☃"), TagAdded(tag="t"))) for s in streams))
    for stream in streams[:3]:
        sent = e.ImageSent(image_id=str(stream), owner=None, sent=1, asked=1)
        await bench.log.append(request(stream, sent, category=ACCESS))
        await bench.log.append(request(stream, e.DataStaged(transfer=TRANSFER, blob=blob()), expected=2))
    stored, made = await hashes(operator)
    assert len(stored) == 26
    assert stored == made
    assert len(set(stored)) == 26


async def test_the_chain_goes_on_over_refusals_processes_and_repetitions(
    bench: PostgresBench, dsn: str, operator: Any
) -> None:
    stream = new_id()
    first = request(stream, created(stream), expected=0)
    await bench.log.append(first)
    async with postgres_log(dsn) as another:
        answers = await asyncio.gather(
            bench.log.append(first),
            bench.log.append(request(stream, TagAdded(tag="x"), expected=7)),
            bench.log.append(request(new_id(), TagAdded(tag="y"))),
            another.append(request(new_id(), TagAdded(tag="z"), TagAdded(tag="z"))),
            return_exceptions=True,
        )
    assert sum(isinstance(answer, Exception) for answer in answers) == 1
    stored, made = await hashes(operator)
    assert len(stored) == 4
    assert stored == made


@pytest.mark.parametrize("field", range(8))
def test_a_hash_covers_every_part_of_an_event(field: int) -> None:
    parts: list[Any] = [b"", "image", new_id(), 1, new_id(), "TagAdded", b"{}", b'{"at":1}']
    others: list[Any] = [b"x", "access", new_id(), 2, new_id(), "TagRemoved", b"{ }", b'{"at":2}']
    changed = [*parts[:field], others[field], *parts[field + 1 :]]
    assert event_hash(*parts) != event_hash(*changed)


def test_bytes_cannot_move_from_one_part_of_an_event_to_the_next() -> None:
    stream, event_id = new_id(), new_id()
    one = event_hash(b"", "image", stream, 1, event_id, "TagAdded", b"12", b"3")
    two = event_hash(b"", "image", stream, 1, event_id, "TagAdded", b"1", b"23")
    assert one != two


# --- one with what follows -------------------------------------------------------------


async def test_no_reader_ever_sees_an_event_without_its_consequences(bench: PostgresBench, dsn: str) -> None:
    changes = 120
    image = Changed()
    await bench.log.append(image.by(created(image.stream)))
    query = (
        "SELECT i.version, i.name, (SELECT s.state->>'version' FROM states s WHERE s.id = i.id) AS folded,"
        " (SELECT max(version) FROM events WHERE stream = i.id) AS events FROM images i"
    )
    looks = 0

    async def reader() -> None:
        nonlocal looks
        connection = await asyncpg.connect(dsn)
        try:
            version = 1
            while version < changes + 1:
                row = await connection.fetchrow(query)
                assert row["version"] == row["events"] == int(row["folded"])
                assert row["version"] >= version
                version = row["version"]
                looks += 1
        finally:
            await connection.close()

    async def writer() -> None:
        for number in range(changes):
            await bench.log.append(image.by(ImageUpdated(name=str(number))))

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(reader())
        group.create_task(writer())
    assert looks > 10


async def test_two_processes_number_the_log_without_holes(bench: PostgresBench, dsn: str) -> None:
    streams = [new_id() for _ in range(20)]

    async def caller(log: Any, stream: Any) -> None:
        for number in range(10):
            await log.append(request(stream, TagAdded(tag=str(number)), expected=None))

    async with postgres_log(dsn) as another, asyncio.timeout(DEADLINE):
        await asyncio.gather(*(caller(log, stream) for stream in streams for log in (bench.log, another)))
    page = await bench.log.read_all(0)
    assert [item.position for item in page] == list(range(1, 401))
    for stream in streams:
        assert [item.version for item in page if item.stream == stream] == list(range(1, 21))


async def test_the_columns_follow_the_state(bench: PostgresBench, operator: Any) -> None:
    image = Changed()
    await bench.log.append(image.by(created(image.stream, tags=("t",), properties={"p": "v"})))
    await bench.log.append(image.by(ImageUpdated(name=None, tags=("u", "v"), properties_set={"q": "w"})))
    row = await operator.fetchrow("SELECT * FROM images")
    assert (row["id"], row["image_id"], row["version"]) == (image.stream, str(image.stream), 2)
    assert (row["name"], row["owner"], row["status"], row["tags"]) == (None, "pA", "queued", ["u", "v"])
    assert row["properties"] == ["1:p=v", "1:q=w"]
    assert (row["created_at"], row["updated_at"]) == (image.image.created_at, image.image.updated_at)
    assert (row["work"], row["due_at"]) == (None, None)


async def test_outstanding_work_can_be_found_at_once_whatever_the_clocks(bench: PostgresBench, operator: Any) -> None:
    image = Changed()
    await bench.log.append(image.by(created(image.stream), e.StagingStarted(transfer=TRANSFER)))
    query = "SELECT work FROM images WHERE work IS NOT NULL AND due_at <= clock_timestamp() - interval '12 hours'"
    assert await operator.fetchval(query) == "discard"


async def test_a_long_stream_is_folded_page_by_page(bench: PostgresBench) -> None:
    stream = new_id()
    tags: Sequence[TagAdded] = [TagAdded(tag=str(number)) for number in range(1100)]
    for start in range(0, 1100, 550):
        await bench.log.append(request(stream, *tags[start : start + 550]))
    assert (await bench.log.fold(stream)).tags == tuple(tag.tag for tag in tags)


async def test_an_event_of_a_newer_version_is_read_as_a_placeholder(bench: PostgresBench, dsn: str) -> None:
    parts = Parts(request(new_id(), TagAdded(tag="a")))
    parts.types, parts.datas = ["Frobnicated"], [b'{"x":1}']
    newer = await connect(dsn, "newer")
    await newer.fetch(APPEND, *arguments([parts], "x"))
    await newer.close()
    (item,) = await bench.log.read_all(0)
    assert item.event == e.Unrecognised("Frobnicated", 1)
