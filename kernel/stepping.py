"""Running one plugin on staged bytes: what it may use, what is made of its outcome, what is cleared away.

reserve names ─▶ step.run ─▶ seal, hash, inspect ─▶ StepCompleted
                    └── fails, is cancelled ──▶ nothing of it is left in staging
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from kernel import events as e
from kernel.context import Actor
from kernel.errors import EntrepotError, Invalid, PluginFailed, TooLarge, UnacceptableData
from kernel.extend import Limits, LocalFiles, StepRequest, StepResult, Store
from kernel.failures import reason_of
from kernel.image import STAGING, Image, Job
from kernel.marks import mark
from kernel.naming import blob_name
from kernel.site import Site
from kernel.streams import digest
from kernel.verdict import Rules, the_format
from kernel.watching import steady, timely

log = structlog.get_logger(__name__)

_SYNC_RATE: Final = 5 << 20
"""Bytes a second below which making a file durable counts as standing still."""
_LARGEST: Final = (1 << 63) - 1
_NAME: Final = 255
_VALUE: Final = 65535
"""Characters of a name, of a property or a format, and of the value of a property."""


class Desk:
    """Names in staging under which one run of a step makes things."""

    def __init__(self, staging: Store, image_id: str, attempt: str, step: str, epoch: int) -> None:
        assert isinstance(staging, LocalFiles)
        self._staging, self._files = staging, staging
        self.name = blob_name(image_id, attempt, step, epoch)
        self._scratch_name = blob_name(image_id, attempt, f"{step}-scratch", epoch)
        self._output: Path | None = None
        self._scratch: Path | None = None

    async def output(self) -> Path:
        """Where the file that replaces the staged one is to be made."""
        if self._output is None:
            self._output = await self._files.reserve(self.name)
        return self._output

    async def scratch(self) -> Path:
        """A directory to work in."""
        if self._scratch is None:
            path = self._scratch = await self._files.reserve(self._scratch_name)
            making = asyncio.create_task(asyncio.to_thread(path.mkdir, mode=0o700))
            try:
                await asyncio.shield(making)
            finally:
                await asyncio.wait({making})  # what is to be cleared away must not appear afterwards
        return self._scratch

    async def clear(self, *, all_of_it: bool) -> None:
        """Remove the scratch directory, and the output too if nobody is to have it.  What cannot be removed
        now has a name that a later sweep knows."""
        names = [self._scratch_name] if self._scratch is not None else []
        names += [self.name] if all_of_it and self._output is not None else []
        for name in names:
            try:
                await self._staging.remove(name)
            except EntrepotError as error:
                log.warning("step_not_cleared", name=name, reason=str(error))


async def run_step(
    site: Site,
    image: Image,
    job: Job,
    name: str,
    *,
    actor: Actor,
    epoch: int,
    report: Callable[[int, int | None], None],
) -> e.StepCompleted:
    """Run the plugin of this name on the import's staged bytes; `PluginFailed` names it and says why."""
    step = site.steps.get(name) or site.task_steps.get(name)
    if step is None:
        raise PluginFailed(name, "it is not configured any more")
    assert job.data is not None
    assert isinstance(site.staging, LocalFiles)
    desk = Desk(site.staging, image.id, job.task_id, f"step{job.steps_done}", epoch)
    request = StepRequest(
        image=image,
        actor=actor,
        request=image.task.request if image.task else {},
        task_id=job.task_id,
        path=site.staging.path(job.data.url),
        blob=job.data,
        output=desk.output,
        scratch=desk.scratch,
        settings=site.configs[f"step:{name}"],
        limits=Limits(size_cap=site.settings.default.image_size_cap),
        rules=site.rules,
        config_dirs=site.settings.config_dirs,
        progress=report,
    )
    kept = False
    try:
        completed = await _completed(site, name, desk.name, await step.run(request))
        kept = completed.blob is not None
        if kept:
            mark("step done")
        return completed
    except Exception as error:
        if not isinstance(error, EntrepotError):
            log.exception("step_crashed", image_id=image.id, step=name)
        raise PluginFailed(name, reason_of(error)) from error
    finally:
        await desk.clear(all_of_it=not kept)


async def _completed(site: Site, step: str, output: str, result: StepResult) -> e.StepCompleted:
    _must_be_recordable(result)
    blob = await _sealed(site, output, result.expects) if result.replaced else None
    changed = {
        key: value
        for key in ("disk_format", "container_format", "virtual_size")
        if (value := getattr(result, key)) is not None
    }
    return e.StepCompleted(
        step=step,
        blob=blob,
        properties_set=dict(result.properties),
        properties_removed=result.removed,
        **changed,
    )


async def _sealed(site: Site, output: str, expected: str | None) -> e.Blob:
    """The new bytes, durable, read once for digests and facts."""
    assert isinstance(site.staging, LocalFiles)
    default = site.settings.default
    path = site.staging.partial(output)
    written = await asyncio.to_thread(lambda: path.stat().st_size if path.exists() else 0)
    if written > default.image_size_cap:
        raise TooLarge(f"it made {written} bytes, {default.image_size_cap} are allowed")
    stored, identity = await timely(site.staging.seal(output), site.patience + written / _SYNC_RATE, STAGING)
    chunks = steady(site.staging.read(stored.url), site.patience, STAGING)
    size, digests, facts = await digest(chunks, default.hashing_algorithm, inspect=True)
    if expected is not None and facts is not None:
        _must_be(expected, facts, site.rules)
    return e.Blob(
        store=STAGING,
        name=output,
        url=stored.url,
        size=size,
        digests=digests,
        facts=facts,
        identity=identity,
        node=None if default.staging_is_shared else site.node,
    )


def _must_be_recordable(result: StepResult) -> None:
    """What the database would refuse each time anew is refused here, once and in words."""
    for name, value in result.properties.items():
        if not _is_text(name, _NAME) or not name:
            raise Invalid(f"it sets a property whose name cannot be kept: {name[:64]!a}")
        if not _is_text(value, _VALUE):
            raise Invalid(f"the value that it gives to the property {name} cannot be kept: {value[:64]!a}")
    for kind in ("disk_format", "container_format"):
        name = getattr(result, kind)
        if name is not None and not (name and _is_text(name, _NAME)):
            raise Invalid(f"it sets {kind} to what is no name: {name[:64]!a}")
    size = result.virtual_size
    if size is not None and not 0 <= size <= _LARGEST:
        raise Invalid(f"it sets virtual_size to {size}")


def _is_text(text: str, most: int) -> bool:
    """Whether it is short enough, free of NUL, and can be written down."""
    return len(text) <= most and "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _must_be(expected: str, facts: e.Facts, rules: Rules) -> None:
    """A step that says what it made is held to it."""
    found = the_format(facts, rules).name
    if found != expected and (expected, found) != ("raw", "gpt"):
        raise UnacceptableData(f"the result is {found} instead of {expected}")
