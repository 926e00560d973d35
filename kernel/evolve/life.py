"""The life of an image: made, seen, blocked, deleted."""

from __future__ import annotations

from msgspec.structs import replace

from kernel import events as e
from kernel.events import Sweep
from kernel.evolve.garbage import EVERY_EPOCH, merged, staged_garbage, stored_garbage
from kernel.evolve.jobs import ended
from kernel.evolve.table import Table
from kernel.image import STAGING, Image, Status
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.ImageCreated)
def _created(image: Image, event: e.ImageCreated, meta: Meta) -> Image:
    return Image(
        id=event.image_id,
        owner=event.owner,
        name=event.name,
        visibility=event.visibility,
        protected=event.protected,
        hidden=event.hidden,
        disk_format=event.disk_format,
        container_format=event.container_format,
        min_disk=event.min_disk,
        min_ram=event.min_ram,
        tags=event.tags,
        properties=event.properties,
        created_at=meta.at,
        updated_at=meta.at,
        at=meta.at,
    )


@on(e.ImageExpected)
def _expected(image: Image, event: e.ImageExpected, meta: Meta) -> Image:
    return replace(_created(image, event.image, meta), status="expected")


@on(e.ImageAppeared)
def _appeared(image: Image, event: e.ImageAppeared, meta: Meta) -> Image:
    """It is as old as it is visible: whoever asks for what is new since yesterday misses none."""
    if not image.expected:
        return image
    status: Status = "active" if image.locations else "queued"
    return replace(image, status=status, created_at=meta.at, updated_at=meta.at)


@on(e.ImageDeactivated)
def _deactivated(image: Image, event: e.ImageDeactivated, meta: Meta) -> Image:
    return replace(image, status="deactivated", updated_at=meta.at)


@on(e.ImageReactivated)
def _reactivated(image: Image, event: e.ImageReactivated, meta: Meta) -> Image:
    return replace(image, status="active", updated_at=meta.at)


@on(e.DeletionScheduled)
def _deletion_scheduled(image: Image, event: e.DeletionScheduled, meta: Meta) -> Image:
    """What was there before a running copy waits; what the copy has made goes at once."""
    made = image.removable
    return replace(
        _without_work(replace(image, garbage=(*image.garbage, *map(stored_garbage, made))), meta),
        status="pending_delete",
        deleted_at=meta.at,
        scrub_at=event.scrub_at,
        locations=tuple(location for location in image.locations if location not in made),
    )


@on(e.ImageDeleted)
def _deleted(image: Image, event: e.ImageDeleted, meta: Meta) -> Image:
    image = _without_work(image, meta)
    return replace(
        image,
        status="deleted",
        deleted_at=image.deleted_at or meta.at,
        scrub_at=None,
        locations=(),
        garbage=(*image.garbage, *map(stored_garbage, image.locations)),
    )


def _without_work(image: Image, meta: Meta) -> Image:
    """The image with nothing under way: whatever was is given up, its bytes are garbage or searched for."""
    garbage, sweeps = list(image.garbage), list(image.sweeps)
    if image.staged:
        garbage.append(staged_garbage(image.staged))
    if image.transfer:
        sweeps.append(Sweep(store=image.transfer.store, below=image.transfer.epoch + 1))
    task = image.task
    if image.job:
        task = ended(task, meta, "failure", "The image has been deleted")
        stores = (STAGING, *image.job.stores)
        sweeps += [Sweep(store=store, below=EVERY_EPOCH) for store in stores]
    return replace(
        image,
        updated_at=meta.at,
        staged=None,
        transfer=None,
        job=None,
        task=task,
        garbage=tuple(garbage),
        sweeps=merged(sweeps),
    )
