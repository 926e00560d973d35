"""Following the log: whoever wants every event, in order, from a position on.

    own appends ──hand-off──▶ ┐
    NOTIFY (others' appends) ▶ ├─ wake ──▶ follower reads on from its position
    poll, every second or two ▶┘

Only the position counts; every wake-up is a hint.  A hand-off that fits saves the
read.  The listening connection is probed, replaced when it is lost, and followers
read again after every replacement.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from kernel.appender import CHANNEL
from kernel.database import LOST, connect, let_go
from kernel.errors import Unavailable
from kernel.log import EventLog
from kernel.recorded import Recorded

log = structlog.get_logger(__name__)

POLL: Final = 1.5
"""Seconds between two looks at the log when nothing wakes us."""

_PROBE: Final = 10.0
_MOST_HANDED: Final = 64
"""Batches a follower may lag behind before it goes back to reading."""


class _Mailbox:
    """Where one follower is woken, and handed what it can take without reading."""

    __slots__ = ("batches", "expects", "wake")

    def __init__(self) -> None:
        self.batches: deque[Sequence[Recorded]] = deque()
        self.expects: int | None = None
        self.wake = asyncio.Event()

    def offer(self, events: Sequence[Recorded]) -> None:
        whole = events[-1].position - events[0].position == len(events) - 1  # a batch that was sent again may not be
        if whole and self.expects == events[0].position and len(self.batches) < _MOST_HANDED:
            self.batches.append(events)
            self.expects = events[-1].position + 1
        else:
            self.expects = None
        self.wake.set()


class Feed:
    """Wakes the followers of one process."""

    def __init__(
        self, log_: EventLog, dsn: str | None, on_interrupt: Callable[[UUID | None], None] = lambda s: None
    ) -> None:
        self._log = log_
        self._dsn = dsn
        self._on_interrupt = on_interrupt
        self._mailboxes: set[_Mailbox] = set()
        self._hints: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._dsn is not None:
            self._task = asyncio.create_task(self._listen(self._dsn), name="listener")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def committed(self, events: Sequence[Recorded]) -> None:
        """Hand over what this process has just appended."""
        for mailbox in self._mailboxes:
            mailbox.offer(events)

    def hint(self) -> asyncio.Event:
        """An event set whenever anybody may have appended; for those who do not read the log itself."""
        event = asyncio.Event()
        self._hints.add(event)
        return event

    async def follow(self, position: int, page: int = 1000) -> AsyncIterator[Sequence[Recorded]]:
        """Every event after `position`, in order, for ever, in batches without holes."""
        mailbox = _Mailbox()
        self._mailboxes.add(mailbox)
        try:
            while True:
                mailbox.wake.clear()
                if not mailbox.batches:
                    mailbox.expects = None
                    events: Sequence[Recorded] = await self._log.read_all(position, page)
                    if len(events) < page and not mailbox.wake.is_set():
                        mailbox.expects = position + len(events) + 1
                else:
                    events = mailbox.batches.popleft()
                if events:
                    yield events
                    position = events[-1].position
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):  # wait_for can swallow a cancellation (Python 3.11)
                        await mailbox.wake.wait()
        finally:
            self._mailboxes.discard(mailbox)

    # --- listening ---------------------------------------------------------------------

    async def _listen(self, dsn: str) -> None:
        pause = 0.1
        while True:
            try:
                connection = await connect(dsn, "listener")
                try:
                    lost = _lost(connection)
                    await connection.add_listener(CHANNEL, self._notified)
                    await connection.add_listener(f"{CHANNEL}_interrupt", self._interrupted)
                    self._wake_all()
                    self._on_interrupt(None)
                    pause = 0.1
                    await self._probe(connection, lost)
                finally:
                    await let_go(connection)
            except (*LOST, Unavailable, asyncpg.PostgresError) as error:
                log.warning("listener_lost", error=str(error) or repr(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _probe(self, connection: Any, lost: asyncio.Event) -> None:
        """Ask now and then: a half-open connection says nothing by itself."""
        while not lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE):
                    await lost.wait()
                break
            async with asyncio.timeout(5):
                await connection.fetchval("SELECT 1")
        raise Unavailable("the connection was closed")

    def _notified(self, *_: Any) -> None:
        self._wake_all()

    def _interrupted(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        self._on_interrupt(UUID(payload))

    def _wake_all(self) -> None:
        for mailbox in self._mailboxes:
            mailbox.wake.set()
        for event in self._hints:
            event.set()


def _lost(connection: Any) -> asyncio.Event:
    event = asyncio.Event()
    connection.add_termination_listener(lambda _: event.set())
    return event
