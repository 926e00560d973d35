"""What the event log promises, in memory and on Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from kernel import events as e
from kernel.charges import COUNT_TOTAL, STAGE_TOTAL
from kernel.errors import EntrepotError, Fenced, LeaseHeld, LogBroken, OverQuota, WrongExpectedVersion
from kernel.evolve import NOTHING
from kernel.ids import new_id, stream_of
from kernel.log import Receipt, Request
from kernel.log_postgres import assert_contiguous
from kernel.recorded import ACCESS, By, Meta, Pending
from kernel.rows import Rows, Secret
from tests.support.builders import TRANSFER, at, blob, limited, requested
from tests.support.logs import (
    Answer,
    Bench,
    Changed,
    MemoryBench,
    created,
    pending,
    positions,
    postgres_bench,
    request,
    take,
    taking,
)

A, B = new_id(), new_id()
"""Owners of leases."""


@pytest.fixture(params=["memory", "postgres"])
def where(request: pytest.FixtureRequest) -> str | None:
    """A database to keep the log in, or none."""
    return request.getfixturevalue("dsn") if request.param == "postgres" else None


@pytest.fixture
async def bench(where: str | None) -> AsyncIterator[Bench]:
    if where is None:
        yield MemoryBench()
        return
    async with postgres_bench(where) as made:
        yield made


async def together(bench: Bench, *requests: Request) -> list[Answer]:
    """Appended at the same moment: on Postgres, in one batch."""
    answers = await asyncio.gather(*(bench.log.append(item) for item in requests), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, Receipt | EntrepotError), answer
    return [answer for answer in answers if isinstance(answer, Receipt | EntrepotError)]


# --- appending -------------------------------------------------------------------------


async def test_an_append_is_answered_with_its_place(bench: Bench) -> None:
    stream = new_id()
    first = await bench.log.append(request(stream, created(stream), e.TagAdded(tag="t"), expected=0))
    assert first == Receipt(version=2, first_position=1)
    second = await bench.log.append(request(stream, e.TagRemoved(tag="t"), expected=2))
    assert second == Receipt(version=3, first_position=3)
    assert await bench.log.head() == 3


async def test_events_come_back_as_they_went_in(bench: Bench) -> None:
    stream, correlation, worker = new_id(), new_id(), new_id()
    meta = Meta(
        at=at(),
        by=By(user="u", project="p", roles=("member",)),
        request="req-ü",
        correlation=correlation,
        causation=new_id(),
        worker=worker,
        epoch=7,
    )
    name = 'é "\\/\n☃ 😀 <&>'
    items = (
        Pending(new_id(), created(stream, name=name, properties={"p": None, "q": ""}), meta),
        Pending(new_id(), e.DataStaged(transfer=TRANSFER, blob=blob(size=2**62)), replace(meta, epoch=None)),
    )
    await bench.log.append(Request(category="image", stream=stream, expected=0, events=items))
    found = await bench.log.read_stream("image", stream)
    assert [(item.event_id, item.event, item.meta) for item in found] == [(i.event_id, i.event, i.meta) for i in items]
    assert [(item.position, item.version, item.category, item.stream) for item in found] == [
        (1, 1, "image", stream),
        (2, 2, "image", stream),
    ]
    assert await bench.log.read_all(0) == found


async def test_an_append_on_another_version_is_a_conflict(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(request(stream, created(stream), expected=0))
    for expected in (0, 2):
        with pytest.raises(WrongExpectedVersion):
            await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=expected))
    assert await bench.log.head() == 1


async def test_an_append_without_expectation_goes_at_the_end(bench: Bench) -> None:
    stream = new_id()
    for version in (1, 2, 3):
        receipt = await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=None))
        assert receipt.version == version


async def test_of_two_who_expect_the_same_version_one_wins(bench: Bench) -> None:
    stream = new_id()
    answers = await together(bench, *(request(stream, created(stream), expected=0) for _ in range(5)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Receipt", *["WrongExpectedVersion"] * 4]
    assert await bench.log.head() == 1


async def test_a_resent_append_is_recognised(bench: Bench) -> None:
    stream = new_id()
    first = request(stream, created(stream), e.TagAdded(tag="t"), expected=0)
    assert await bench.log.append(first) == Receipt(version=2, first_position=1)
    assert await bench.log.append(first) == Receipt(version=2, first_position=1, repeated=True)
    await bench.log.append(request(stream, e.TagAdded(tag="u"), expected=2))
    assert await bench.log.append(first) == Receipt(version=2, first_position=1, repeated=True)
    assert await bench.log.head() == 3


async def test_a_resent_append_writes_nothing_a_second_time(bench: Bench) -> None:
    image = Changed()
    first = image.by(created(image.stream))
    await bench.log.append(first)
    later = image.by(e.ImageUpdated(name="later"))
    await bench.log.append(later)
    assert (await bench.log.append(first)).repeated
    assert (await bench.log.load(image.stream)).image == image.image
    assert await bench.usage() == {("pA", COUNT_TOTAL): 1}


async def test_a_resent_append_is_recognised_whatever_has_become_of_the_lease(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A))
    outcome = request(stream, created(stream), expected=0, holder=A, epoch=1, rows=Rows(release=True))
    assert not (await bench.log.append(outcome)).repeated
    await bench.log.append(taking(stream, 2, B, expected=1))
    assert (await bench.log.append(outcome)).repeated


async def test_positions_have_no_holes_whatever_is_refused(bench: Bench) -> None:
    streams = [new_id() for _ in range(6)]
    for stream in streams[::2]:
        await bench.log.append(request(stream, created(stream), expected=0))
    await together(
        bench, *(request(stream, e.TagAdded(tag="t"), e.TagAdded(tag="u"), expected=1) for stream in streams)
    )
    page = await bench.log.read_all(0)
    assert positions(page) == list(range(1, 10))
    assert await bench.log.head() == 9


async def test_a_stream_keeps_its_order(bench: Bench) -> None:
    streams = [new_id() for _ in range(3)]
    for round_ in range(5):
        await together(bench, *(request(stream, e.TagAdded(tag=str(round_)), expected=round_) for stream in streams))
    for stream in streams:
        found = await bench.log.read_stream("image", stream)
        assert [item.version for item in found] == [1, 2, 3, 4, 5]
        assert [item.event for item in found] == [e.TagAdded(tag=str(number)) for number in range(5)]
        assert positions(found) == sorted(positions(found))


async def test_a_stream_is_read_in_pages(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(request(stream, *(e.TagAdded(tag=str(number)) for number in range(10)), expected=0))
    pages = [await bench.log.read_stream("image", stream, after, 4) for after in (0, 4, 8, 10)]
    assert [[item.version for item in page] for page in pages] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], []]


async def test_the_log_is_read_in_pages(bench: Bench) -> None:
    for _ in range(5):
        stream = new_id()
        await bench.log.append(request(stream, created(stream), e.TagAdded(tag="t"), expected=0))
    assert [positions(await bench.log.read_all(after, 4)) for after in (0, 4, 8, 10)] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10],
        [],
    ]


async def test_an_empty_log_has_nothing(bench: Bench) -> None:
    assert await bench.log.head() == 0
    assert await bench.log.read_all(0) == []
    assert await bench.log.read_stream("image", new_id()) == []
    loaded = await bench.log.load(new_id())
    assert (loaded.image, loaded.epoch, loaded.abandoned) == (NOTHING, 0, False)


async def test_a_hole_is_never_passed_over(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(request(stream, *(e.TagAdded(tag=str(number)) for number in range(4)), expected=0))
    page = await bench.log.read_all(0)
    assert_contiguous(page, 0)
    for holed, after in ((page[1:], 0), ([page[0], *page[2:]], 0), (page, 3)):
        with pytest.raises(LogBroken):
            assert_contiguous(holed, after)


# --- categories ------------------------------------------------------------------------


async def test_reads_of_an_image_never_conflict_with_writes_to_it(bench: Bench) -> None:
    stream = new_id()
    sent = e.ImageSent(image_id=str(stream), owner="pA", sent=1, asked=1)
    await bench.log.append(request(stream, sent, category=ACCESS, expected=None))
    receipt = await bench.log.append(request(stream, created(stream), expected=0))
    assert receipt.version == 1
    receipt = await bench.log.append(request(stream, sent, category=ACCESS, expected=None))
    assert receipt.version == 2
    receipt = await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=1))
    assert receipt.version == 2
    assert [item.event for item in await bench.log.read_stream(ACCESS, stream)] == [sent, sent]
    assert [item.version for item in await bench.log.read_stream("image", stream)] == [1, 2]
    assert positions(await bench.log.read_all(0)) == [1, 2, 3, 4]


async def test_what_lies_under_one_id_is_read_in_the_order_of_the_log(bench: Bench) -> None:
    stream, other = new_id(), new_id()
    sent = e.ImageSent(image_id=str(stream), owner="pA", sent=1, asked=1)
    await bench.log.append(request(stream, created(stream), expected=0))
    await bench.log.append(request(stream, sent, category=ACCESS, expected=None))
    await bench.log.append(request(other, created(other), expected=0))
    await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=1))
    await bench.log.append(request(stream, sent, category=ACCESS, expected=None))
    assert positions(await bench.log.read_of(stream, 0, 99)) == [1, 2, 4, 5]
    assert positions(await bench.log.read_of(stream, 1, 4)) == [2, 4]
    assert positions(await bench.log.read_of(stream, 0, 99, 3)) == [1, 2, 4]
    assert await bench.log.read_of(new_id(), 0, 99) == []


async def test_ids_that_differ_in_case_are_one_stream(bench: Bench) -> None:
    upper = "ABCDEF01-2345-4789-ABCD-EF0123456789"
    stream = stream_of(upper)
    assert stream is not None
    assert stream_of(upper.lower()) == stream
    image = Changed(stream)
    await bench.log.append(image.by(e.ImageCreated(image_id=upper)))
    with pytest.raises(WrongExpectedVersion):
        await bench.log.append(request(stream, e.ImageCreated(image_id=upper.lower()), expected=0))
    assert (await bench.log.load(stream)).image.id == upper


# --- what is written beside ------------------------------------------------------------


async def test_a_write_is_seen_by_the_very_next_load(bench: Bench) -> None:
    image = Changed()
    for event in (created(image.stream), e.ImageUpdated(name="x"), e.MemberAdded(member="pB"), e.TagAdded(tag="t")):
        await bench.log.append(image.by(event))
        assert (await bench.log.load(image.stream)).image == image.image


async def test_a_state_of_another_fold_is_not_trusted(bench: Bench) -> None:
    image = Changed()
    change = image.by(created(image.stream), e.TagAdded(tag="t"))
    assert change.rows is not None
    assert change.rows.state is not None
    foreign = replace(change.rows.state, fold=0, state=b'{"nonsense":true}')
    await bench.log.append(replace(change, rows=replace(change.rows, state=foreign)))
    assert (await bench.log.load(image.stream)).image == image.image


async def test_tasks_and_members_follow_their_image(bench: Bench) -> None:
    image = Changed()
    await bench.log.append(image.by(created(image.stream), e.MemberAdded(member="pB"), e.MemberAdded(member="pC")))
    assert await bench.members() == {"pB": ("pending", False), "pC": ("pending", False)}
    await bench.log.append(
        image.by(e.MemberStatusChanged(member="pB", status="accepted"), e.MemberRemoved(member="pC"))
    )
    assert await bench.members() == {"pB": ("accepted", False), "pC": ("pending", True)}
    task = str(new_id())
    await bench.log.append(image.by(requested("a", task_id=task)))
    assert await bench.tasks() == {task: "pending"}
    await bench.log.append(image.by(e.ImportStarted()))
    await bench.log.append(image.by(e.ImageDeleted()))
    assert await bench.tasks() == {task: "failure"}


async def test_a_refused_append_leaves_nothing_at_all(bench: Bench) -> None:
    image = Changed()
    await bench.log.append(image.by(created(image.stream)))
    before = image.image
    secret = Secret(name="token", data=b"secret")
    refused = image.by(
        e.ImageUpdated(name="x"),
        e.MemberAdded(member="pB"),
        e.StagingStarted(transfer=TRANSFER, declared_size=9),
        requested("a", task_id=str(new_id())),
        limits=limited(STAGE_TOTAL, 8),
        more={"take": take(1, A), "secrets": (secret,)},
    )
    with pytest.raises(OverQuota):
        await bench.log.append(refused)
    loaded = await bench.log.load(image.stream)
    assert (loaded.image, loaded.epoch) == (before, 0)
    assert (await bench.members(), await bench.tasks(), await bench.secrets(image.stream)) == ({}, {}, {})
    assert await bench.usage() == {("pA", COUNT_TOTAL): 1}
    assert await bench.log.head() == 1


async def test_secrets_live_until_they_are_forgotten(bench: Bench) -> None:
    stream, other = new_id(), new_id()
    rows = Rows(secrets=(Secret(name="token", data=b"secret"), Secret(name="uri", data=b"u")))
    for each in (stream, other):
        await bench.log.append(request(each, created(each), expected=0, rows=rows))
    assert await bench.secrets(stream) == {"token": b"secret", "uri": b"u"}
    await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=1, rows=Rows(secrets=(Secret("uri", b"v"),))))
    assert await bench.secrets(stream) == {"token": b"secret", "uri": b"v"}
    await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=2, rows=Rows(forget=True)))
    assert await bench.secrets(stream) == {}
    assert set(await bench.secrets(other)) == {"token", "uri"}


# --- quotas ----------------------------------------------------------------------------


async def test_usage_is_what_was_charged(bench: Bench) -> None:
    one, two = Changed(), Changed()
    await bench.log.append(one.by(created(one.stream)))
    await bench.log.append(two.by(created(two.stream), e.StagingStarted(transfer=TRANSFER, declared_size=9)))
    usage = await bench.usage()
    assert (usage["pA", COUNT_TOTAL], usage["pA", STAGE_TOTAL]) == (2, 9)
    await bench.log.append(one.by(e.ImageUpdated(owner="pB")))
    await bench.log.append(two.by(e.ImageDeleted()))
    usage = await bench.usage()
    assert {key: amount for key, amount in usage.items() if amount} == {("pB", COUNT_TOTAL): 1}


async def test_a_limit_can_be_reached_and_not_exceeded(bench: Bench) -> None:
    limits = limited(COUNT_TOTAL, 2)
    for _ in range(2):
        image = Changed()
        await bench.log.append(image.by(created(image.stream), limits=limits))
    image = Changed()
    with pytest.raises(OverQuota) as caught:
        await bench.log.append(image.by(created(image.stream), limits=limits))
    over = caught.value
    assert (over.resource, over.limit, over.usage, over.delta) == (COUNT_TOTAL, 2, 2, 1)
    other = Changed()
    await bench.log.append(other.by(created(other.stream, owner="pB"), limits=limits))


async def test_a_limit_holds_however_many_come_at_once(bench: Bench) -> None:
    images = [Changed() for _ in range(12)]
    limits = limited(COUNT_TOTAL, 5)
    answers = await together(bench, *(image.by(created(image.stream), limits=limits) for image in images))
    assert sum(isinstance(answer, Receipt) for answer in answers) == 5
    assert sum(isinstance(answer, OverQuota) for answer in answers) == 7
    assert await bench.usage() == {("pA", COUNT_TOTAL): 5}


async def test_who_is_over_a_limit_already_may_still_shrink(bench: Bench) -> None:
    images = [Changed() for _ in range(3)]
    for image in images:
        await bench.log.append(image.by(created(image.stream)))
    await bench.log.append(images[0].by(e.ImageDeleted(), limits=limited(COUNT_TOTAL, 1)))
    await bench.log.append(images[1].by(e.ImageUpdated(name="x"), limits=limited(COUNT_TOTAL, 1)))
    assert await bench.usage() == {("pA", COUNT_TOTAL): 2}


# --- leases ----------------------------------------------------------------------------


async def test_a_lease_is_taken_with_an_append_or_without_events(bench: Bench) -> None:
    one, two = new_id(), new_id()
    receipt = await bench.log.append(request(one, created(one), expected=0, rows=Rows(take=take(1, A))))
    assert receipt == Receipt(version=1, first_position=1)
    receipt = await bench.log.append(taking(two, 1, A))
    assert receipt == Receipt(version=0, first_position=None)
    for stream in (one, two):
        loaded = await bench.log.load(stream)
        assert (loaded.epoch, loaded.abandoned) == (1, False)


async def test_a_lease_that_is_held_cannot_be_taken(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A))
    for owner in (A, B):
        with pytest.raises(LeaseHeld):
            await bench.log.append(taking(stream, 2, owner))
    assert (await bench.log.load(stream)).epoch == 1


async def test_taking_again_what_one_has_just_taken_changes_nothing(bench: Bench) -> None:
    """An answer that got lost: the same request comes again."""
    stream = new_id()
    request_ = taking(stream, 1, A)
    assert await bench.log.append(request_) == await bench.log.append(request_)
    assert (await bench.log.load(stream)).epoch == 1


async def test_a_lease_that_ran_out_is_abandoned_and_can_be_taken(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A, ttl=-1))
    loaded = await bench.log.load(stream)
    assert (loaded.epoch, loaded.abandoned) == (1, True)
    await bench.log.append(taking(stream, 2, B))
    loaded = await bench.log.load(stream)
    assert (loaded.epoch, loaded.abandoned) == (2, False)


async def test_a_lease_that_was_given_back_can_be_taken_and_is_not_abandoned(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A))
    await bench.log.append(request(stream, expected=0, holder=A, epoch=1, rows=Rows(release=True)))
    loaded = await bench.log.load(stream)
    assert (loaded.epoch, loaded.abandoned) == (1, False)
    await bench.log.append(taking(stream, 2, B))


async def test_a_lease_can_be_taken_and_given_back_in_one_append(bench: Bench) -> None:
    stream = new_id()
    rows = Rows(take=take(1, A), release=True)
    await bench.log.append(request(stream, created(stream), expected=0, rows=rows))
    loaded = await bench.log.load(stream)
    assert (loaded.epoch, loaded.abandoned) == (1, False)
    await bench.log.append(taking(stream, 2, B, expected=1))


async def test_a_parked_lease_is_nobodys_until_the_time_is_up(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A))
    await bench.log.append(request(stream, expected=0, holder=A, epoch=1, rows=Rows(park=60.0)))
    assert not (await bench.log.load(stream)).abandoned
    for owner in (A, B):
        with pytest.raises(LeaseHeld):
            await bench.log.append(taking(stream, 2, owner))
    other = new_id()
    await bench.log.append(taking(other, 1, A))
    await bench.log.append(request(other, expected=0, holder=A, epoch=1, rows=Rows(park=-1.0)))
    assert not (await bench.log.load(other)).abandoned
    await bench.log.append(taking(other, 2, B))


async def test_a_yielding_lease_gives_way_to_anybody(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A, yielding=True))
    await bench.log.append(taking(stream, 2, B))
    with pytest.raises(Fenced):
        await bench.log.append(request(stream, expected=0, holder=A, epoch=1, rows=Rows(release=True)))
    with pytest.raises(LeaseHeld):
        await bench.log.append(taking(stream, 3, A, yielding=True))


@pytest.mark.parametrize("park", [None, 60.0, -1.0], ids=["released", "parked", "parking is over"])
async def test_an_epoch_is_used_once_even_after_its_lease_was_given_back(bench: Bench, park: Any) -> None:
    """Who read the epoch before another took and gave back the lease may not take it under the same one."""
    stream = new_id()
    await bench.log.append(taking(stream, 1, A))
    rows = Rows(release=True) if park is None else Rows(park=park)
    await bench.log.append(request(stream, expected=0, holder=A, epoch=1, rows=rows))
    for owner in (A, B):
        with pytest.raises(LeaseHeld):
            await bench.log.append(taking(stream, 1, owner))
    assert (await bench.log.load(stream)).epoch == 1


@pytest.mark.parametrize("end", ["given back", "ran out", "yielding"])
async def test_epochs_never_run_backwards(bench: Bench, end: str) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 5, A, ttl=-1 if end == "ran out" else 60, yielding=end == "yielding"))
    if end == "given back":
        await bench.log.append(request(stream, expected=0, holder=A, epoch=5, rows=Rows(release=True)))
    for epoch in (1, 4, 5):
        with pytest.raises(LeaseHeld):
            await bench.log.append(taking(stream, epoch, B))
    await bench.log.append(taking(stream, 6, B))
    assert (await bench.log.load(stream)).epoch == 6


async def test_what_is_said_under_a_lease_that_was_replaced_is_refused(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A, ttl=-1))
    await bench.log.append(request(stream, created(stream), expected=0, holder=A, epoch=1))  # nobody took it yet
    await bench.log.append(taking(stream, 2, B, expected=1))
    for owner, epoch in ((A, 1), (A, 2), (B, 1)):
        with pytest.raises(Fenced):
            await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=1, holder=owner, epoch=epoch))
    await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=1, holder=B, epoch=2))
    assert await bench.log.head() == 2


async def test_what_is_said_under_a_lease_that_never_was_is_refused(bench: Bench) -> None:
    stream = new_id()
    with pytest.raises(Fenced):
        await bench.log.append(request(stream, created(stream), expected=0, holder=A, epoch=1))


async def test_being_fenced_is_told_before_a_conflict(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A, ttl=-1))
    await bench.log.append(request(stream, created(stream), expected=0, rows=Rows(take=take(2, B))))
    with pytest.raises(Fenced):
        await bench.log.append(request(stream, e.TagAdded(tag="t"), expected=0, holder=A, epoch=1))


async def test_leases_are_renewed_for_whom_they_belong_to(bench: Bench) -> None:
    ran_out, taken, given_back = new_id(), new_id(), new_id()
    taken_again = new_id()
    for stream in (ran_out, taken, given_back, taken_again):
        await bench.log.append(taking(stream, 1, A, ttl=-1))
    await bench.log.append(taking(taken, 2, B))
    await bench.log.append(taking(taken_again, 2, A, ttl=-1))
    await bench.log.append(request(given_back, expected=0, holder=A, epoch=1, rows=Rows(release=True)))
    held = dict.fromkeys((ran_out, taken, given_back, taken_again, new_id()), 1)
    assert await bench.renew(A, 60, held) == {ran_out}
    with pytest.raises(LeaseHeld):
        await bench.log.append(taking(ran_out, 2, B))


async def test_the_lease_of_one_stream_is_nothing_to_another(bench: Bench) -> None:
    one, two = new_id(), new_id()
    await bench.log.append(taking(one, 1, A))
    await bench.log.append(taking(two, 1, B))
    with pytest.raises(Fenced):
        await bench.log.append(request(two, created(two), expected=0, holder=A, epoch=1))


async def test_a_lease_is_no_obstacle_to_those_who_need_none(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A))
    await bench.log.append(request(stream, created(stream), expected=0))


# --- several at once -------------------------------------------------------------------


async def test_requests_of_one_batch_do_not_harm_each_other(bench: Bench) -> None:
    old = [new_id() for _ in range(5)]
    for stream in old:
        await bench.log.append(request(stream, created(stream), expected=0))
    known = request(new_id(), e.TagAdded(tag="t"), expected=0)
    await bench.log.append(known)
    await bench.log.append(taking(old[1], 1, A, expected=1))
    full = Changed()
    fine = [new_id() for _ in range(3)]
    answers = await together(
        bench,
        request(fine[0], created(fine[0]), expected=0),
        request(old[0], e.TagAdded(tag="t"), expected=7),
        request(fine[1], created(fine[1]), e.TagAdded(tag="t"), expected=0),
        taking(old[1], 2, B, expected=1),
        request(old[2], e.TagAdded(tag="t"), expected=1, holder=B, epoch=1),
        full.by(created(full.stream), limits=limited(COUNT_TOTAL, 0)),
        known,
        taking(old[3], 1, B, expected=1),
        request(fine[2], created(fine[2]), expected=0),
    )
    outcomes = [
        type(answer) if isinstance(answer, EntrepotError) else (answer.version, answer.repeated) for answer in answers
    ]
    assert outcomes == [
        (1, False),
        WrongExpectedVersion,
        (2, False),
        LeaseHeld,
        Fenced,
        OverQuota,
        (1, True),
        (1, False),
        (1, False),
    ]
    assert await bench.log.head() == 10
    assert positions(await bench.log.read_all(0)) == list(range(1, 11))
    for answer, stream in zip((answers[0], answers[2], answers[8]), fine, strict=True):
        assert isinstance(answer, Receipt)
        assert (await bench.log.read_stream("image", stream))[0].position == answer.first_position


async def test_many_at_once_on_one_stream_all_get_their_turn(bench: Bench) -> None:
    stream = new_id()
    answers = await together(bench, *(request(stream, e.TagAdded(tag=str(n)), expected=None) for n in range(20)))
    versions = [answer.version for answer in answers if isinstance(answer, Receipt)]
    assert versions == list(range(1, 21))
    assert [item.event for item in await bench.log.read_stream("image", stream)] == [
        e.TagAdded(tag=str(number)) for number in range(20)
    ]


async def test_what_was_appended_is_handed_over_once_it_is_recorded(bench: Bench) -> None:
    streams = [new_id() for _ in range(4)]
    for stream in streams:
        await bench.log.append(request(stream, created(stream), expected=0))
        assert bench.handed[-1].stream == stream  # before the append returns
    await together(bench, *(request(stream, *(e.TagAdded(tag="t"),) * 3, expected=1) for stream in streams))
    assert bench.handed == await bench.log.read_all(0)


async def test_what_was_refused_or_recorded_nothing_is_not_handed_over(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, A))
    with pytest.raises(WrongExpectedVersion):
        await bench.log.append(request(stream, created(stream), expected=3))
    assert bench.handed == []


async def test_event_ids_make_the_difference_not_what_they_say(bench: Bench) -> None:
    stream = new_id()
    same = e.TagAdded(tag="t")
    items = [pending(same, at=at())[0] for _ in range(2)]
    for version, item in enumerate(items):
        receipt = await bench.log.append(Request(category="image", stream=stream, expected=version, events=(item,)))
        assert not receipt.repeated
    assert isinstance(stream, UUID)
    assert len(await bench.log.read_stream("image", stream)) == 2
