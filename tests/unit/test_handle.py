"""The only write path: what is decided on which state, and what is recorded with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from kernel import commands as c
from kernel import events as e
from kernel.charges import COUNT_TOTAL
from kernel.context import Actor, Context
from kernel.errors import Conflict, Fenced, Forbidden, LeaseHeld, NotFound, OverQuota, Unavailable
from kernel.evolve import NOTHING
from kernel.handle import Commands, Handled
from kernel.ids import new_id
from kernel.image import Image
from kernel.leases import Leases
from kernel.log import Loaded, Receipt, Request
from kernel.recorded import By
from kernel.rows import Secret
from tests.support.builders import IMAGE, TASK, TRANSFER, blob, created, limited, request_import, requested, staged
from tests.support.clock import ManualClock
from tests.support.log_memory import MemoryLog
from tests.support.logs import Changed, request
from tests.support.spec import STREAM

CREATE = c.CreateImage(image=created())
STAGE = c.StartStaging(transfer=TRANSFER)
CONTEXT = Context.of(Actor(user_id="uA", project_id="pA", roles=frozenset({"member", "reader"})), "req-1")


class Log(MemoryLog):
    """A log before which somebody else may be faster, or which is away for a while."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.before: list[Callable[[], Awaitable[Any]]] = []
        """What happens just before the next appends, one each."""
        self.requests: list[Request] = []

    async def append(self, request: Request, *, patient: bool = False) -> Receipt:
        if self.before:
            await self.before.pop(0)()
        self.requests.append(request)
        return await super().append(request, patient=patient)


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = Log(self.clock)
        self.leases = Leases(None, 6.0, "n1")
        self.commands = Commands(self.log, self.leases, self.clock)
        self.notices: list[tuple[UUID, Handled]] = []
        self.commands.on_change.append(lambda stream, handled: self.notices.append((stream, handled)))

    async def handle(self, *commands: c.Command, image: str = IMAGE, **more: Any) -> Handled:
        return await self.commands.handle(image, *commands, **{"context": CONTEXT, **more})

    async def state(self) -> Image:
        return (await self.log.load(STREAM)).image

    def somebody_is_faster(self, *events: e.Event, times: int = 1) -> None:
        """Just before the next append, others change the image."""

        async def change() -> None:
            before = await self.state()
            await MemoryLog.append(self.log, _change(before, *events))

        self.log.before += [change] * times

    def another(self) -> Commands:
        """Another process on the same log."""
        return Commands(self.log, Leases(None, 6.0, "n2"), self.clock)


def _change(before: Image, *events: e.Event) -> Request:
    image = Changed(STREAM)
    image.image = before
    return image.by(*events)


@pytest.fixture
def world() -> World:
    return World()


# --- deciding --------------------------------------------------------------------------


async def test_a_command_is_decided_and_recorded(world: World) -> None:
    handled = await world.handle(CREATE)
    assert (handled.before, handled.after.version, handled.position) == (NOTHING, 1, 1)
    assert await world.state() == handled.after
    handled = await world.handle(STAGE)
    assert (handled.before.status, handled.after.status, handled.position) == ("queued", "uploading", 2)


async def test_a_command_that_is_refused_records_nothing(world: World) -> None:
    await world.handle(CREATE)
    with pytest.raises(Conflict):
        await world.handle(request_import("a"))
    assert await world.log.head() == 1


async def test_several_commands_are_all_recorded_or_none(world: World) -> None:
    await world.handle(CREATE)
    complete = c.CompleteStaging(transfer=TRANSFER, blob=blob())
    with pytest.raises(Conflict):
        await world.handle(STAGE, complete, STAGE)
    assert await world.log.head() == 1
    handled = await world.handle(STAGE, complete, request_import("a"))
    assert (handled.after.status, handled.position) == ("importing", 2)
    assert len(world.log.requests) == 2
    assert await world.log.head() == 4


async def test_who_was_slower_decides_anew_on_what_is_there_now(world: World) -> None:
    await world.handle(CREATE)
    world.somebody_is_faster(e.ImageUpdated(name="theirs"), times=3)
    handled = await world.handle(STAGE)
    assert (handled.before.name, handled.after.status) == ("theirs", "uploading")
    assert (await world.state()).version == 5


async def test_who_was_slower_may_be_refused_now(world: World) -> None:
    await world.handle(CREATE)
    world.somebody_is_faster(e.StagingStarted(transfer="theirs"))
    with pytest.raises(Conflict, match="to uploading is not allowed"):
        await world.handle(STAGE)
    assert (await world.state()).version == 2


async def test_who_is_always_slower_gives_up_at_last(world: World) -> None:
    await world.handle(CREATE)
    world.somebody_is_faster(e.ImageUpdated(name="theirs"), times=1000)
    with pytest.raises(LeaseHeld):
        await world.handle(STAGE)


