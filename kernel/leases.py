"""The leases this process holds, kept alive by one statement for all of them.

A lease says who works on an image.  It is taken by the append that records the
start of the work and given back by the one that records its end; in between it is
renewed every third of its life, from the event loop on purpose: a process whose
loop is blocked should lose its leases.  Whoever takes one over raises the epoch,
and the log then refuses everything said under the old one.

    held ──renewed every ttl/3──▶ held ──outcome──▶ given back
      └──── not renewed for ttl ────▶ anybody may take it (epoch + 1)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any
from uuid import UUID

import structlog
from msgspec import Struct

from kernel.codec import encode
from kernel.database import Database
from kernel.errors import Unavailable
from kernel.ids import new_id

log = structlog.get_logger(__name__)


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the work has come, for people who watch."""

    stage: str
    store: str | None = None
    done: int = 0
    """Bytes."""
    total: int | None = None
    rate: float = 0.0
    """Bytes a second over the last interval."""


class Lease:
    """One lease in this process's hands."""

    __slots__ = ("_last", "epoch", "lost", "progress", "stream", "watch")

    def __init__(self, stream: UUID, epoch: int) -> None:
        self.stream = stream
        self.epoch = epoch
        self.lost = False
        self.watch = asyncio.Event()
        """Set when the holder should look at the image again: interrupted, or lost."""
        self.progress: Progress | None = None
        self._last = (time.monotonic(), 0)

    def report(self, stage: str, done: int, total: int | None = None, store: str | None = None) -> None:
        """Note progress; written with the next renewal."""
        now = time.monotonic()
        then, before = self._last
        former = self.progress
        rate = former.rate if former is not None and former.stage == stage else 0.0
        if former is None or former.stage != stage or former.store != store or done < before:
            self._last = now, done
        elif now - then >= 0.5:
            rate = (done - before) / (now - then)
            self._last = now, done
        self.progress = Progress(stage=stage, store=store, done=done, total=total, rate=rate)


class Leases:
    """All leases of this process; its owner id is new at every start."""

    def __init__(self, database: Database | None, ttl: float, node: str) -> None:
        self.owner = new_id()
        self.node = node
        self.ttl = ttl
        self._database = database
        self._held: dict[UUID, Lease] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._beat(), name="leases")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def hold(self, stream: UUID, epoch: int) -> Lease:
        """Begin to renew a lease that an append has just taken."""
        lease = Lease(stream, epoch)
        self._held[stream] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        """Stop renewing: given back, or lost."""
        if self._held.get(lease.stream) is lease:
            del self._held[lease.stream]

    def interrupt(self, stream: UUID | None) -> None:
        """Make the holder of a stream look up from its work; None: every holder."""
        if stream is None:
            for lease in self._held.values():
                lease.watch.set()
        elif stream in self._held:
            self._held[stream].watch.set()

    @property
    def held(self) -> tuple[Lease, ...]:
        return tuple(self._held.values())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.ttl / 3)
            if not self._held:
                continue
            try:
                await self.renew()
            except Unavailable as error:
                log.warning("leases_not_renewed", error=str(error), held=len(self._held))
            except Exception:  # whatever it is may pass, and work must not go on without its leases for ever
                log.exception("leases_not_renewed", held=len(self._held))

    async def renew(self) -> None:
        """Renew everything held and write its progress; notice what has been taken over."""
        if self._database is None:
            return
        held = self.held
        rows: Any = await self._database.fetch_urgent(
            "SELECT stream FROM renew_leases($1, $2, $3, $4, $5)",
            self.owner,
            self.ttl,
            [lease.stream for lease in held],
            [lease.epoch for lease in held],
            [encode(lease.progress) if lease.progress else None for lease in held],
        )
        alive = {row["stream"] for row in rows}
        for lease in held:
            if lease.stream not in alive and self._held.get(lease.stream) is lease:
                log.warning("lease_lost", stream=str(lease.stream), epoch=lease.epoch)
                lease.lost = True
                lease.watch.set()
                self.drop(lease)
