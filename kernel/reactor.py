"""Finding work and having it done, within this process's capacity.

    own changes ─▶ ┐
    NOTIFY ──────▶ ├─▶ which images need something? ─▶ claim (lease) ─▶ runner
    poll, start ─▶ ┘          one indexed query

Every cause of work looks the same from here: a new import, an expired lease, a
back-off that has run out, a clean-up.  The claim is an append that takes the
lease; whoever is second finds it held and lets go.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog

from kernel import commands as c
from kernel.clock import Clock
from kernel.context import Actor, Context, service_context
from kernel.database import Database
from kernel.errors import Conflict, EntrepotError, Fenced, LeaseHeld, NotFound, Unavailable
from kernel.feed import Feed
from kernel.handle import Commands, Handled
from kernel.ids import new_id
from kernel.image import Image
from kernel.leases import Lease, Leases
from kernel.log import Loaded
from kernel.purge import Purger
from kernel.runner import Runner
from kernel.site import Site
from kernel.work import Work, bound_to, outstanding

log = structlog.get_logger(__name__)

POLL: Final = 1.0
"""Seconds between two looks for work that nobody told us of."""

_PURGES: Final = 8
"""Clean-ups under way at once; they do not count against the imports."""

_BACK_OFF: Final = 20.0
"""Seconds before bytes that could not be removed are tried again for the first time."""

_LONGEST_BACK_OFF: Final = 3600.0

_LONGEST_ASIDE: Final = 60.0
"""Seconds between two attempts at what this process, of whatever version, has no way of doing."""

_FIND: Final = """
SELECT i.id, i.image_id, i.owner
FROM images i LEFT JOIN leases l ON l.stream = i.id
WHERE i.work IS NOT NULL AND (i.work = 'purge') = $1 AND i.due_at <= clock_timestamp()
  AND (l.stream IS NULL OR l.until < clock_timestamp() OR (l.yielding AND NOT $1)
       OR (l.owner IS NULL AND l.until > clock_timestamp()  -- no back-off for what has come up since it was set
           + greatest(interval '60 seconds', 2 * (clock_timestamp() - i.updated_at))))
  AND (i.node IS NULL OR i.node = $2) AND NOT i.id = ANY($3)
  AND ($1 OR NOT coalesce(i.owner, '') = ANY($4)) ORDER BY i.due_at LIMIT $5
