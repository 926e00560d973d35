"""The appender on real Postgres: batches, bad requests, lost connections, impatient and vanished callers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from kernel import appender as appender_module
from kernel.appender import Appender
from kernel.errors import LeaseHeld, Unavailable, Unrecordable
from kernel.events import ImageUpdated, TagAdded
from kernel.ids import new_id
from kernel.log import Receipt, Request
from kernel.recorded import Recorded
from tests.support.logs import Changed, created, positions, request, taking
from tests.support.postgres import Server

DEADLINE = 30.0
"""Seconds after which a test that waits has failed."""


class World:
    """An appender, what it handed over, and an operator's own connection to the same database."""

    def __init__(self, dsn: str, operator: Any) -> None:
        self.dsn = dsn
        self.operator = operator
        self.handed: list[Recorded] = []
        self.appender = Appender(dsn, self.handed.extend)

    async def append(self, *requests: Request, patient: bool = True) -> list[Receipt | BaseException]:
        """All at the same moment."""
        async with asyncio.timeout(DEADLINE):
            return await asyncio.gather(
                *(self.appender.append(item, patient) for item in requests), return_exceptions=True
            )

    async def events(self) -> Sequence[Any]:
        rows: Sequence[Any] = await self.operator.fetch(
            "SELECT position, stream, version, event_id FROM events ORDER BY position"
        )
        return rows

    async def batches(self) -> int:
        """How many transactions wrote the log."""
        return int(await self.operator.fetchval("SELECT count(DISTINCT xmin::text) FROM events"))

    async def kill(self) -> int:
        """Cut the appender's connection; returns how many were cut."""
        return int(
            await self.operator.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'entrepot appender'"
            )
        )

    @contextlib.asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """While somebody else holds the lock that appends take."""
        await self.operator.execute("SELECT pg_advisory_lock('events'::regclass::oid::bigint)")
        try:
            yield
        finally:
            await self.operator.execute("SELECT pg_advisory_unlock('events'::regclass::oid::bigint)")

    async def until(self, query: str) -> None:
        """Until a query on the server gives true."""
        async with asyncio.timeout(DEADLINE):
            while not await self.operator.fetchval(query):
                pass

    async def until_it_waits_for_the_lock(self) -> None:
        await self.until("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    operator = await asyncpg.connect(dsn)
    made = World(dsn, operator)
    await made.appender.start()
    try:
        yield made
    finally:
        await made.appender.stop()
        await operator.close()


def some(count: int) -> list[Request]:
    """Appends of one event each, to streams of their own."""
    return [request(new_id(), TagAdded(tag=str(number)), expected=0) for number in range(count)]


def receipts(answers: Sequence[Receipt | BaseException]) -> list[Receipt]:
    for answer in answers:
        assert isinstance(answer, Receipt), answer
    return [answer for answer in answers if isinstance(answer, Receipt)]


# --- batches ---------------------------------------------------------------------------


async def test_two_hundred_callers_at_once_share_a_few_transactions(world: World) -> None:
    answers = receipts(await world.append(*some(200)))
    assert sorted(answer.first_position or 0 for answer in answers) == list(range(1, 201))
    assert await world.batches() <= 3
    assert positions(world.handed) == list(range(1, 201))


async def test_two_hundred_callers_one_after_another_all_get_through(world: World) -> None:
    async def caller() -> None:
        for item in some(5):
            await world.appender.append(item)

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(caller())
    assert [row["position"] for row in await world.events()] == list(range(1, 1001))
    assert positions(world.handed) == list(range(1, 1001))
    assert await world.batches() < 500


async def test_what_arrives_while_a_batch_is_under_way_goes_in_halves_with_the_next(world: World) -> None:
    """So that one half can be answered and come back while the other is written."""
    async with world.held_up():
        first = asyncio.create_task(world.append(*some(1)))
        await world.until_it_waits_for_the_lock()
        rest = asyncio.create_task(world.append(*some(50)))
        await asyncio.sleep(0)
    receipts(await first + await rest)
    sizes = await world.operator.fetch("SELECT count(*) AS size FROM events GROUP BY xmin::text ORDER BY 1")
    assert [row["size"] for row in sizes] == [1, 24, 26]


async def test_a_few_go_together(world: World) -> None:
    async with world.held_up():
        first = asyncio.create_task(world.append(*some(1)))
        await world.until_it_waits_for_the_lock()
        rest = asyncio.create_task(world.append(*some(8)))
        await asyncio.sleep(0)
    receipts(await first + await rest)
    assert await world.batches() == 2


async def test_a_batch_stays_within_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender_module, "_MOST_EVENTS", 10)
    big = request(new_id(), *(TagAdded(tag=str(number)) for number in range(25)), expected=0)
    receipts(await world.append(*some(20), big, *some(20)))
    sizes = await world.operator.fetch("SELECT count(*) AS size FROM events GROUP BY xmin::text ORDER BY 1")
    assert [row["size"] for row in sizes] == [10, 10, 10, 10, 25]