async def test_an_image_that_is_there_already_cannot_be_created(world: World) -> None:
    await world.handle(CREATE)
    with pytest.raises(Conflict, match="already exists"):
        await world.handle(CREATE)
    assert await world.log.head() == 1


async def test_of_two_who_create_the_same_image_one_is_told_so(world: World) -> None:
    world.somebody_is_faster(created(name="theirs"))
    with pytest.raises(Conflict, match="already exists"):
        await world.handle(CREATE)
    assert (await world.state()).name == "theirs"


@pytest.mark.parametrize("image_id", ["ubuntu", "", IMAGE[:-1], IMAGE.replace("-", ""), "x" * 36])
async def test_what_can_be_no_images_id_is_not_found(world: World, image_id: str) -> None:
    with pytest.raises(NotFound):
        await world.handle(STAGE, image=image_id)
    assert await world.commands.load(image_id) == NOTHING


async def test_ids_are_compared_as_they_were_written(world: World) -> None:
    await world.handle(CREATE)
    with pytest.raises(NotFound):
        await world.handle(STAGE, image=IMAGE.upper())
    with pytest.raises(Conflict):
        await world.handle(c.CreateImage(image=e.ImageCreated(image_id=IMAGE.upper())), image=IMAGE.upper())
    assert await world.commands.load(IMAGE.upper()) == NOTHING
    assert (await world.commands.load(IMAGE)).id == IMAGE


async def test_what_records_nothing_does_not_reach_the_log(world: World) -> None:
    await world.handle(CREATE)
    handled = await world.handle(c.FailTransfer(transfer=TRANSFER, reason="gone"))
    assert handled.before == handled.after
    assert (len(world.log.requests), len(world.notices)) == (1, 1)


# --- authorisation and limits ----------------------------------------------------------


async def test_the_guard_sees_the_very_state_that_is_decided_on(world: World) -> None:
    await world.handle(CREATE)
    seen: list[str | None] = []
    world.somebody_is_faster(e.ImageUpdated(name="theirs"))
    await world.handle(STAGE, guard=lambda image: seen.append(image.name))
    assert seen == ["n", "theirs"]


async def test_the_guard_can_refuse_on_second_sight(world: World) -> None:
    await world.handle(CREATE)

    def guard(image: Image) -> None:
        if image.owner != "pA":
            raise Forbidden

    world.somebody_is_faster(e.ImageUpdated(owner="pB"))
    with pytest.raises(Forbidden):
        await world.handle(STAGE, guard=guard)
    assert (await world.state()).status == "queued"


async def test_limits_hold_for_what_is_recorded(world: World) -> None:
    with pytest.raises(OverQuota):
        await world.handle(CREATE, limits=limited(COUNT_TOTAL, 0))
    assert await world.log.head() == 0
    await world.handle(CREATE, limits=limited(COUNT_TOTAL, 1))


# --- circumstances ---------------------------------------------------------------------


async def test_events_carry_who_asked_and_what_led_to_them(world: World) -> None:
    await world.handle(CREATE, STAGE)
    first, second = await world.log.read_all(0)
    assert first.meta.by == By("uA", "pA", ("member", "reader"))
    assert (first.meta.request, first.meta.correlation) == ("req-1", CONTEXT.correlation)
    assert second.meta.correlation == CONTEXT.correlation
    assert (first.meta.causation, first.meta.worker, first.meta.epoch) == (CONTEXT.causation, None, None)
    assert first.meta.at == second.meta.at == world.clock.now()


async def test_time_never_runs_backwards_within_a_stream(world: World) -> None:
    await world.handle(CREATE)
    before = world.clock.now()
    world.clock.move(-3600)
    handled = await world.handle(STAGE)
    assert handled.after.at == before
    world.clock.move(7200)
    handled = await world.handle(c.FailTransfer(transfer=TRANSFER, reason="gone"))
    assert handled.after.at == world.clock.now()


# --- leases ----------------------------------------------------------------------------


async def test_a_lease_is_taken_with_the_command_and_named_in_its_events(world: World) -> None:
    await world.handle(CREATE)
    handled = await world.handle(STAGE, take=True)
    assert handled.lease is not None
    assert (handled.lease.stream, handled.lease.epoch) == (STREAM, 1)
    assert world.leases.held == (handled.lease,)
    last = (await world.log.read_all(1))[-1]
    assert (last.meta.worker, last.meta.epoch) == (world.leases.owner, 1)
    assert handled.after.transfer is not None
    assert handled.after.transfer.epoch == 1


