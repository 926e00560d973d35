"""What an import writes to its stores, and the staged bytes that are cleared when all are done."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kernel import events as e
from kernel.events import Sweep
from kernel.evolve.data import size_and_hashes
from kernel.evolve.garbage import merged
from kernel.evolve.jobs import joined, with_job
from kernel.evolve.table import Table
from kernel.evolve.undo import turn_round
from kernel.image import STAGING, Failure, Garbage, Image
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.StoreStarted)
def _store_started(image: Image, event: e.StoreStarted, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    return with_job(image, meta, touch=False, writing={**job.writing, event.store: event.name})


@on(e.StoreSucceeded)
def _store_succeeded(image: Image, event: e.StoreSucceeded, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    todo = _without(job.todo, event.store)
    published: dict[str, Any] = {}
    if not job.copies:
        published = {**size_and_hashes(event.location, event.digests), "virtual_size": job.virtual_size}
        if image.status in ("importing", "queued") and (not job.must_succeed or not todo):
            published["status"] = "active"
    image = replace(
        image,
        locations=(*image.locations, event.location),
        importing=_without(image.importing or (), event.store),
        **published,
    )
    done = (*job.done, event.store)
    return with_job(image, meta, todo=todo, done=done, writing=_drop(job.writing, event.store))


@on(e.StoreFailed)
def _store_failed(image: Image, event: e.StoreFailed, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    todo, failed = _without(job.todo, event.store), (*job.failed, event.store)
    image = replace(
        image,
        importing=_without(image.importing or (), event.store),
        failed=joined(image.failed or (), (event.store,) if job.multi else ()),
        sweeps=merged([*image.sweeps, Sweep(store=event.store, below=(meta.epoch or 0) + 1)]),
    )
    image = with_job(image, meta, todo=todo, failed=failed, writing=_drop(job.writing, event.store))
    if job.must_succeed:
        return turn_round(image, meta, Failure(reason=event.reason, kind=event.kind))
    if not todo and not job.done:
        return turn_round(image, meta, Failure(reason=f"None of the uploads finished: {event.reason}", kind=event.kind))
    return image


@on(e.StagingCleared)
def _staging_cleared(image: Image, event: e.StagingCleared, meta: Meta) -> Image:
    node = image.job.data.node if image.job and image.job.data else None
    left = (Garbage(store=STAGING, url=url, node=node) for url in event.kept)
    garbage = (*(item for item in image.garbage if item.store != STAGING), *left)
    return with_job(replace(image, garbage=garbage), meta, touch=False, data=None, cleared=True)


def _without(stores: tuple[str, ...], store: str) -> tuple[str, ...]:
    return tuple(item for item in stores if item != store)


def _drop(writing: dict[str, str], store: str) -> dict[str, str]:
    return {key: value for key, value in writing.items() if key != store}
