"""The only write path: load, decide, append, and again if somebody was faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from kernel.charges import Limits, delta, explained
from kernel.clock import Clock
from kernel.commands import Command, CreateImage, ExpectImage
from kernel.context import Context
from kernel.decide import decide
from kernel.errors import Conflict, EntrepotError, LeaseHeld, NotFound, OverQuota, Unrecordable, WrongExpectedVersion
from kernel.evolve import NOTHING, evolve
from kernel.ids import stream_of
from kernel.image import Image
from kernel.leases import Lease, Leases
from kernel.log import EventLog, Loaded, Request
from kernel.marks import mark_events
from kernel.patience import patiently
from kernel.recorded import IMAGE, Pending, pending
from kernel.rows import Rows, Secret, Take, rows_between

Guard = Callable[[Image], None]
"""Authorisation against the state that the decision is made on; raises to refuse."""

Then = Callable[[Image, int], Command | None]
"""What else to record along with what has just been decided: (state, epoch) -> command or None."""

First = Callable[[Loaded], Sequence[Command]]
"""What to record before anything else, given the state that it is decided on and what is known of its lease."""

_MOST_TRIES: Final = 100


class Handled(Struct, frozen=True, kw_only=True):
    """What a command did."""

    before: Image
    after: Image
    lease: Lease | None = None
    position: int | None = None
    """Where its first event stands in the log."""
    epoch: int = 0
    """Of the image's newest lease."""

    @property
    def newest(self) -> Loaded:
        """What the next command of whoever gave this one may start from."""
        return Loaded(image=self.after, epoch=self.epoch)


class _Order(Struct, frozen=True, kw_only=True):
    """What was asked for, as `Commands.handle` explains it."""

    image_id: str
    stream: UUID
    commands: tuple[Command, ...]
    context: Context
    guard: Guard | None
    limits: Limits
    lease: Lease | None
    take: bool
    yielding: bool
    release: bool
    park: float | None
    first: First | None
    then: Then | None
    secrets: tuple[Secret, ...]
    forget: bool

    @property
    def only_events(self) -> bool:
        """Whether nothing is to be written when nothing happens."""
        return not (self.take or self.release or self.park is not None or self.secrets or self.forget)


class _Plan(Struct, frozen=True, kw_only=True):
    """An append, and the state that it was decided on."""

    order: _Order
    loaded: Loaded
    after: Image
    request: Request


