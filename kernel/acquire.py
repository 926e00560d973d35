"""Steps of an import before the stores: describe, fetch, plugins, inspection of what is staged.

Each makes its output under a name of its own in staging; only the recorded event
makes that name valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kernel import commands as c
from kernel import events as e
from kernel.context import Context
from kernel.errors import EntrepotError, Invalid, NotFound
from kernel.extend import FetchRequest, ImportMethod, Limits, LocalFiles, StepRequest, StepResult
from kernel.image import STAGING, Image, Job
from kernel.leases import Lease
from kernel.naming import blob_name
from kernel.site import Site
from kernel.streams import Intake, digest
from kernel.verdict import judge


class Acquirer:
    """Brings an import's bytes into the form in which they will be stored."""

    def __init__(self, site: Site, lease: Lease, context: Context) -> None:
        self._site = site
        self._lease = lease
        self._context = context

    async def describe(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Take formats and properties over from elsewhere."""
        method = self._method(job)
        assert method.describe is not None
        found = await method.describe(self._request(image, job))
        copied = e.MetadataCopied(
            disk_format=found.disk_format,
            container_format=found.container_format,
            properties=found.properties,
            size=found.size,
        )
        return (c.RecordMetadata(task_id=job.task_id, copied=copied),)

    async def fetch(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Bring the bytes into staging."""
        method = self._method(job)
        assert method.open is not None
        opened = await method.open(self._request(image, job))
        settings = self._site.settings.default
        self._lease.report("fetching", 0, opened.total)
        intake = Intake(
            opened.chunks,
            algorithm=settings.hashing_algorithm,
            cap=settings.image_size_cap,
            declared=opened.total,
            progress=lambda done: self._lease.report("fetching", done, opened.total),
        )
        name = blob_name(image.id, job.task_id, "fetch", self._lease.epoch)
        stored = await self._site.staging.put(name, aiter(intake))
        if intake.size == 0:
            raise Invalid("The source sent no data")
        identity = await self._staging.identify(stored.url)
        blob = self._blob(name, stored.url, intake.size, intake.digests, intake.facts, identity)
        return (c.RecordFetch(task_id=job.task_id, blob=blob),)

    async def step(self, image: Image, job: Job, name: str) -> Sequence[c.Command]:
        """Run one plugin on the staged bytes."""
        step = self._site.steps.get(name)
        if step is None:
            raise NotFound(f"The plugin {name} is not configured any more")
        assert job.data is not None
        output = blob_name(image.id, job.task_id, f"step{job.steps_done}", self._lease.epoch)
        reserved: list[Path] = []

        async def reserve() -> Path:
            if not reserved:
                reserved.append(await self._staging.reserve(output))
            return reserved[0]

        request = StepRequest(
            image=image,
            actor=self._context.actor,
            request=image.task.request if image.task else {},
            task_id=job.task_id,
            path=self._staging.path(job.data.url),
            blob=job.data,
            output=reserve,
            settings=self._site.configs[f"step:{name}"],
            limits=Limits(size_cap=self._site.settings.default.image_size_cap),
            progress=lambda done, total: self._lease.report(name, done, total),
        )
        self._lease.report(name, 0, job.data.size)
        try:
            result = await step.run(request)
            completed = await self._completed(name, output, result)
        except BaseException:
            if reserved:
                await self._site.staging.remove(output)
            raise
        return (c.RecordStep(task_id=job.task_id, completed=completed),)

    async def look(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Inspect staged bytes of which no facts are known."""
        assert job.data is not None
        size, _, facts = await digest(self._site.staging.read(job.data.url), job.data.digests.algo, inspect=True)
        verdict = judge(image.disk_format, image.container_format, size, facts, self._site.rules)
        found = c.RecordInspection(task_id=job.task_id, detected=verdict.detected, virtual_size=verdict.virtual_size)
        return (found,)

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

    def _request(self, image: Image, job: Job) -> FetchRequest:
        return FetchRequest(
            image=image,
            options=job.options,
            secrets={},
            settings=self._site.configs.get(f"method:{job.method}"),
            stores=self._site.stores,
            size_cap=self._site.settings.default.image_size_cap,
        )

    async def _completed(self, name: str, output: str, result: StepResult) -> e.StepCompleted:
        blob = None
        if result.replaced:
            stored, identity = await self._staging.seal(output)
            algorithm = self._site.settings.default.hashing_algorithm
            size, digests, facts = await digest(self._site.staging.read(stored.url), algorithm, inspect=True)
            blob = self._blob(output, stored.url, size, digests, facts, identity)
        changed = {
            key: value
            for key in ("disk_format", "container_format", "virtual_size")
            if (value := getattr(result, key)) is not None
        }
        return e.StepCompleted(
            step=name,
            blob=blob,
            properties_set=dict(result.properties),
            properties_removed=result.removed,
            **changed,
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