async def test_big_requests_travel_apart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender_module, "_MOST_BYTES", 2000)
    receipts(await world.append(*(request(new_id(), TagAdded(tag="x" * 1500), expected=0) for _ in range(4))))
    assert await world.batches() == 4


async def test_requests_of_one_stream_keep_their_order(world: World) -> None:
    stream = new_id()
    requests = [request(stream, TagAdded(tag=str(number)), expected=number) for number in range(10)]
    answers = receipts(await world.append(*requests))
    assert [answer.version for answer in answers] == list(range(1, 11))


async def test_a_request_that_has_to_wait_is_not_overtaken_by_the_next_of_its_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender_module, "_MOST_EVENTS", 10)
    stream, tags = new_id(), (TagAdded(tag="t"),) * 8
    requests = [request(stream, *tags, expected=0), request(stream, TagAdded(tag="u"), expected=8)]
    answers = receipts(await world.append(request(new_id(), *tags), *requests))
    assert [answer.version for answer in answers] == [8, 8, 9]


async def test_callers_are_held_back_when_too_many_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appender_module, "_MOST_WAITING", 5)
    async with world.held_up():
        first = asyncio.create_task(world.append(*some(1)))
        await world.until_it_waits_for_the_lock()
        rest = asyncio.create_task(world.append(*some(30)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(world.appender._waiting) == 5
    receipts(await first + await rest)
    assert len(await world.events()) == 31


# --- bad requests ----------------------------------------------------------------------


async def test_a_request_that_the_database_refuses_fails_alone(world: World) -> None:
    bad = Changed()
    good = some(20)
    nul = bad.by(created(bad.stream, name="nul: \0"))
    answers = await world.append(*good[:10], nul, *good[10:])
    assert isinstance(answers[10], Unrecordable)
    receipts(answers[:10] + answers[11:])
    assert [row["position"] for row in await world.events()] == list(range(1, 21))


async def test_a_request_that_cannot_even_be_sent_fails_alone(world: World) -> None:
    good = some(20)
    answers = await world.append(*good[:10], request(new_id(), TagAdded(tag="t"), expected=2**40), *good[10:])
    assert isinstance(answers[10], Unrecordable)
    receipts(answers[:10] + answers[11:])
    assert len(await world.events()) == 20


async def test_a_request_that_cannot_be_encoded_fails_before_it_waits(world: World) -> None:
    answers = await world.append(request(new_id(), TagAdded(tag="\ud800"), expected=0), *some(1))
    assert isinstance(answers[0], Unrecordable)
    receipts(answers[1:])


async def test_a_listener_that_fails_does_not_stop_the_log(world: World) -> None:
    """What a failed hand-over misses is found by reading."""

    def committed(events: Sequence[Recorded]) -> None:
        raise RuntimeError("the listener is broken")

    world.appender._committed = committed
    for _ in range(3):
        receipts(await world.append(*some(2)))
    assert len(await world.events()) == 6


# --- lost connections ------------------------------------------------------------------


async def test_killing_the_connection_again_and_again_loses_and_doubles_nothing(world: World) -> None:
    callers, each = 40, 25
    done, kills = 0, 0

    async def caller() -> list[Receipt]:
        nonlocal done, kills
        stream, answers = new_id(), []
        for number in range(each):
            item = request(stream, TagAdded(tag=str(number)), expected=number)
            answers.append(await world.appender.append(item, patient=True))
            done += 1
            if done % 97 == 0:
                async with killing:
                    kills += await world.kill()
        return answers

    killing = asyncio.Lock()
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*(caller() for _ in range(callers)))
    assert kills > 3
    rows = await world.events()
    assert [row["position"] for row in rows] == list(range(1, callers * each + 1))
    assert len({row["event_id"] for row in rows}) == callers * each
    for receipts_ in answers:
        assert [receipt.version for receipt in receipts_] == list(range(1, each + 1))
        assert [rows[(receipt.first_position or 0) - 1]["version"] for receipt in receipts_] == list(range(1, each + 1))


async def test_an_answer_that_got_lost_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = world.appender._call, 0

    async def call(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        rows = await real(batch)
        if calls == 1:
            raise ConnectionResetError("the answer got lost")
        return rows

    monkeypatch.setattr(world.appender, "_call", call)
    image = Changed()
    answers = await world.append(image.by(created(image.stream), TagAdded(tag="t")), *some(2))
    assert [answer.repeated for answer in receipts(answers)] == [True, True, True]
    assert answers[0] == Receipt(version=2, first_position=1, repeated=True)
    assert len(await world.events()) == 4
    assert positions(world.handed) == [1, 2, 3, 4]
    assert await world.operator.fetchval("SELECT sum(amount) FROM usage") == 1


async def test_what_was_refused_in_a_lost_answer_may_be_accepted_when_it_is_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events handed over then lie apart, with somebody else's in between."""
    stream, (me, other) = new_id(), (new_id(), new_id())
    await world.append(taking(stream, 1, other))
    real, calls = world.appender._call, 0

    async def call(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        rows = await real(batch)
        if calls == 1:
            await world.operator.execute("UPDATE leases SET until = '-infinity'")
            async with _another(world) as appender:
                await appender.append(request(new_id(), *(TagAdded(tag="t"),) * 3), True)
            raise ConnectionResetError("the answer got lost")
        return rows

    monkeypatch.setattr(world.appender, "_call", call)
    begun = taking(stream, 2, me, events=request(stream, TagAdded(tag="u")).events)
    second, first = receipts(await world.append(begun, *some(1)))
    assert (first.first_position, first.repeated) == (1, True)
    assert (second.first_position, second.repeated) == (5, False)
    assert positions(world.handed) == [1, 5]


@contextlib.asynccontextmanager
async def _another(world: World) -> AsyncIterator[Appender]:
    appender = Appender(world.dsn)
    await appender.start()
    try:
        yield appender
    finally:
        await appender.stop()


# --- the server is away ----------------------------------------------------------------


@pytest.fixture
async def switch(postgres: Server, world: World) -> AsyncIterator[Switch]:
    made = Switch(await asyncpg.connect(postgres.admin_dsn), urlsplit(world.dsn).path.lstrip("/"))
    try:
        yield made
    finally:
        await made.on()
        await made.admin.close()


class Switch:
    """Takes the database away, and gives it back."""

    def __init__(self, admin: Any, database: str) -> None:
        self.admin = admin
        self.database = database

    async def off(self) -> None:
        await self.admin.execute(f'ALTER DATABASE "{self.database}" ALLOW_CONNECTIONS false')
        await self.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND application_name = 'entrepot appender'",
            self.database,
        )

    async def on(self) -> None:
        await self.admin.execute(f'ALTER DATABASE "{self.database}" ALLOW_CONNECTIONS true')


async def test_while_the_server_is_away_the_impatient_are_told_so_and_the_patient_wait(
    world: World, switch: Switch
) -> None:
    receipts(await world.append(*some(1)))
    await switch.off()
    patient = [asyncio.create_task(world.appender.append(item, patient=True)) for item in some(3)]
    async with asyncio.timeout(DEADLINE):
        while world.appender.connected:
            await asyncio.sleep(0)
    for item in some(3):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(world.appender.append(item), 1)
    assert not any(task.done() for task in patient)
    await switch.on()
    async with asyncio.timeout(DEADLINE):
        receipts(await asyncio.gather(*patient))
    receipts(await world.append(*some(1), patient=False))
    assert len(await world.events()) == 5


async def test_the_impatient_who_were_not_sent_yet_when_the_server_went_away_are_told_at_once(
    world: World, switch: Switch
) -> None:
    async with world.held_up():
        sent = asyncio.create_task(world.appender.append(some(1)[0], patient=True))
        await world.until_it_waits_for_the_lock()
        waiting = [asyncio.create_task(world.appender.append(item)) for item in some(5)]
        await asyncio.sleep(0)
        await switch.off()
        async with asyncio.timeout(DEADLINE):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 5
        assert not sent.done()
        await switch.on()
    async with asyncio.timeout(DEADLINE):
        receipts([await sent])
    assert len(await world.events()) == 1


async def test_the_impatient_who_wait_for_room_are_told_too(
    world: World, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender_module, "_MOST_WAITING", 2)
    async with world.held_up():
        sent = asyncio.create_task(world.appender.append(some(1)[0], patient=True))
        await world.until_it_waits_for_the_lock()
        patient = [asyncio.create_task(world.appender.append(item, patient=True)) for item in some(2)]
        impatient = [asyncio.create_task(world.appender.append(item)) for item in some(3)]
        await asyncio.sleep(0)
        await switch.off()
        async with asyncio.timeout(DEADLINE):
            answers = await asyncio.gather(*impatient, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 3
        await switch.on()
    async with asyncio.timeout(DEADLINE):
        receipts(await asyncio.gather(sent, *patient))


async def test_a_server_that_can_only_be_read_is_one_that_is_away(world: World, switch: Switch) -> None:
    """A standby, say, to which clients are led for a moment while another one takes over."""
    read_only = f'ALTER DATABASE "{switch.database}" SET default_transaction_read_only'
    receipts(await world.append(*some(1)))
    await switch.admin.execute(f"{read_only} = on")
    await world.kill()
    patient = asyncio.create_task(world.append(*some(2)))
    for item in some(3):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(world.appender.append(item), 10)
    assert not patient.done()
    await switch.admin.execute(f"{read_only} = off")
    receipts(await patient)
    assert len(await world.events()) == 3


async def test_who_keeps_the_server_running_is_asked_to_bring_it_back(dsn: str) -> None:
    asked = asyncio.Event()

    async def revive() -> None:
        asked.set()

    appender = Appender(dsn, revive=revive)
    await appender.start()
    try:
        await appender.append(some(1)[0])
        assert not asked.is_set()
        appender._connection.terminate()
        async with asyncio.timeout(DEADLINE):
            await appender.append(some(1)[0], patient=True)
        assert asked.is_set()
    finally:
        await appender.stop()


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told that nobody knows; the append itself may well be recorded."""
    monkeypatch.setattr(appender_module, "_IMPATIENCE", 0.05)
    item = some(1)[0]
    async with world.held_up():
        with pytest.raises(Unavailable, match="in time"):
            await world.appender.append(item)
    assert receipts(await world.append(item))[0].repeated


async def test_a_batch_that_gives_way_in_a_deadlock_is_sent_again(world: World) -> None:
    """A migration of a newer node locks tables first and may want the log's lock afterwards."""
    async with asyncio.timeout(DEADLINE):
        async with world.operator.transaction():
            await world.operator.execute("SET LOCAL deadlock_timeout = '60s'")
            await world.operator.execute("LOCK TABLE events")
            waiting = asyncio.create_task(world.append(*some(1), patient=False))
            await world.until("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted)")
            await world.operator.execute("SELECT pg_advisory_xact_lock('events'::regclass::oid::bigint)")
        receipts(await waiting)
    assert len(await world.events()) == 1


# --- callers that vanish ---------------------------------------------------------------


async def test_a_caller_that_is_cancelled_does_not_cancel_its_batch(world: World) -> None:
    async with world.held_up():
        first = asyncio.create_task(world.append(*some(1)))
        await world.until_it_waits_for_the_lock()
        tasks = [
            asyncio.create_task(world.appender.append(item, patient=index % 2 == 0))
            for index, item in enumerate(some(6))
        ]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
    async with asyncio.timeout(DEADLINE):
        await first
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False, False] * 2
    receipts([answer for answer in answers if not isinstance(answer, asyncio.CancelledError)])
    assert len(await world.events()) == 7


async def test_a_refusal_nobody_waits_for_any_more_does_not_matter(world: World) -> None:
    stream = new_id()
    receipts(await world.append(taking(stream, 1, new_id())))
    async with world.held_up():
        first = asyncio.create_task(world.append(*some(1)))
        await world.until_it_waits_for_the_lock()
        task = asyncio.create_task(world.appender.append(taking(stream, 2, new_id())))
        await asyncio.sleep(0)
        task.cancel()
    await first
    receipts(await world.append(*some(1)))
    with pytest.raises(LeaseHeld):
        await world.appender.append(taking(stream, 2, new_id()))


# --- stopping --------------------------------------------------------------------------


async def test_stopping_finishes_what_waits_and_takes_nothing_more(dsn: str) -> None:
    appender = Appender(dsn)
    await appender.start()
    tasks = [asyncio.create_task(appender.append(item)) for item in some(30)]
    await asyncio.sleep(0)
    await appender.stop()
    receipts(await asyncio.gather(*tasks))
    for patient in (True, False):
        with pytest.raises(Unavailable, match="stopping"):
            await appender.append(some(1)[0], patient)


async def test_what_cannot_be_finished_when_stopping_is_told_so(
    world: World, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender_module, "_PATIENCE_WHEN_STOPPING", 0.05)
    async with world.held_up():
        sent = asyncio.create_task(world.appender.append(some(1)[0], patient=True))
        await world.until_it_waits_for_the_lock()
        waiting = asyncio.create_task(world.appender.append(some(1)[0], patient=True))
        await asyncio.sleep(0)
        await switch.off()
        await world.appender.stop()
        async with asyncio.timeout(DEADLINE):
            answers = await asyncio.gather(sent, waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]


async def test_an_append_is_refused_before_there_is_a_connection(dsn: str) -> None:
    with pytest.raises(Unavailable):
        await Appender(dsn).append(some(1)[0])


async def test_a_bigger_change_takes_one_append(world: World) -> None:
    image = Changed()
    receipts(await world.append(image.by(created(image.stream), *(ImageUpdated(name=str(n)) for n in range(50)))))
    assert await world.batches() == 1
