"""Locations that are registered, reordered and taken away, and the hash of what lies there."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kernel import events as e
from kernel.evolve.data import afresh
from kernel.evolve.garbage import stored_garbage, unneeded
from kernel.evolve.jobs import with_job
from kernel.evolve.table import Table
from kernel.image import Image, Status
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.LocationAdded)
def _location_added(image: Image, event: e.LocationAdded, meta: Meta) -> Image:
    image = afresh(image)
    there = image.locations
    index = len(there) if event.index is None else event.index
    locations = (*there[:index], event.location, *there[index:])
    changed: dict[str, Any] = {}
    if event.digests is not None:
        digests = event.digests
        changed = {"checksum": digests.md5 or None, "hash_algo": digests.algo, "hash_value": digests.value or None}
    size = image.size if image.size is not None else event.size
    status = "active" if image.status == "queued" else image.status
    if image.job is not None and image.job.registers:
        image = replace(image, job=replace(image.job, registered=True))
    return replace(
        image,
        locations=locations,
        garbage=unneeded(image.garbage, locations),
        size=size,
        status=status,
        multi=True,
        updated_at=meta.at,
        **changed,
    )


@on(e.DataHashed)
def _hashed(image: Image, event: e.DataHashed, meta: Meta) -> Image:
    digests = event.digests
    hashes = {"checksum": digests.md5, "hash_algo": digests.algo, "hash_value": digests.value}
    status: Status = "active" if image.status == "importing" else image.status
    return with_job(replace(image, status=status, updated_at=meta.at, **hashes), meta)


@on(e.LocationsReplaced)
def _locations_replaced(image: Image, event: e.LocationsReplaced, meta: Meta) -> Image:
    garbage = unneeded(image.garbage, event.locations)
    return replace(image, locations=event.locations, garbage=garbage, updated_at=meta.at)


@on(e.LocationRemoved)
def _location_removed(image: Image, event: e.LocationRemoved, meta: Meta) -> Image:
    for index, location in enumerate(image.locations):
        if (location.url, location.store, location.metadata) == (event.url, event.store, event.metadata):
            kept = (*image.locations[:index], *image.locations[index + 1 :])
            garbage = image.garbage
            if all(other.url != location.url for other in kept):
                garbage = (*garbage, stored_garbage(location))
            return replace(image, locations=kept, garbage=garbage, updated_at=meta.at)
    return image
