"""Performing one import: step by step, each recorded before the next.

    record outcomes ─▶ (steps that need no I/O ride along) ─▶ perform the next ─▶ record …

The runner holds the image's lease.  It never decides: `outstanding` says what is
next, commands say what came of it, and the log refuses whatever comes too late.
When somebody deletes the image or cancels the import it is woken by the lease's
watch, looks at the state and stops.  Dying at any point loses at most the step
under way; the next worker looks at the same state.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import structlog

from kernel import commands as c
from kernel.acquire import Acquirer
from kernel.charges import STAGE_TOTAL, Limits
from kernel.clock import Clock
from kernel.context import Context
from kernel.errors import (
    Corrupt,
    EntrepotError,
    Fenced,
    NotFound,
    OverQuota,
    PluginFailed,
    StoreError,
    StoreUnavailable,
    UnacceptableData,
    Unavailable,
    Unrecordable,
)
from kernel.events import Blob, Location
from kernel.failures import kind_of, reason_of
from kernel.handle import Commands, First, Handled
from kernel.image import STAGING, Image, Job
from kernel.leases import Lease
from kernel.log import Loaded
from kernel.naming import blob_name
from kernel.purge import Purger
from kernel.registering import Registrar
from kernel.signing import signature_of
from kernel.site import Site
from kernel.sources import CopySource, NoCopy, Source, StagedSource
from kernel.verdict import judge
from kernel.watching import cancelled, watched
from kernel.work import Work, outstanding
from kernel.writer import Writer

log = structlog.get_logger(__name__)

_SOURCE_TRIES: Final = 8


class _Superseded(Exception):
    """The image was deleted, or somebody else works on it."""


class _TurnedRound(Exception):
    """Somebody cancelled the import: look at the state again."""


class _SourceLost(Exception):
    """The bytes to be written are nowhere to be had any more."""

    def __init__(self, error: EntrepotError) -> None:
        super().__init__(str(error))
        self.error = error


class Runner:
    """Performs the import that holds one image."""

    def __init__(self, site: Site, commands: Commands, clock: Clock, loaded: Loaded, context: Context) -> None:
        image = loaded.image
        assert image.job is not None
        self._site = site
        self._commands = commands
        self._clock = clock
        self._context = context
        self._image = image
        self._newest = loaded
        """The state after what was recorded last."""
        self._task_id = image.job.task_id
        self._writes: dict[str, asyncio.Task[c.Command]] = {}
        self._source: Source | None = None
        self._purger = Purger(site)
        self._limits: Limits = {}
        """What a copy in a store is held to."""
        self._staging: Limits = {}
        """What the bytes brought into staging are held to."""
        self._unaffordable: EntrepotError | None = None
        """Why a quota does not let the job start, or that nobody knows the quota."""
        self._starts = False
        """Whether the job has not been started by somebody else."""
        self._full: dict[str, OverQuota] = {}
        """Stores for whose copy the owner's quota has no room."""
        self._asked_for = ""
        self._claimed = False

    async def claim(self, first: First | None = None) -> Lease:
        """Take the lease, recording `first` and the start of the work with it; `LeaseHeld` if somebody was faster."""
        await self._glance_at_staging()
        handled = await self._claim(first, await self._allowance())
        assert handled.lease is not None
        self._image, self._lease, self._claimed = handled.after, handled.lease, True
        self._newest = handled.newest
        self._writer = Writer(self._site, self._lease)
        self._registrar = Registrar(self._site, self._lease)
        self._acquirer = Acquirer(self._site, self._lease, self._context, self._note, self._staging)
        return self._lease

    async def _allowance(self) -> Limits:
        """What the start of the job is held to; a job that has started was allowed to."""
        image, quotas = self._image, self._site.quotas
        try:
            self._limits = await quotas.store(image.owner)
            self._staging = await quotas.bring(image.owner)
            return await quotas.begin(image)
        except Unavailable as error:
            if image.job is not None and not image.job.started:
                self._unaffordable = error
            return {}

    async def _claim(self, first: First | None, limits: Limits) -> Handled:
        def opening(loaded: Loaded) -> Sequence[c.Command]:
            job = loaded.image.job
            self._starts = job is not None and not job.started
            return first(loaded) if first is not None else ()

        async def claim(limits: Limits) -> Handled:
            return await self._commands.handle(
                self._image.id,
                first=opening,
                then=self._next_free,
                context=self._context,
                limits=limits,
                take=True,
                known=self._newest,
                patient=True,
            )

        try:
            return await claim(limits)
        except OverQuota as error:
            self._unaffordable = error
            return await claim({})

    async def run(self) -> None:
        """Work until the import has ended, or until it is somebody else's."""
        image, job = self._image, self._image.job
        try:
            while True:
                job, work = image.job, outstanding(image)
                if job is None or work is None or job.task_id != self._task_id:
                    return
                try:
                    outcomes = await self._perform(work, image, job)
                except _TurnedRound:
                    outcomes = ()
                image = await self._recorded(work, outcomes)
        except (_Superseded, Fenced, NotFound) as reason:
            log.info("import_left", image_id=self._image.id, task=self._task_id, reason=str(reason))
            await self._stop_writes()
            await self._withdraw(job)
        finally:
            await self._stop_writes()

    @property
    def _resumed(self) -> bool:
        return self._image.job is not None and self._image.job.take_overs > 0

    # --- recording -------------------------------------------------------------------

    async def _recorded(self, work: Work, outcomes: Sequence[c.Command]) -> Image:
        """The state after these outcomes, or after the failure of a step whose outcome nobody can write down."""
        try:
            return await self._record(outcomes)
        except Unrecordable as error:
            if work.kind in ("clear", "undo"):
                raise
            log.warning("outcome_unrecordable", image_id=self._image.id, step=work.subject or work.kind)
            await self._stop_writes()
            for brought in outcomes:
                await self._remove_brought(brought)
            reason, kind = reason_of(error), kind_of(error)
            step = work.subject if work.kind == "step" and work.subject else work.kind
            return await self._record((c.FailStep(task_id=self._task_id, step=step, reason=reason, kind=kind),))

    async def _record(self, outcomes: Sequence[c.Command]) -> Image:
        last = any(isinstance(command, c.ClearStaging | c.RecordHash | c.FinishUndo) for command in outcomes)
        while True:
            brought = next((command for command in outcomes if _blob(command) is not None), None)
            recording = self._commands.handle(
                self._image.id,
                *outcomes,
                then=self._next_free,
                context=self._context,
                limits={**self._limits, **self._staging} if brought is not None else self._limits,
                lease=self._lease,
                release=last,
                forget=last,
                known=self._newest,
                patient=True,
            )
            try:
                handled = await asyncio.shield(recording)
            except OverQuota as error:
                if brought is not None and error.resource == STAGE_TOTAL:
                    outcomes = (await self._thrown_away(brought, error),)
                    continue
                if self._image.job is not None and self._image.job.registers:
                    outcomes, self._limits = (self._too_dear(error),), {}
                    continue
                if self._asked_for in self._full:
                    raise
                self._full[self._asked_for] = error
                continue
            before, self._image, self._newest = self._image, handled.after, handled.newest
            if not self._limits or self._image.job is None or not _began(before, self._image.job):
                return self._image
            outcomes = ()  # under a limit one store begins at a time: each is told for itself whether there is room

    async def _thrown_away(self, brought: c.Command, error: EntrepotError) -> c.Command:
        """Remove what has come into staging and does not fit."""
        await self._remove_brought(brought)
        if isinstance(brought, c.RecordStep):
            return self._too_dear(error, PluginFailed(brought.completed.step, reason_of(error)))
        return self._too_dear(error)

    async def _remove_brought(self, brought: c.Command) -> None:
        """Remove the bytes that an outcome would have told of."""
        if (blob := _blob(brought)) is not None:
            await self._purger.delete_all([(STAGING, blob.url)])

    async def _withdraw(self, job: Job | None) -> None:
        """Leave nothing behind that was written too late to be recorded."""
        with contextlib.suppress(Unavailable):
            image = await self._commands.load(self._image.id)
            stores = job.stores if job is not None and not job.registers else ()
            await self._purger.withdraw(image, (STAGING, *stores), self._lease.epoch)

    async def _note(self, command: c.Command, limits: Limits) -> None:
        """Record something in the middle of a step."""
        recording = self._commands.handle(
            self._image.id,
            command,
            context=self._context,
            lease=self._lease,
            limits=limits,
            known=self._newest,
            patient=True,
        )
        self._newest = (await asyncio.shield(recording)).newest

    def _next_free(self, image: Image, epoch: int) -> c.Command | None:
        """The next step, if it needs no I/O and can ride along with what is being recorded."""
        job, work = image.job, outstanding(image)
        if job is None or work is None or job.task_id != self._task_id:
            return None
        match work.kind:
            case "begin":
                return c.BeginImport(task_id=self._task_id)
            case _ if self._unaffordable is not None and self._starts and job.failure is None:
                return self._too_dear(self._unaffordable)
            case "inspect" if (
                job.data is not None and job.data.facts is not None and not signature_of(image.properties)
            ):
                return self._inspected(image, job, job.data)
            case "store":
                return self._next_store(image, job, epoch)
        return None

    def _inspected(self, image: Image, job: Job, data: Blob) -> c.Command:
        try:
            verdict = judge(image.disk_format, image.container_format, data.size, data.facts, self._site.rules)
        except UnacceptableData as error:
            return c.FailStep(task_id=self._task_id, step="inspect", reason=reason_of(error), inspection=True)
        except Exception as error:
            log.exception("step_crashed", image_id=image.id, step="inspect")
            return c.FailStep(task_id=self._task_id, step="inspect", reason=reason_of(error), inspection=True)
        # What is not looked into keeps what a plugin said of it.
        size = verdict.virtual_size if verdict.detected else job.virtual_size
        return c.RecordInspection(
            task_id=self._task_id, detected=verdict.detected, virtual_size=size, disk_format=verdict.disk_format
        )

    def _next_store(self, image: Image, job: Job, epoch: int) -> c.Command | None:
        """Begin another store while the bytes are known to be good and fewer than `parallel` are being written."""
        if not self._fit(job) or len(job.writing) >= job.parallel:
            return None
        store = next((name for name in job.todo if name not in job.writing), None)
        if store is None:
            return None
        most = self._site.settings.default.image_location_quota
        if 0 <= most <= len(image.locations):
            reason = f"The image is in {len(image.locations)} places, and may be in {most} (image_location_quota)"
            return c.RecordStoreFailure(task_id=self._task_id, store=store, reason=reason, kind="forbidden")
        if 0 <= most <= len(image.locations) + len(job.writing):
            return None  # one that is being written may fail yet
        if self._limits:
            if not self._claimed or _began(self._image, job):
                return None
            self._asked_for = store
            if store in self._full:
                error = self._full[store]
                return c.RecordStoreFailure(
                    task_id=self._task_id, store=store, reason=reason_of(error), kind=kind_of(error)
                )
        name = blob_name(image.id, job.task_id, store, epoch)
        return c.StartStore(task_id=self._task_id, store=store, name=name)

    def _too_dear(self, error: EntrepotError, told: EntrepotError | None = None) -> c.Command:
        reason, kind = reason_of(told or error), kind_of(error)
        return c.FailStep(task_id=self._task_id, step="quota", reason=reason, kind=kind)

    def _fit(self, job: Job) -> bool:
        """Whether the source at hand is the one to write from."""
        if isinstance(self._source, StagedSource):
            return self._source.blob == job.data
        return self._source is not None and job.copies

    # --- performing ------------------------------------------------------------------

    async def _perform(self, work: Work, image: Image, job: Job) -> Sequence[c.Command]:
        match work.kind:
            case "register":
                return await self._guarded(work.kind, self._registrar.register(image, job))
            case "hash":
                return await self._guarded(work.kind, self._registrar.hash(image, job))
            case "describe":
                return await self._guarded(work.kind, self._acquirer.describe(image, job))
            case "fetch":
                return await self._guarded(work.kind, self._acquirer.fetch(image, job))
            case "step" if not self._fit(job):  # plugins, too, are to see what was staged and nothing else
                return await self._guarded("verify", self._verify(image, job))
            case "step":
                assert work.subject is not None
                return await self._guarded(work.subject, self._acquirer.step(image, job, work.subject))
            case "inspect":
                return await self._guarded(work.kind, self._acquirer.look(image, job))
            case "store" if not job.writing:
                return await self._guarded("verify", self._verify(image, job))
            case "store":
                return await self._write(job)
            case "clear":
                return await self._clear(image, job)
            case "undo":
                return await self._undo(image)
        raise AssertionError(f"a job cannot need {work.kind}")

    async def _guarded(self, step: str, action: Coroutine[Any, Any, Sequence[c.Command]]) -> Sequence[c.Command]:
        """A step before the stores: its failure turns the import round."""
        try:
            outcomes = await watched(self._lease, action, self._look_up)
        except (_Superseded, _TurnedRound):
            raise
        except Exception as error:
            if not isinstance(error, EntrepotError):
                log.exception("step_crashed", image_id=self._image.id, step=step)
            failed = c.FailStep(
                task_id=self._task_id,
                step="quota" if isinstance(error, OverQuota) else step,
                reason=reason_of(error),
                kind=kind_of(error),
                inspection=isinstance(error, UnacceptableData),
            )
            return (failed,)
        for outcome in outcomes:
            self._trust(outcome)
        return outcomes

    async def _look_up(self) -> None:
        """Whether to go on, after something happened to the image."""
        if self._lease.lost:
            raise _Superseded("the lease was taken over")
        image = await self._commands.load(self._image.id, patient=True)
        job = image.job
        if job is None or job.task_id != self._task_id:
            raise _Superseded("the import does not hold the image any more")
        if job.failure is not None:
            raise _TurnedRound

    def _trust(self, outcome: c.Command) -> None:
        """Bytes that this process has just written need no second look."""
        blob = _blob(outcome)
        if blob is not None:
            self._source = StagedSource(self._site.staging, blob, self._site.patience)

    async def _glance_at_staging(self) -> None:
        """Spare the staged bytes a second look when the file is just as it was recorded."""
        job = self._image.job
        if job is not None and job.data is not None:
            source = StagedSource(self._site.staging, job.data, self._site.patience)
            if await source.untouched():
                self._source = source

    async def _verify(self, image: Image, job: Job) -> Sequence[c.Command]:
        source: Source
        if job.copies:
            source = CopySource(self._site, image)
        elif job.data is not None:
            source = StagedSource(self._site.staging, job.data, self._site.patience)
        else:
            raise Corrupt(STAGING, "there are no staged bytes")
        await source.verify()
        self._source = source
        return ()

    async def _clear(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Remove every staged byte of this import."""
        staged = [(STAGING, item.url) for item in image.garbage if item.store == STAGING]
        if job.data is not None:
            staged.append((STAGING, job.data.url))
        gone = await self._purger.delete_all(staged)
        kept = tuple(url for store, url in staged if (store, url) not in gone)
        return (c.ClearStaging(task_id=self._task_id, kept=kept),)

    async def _undo(self, image: Image) -> Sequence[c.Command]:
        await self._stop_writes()
        self._lease.report("undoing", 0)
        purged = await self._purger.purge(image, self._clock.now(), self._lease.epoch)
        return (c.FinishUndo(task_id=self._task_id, purged=purged.blobs, swept=purged.sweeps),)

    # --- stores ----------------------------------------------------------------------

    async def _write(self, job: Job) -> Sequence[c.Command]:
        """Have every started store written; returns as soon as one is done."""
        assert self._source is not None
        for store, name in job.writing.items():
            if store not in self._writes:
                writing = self._write_one(store, name, self._source)
                self._writes[store] = asyncio.create_task(writing, name=f"to {store}")
        done = await watched(self._lease, self._first_done(), self._look_up)
        outcomes = [await self._writes.pop(store) for store in done]
        lost = [outcome for outcome in outcomes if isinstance(outcome, c.FailStep)]
        if lost:  # the others read the same bytes: none may go on once the import has, and what is stored counts first
            await self._stop_writes()
        return [*(outcome for outcome in outcomes if outcome not in lost), *lost[:1]]

    async def _first_done(self) -> list[str]:
        await asyncio.wait(self._writes.values(), return_when=asyncio.FIRST_COMPLETED)
        return [store for store, task in self._writes.items() if task.done()]

    async def _write_one(self, store: str, name: str, source: Source) -> c.Command:
        """Write one store; its failure is an outcome, not an error."""
        try:
            if self._resumed:
                await self._purger.clear_way(self._image, store, self._lease.epoch)
            location = await self._write_from(source, store, name)
        except _SourceLost as lost:
            reason = reason_of(lost.error)
            return c.FailStep(task_id=self._task_id, step="verify", reason=reason, kind=kind_of(lost.error))
        except Exception as error:
            if not isinstance(error, EntrepotError):
                log.exception("store_crashed", image_id=self._image.id, store=store)
            reason = reason_of(error)
            log.info("store_failed", image_id=self._image.id, store=store, reason=reason)
            return c.RecordStoreFailure(task_id=self._task_id, store=store, reason=reason, kind=kind_of(error))
        return c.RecordStoreSuccess(task_id=self._task_id, store=store, location=location, digests=source.digests)

    async def _write_from(self, source: Source, store: str, name: str) -> Location:
        """Write; trouble with the bytes' own store is not this one's fault, and may have a way round it."""
        for attempt in range(_SOURCE_TRIES):
            try:
                return await self._writer.write(store, name, source)
            except NoCopy as lost:
                raise _SourceLost(lost) from None
            except StoreError as error:
                if error.store == store:
                    raise
                if attempt == _SOURCE_TRIES - 1:
                    raise _SourceLost(error) from error
                if isinstance(error, StoreUnavailable):
                    await asyncio.sleep(min(0.2 * 2**attempt, 2.0))
                try:
                    await source.verify()
                except EntrepotError as lost:
                    raise _SourceLost(lost) from error
        raise AssertionError("the loop returns or raises")

    async def _stop_writes(self) -> None:
        tasks = list(self._writes.values())
        self._writes.clear()
        await asyncio.gather(*(cancelled(task) for task in tasks))


def _began(before: Image, job: Job) -> bool:
    """Whether a store has been begun since."""
    known = before.job.writing if before.job is not None else {}
    return any(store not in known for store in job.writing)


def _blob(outcome: c.Command) -> Blob | None:
    """What a step has brought into staging."""
    match outcome:
        case c.RecordFetch(blob=blob):
            return blob
        case c.RecordStep(completed=completed):
            return completed.blob
    return None