async def test_an_image_can_be_created_and_its_lease_taken_at_once(world: World) -> None:
    handled = await world.handle(CREATE, STAGE, take=True)
    assert handled.lease is not None
    assert (handled.after.status, handled.lease.epoch) == ("uploading", 1)


async def test_a_lease_that_somebody_has_is_not_taken(world: World) -> None:
    await world.handle(CREATE)
    await world.another().handle(IMAGE, context=CONTEXT, take=True)
    with pytest.raises(LeaseHeld):
        await world.handle(STAGE, take=True)
    assert world.leases.held == ()
    assert (await world.state()).status == "queued"


async def test_a_lease_that_ran_out_is_taken_under_the_next_epoch(world: World) -> None:
    await world.handle(CREATE)
    await world.another().handle(IMAGE, context=CONTEXT, take=True)
    world.clock.move(6.1)
    assert (await world.commands.loaded(IMAGE)).abandoned
    handled = await world.handle(STAGE, take=True)
    assert handled.lease is not None
    assert handled.lease.epoch == 2


async def test_what_is_said_under_a_lost_lease_is_refused(world: World) -> None:
    await world.handle(CREATE)
    ours = (await world.handle(STAGE, take=True)).lease
    world.clock.move(6.1)
    await world.another().handle(IMAGE, context=CONTEXT, take=True)
    with pytest.raises(Fenced):
        await world.handle(c.CompleteStaging(transfer=TRANSFER, blob=blob()), lease=ours, release=True)
    assert (await world.state()).staged is None


async def test_a_lease_is_given_back_with_the_last_outcome(world: World) -> None:
    await world.handle(CREATE)
    lease = (await world.handle(STAGE, take=True)).lease
    handled = await world.handle(c.CompleteStaging(transfer=TRANSFER, blob=blob()), lease=lease, release=True)
    assert handled.after.staged == blob()
    assert world.leases.held == ()
    assert (await world.another().handle(IMAGE, context=CONTEXT, take=True)).lease is not None


async def test_a_lease_can_be_given_back_without_saying_anything(world: World) -> None:
    await world.handle(CREATE)
    lease = (await world.handle(take=True)).lease
    await world.handle(lease=lease, release=True)
    assert world.leases.held == ()
    assert await world.log.head() == 1
    assert not (await world.commands.loaded(IMAGE)).abandoned


async def test_a_parked_lease_can_be_taken_when_the_time_is_up(world: World) -> None:
    await world.handle(CREATE)
    lease = (await world.handle(take=True)).lease
    await world.handle(lease=lease, park=20.0)
    assert world.leases.held == ()
    with pytest.raises(LeaseHeld):
        await world.handle(take=True)
    world.clock.move(20.1)
    assert (await world.handle(take=True)).lease is not None


async def test_a_clean_up_gives_way_to_real_work(world: World) -> None:
    await world.handle(CREATE)
    await world.another().handle(IMAGE, context=CONTEXT, take=True, yielding=True)
    handled = await world.handle(STAGE, take=True)
    assert handled.lease is not None
    assert handled.lease.epoch == 2


def a_clean_up_is_faster(world: World) -> None:
    """Just before the next append, another process takes the lease for clean-up."""

    async def take() -> None:
        world.log.requests.clear()
        await world.another().handle(IMAGE, context=CONTEXT, take=True, yielding=True)

    world.log.before.append(take)


async def test_real_work_does_not_even_notice_a_clean_up_that_has_just_begun(world: World) -> None:
    await world.handle(CREATE)
    a_clean_up_is_faster(world)
    handled = await world.handle(STAGE, take=True)
    assert handled.lease is not None
    assert (handled.lease.epoch, handled.after.status) == (2, "uploading")


async def test_a_clean_up_leaves_another_clean_up_alone(world: World) -> None:
    await world.handle(CREATE)
    a_clean_up_is_faster(world)
    with pytest.raises(LeaseHeld):
        await world.handle(take=True, yielding=True)
    assert len(world.log.requests) == 2  # theirs and ours: it was not tried again


async def test_a_lease_that_is_held_is_asked_for_once(world: World) -> None:
    await world.handle(CREATE)
    await world.another().handle(IMAGE, context=CONTEXT, take=True)
    world.log.requests.clear()
    with pytest.raises(LeaseHeld):
        await world.handle(STAGE, take=True)
    assert len(world.log.requests) == 1


# --- one thing after another -----------------------------------------------------------


