"""The only write path: load, decide, append, and again if somebody was faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from kernel.charges import Limits, delta, explained
from kernel.clock import Clock
from kernel.commands import Command, CreateImage, ExpectImage
from kernel.context import Context
from kernel.decide import decide
from kernel.errors import LeaseHeld, NotFound, OverQuota, WrongExpectedVersion
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

_MOST_TRIES: Final = 100


class Handled(Struct, frozen=True, kw_only=True):
    """What a command did."""

    before: Image
    after: Image
    lease: Lease | None = None
    position: int | None = None
    """Where its first event stands in the log."""


class Commands:
    """Takes commands for images."""

    def __init__(self, log: EventLog, leases: Leases, clock: Clock) -> None:
        self._log = log
        self._leases = leases
        self._clock = clock
        self.on_change: list[Callable[[UUID, Image, Image], None]] = []

    async def load(self, image_id: str, *, patient: bool = False) -> Image:
        """The state of an image as of now; `NOTHING` if there is none of exactly that id."""
        stream = stream_of(image_id)
        if stream is None:
            return NOTHING
        image = (await self._load(stream, patient)).image
        return image if image.id == image_id else NOTHING

    async def loaded(self, stream: UUID) -> Loaded:
        """The state of a stream with what is known of its lease."""
        return await self._log.load(stream)

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
        then: Then | None = None,
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
        then: asked, with the state and the epoch, for one more command after another until it has none.
        patient: wait for the database to come back rather than fail.
        """
        stream = stream_of(image_id)
        if stream is None:
            raise NotFound(f"No image found with ID {image_id}")
        fresh = isinstance(commands[0], CreateImage | ExpectImage) if commands else False
        for _ in range(_MOST_TRIES):
            loaded = Loaded(image=NOTHING) if fresh else await self._load(stream, patient)
            before = loaded.image
            if before.exists and before.id != image_id:
                raise NotFound(f"No image found with ID {image_id}")
            if guard is not None:
                guard(before)
            epoch = loaded.epoch + 1 if take else lease.epoch if lease else None
            after, events, between = self._decide(commands, then, before, context, epoch)
            more: dict[str, Any] = {
                "take": self._take(loaded.epoch + 1, yielding) if take else None,
                "release": release,
                "park": park,
                "secrets": tuple(secrets),
                "forget": forget,
            }
            if not events and not (take or release or park is not None or secrets or forget):
                return Handled(before=before, after=after, lease=lease)
            request = Request(
                category=IMAGE,
                stream=stream,
                expected=before.version,
                events=events,
                holder=self._leases.owner if lease else None,
                epoch=lease.epoch if lease else None,
                rows=rows_between(stream, before, after, limits, between=between, **more) if events else Rows(**more),
            )
            kinds = tuple(type(item.event) for item in events)
            mark_events("before", kinds)
            try:
                receipt = await self._log.append(request, patient=patient)
            except OverQuota as refused:
                raise explained(refused, delta(before, after), limits or {}) from None
            except WrongExpectedVersion:
                if fresh:
                    decide(commands[0], await self._existing(stream))
                continue
            except LeaseHeld:
                if yielding or (await self._load(stream, patient)).epoch == loaded.epoch:
                    raise
                continue  # somebody took it since we looked: a clean-up gives way to whoever has seen it
            mark_events("after", kinds)
            if take:
                lease = self._leases.hold(stream, loaded.epoch + 1)
            if lease is not None and (release or park is not None):
                self._leases.drop(lease)
            if park is None:  # a back-off is no news: nobody is to be woken by it
                for notice in self.on_change:
                    notice(stream, before, after)
            return Handled(before=before, after=after, lease=lease, position=receipt.first_position)
        raise LeaseHeld("Too many others change this image at the same time")

    async def _load(self, stream: UUID, patient: bool) -> Loaded:
        if not patient:
            return await self._log.load(stream)
        return await patiently(lambda: self._log.load(stream))

    async def _existing(self, stream: UUID) -> Image:
        return (await self._log.load(stream)).image

    def _decide(
        self, commands: Sequence[Command], then: Then | None, before: Image, context: Context, epoch: int | None
    ) -> tuple[Image, tuple[Pending, ...], Sequence[Image]]:
        """The state afterwards, the events, and the states in between in which a task had come to its end."""
        at = max(self._clock.now(), before.at)
        worker = self._leases.owner if epoch is not None else None
        after = before
        recorded: list[Pending] = []
        between: list[Image] = []
        queue = list(commands)
        while command := queue.pop(0) if queue else (then(after, epoch or 0) if then else None):
            events = decide(command, after)
            batch = pending(events, context, at, worker=worker, epoch=epoch)
            for item in batch:
                former, after = after, evolve(after, item.event, item.meta)
                if former.task is not None and after.task is not None and former.task.id != after.task.id:
                    between.append(former)
            recorded += batch
        return after, tuple(recorded), between

    def _take(self, epoch: int, yielding: bool) -> Take:
        leases = self._leases
        return Take(owner=leases.owner, node=leases.node, epoch=epoch, ttl=leases.ttl, yielding=yielding)