class Commands:
    """Takes commands for images."""

    def __init__(self, log: EventLog, leases: Leases, clock: Clock) -> None:
        self._log = log
        self._leases = leases
        self._clock = clock
        self.on_change: list[Callable[[UUID, Handled], None]] = []

    async def load(self, image_id: str, *, patient: bool = False) -> Image:
        """The state of an image as of now; `NOTHING` if there is none of exactly that id."""
        return (await self.loaded(image_id, patient=patient)).image

    async def loaded(self, image_id: str, *, patient: bool = False) -> Loaded:
        """The state of an image with what is known of its lease."""
        stream = stream_of(image_id)
        loaded = await self._load(stream, patient) if stream is not None else Loaded(image=NOTHING)
        return loaded if loaded.image.id == image_id else Loaded(image=NOTHING)

    async def handle(
        self,
        image_id: str,
        *commands: Command,
        context: Context,
        guard: Guard | None = None,
        limits: Limits | None = None,
        lease: Lease | None = None,
        take: bool = False,
        yielding: bool = False,
        release: bool = False,
        park: float | None = None,
        first: First | None = None,
        then: Then | None = None,
        known: Loaded | None = None,
        secrets: Sequence[Secret] = (),
        forget: bool = False,
        patient: bool = False,
    ) -> Handled:
        """Decide `commands` one after another on the image and record what they cause, all or nothing.

        guard: authorises against the very state that the decision is made on.
        limits: what the change's charges are held to; `OverQuota` when they do not fit.
        lease: record in the name of this lease; refused as `Fenced` once somebody else has taken it.
        take: take the image's lease with the same append; `LeaseHeld` while somebody has it.
        yielding: take it for clean-up only, so that anybody with real work may have it.
        release, park: give the lease back, `park` not before so many seconds have passed.
        first: asked, with the state that is decided on and its lease, for commands to decide before all others.
        then: asked, with the state and the epoch, for one more command after another until it has none.
        known: a state seen a moment ago, to spare reading it: what is decided on it is recorded only if it
            still is the newest, and whatever is refused on it is decided anew.
        patient: wait for the database to come back rather than fail.
        """
        stream = stream_of(image_id)
        if stream is None:
            raise NotFound(f"No image found with ID {image_id}")
        order = _Order(
            image_id=image_id,
            stream=stream,
            commands=commands,
            context=context,
            guard=guard,
            limits=limits or {},
            lease=lease,
            take=take,
            yielding=yielding,
            release=release,
            park=park,
            first=first,
            then=then,
            secrets=tuple(secrets),
            forget=forget,
        )
        if commands and isinstance(commands[0], CreateImage | ExpectImage):
            return await self._first(order, patient)
        if known is not None:
            plan = None
            with contextlib.suppress(EntrepotError):
                plan = self._plan(order, known)
            if plan is not None and (handled := await self._record(plan, patient)):
                return handled
        for _ in range(_MOST_TRIES):
            loaded = await self._load(stream, patient)
            plan = self._plan(order, loaded)
            if plan is None:
                return Handled(before=loaded.image, after=loaded.image, lease=lease, epoch=loaded.epoch)
            if handled := await self._record(plan, patient):
                return handled
        raise LeaseHeld("Too many others change this image at the same time")

    async def _first(self, order: _Order, patient: bool) -> Handled:
        """Record the first events of an image: it does not exist, or the decision says what is in the way."""
        plan = self._plan(order, Loaded(image=NOTHING))
        assert plan is not None
        if handled := await self._record(plan, patient):
            return handled
        decide(order.commands[0], (await self._log.load(order.stream)).image)
        raise Conflict(f"Image ID {order.image_id} is in use")

    def _plan(self, order: _Order, loaded: Loaded) -> _Plan | None:
        """What to append when this is the newest state; None if there is nothing to record."""
        before, lease = loaded.image, order.lease
        if before.exists and before.id != order.image_id:
            raise NotFound(f"No image found with ID {order.image_id}")
        if order.guard is not None:
            order.guard(before)
        epoch = loaded.epoch + 1 if order.take else lease.epoch if lease else None
        commands = (*order.first(loaded), *order.commands) if order.first is not None else order.commands
        after, events, between = self._decide(order, commands, before, epoch)
        if not events and order.only_events:
            return None
        more: dict[str, Any] = {
            "take": self._take(loaded.epoch + 1, order.yielding) if order.take else None,
            "release": order.release,
            "park": order.park,
            "secrets": order.secrets,
            "forget": order.forget,
        }
        try:
            rows = (
                rows_between(order.stream, before, after, order.limits, between=between, **more)
                if events
                else Rows(**more)
            )
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise Unrecordable from error
        request = Request(
            category=IMAGE,
            stream=order.stream,
            expected=before.version,
            events=events,
            holder=self._leases.owner if lease else None,
            epoch=lease.epoch if lease else None,
            rows=rows,
        )
        return _Plan(order=order, loaded=loaded, after=after, request=request)

    async def _record(self, plan: _Plan, patient: bool) -> Handled | None:
        """Append what was planned; None if it was planned on a state that is not the newest."""
        order, loaded, request = plan.order, plan.loaded, plan.request
        kinds = tuple(type(item.event) for item in request.events)
        mark_events("before", kinds)
        try:
            receipt = await self._log.append(request, patient=patient)
        except OverQuota as refused:
            raise explained(refused, delta(loaded.image, plan.after), order.limits) from None
        except WrongExpectedVersion:
            return None
        except LeaseHeld:
            if order.yielding or (await self._load(order.stream, patient)).epoch == loaded.epoch:
                raise
            return None  # somebody took it since we looked: only a clean-up gives way to whoever has seen it
        mark_events("after", kinds)
        lease = self._leases.hold(order.stream, loaded.epoch + 1) if order.take else order.lease
        if lease is not None and (order.release or order.park is not None):
            self._leases.drop(lease)
        handled = Handled(
            before=loaded.image,
            after=plan.after,
            lease=lease,
            position=receipt.first_position,
            epoch=lease.epoch if lease is not None else loaded.epoch,
        )
        if order.park is None:  # a back-off is no news: nobody is to be woken by it
            for notice in self.on_change:
                notice(order.stream, handled)
        return handled

    async def _load(self, stream: UUID, patient: bool) -> Loaded:
        if not patient:
            return await self._log.load(stream)
        return await patiently(lambda: self._log.load(stream))

    def _decide(
        self, order: _Order, commands: Sequence[Command], before: Image, epoch: int | None
    ) -> tuple[Image, tuple[Pending, ...], Sequence[Image]]:
        """The state afterwards, the events, and the states in between in which a task had come to its end."""
        at = max(self._clock.now(), before.at)
        worker = self._leases.owner if epoch is not None else None
        after = before
        recorded: list[Pending] = []
        between: list[Image] = []
        queue = list(commands)
        while command := queue.pop(0) if queue else (order.then(after, epoch or 0) if order.then else None):
            events = decide(command, after)
            batch = pending(events, order.context, at, worker=worker, epoch=epoch)
            for item in batch:
                former, after = after, evolve(after, item.event, item.meta)
                if former.task is not None and after.task is not None and former.task.id != after.task.id:
                    between.append(former)
            recorded += batch
        return after, tuple(recorded), between

    def _take(self, epoch: int, yielding: bool) -> Take:
        leases = self._leases
        return Take(owner=leases.owner, node=leases.node, epoch=epoch, ttl=leases.ttl, yielding=yielding)