async def test_more_is_recorded_along_for_as_long_as_there_is_more(world: World) -> None:
    await world.handle(CREATE, STAGE)
    asked: list[tuple[str, int]] = []

    def then(image: Image, epoch: int) -> c.Command | None:
        asked.append((image.status, epoch))
        if image.job is None:
            return request_import("a")
        return None if image.job.started else c.BeginImport(task_id=TASK)

    complete = c.CompleteStaging(transfer=TRANSFER, blob=blob())
    handled = await world.handle(complete, then=then, take=True)
    assert handled.after.job is not None
    assert handled.after.job.started
    assert asked == [("uploading", 1), ("importing", 1), ("importing", 1)]
    assert len(world.log.requests) == 2
    assert [item.event for item in await world.log.read_all(2)] == [staged()[1], requested("a"), e.ImportStarted()]


async def test_every_event_of_a_batch_is_caused_by_the_one_before_it(world: World) -> None:
    await world.handle(c.CreateImage(image=created()))
    purge = c.FailTransfer(transfer=TRANSFER, reason="gone")
    await world.handle(STAGE, purge, STAGE, purge)
    items = await world.log.read_all(1)
    assert len(items) == 4
    assert items[0].meta.causation == CONTEXT.causation
    assert {item.meta.correlation for item in items} == {CONTEXT.correlation}


# --- beside the events -----------------------------------------------------------------


async def test_secrets_are_kept_with_the_command_and_forgotten_with_another(world: World) -> None:
    await world.handle(CREATE, secrets=[Secret("token", b"secret")])
    assert world.log.secrets == {(STREAM, "token"): b"secret"}
    await world.handle(forget=True)
    assert world.log.secrets == {}


async def test_a_change_is_made_known_within_the_process(world: World) -> None:
    await world.handle(CREATE)
    handled = await world.handle(STAGE)
    assert world.notices[-1] == (STREAM, handled)
    with pytest.raises(Conflict):
        await world.handle(STAGE)
    assert len(world.notices) == 2


# --- while the database is away --------------------------------------------------------


async def test_the_impatient_are_told_and_the_patient_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.handle(CREATE)
    real, away = world.log.load, 3

    async def load(stream: UUID) -> Any:
        nonlocal away
        away -= 1
        if away >= 0:
            raise Unavailable
        return await real(stream)

    monkeypatch.setattr(world.log, "load", load)
    with pytest.raises(Unavailable):
        await world.handle(STAGE)
    assert (await world.handle(STAGE, patient=True)).after.status == "uploading"


async def test_an_image_of_another_stream_is_nothing_to_this_one(world: World) -> None:
    await world.handle(CREATE)
    await world.log.append(request(new_id(), e.TagAdded(tag="t")))
    assert (await world.state()).version == 1


# --- starting from a state seen a moment ago ----------------------------------------------


async def test_a_known_state_need_not_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = (await world.handle(CREATE)).newest

    async def unreadable(stream: UUID) -> Loaded:
        raise AssertionError("there was no need to read")

    monkeypatch.setattr(world.log, "load", unreadable)
    started = await world.handle(STAGE, take=True, known=newest)
    assert (started.after.status, started.epoch) == ("uploading", 1)
    complete = c.CompleteStaging(transfer=TRANSFER, blob=blob())
    done = await world.handle(complete, lease=started.lease, release=True, known=started.newest)
    assert (done.after.version, done.epoch) == (3, 1)


async def test_what_was_decided_on_an_old_state_is_decided_anew(world: World) -> None:
    old = (await world.handle(CREATE)).newest
    await world.handle(c.AddTag(tag="theirs"))
    handled = await world.handle(c.AddTag(tag="ours"), known=old)
    assert handled.after.tags == ("theirs", "ours")


async def test_an_old_state_refuses_nothing(world: World) -> None:
    old = (await world.handle(CREATE)).newest
    await world.handle(STAGE)
    handled = await world.handle(c.CompleteStaging(transfer=TRANSFER, blob=blob()), known=old)
    assert handled.after.version == 3

    def unstaged(image: Image) -> None:
        if image.status == "queued":
            raise Forbidden("not yet")

    handled = await world.handle(c.AddTag(tag="t"), guard=unstaged, known=old)
    assert handled.after.tags == ("t",)


async def test_an_old_state_does_not_say_that_there_is_nothing_to_do(world: World) -> None:
    old = (await world.handle(CREATE, c.AddTag(tag="t"))).newest
    await world.handle(c.RemoveTag(tag="t"))
    handled = await world.handle(c.AddTag(tag="t"), known=old)
    assert (handled.after.tags, handled.after.version) == (("t",), 4)


async def test_an_old_epoch_does_not_take_a_lease_twice(world: World) -> None:
    old = (await world.handle(CREATE)).newest
    taken = await world.handle(take=True, known=old)
    await world.handle(lease=taken.lease, release=True)
    again = await world.handle(take=True, known=old)
    assert again.lease is not None
    assert again.lease.epoch == 2
    with pytest.raises(LeaseHeld):
        await world.another().handle(IMAGE, context=CONTEXT, take=True, known=old)
