"""Imports that are taken back: turned round by a failure, cancelled or preempted, then over."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kernel import events as e
from kernel.events import Sweep
from kernel.evolve.data import cleared
from kernel.evolve.garbage import EVERY_EPOCH, merged, staged_garbage, stored_garbage
from kernel.evolve.jobs import ended, expiring, joined
from kernel.evolve.table import Table
from kernel.image import STAGING, WITHOUT_DATA, Failure, Image, Job
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.ImportCancelled)
def _import_cancelled(image: Image, event: e.ImportCancelled, meta: Meta) -> Image:
    return turn_round(image, meta, Failure(reason=event.reason, kind="forbidden", from_outside=True))


def turn_round(image: Image, meta: Meta, failure: Failure) -> Image:
    """Turn the job round: its copies are no longer the image's, its bytes are garbage.

    An import that already made the image active (one store was enough) keeps what it has.
    What was just being written is searched for; if a worker is still at it, when it has stopped.
    """
    job = image.job
    if job is None or job.failure is not None:
        return image
    garbage, sweeps = list(image.garbage), list(image.sweeps)
    locations = image.locations
    if job.copies or image.status in WITHOUT_DATA:
        garbage += map(stored_garbage, image.removable)
        locations = tuple(loc for loc in locations if loc.store not in job.done)
    writing = job.writing
    if not failure.from_outside:
        sweeps += [Sweep(store=store, below=(meta.epoch or 0) + 1) for store in writing]
        writing = {}
    if job.data is not None:
        garbage.append(staged_garbage(job.data))
    job = replace(job, failure=failure, writing=writing, data=None)
    return replace(image, job=job, locations=locations, garbage=tuple(garbage), sweeps=merged(sweeps))


@on(e.ImportFailed)
def _import_failed(image: Image, event: e.ImportFailed, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    blamed = job.failed
    if job.failure and job.failure.blame_all:
        blamed = tuple(store for store in job.stores if store not in image.stores)
    sweeps = image.sweeps
    if job.failure and job.failure.from_outside:
        late = [Sweep(store=store, below=(meta.epoch or 0) + 1) for store in (STAGING, *job.writing)]
        sweeps = merged([*sweeps, *late])
    image = _undo_changes(image, job)
    task = ended(image.task, meta, "failure", event.reason)
    if job.registers:
        image = _unregistered(image, job)
    else:
        image = replace(
            image,
            importing=tuple(store for store in image.importing or () if store not in job.stores),
            failed=joined(image.failed or (), blamed if job.multi else ()),
        )
    return replace(
        image,
        job=None,
        task=task,
        expiring=expiring(image, task),
        sweeps=sweeps,
        updated_at=meta.at,
        **_without_data(image, job, meta),
    )


def _unregistered(image: Image, job: Job) -> Image:
    """Bytes that were refused are not ours to delete; where none can be deleted the image still tells of them."""
    if image.status == "importing" and not job.options["leave"]:
        return replace(image, locations=())
    return image


@on(e.ImportPreempted)
def _import_preempted(image: Image, event: e.ImportPreempted, meta: Meta) -> Image:
    """The copies that it completed stay; whatever else it may have left is searched for."""
    job = image.job
    if job is None:
        return image
    garbage, locations = list(image.garbage), image.locations
    if job.data is not None:
        garbage.append(staged_garbage(job.data))
    status = _without_data(image, job, meta)
    if status:
        garbage += map(stored_garbage, image.removable)
        locations = tuple(loc for loc in locations if loc.store not in job.done)
    task = ended(image.task, meta, "failure", "Expired lock preempted")
    if not job.registers:
        image = replace(
            image,
            importing=tuple(store for store in image.importing or () if store not in job.stores),
            failed=tuple(store for store in image.failed or () if store not in job.stores),
        )
    return replace(
        _undo_changes(image, job),
        job=None,
        task=task,
        expiring=expiring(image, task),
        locations=locations,
        garbage=tuple(garbage),
        sweeps=merged([*image.sweeps, *(Sweep(store=store, below=EVERY_EPOCH) for store in (STAGING, *job.stores))]),
        updated_at=meta.at,
        **status,
    )


def _without_data(image: Image, job: Job, meta: Meta) -> dict[str, Any]:
    """What becomes of an image whose data its import did not bring; one that it was to make goes altogether."""
    if image.status not in WITHOUT_DATA or job.copies:
        return {}
    return {**cleared(), **({"status": "deleted", "deleted_at": meta.at} if job.makes else {})}


def _undo_changes(image: Image, job: Job) -> Image:
    """Take back what steps changed."""
    formats = {name: was.old for name, was in job.format_changes.items()}
    properties = dict(image.properties)
    for name, was in job.property_changes.items():
        if was.was_absent:
            properties.pop(name, None)
        else:
            properties[name] = was.old
    return replace(image, properties=properties, **formats)
