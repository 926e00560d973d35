"""Bytes that a client sends: into staging, or straight into a store.

    accept (lease taken) ─▶ one pass: count, hash, inspect, write ─▶ record (lease given back)
            └──────────── any failure, a vanished client or image included ──▶ back to `queued`

The accepting append takes the image's lease, so that a process that dies in the
middle leaves an image that the next worker puts back to `queued`.

A process serves so many at once.  Who comes later waits before anything is recorded, and
after it is clear that the image would take the data.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import structlog

from kernel import commands as c
from kernel.charges import Limits
from kernel.context import Context
from kernel.decide import decide
from kernel.errors import EntrepotError, Fenced, Gone, Unavailable
from kernel.events import Blob, Location
from kernel.extend import LocalFiles
from kernel.failures import kind_of, reason_of
from kernel.handle import Commands, Guard, Handled
from kernel.ids import new_id
from kernel.image import STAGING, Image
from kernel.leases import Lease
from kernel.log import Loaded
from kernel.marks import mark
from kernel.naming import blob_name
from kernel.purge import Purger
from kernel.signing import Check, check_of, signature_of
from kernel.site import Backend, Site
from kernel.streams import Intake
from kernel.turns import Turns
from kernel.verdict import judge
from kernel.watching import timely, watched
from kernel.writer import keep

log = structlog.get_logger(__name__)


class Transfers:
    """Takes data from clients."""

    def __init__(self, site: Site, commands: Commands) -> None:
        self._site = site
        self._commands = commands
        self._purger = Purger(site)
        limits = site.settings.entrepot
        self._turns = Turns(limits.most_uploads, limits.most_waiting_uploads, limits.upload_wait, "uploads")

    async def stage(
        self,
        image_id: str,
        chunks: AsyncIterator[bytes],
        *,
        context: Context,
        guard: Guard,
        declared: int | None = None,
        accepted: Callable[[], Awaitable[None]] | None = None,
    ) -> Image:
        """Keep the bytes where a later import finds them; returns the image as staged."""
        transfer = str(new_id())
        command = c.StartStaging(transfer=transfer, declared_size=declared)
        admitted = await self._admitted(image_id, command, guard)
        async with self._turns.turn():
            before, after = await self._site.quotas.stage(admitted.image, declared)
            started = await self._start(admitted, command, context, guard, before)
            lease = _held(started)
            intake = self._intake(chunks, lease, "staging", declared)

            async def run() -> c.Command:
                name = blob_name(image_id, transfer, "stage", lease.epoch)
                blob = await self._write_staged(name, intake)
                return c.CompleteStaging(transfer=transfer, blob=blob)

            return await self._finish(started, transfer, context, run, accepted, after)

    async def upload(
        self,
        image_id: str,
        backend: Backend,
        chunks: AsyncIterator[bytes],
        *,
        context: Context,
        guard: Guard,
        declared: int | None = None,
        accepted: Callable[[], Awaitable[None]] | None = None,
    ) -> Image:
        """Write the bytes into a store; returns the image, active."""
        transfer = str(new_id())
        command = c.StartUpload(transfer=transfer, store=backend.name, multi=self._site.multi, declared_size=declared)
        admitted = await self._admitted(image_id, command, guard)
        async with self._turns.turn():
            before, after = await self._site.quotas.upload(admitted.image, declared)
            started = await self._start(admitted, command, context, guard, before)
            lease, image = _held(started), started.after

            async def run() -> c.Command:
                signature = signature_of(image.properties)
                check = await check_of(signature, self._site.keys) if signature is not None else None
                intake = self._intake(chunks, lease, "uploading", declared, check)
                name = blob_name(image_id, transfer, backend.name, lease.epoch)
                url, virtual_size = await self._write_judged(backend, name, intake, image, check)
                location = Location(store=backend.name, url=url, name=name, size=intake.size)
                return c.CompleteUpload(
                    transfer=transfer, location=location, digests=intake.digests, virtual_size=virtual_size
                )

            return await self._finish(started, transfer, context, run, accepted, after)

    # --- pieces ------------------------------------------------------------------------

    @property
    def _stall(self) -> float:
        """Seconds for which a store may stand still while it has something to write."""
        return self._site.settings.import_worker.store_stall_timeout

    async def _admitted(self, image_id: str, command: c.Command, guard: Guard) -> Loaded:
        """The image as it is, if nothing about it stands against the data."""
        loaded = await self._commands.loaded(image_id)
        guard(loaded.image)
        decide(command, loaded.image)
        return loaded

    async def _start(
        self, admitted: Loaded, command: c.Command, context: Context, guard: Guard, limits: Limits
    ) -> Handled:
        return await self._commands.handle(
            admitted.image.id, command, context=context, guard=guard, take=True, limits=limits, known=admitted
        )

    def _intake(
        self, chunks: AsyncIterator[bytes], lease: Lease, stage: str, declared: int | None, check: Check | None = None
    ) -> Intake:
        settings = self._site.settings.default
        lease.report(stage, 0, declared)
        return Intake(
            chunks,
            algorithm=settings.hashing_algorithm,
            cap=settings.image_size_cap,
            declared=declared,
            also=check.eat if check is not None else None,
            progress=lambda done: lease.report(stage, done, declared),
        )

    async def _write_staged(self, name: str, intake: Intake) -> Blob:
        staging = self._site.staging
        mark("staging begins")
        stored = await keep(staging, STAGING, name, aiter(intake), self._stall)
        mark("staged")
        identity = None
        if isinstance(staging, LocalFiles):
            identity = await timely(staging.identify(stored.url), self._site.patience, STAGING)
        node = None if self._site.settings.default.staging_is_shared else self._site.node
        return Blob(
            store=STAGING,
            name=name,
            url=stored.url,
            size=intake.size,
            digests=intake.digests,
            facts=intake.facts,
            identity=identity,
            node=node,
        )

    async def _write_judged(
        self, backend: Backend, name: str, intake: Intake, image: Image, check: Check | None
    ) -> tuple[str, int | None]:
        """Write while judging: bytes that turn out unacceptable at their end leave nothing behind."""
        passed: list[int | None] = []

        async def judged() -> AsyncGenerator[bytes, None]:
            async for chunk in intake:
                yield chunk
            verdict = judge(image.disk_format, image.container_format, intake.size, intake.facts, self._site.rules)
            if check is not None:
                await asyncio.to_thread(check.finish)
            passed.append(verdict.virtual_size)

        mark("upload begins")
        stored = await keep(backend.store, backend.name, name, judged(), self._stall)
        mark("uploaded")
        return stored.url, passed[0]

    async def _finish(
        self,
        started: Handled,
        transfer: str,
        context: Context,
        run: Callable[[], Coroutine[Any, Any, c.Command]],
        accepted: Callable[[], Awaitable[None]] | None,
        limits: Limits,
    ) -> Image:
        """Move the bytes and record them; whatever goes wrong, record that the transfer is given up."""
        image_id, lease = started.after.id, _held(started)
        assert started.after.transfer is not None
        store = started.after.transfer.store
        try:
            if accepted is not None:
                await accepted()
            complete = await watched(lease, run(), lambda: self._look_up(image_id, transfer, lease))
            handled = await asyncio.shield(
                self._commands.handle(
                    image_id,
                    complete,
                    context=context,
                    lease=lease,
                    limits=limits,
                    release=True,
                    known=started.newest,
                    patient=True,
                )
            )
        except BaseException as error:
            await asyncio.shield(self._give_up(image_id, transfer, store, lease, context, error))
            raise
        return handled.after

    async def _look_up(self, image_id: str, transfer: str, lease: Lease) -> None:
        """Whether to go on, after something happened to the image."""
        if lease.lost:
            raise Unavailable("The transfer was interrupted; please try again")
        with contextlib.suppress(Unavailable):
            image = await self._commands.load(image_id)
            if image.gone:
                raise Gone("The image was deleted while its data was being sent")
            if image.transfer is None or image.transfer.id != transfer:
                raise Fenced("The transfer was given up")

    async def _give_up(
        self, image_id: str, transfer: str, store: str, lease: Lease, context: Context, error: BaseException
    ) -> None:
        command = c.FailTransfer(transfer=transfer, reason=reason_of(error), kind=kind_of(error))
        log.info("transfer_failed", image_id=image_id, transfer=transfer, reason=command.reason)
        try:
            await self._commands.handle(image_id, command, context=context, lease=lease, release=True, patient=True)
        except EntrepotError as refused:
            log.warning("transfer_not_given_up", image_id=image_id, reason=str(refused))
            with contextlib.suppress(Unavailable):
                await self._purger.withdraw(await self._commands.load(image_id), [store], lease.epoch)


def _held(handled: Handled) -> Lease:
    assert handled.lease is not None
    return handled.lease