"""


_BURST: Final = 0.02
"""Seconds in which a burst of hints becomes one look."""
_PACE: Final = 0.05
"""Seconds between two looks: what this process does itself it hears of at once, and others do the same."""


class _Running(NamedTuple):
    """Work under way on one image."""

    task: asyncio.Task[None]
    purge: bool
    owner: str


class Reactor:
    """Drives everything outstanding that this process can take on."""

    def __init__(
        self, site: Site, commands: Commands, leases: Leases, database: Database, feed: Feed, clock: Clock
    ) -> None:
        self._site = site
        self._commands = commands
        self._leases = leases
        self._database = database
        self._clock = clock
        self._purger = Purger(site)
        self._hint = feed.hint()
        self._running: dict[UUID, _Running] = {}
        self._again: set[UUID] = set()
        self._aside: dict[UUID, tuple[float, float]] = {}
        """Images whose work failed to be done here -> until when it is left to others, and for how long."""
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False
        settings = site.settings
        most = min(settings.taskflow_executor.max_workers, settings.wsgi.task_pool_threads)
        self._share = min(settings.import_worker.max_concurrent, most)
        """Imports of one project at once."""
        self._capacity = min(settings.import_worker.max_concurrent + 1, most)
        """Imports of all: where one project holds its share, with downloads that take a day, there is a place left."""
        commands.on_change.append(self._notice)

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._run(), name="reactor")

    async def stop(self, grace: float) -> None:
        """Let running work finish for up to `grace` seconds, then hand the rest over: none fails."""
        self._stopping = True
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop})
        tasks = {running.task for running in self._running.values()}
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=grace)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=10)

    @property
    def idle(self) -> bool:
        return not self._running

    # --- finding ---------------------------------------------------------------------

    def _notice(self, stream: UUID, handled: Handled) -> None:
        """A change of our own: take its work up without waiting for anybody to tell us."""
        work = outstanding(handled.after)
        if work is None or work.due is not None:
            return
        if any(lease.stream == stream for lease in self._leases.held):
            return
        before = handled.before
        # Whoever was at work may have let its lease run out since, and only the row tells.
        alone = handled.lease is not None or (before.job is None and before.transfer is None)
        self._consider(
            stream, handled.after.id, handled.after.owner, work.kind == "purge", handled.newest if alone else None
        )

    def _consider(
        self, stream: UUID, image_id: str, owner: str | None, purge: bool, known: Loaded | None = None
    ) -> None:
        if self._stopping:
            return
        if stream in self._running:
            self._again.add(stream)
            return
        if self._room(purge) <= 0 or (not purge and (owner or "") in self._sated()):
            return
        task = asyncio.create_task(self._work(stream, image_id, known), name=f"work {image_id}")
        self._running[stream] = _Running(task, purge, owner or "")
        task.add_done_callback(lambda _: self._done(stream, image_id, owner, purge))

    def _done(self, stream: UUID, image_id: str, owner: str | None, purge: bool) -> None:
        self._running.pop(stream, None)
        if stream in self._again:
            self._again.discard(stream)
            self._consider(stream, image_id, owner, purge)
        self._hint.set()

    def _room(self, purge: bool) -> int:
        busy = sum(1 for running in self._running.values() if running.purge == purge)
        return (_PURGES if purge else self._capacity) - busy

    def _sated(self) -> list[str]:
        """The projects that have as many imports under way as one may have."""
        busy = Counter(running.owner for running in self._running.values() if not running.purge)
        return [owner for owner, count in busy.items() if count >= self._share]

    async def _run(self) -> None:
        while True:
            self._hint.clear()
            looked = time.monotonic()
            try:
                await self._look()
            except Unavailable as error:
                log.warning("reactor_waits", reason=str(error))
            except Exception:  # whatever it is may pass, and nobody else looks for work here
                log.exception("reactor_stumbled")
            try:
                async with asyncio.timeout(POLL):  # wait_for can swallow a cancellation (Python 3.11)
                    await self._hint.wait()
                await asyncio.sleep(max(_BURST, looked + _PACE - time.monotonic()))
            except TimeoutError:
                continue

    async def _look(self) -> None:
        now = time.monotonic()
        self._aside = {stream: (at, pause) for stream, (at, pause) in self._aside.items() if now < at + _LONGEST_ASIDE}
        waiting = [stream for stream, (at, _) in self._aside.items() if now < at]
        for purge in (False, True):
            room = self._room(purge)
            if room > 0:
                besides = [*self._running, *waiting]
                rows: Any = await self._database.fetch(_FIND, purge, self._site.node, besides, self._sated(), room)
                for row in rows:
                    self._consider(row["id"], row["image_id"], row["owner"], purge)

    # --- working ---------------------------------------------------------------------

    async def _work(self, stream: UUID, image_id: str, known: Loaded | None) -> None:
        try:
            await self._claim_and_run(known or await self._commands.loaded(image_id))
        except (LeaseHeld, Conflict, NotFound, Fenced):
            pass  # somebody else was faster, or it is done
        except Unavailable as error:
            log.warning("work_refused", image_id=image_id, reason=str(error))
        except EntrepotError as error:
            log.warning("work_refused", image_id=image_id, reason=str(error))
            self._set_aside(stream)
        except Exception:
            log.exception("work_crashed", image_id=image_id)
            self._set_aside(stream)
        else:
            self._aside.pop(stream, None)

    def _set_aside(self, stream: UUID) -> None:
        _, before = self._aside.get(stream, (0.0, 0.0))
        pause = min(max(2 * before, POLL), _LONGEST_ASIDE)
        self._aside[stream] = time.monotonic() + pause, pause

    async def _claim_and_run(self, loaded: Loaded) -> None:
        work = outstanding(loaded.image)
        if work is None or (work.due is not None and work.due > self._clock.now()):
            return
        if bound_to(loaded.image) not in (None, self._site.node):
            return
        if work.kind == "purge":
            await self._purge(loaded)
        elif work.kind == "expire":
            await self._expire(loaded)
        elif work.kind == "discard":
            await self._discard(loaded, work)
        else:
            await self._import(loaded)

    async def _discard(self, loaded: Loaded, work: Work) -> None:
        """A client's transfer whose process is gone: back to `queued`."""
        transfer = loaded.image.transfer
        assert transfer is not None
        failed = c.FailTransfer(transfer=transfer.id, reason="The process that received the data is gone")
        await self._commands.handle(
            loaded.image.id,
            failed,
            first=self._take_over,
            context=service_context(),
            take=True,
            release=True,
            known=loaded,
            patient=True,
        )

    async def _expire(self, loaded: Loaded) -> None:
        """Nobody is shown the record any more; what remains is to say so."""
        record = loaded.image.expiring
        assert record is not None
        command = c.ExpireImageImport(task_id=record.id)
        await self._commands.handle(loaded.image.id, command, context=service_context(), known=loaded, patient=True)

    async def _import(self, loaded: Loaded) -> None:
        image = loaded.image
        runner = Runner(self._site, self._commands, self._clock, loaded, _context_of(image))
        lease = await runner.claim(self._take_over)
        try:
            await runner.run()
        finally:
            await asyncio.shield(self._give_back(image.id, lease))

    async def _give_back(self, image_id: str, lease: Lease) -> None:
        """Let others have what was not finished here (a graceful stop, a crash of ours) at once."""
        if lease in self._leases.held:
            try:
                await self._commands.handle(
                    image_id, context=service_context(), lease=lease, release=True, patient=not self._stopping
                )
            except EntrepotError as error:
                log.info("lease_not_given_back", image_id=image_id, reason=str(error))
            self._leases.drop(lease)

    async def _purge(self, loaded: Loaded) -> None:
        """Remove bytes nobody needs, under a lease that yields to any real work."""
        image = loaded.image
        context = service_context()
        due = [c.ScrubImage(now=self._clock.now())] if image.status == "pending_delete" else []
        handled = await self._commands.handle(
            image.id, *due, first=self._take_over, context=context, take=True, yielding=True, known=loaded
        )
        assert handled.lease is not None
        lease, image = handled.lease, handled.after
        done = False
        try:
            purged = await self._purger.purge(image, self._clock.now(), lease.epoch)
            record = c.RecordPurge(blobs=purged.blobs, sweeps=purged.sweeps)
            handled = await self._commands.handle(image.id, record, context=context, known=handled.newest, patient=True)
            done = purged.complete  # what has come up meanwhile needs no back-off
        finally:
            self._leases.drop(lease)
            await asyncio.shield(self._end_purge(image, lease, done, handled.newest))

    async def _end_purge(self, image: Image, lease: Lease, done: bool, known: Loaded) -> None:
        park = None if done else back_off((self._clock.now() - image.at).total_seconds())
        try:
            await self._commands.handle(
                image.id,
                context=service_context(),
                lease=lease,
                release=done,
                park=park,
                known=known,
                patient=not self._stopping,
            )
        except EntrepotError as error:
            log.info("lease_not_given_back", image_id=image.id, reason=str(error))

    def _take_over(self, loaded: Loaded) -> Sequence[c.Command]:
        """What to record first of work that others began, as the lease and the state are when it is claimed.

        Whoever let the lease run out may only be stopped: look for what it leaves behind once more, later.
        """
        image = loaded.image
        if loaded.abandoned:
            return (c.TakeOver(sweep_at=self._clock.now() + timedelta(seconds=2 * self._leases.ttl)),)
        if image.transfer is not None or (image.job is not None and image.job.started):
            return (c.TakeOver(),)
        return ()


def back_off(waiting: float) -> float:
    """Seconds until a clean-up that has waited so long, since the image last changed, is tried again.

    As long again as it has waited: a store that is gone for good costs little, and no process has to count.
    """
    return min(max(waiting, _BACK_OFF), _LONGEST_BACK_OFF)


def _context_of(image: Image) -> Context:
    """The story the job belongs to: its events are the importing user's doing."""
    task = image.task
    assert task is not None
    actor = Actor(user_id=task.user_id, project_id=task.owner, roles=frozenset(task.roles))
    return Context(actor=actor, request_id=task.request_id, correlation=task.correlation or new_id())
