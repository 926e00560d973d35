"""Steps of an import before the stores: describe, fetch, plugins, inspection of what is staged.

Each makes its output under a name of its own in staging; only the recorded event
makes that name valid.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
from msgspec import structs

from kernel import commands as c
from kernel import events as e
from kernel.charges import Limits
from kernel.context import Context
from kernel.errors import EntrepotError, Interrupted, Invalid, OverQuota, TooLarge
from kernel.extend import FetchRequest, ImportMethod, LocalFiles
from kernel.fetching import Fetch, SourceChanged, boot_id
from kernel.ids import stream_of
from kernel.image import STAGING, Image, Job
from kernel.leases import Lease
from kernel.marks import mark
from kernel.naming import blob_name
from kernel.signing import check_all, check_of, signature_of
from kernel.site import Site
from kernel.stepping import run_step
from kernel.streams import Intake, digest
from kernel.verdict import judge
from kernel.watching import steady, timely
from kernel.writer import keep

log = structlog.get_logger(__name__)

_ATTEMPTS: Final = 3
"""How often a source is read from its beginning before it is given up."""
_PAUSE: Final = 0.2
"""Seconds before the second attempt; more before the third."""

Note = Callable[[c.Command, Limits], Awaitable[None]]
"""Records something in the middle of a step, held to limits."""


class Acquirer:
    """Brings an import's bytes into the form in which they will be stored."""

    def __init__(self, site: Site, lease: Lease, context: Context, note: Note, limits: Limits) -> None:
        """`limits`: what the bytes brought into staging are held to."""
        self._site = site
        self._limits = limits
        self._note = note
        self._lease = lease
        self._context = context

    async def describe(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Take formats and properties over from elsewhere."""
        method = self._method(job)
        assert method.describe is not None
        found = await method.describe(await self._request(image, job))
        for name, allowed in self._site.settings.image_format.allowed.items():
            value = getattr(found, name)
            if value is not None and value not in allowed:
                raise Invalid(f"The {name} {value[:80]!r} of the remote image is not one of this site's")
        copied = e.MetadataCopied(
            disk_format=found.disk_format,
            container_format=found.container_format,
            properties=found.properties,
            size=found.size,
        )
        return (c.RecordMetadata(task_id=job.task_id, copied=copied),)

    async def fetch(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Bring the bytes into staging.

        A source that has changed in the middle, or broke off and vouches for nothing, is
        read anew a few times; one that never sent a byte is given up at once.
        """
        method = self._method(job)
        request = await self._request(image, job)
        had, held = await self._predecessor(job)
        validator = job.fetch.validator if held and job.fetch else None
        for attempt in range(1, _ATTEMPTS + 1):
            fetch = Fetch(method, replace(request, validator=validator), had, held)
            try:
                blob = await self._fetch(image, job, fetch, "fetch" if attempt == 1 else f"fetch-{attempt}")
                break
            except (SourceChanged, Interrupted) as error:
                hopeless = isinstance(error, Interrupted) and (fetch.validator is not None or not fetch.received)
                if hopeless or attempt == _ATTEMPTS:
                    raise
                log.info("fetch_anew", image_id=image.id, after=fetch.received, reason=str(error))
            finally:
                await fetch.close()
            had, held, validator = None, 0, None
            await asyncio.sleep(_PAUSE * attempt)
        await self._forget_partials(image)
        return (c.RecordFetch(task_id=job.task_id, blob=blob),)

    async def _fetch(self, image: Image, job: Job, fetch: Fetch, step: str) -> e.Blob:
        await fetch.open()
        settings = self._site.settings.default
        if fetch.total is not None and fetch.total > settings.image_size_cap:
            raise TooLarge(f"The source announces {fetch.total} bytes, the limit is {settings.image_size_cap}")
        name = blob_name(image.id, job.task_id, step, self._lease.epoch)
        started = e.FetchStarted(name=name, total=fetch.total, validator=fetch.validator, boot=boot_id())
        if fetch.validator is not None or (fetch.total is not None and self._limits):
            await self._started(job, started)
        self._lease.report("fetching", 0, fetch.total)
        intake = Intake(
            fetch.chunks(),
            algorithm=settings.hashing_algorithm,
            cap=settings.image_size_cap,
            declared=fetch.total if job.expected_size is None else job.expected_size,
            progress=lambda done: self._received(done, fetch.total),
        )
        stall = self._site.settings.import_worker.store_stall_timeout
        try:
            stored = await keep(self._site.staging, STAGING, name, aiter(intake), stall)
        except OverQuota:
            await self._started(job, structs.replace(started, total=intake.size))  # refused, with what else is staged
            raise
        mark("fetched")
        if intake.size == 0:
            await self._site.staging.remove(name)
            raise Invalid("The source sent no data")
        identity = await timely(self._staging.identify(stored.url), self._site.patience, STAGING)
        return self._blob(name, stored.url, intake.size, intake.digests, intake.facts, identity)

    async def _started(self, job: Job, started: e.FetchStarted) -> None:
        """Note that it begins; `OverQuota` when there is no room for what it announces."""
        total, limits = started.total, self._limits if started.total is not None else {}
        held_to = {key: structs.replace(limit, delta=total) for key, limit in limits.items()}
        await self._note(c.RecordFetchStart(task_id=job.task_id, started=started), held_to)

    def _received(self, done: int, total: int | None) -> None:
        """So many bytes are here: more than a limit has room for at all need not be waited for."""
        self._lease.report("fetching", done, total)
        for limit in self._limits.values():
            if 0 <= limit.most < done // limit.unit:
                raise OverQuota(limit.name, limit.most, 0, done // limit.unit)

    async def _predecessor(self, job: Job) -> tuple[Path | None, int]:
        """What a killed process of this very system had fetched before.

        Never all of it: the source is asked for at least one byte, to hear that it is the same still.
        """
        fetch = job.fetch
        if fetch is None or fetch.validator is None or fetch.boot is None or fetch.boot != boot_id():
            return None, 0
        path = self._staging.partial(fetch.name)
        try:
            size = (await asyncio.to_thread(path.stat)).st_size
        except OSError:
            return None, 0
        return path, size if fetch.total is None else min(size, max(fetch.total - 1, 0))

    async def _forget_partials(self, image: Image) -> None:
        """What earlier attempts left behind is of no use any more."""
        for leftover in await self._site.staging.leftovers(f"{image.id}/"):
            if leftover.epoch < self._lease.epoch:
                await self._site.staging.remove(leftover.name)

    async def step(self, image: Image, job: Job, name: str) -> Sequence[c.Command]:
        """Run one plugin on the staged bytes."""
        assert job.data is not None
        self._lease.report(name, 0, job.data.size)
        completed = await run_step(
            self._site,
            image,
            job,
            name,
            actor=self._context.actor,
            epoch=self._lease.epoch,
            report=lambda done, total: self._lease.report(name, done, total),
        )
        return (c.RecordStep(task_id=job.task_id, completed=completed),)

    async def look(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Inspect staged bytes of which no facts are known, and verify the signature of those that are signed."""
        assert job.data is not None
        size, facts = job.data.size, job.data.facts
        if facts is None:
            size, _, facts = await digest(self._read(job.data), job.data.digests.algo, inspect=True)
        verdict = judge(image.disk_format, image.container_format, size, facts, self._site.rules)
        await self._verify(image, job.data)
        virtual = verdict.virtual_size if verdict.detected else job.virtual_size
        found = c.RecordInspection(
            task_id=job.task_id, detected=verdict.detected, virtual_size=virtual, disk_format=verdict.disk_format
        )
        return (found,)

    async def _verify(self, image: Image, data: e.Blob) -> None:
        signature = signature_of(image.properties)
        if signature is None:
            return
        self._lease.report("verifying", 0, data.size)
        check = await check_of(signature, self._site.keys)
        await check_all(check, self._read(data), lambda done: self._lease.report("verifying", done, data.size))

    def _read(self, data: e.Blob) -> AsyncIterator[bytes]:
        return steady(self._site.staging.read(data.url), self._site.patience, STAGING)

    # --- pieces ------------------------------------------------------------------------

    @property
    def _staging(self) -> LocalFiles:
        staging = self._site.staging
        assert isinstance(staging, LocalFiles)
        return staging

    def _method(self, job: Job) -> ImportMethod:
        method = self._site.methods.get(job.method) or self._site.registry.methods.get(job.method)
        if method is None:
            raise EntrepotError(f"The import method {job.method} is not installed any more")
        return method

    async def _request(self, image: Image, job: Job) -> FetchRequest:
        stream = stream_of(image.id)
        assert stream is not None
        return FetchRequest(
            image=image,
            options=job.options,
            secrets=await self._site.secrets(stream) if job.secret else {},
            settings=self._site.configs.get(f"method:{job.method}"),
            stores=self._site.stores,
            size_cap=self._site.settings.default.image_size_cap,
        )

    def _blob(
        self, name: str, url: str, size: int, digests: e.Digests, facts: e.Facts | None, identity: e.Identity
    ) -> e.Blob:
        node = None if self._site.settings.default.staging_is_shared else self._site.node
        return e.Blob(
            store=STAGING,
            name=name,
            url=url,
            size=size,
            digests=digests,
            facts=facts,
            identity=identity,
            node=node,
        )
