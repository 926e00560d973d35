"""What an import does to its bytes before any store gets them: describe, fetch, plugins, inspect."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from kernel import events as e
from kernel.evolve.garbage import staged_garbage
from kernel.evolve.jobs import with_job
from kernel.evolve.metadata import properties_after
from kernel.evolve.table import Table
from kernel.evolve.undo import turn_round
from kernel.image import IMAGE_IMPORT, Change, Failure, Fetch, Image
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.MetadataCopied)
def _metadata_copied(image: Image, event: e.MetadataCopied, meta: Meta) -> Image:
    formats = {"disk_format": event.disk_format, "container_format": event.container_format}
    image = _step_changes(image, formats, event.properties, ())
    return with_job(image, meta, described=True, expected_size=event.size)


@on(e.FetchStarted)
def _fetch_started(image: Image, event: e.FetchStarted, meta: Meta) -> Image:
    fetch = Fetch(name=event.name, total=event.total, validator=event.validator, boot=event.boot)
    return with_job(image, meta, touch=False, fetch=fetch)


@on(e.DataFetched)
def _fetched(image: Image, event: e.DataFetched, meta: Meta) -> Image:
    if image.job and not image.job.copies:
        image = replace(image, size=event.blob.size)
    image = with_job(image, meta, data=event.blob)
    if image.job is not None and image.task is not None and image.task.type == IMAGE_IMPORT:
        image = replace(image, task=replace(image.task, status="verifying"))
    return image


@on(e.StepCompleted)
def _step_completed(image: Image, event: e.StepCompleted, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    formats = {
        name: value for name in ("disk_format", "container_format") if (value := getattr(event, name)) is not UNSET
    }
    image = _step_changes(image, formats, event.properties_set, event.properties_removed)
    changed: dict[str, Any] = {"steps_done": job.steps_done + 1}
    if event.virtual_size is not UNSET:
        changed["virtual_size"] = event.virtual_size
    if event.blob is not None:
        former = job.data
        changed["data"] = event.blob
        image = replace(image, size=event.blob.size)
        if former is not None:
            image = replace(image, garbage=(*image.garbage, staged_garbage(former)))
    return with_job(image, meta, **changed)


@on(e.DataInspected)
def _inspected(image: Image, event: e.DataInspected, meta: Meta) -> Image:
    if image.job is not None and event.disk_format is not UNSET:
        image = replace(image, disk_format=event.disk_format)
    return with_job(image, meta, touch=False, inspected=True, virtual_size=event.virtual_size)


@on(e.StepFailed)
def _step_failed(image: Image, event: e.StepFailed, meta: Meta) -> Image:
    return turn_round(image, meta, Failure(reason=event.reason, kind=event.kind, blame_all=True))


def _step_changes(
    image: Image, formats: dict[str, Any], added: dict[str, str | None], removed: tuple[str, ...]
) -> Image:
    """Apply what a step changed and remember what was there before the first of them."""
    job = image.job
    if job is None:
        return image
    format_changes, property_changes = dict(job.format_changes), dict(job.property_changes)
    for name in formats:
        format_changes.setdefault(name, Change(old=getattr(image, name)))
    for name in (*added, *removed):
        was = Change(old=image.properties.get(name), was_absent=name not in image.properties)
        property_changes.setdefault(name, was)
    job = replace(job, format_changes=format_changes, property_changes=property_changes)
    return replace(image, properties=properties_after(image, added, removed), job=job, **formats)
