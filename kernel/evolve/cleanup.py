"""Bytes that a dead worker may have left, and those that are gone."""

from __future__ import annotations

from msgspec.structs import replace

from kernel import events as e
from kernel.events import Sweep
from kernel.evolve.garbage import merged
from kernel.evolve.table import Table
from kernel.image import STAGING, Image
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.LeaseTakenOver)
def _taken_over(image: Image, event: e.LeaseTakenOver, meta: Meta) -> Image:
    stores = {STAGING, *(sweep.store for sweep in image.sweeps)}
    if image.transfer:
        stores.add(image.transfer.store)
    if image.job:
        stores.update(image.job.stores)
    below = meta.epoch or 0
    now = [Sweep(store=store, below=below) for store in (STAGING, *image.job.writing)] if image.job else []
    late = [Sweep(store=store, below=below, due=event.sweep_at) for store in sorted(stores) if event.sweep_at]
    job = replace(image.job, writing={}, take_overs=image.job.take_overs + 1) if image.job else None
    return replace(image, job=job, sweeps=merged([*image.sweeps, *now, *late]))


@on(e.BytesPurged)
def _purged(image: Image, event: e.BytesPurged, meta: Meta) -> Image:
    gone = set(event.blobs)
    swept = {(sweep.store, sweep.due): sweep.below for sweep in event.sweeps}
    return replace(
        image,
        garbage=tuple(item for item in image.garbage if (item.store, item.url) not in gone),
        sweeps=tuple(sweep for sweep in image.sweeps if swept.get((sweep.store, sweep.due), -1) < sweep.below),
    )
