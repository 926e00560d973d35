"""Whoever reads the log for good: one process at a time, from a checkpoint that only its driver moves.

    hold (lease + epoch) ─▶ follow from the checkpoint ─▶ effect ─▶ move the checkpoint ─▶ …

A driver that dies is replaced when its lease runs out; the effect of the last batch
may then be repeated, which every effect here can stand.  A stream that cannot go on
(an event only a newer version knows, a message its receiver refuses) is parked with
everything that follows in it, while all others go on; it is tried again now and then.
When many are parked it is the receiver that is wrong, not they: then the checkpoint
waits, as for a receiver that is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from msgspec.json import decode as decode_json

from kernel.codec import encode
from kernel.database import Database
from kernel.errors import EntrepotError, LogBroken, Unavailable
from kernel.feed import Feed
from kernel.ids import new_id
from kernel.log import EventLog
from kernel.marks import mark
from kernel.recorded import Recorded

log = structlog.get_logger(__name__)

_RETRY_PARKED: Final = 30.0
_LONGEST_PAUSE: Final = 30.0

_PAGE: Final = 500
"""Events of a parked stream that are tried at once."""

_MOST_PARKED: Final = 100
"""Streams that are parked at most; what they miss grows, and is remembered with the checkpoint."""


Place = tuple[int, str]
"""Position of the first event of a stream that cannot be consumed, and why it cannot."""


class Parked(Exception):
    """Some events cannot be consumed now; their streams wait, others go on."""

    def __init__(self, streams: dict[UUID, Place]) -> None:
        super().__init__(f"{len(streams)} streams parked")
        self.streams = streams


class Effect(Protocol):
    """What a consumer does with events."""

    async def apply(self, events: Sequence[Recorded]) -> None:
        """Take the effect of events, in order; may see them again after a crash.

        Raises `Parked` for streams that cannot go on (the rest having been applied),
        anything else to have the whole batch tried again.
        """
        ...

    async def reset(self) -> None:
        """Forget what was remembered of earlier events: another process drove meanwhile."""
        ...


class _Lost(Exception):
    """Somebody else drives the consumer now."""


class Consumer:
    """Drives one effect along the log."""

    def __init__(
        self,
        name: str,
        effect: Effect,
        log_: EventLog,
        feed: Feed,
        database: Database,
        ttl: float,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """meanwhile: what else the process that drives is to do, until it is cancelled."""
        self.name = name
        self.position = 0
        self.driving = False
        self._effect = effect
        self._log = log_
        self._feed = feed
        self._database = database
        self._me = new_id()
        self._ttl = ttl
        self._meanwhile = meanwhile
        self._epoch = 0
        self._parked: dict[UUID, Place] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"consumer {self.name}")

    async def stop(self) -> None:
        """Stop between two batches and let another process drive at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        with contextlib.suppress(Unavailable):
            await self._database.fetch(
                "UPDATE consumers SET until = '-infinity' WHERE name = $1 AND owner = $2", self.name, self._me
            )

    async def _run(self) -> None:
        while True:
            try:
                if await self._hold():
                    await self._drive()
                else:
                    await asyncio.sleep(self._ttl / 3)
            except (_Lost, Unavailable) as reason:
                log.info("consumer_pauses", consumer=self.name, reason=str(reason))
                await asyncio.sleep(1)
            except LogBroken:
                log.exception("log_broken", consumer=self.name)
                raise
            except Exception:
                log.exception("consumer_crashed", consumer=self.name)
                await asyncio.sleep(5)
            finally:
                self.driving = False

    async def _hold(self) -> bool:
        epoch = await self._take()
        if epoch is None:
            return False
        row = await self._database.fetchrow("SELECT position, parked FROM consumers WHERE name = $1", self.name)
        self._epoch, self.position = epoch, row["position"]
        self._parked = _decode_parked(row["parked"])
        return True

    async def _take(self) -> int | None:
        """Begin, or go on, to hold the consumer; its epoch, or None while somebody else has it."""
        rows = await self._database.fetch_urgent("SELECT hold_consumer($1, $2, $3)", self.name, self._me, self._ttl)
        epoch: int | None = rows[0][0]
        return epoch

    async def _drive(self) -> None:
        self.driving = True
        await self._effect.reset()
        keeping = asyncio.create_task(self._keep(), name=f"consumer {self.name} lease")
        beside: set[asyncio.Future[Any]] = {keeping}
        if self._meanwhile is not None:
            beside.add(asyncio.ensure_future(self._meanwhile()))
        try:
            batches = self._feed.follow(self.position)
            retry_at = time.monotonic() + _RETRY_PARKED
            coming = self._next(batches, beside)
            while True:
                left = max(0.0, retry_at - time.monotonic()) if self._parked else None
                watched: set[asyncio.Future[Any]] = {coming, keeping}
                await asyncio.wait(watched, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    await keeping
                if coming.done():
                    batch = await coming
                    beside.discard(coming)
                    await self._as_long_as(keeping, self._apply(batch))
                    mark("delivered")
                    await self._move(batch[-1].position)
                    coming = self._next(batches, beside)
                if time.monotonic() >= retry_at:
                    if self._parked:
                        await self._as_long_as(keeping, self._retry_parked())
                    retry_at = time.monotonic() + _RETRY_PARKED
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    def _next(
        self, batches: AsyncIterator[Sequence[Recorded]], beside: set[asyncio.Future[Any]]
    ) -> asyncio.Future[Sequence[Recorded]]:
        """The next batch, waited for beside everything else."""
        coming = asyncio.ensure_future(anext(batches))
        beside.add(coming)
        return coming

    async def _as_long_as(self, keeping: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> None:
        """Do something only while the consumer is ours: what another one has begun to tell is not to be told again."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await keeping
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _keep(self) -> None:
        """Hold the consumer for as long as it is ours, or nobody can be asked and it may be another one's."""
        held = time.monotonic()
        while True:
            await asyncio.sleep(self._ttl / 3)
            asked = time.monotonic()
            try:
                if await self._take() != self._epoch:  # another may be ours too: whoever had it may have moved on
                    raise _Lost(f"somebody else drives {self.name}")
            except Unavailable:
                if time.monotonic() - held > self._ttl:
                    raise
            else:
                held = asked

    async def _apply(self, batch: Sequence[Recorded]) -> None:
        """Until it is done: a receiver that is away holds everything up, in order."""
        wanted = [item for item in batch if item.stream not in self._parked]
        pause = 0.2
        while wanted:
            try:
                await self._effect.apply(wanted)
            except Parked as parked:
                reason = self._park(parked)
                left = {stream: at for stream, (at, _) in parked.streams.items() if stream not in self._parked}
                wanted = [item for item in wanted if item.stream in left and item.position >= left[item.stream]]
                if not wanted:
                    return
                log.warning("consumer_waits", consumer=self.name, parked=len(self._parked), reason=reason)
            except (EntrepotError, OSError, TimeoutError) as error:
                log.warning("consumer_retries", consumer=self.name, reason=str(error), retry_in=pause)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _park(self, parked: Parked) -> str:
        """Let streams wait while there is room for them; returns why the last one does."""
        reason = ""
        for stream, (first, reason) in parked.streams.items():
            if len(self._parked) >= _MOST_PARKED:
                break
            self._parked[stream] = first, reason
            log.warning("stream_parked", consumer=self.name, stream=str(stream), reason=reason)
        return reason

    async def _move(self, position: int) -> None:
        moved = await self._database.fetchval(
            "UPDATE consumers SET position = $3, parked = $4"
            " WHERE name = $1 AND owner = $2 AND epoch = $5 RETURNING position",
            self.name,
            self._me,
            position,
            _encode_parked(self._parked),
            self._epoch,
        )
        if moved is None:
            raise _Lost(f"somebody else drives {self.name}")
        self.position = position

    async def _retry_parked(self) -> None:
        """Try parked streams from where they stopped; the ones that go through take part again."""
        for stream, (position, _) in list(self._parked.items()):
            try:
                while events := await self._log.read_of(stream, position - 1, self.position, _PAGE):
                    await self._effect.apply(events)
                    position = events[-1].position + 1
            except Parked as parked:
                self._parked[stream] = parked.streams[stream]
            except (EntrepotError, OSError, TimeoutError) as error:
                self._parked[stream] = position, str(error)
                break  # it is the receiver, which others would wait for as well
            else:
                del self._parked[stream]
                log.info("stream_resumed", consumer=self.name, stream=str(stream))
        await self._move(self.position)


def _encode_parked(parked: dict[UUID, Place]) -> bytes | None:
    return encode({str(stream): place for stream, place in parked.items()}) if parked else None


def _decode_parked(raw: bytes | None) -> dict[UUID, Place]:
    document: dict[str, Any] = decode_json(raw) if raw else {}
    return {UUID(stream): (place[0], place[1]) for stream, place in document.items()}
