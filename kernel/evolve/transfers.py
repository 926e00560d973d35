"""Bytes that clients send, staged or uploaded, and those that they are sent."""

from __future__ import annotations

from msgspec.structs import replace

from kernel import events as e
from kernel.events import Sweep
from kernel.evolve.data import afresh, cleared, size_and_hashes
from kernel.evolve.garbage import merged
from kernel.evolve.table import Table
from kernel.image import STAGING, Image, Transfer
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.StagingStarted)
def _staging_started(image: Image, event: e.StagingStarted, meta: Meta) -> Image:
    image = afresh(image)
    transfer = Transfer(id=event.transfer, store=STAGING, epoch=meta.epoch or 0, declared_size=event.declared_size)
    return replace(image, status="uploading", transfer=transfer, updated_at=meta.at)


@on(e.DataStaged)
def _staged(image: Image, event: e.DataStaged, meta: Meta) -> Image:
    return replace(image, transfer=None, staged=event.blob, size=event.blob.size, updated_at=meta.at)


@on(e.StagingFailed)
def _staging_failed(image: Image, event: e.StagingFailed, meta: Meta) -> Image:
    return _discard_transfer(image, meta)


@on(e.UploadStarted)
def _upload_started(image: Image, event: e.UploadStarted, meta: Meta) -> Image:
    image = afresh(image)
    transfer = Transfer(
        id=event.transfer,
        store=event.store,
        epoch=meta.epoch or 0,
        declared_size=event.declared_size,
        multi=event.multi,
    )
    return replace(image, status="saving", transfer=transfer, updated_at=meta.at)


@on(e.DataUploaded)
def _uploaded(image: Image, event: e.DataUploaded, meta: Meta) -> Image:
    multi = image.transfer.multi if image.transfer else image.multi
    return replace(
        image,
        status="active",
        transfer=None,
        multi=multi,
        locations=(*image.locations, event.location),
        virtual_size=event.virtual_size,
        updated_at=meta.at,
        **size_and_hashes(event.location, event.digests),
    )


@on(e.UploadFailed)
def _upload_failed(image: Image, event: e.UploadFailed, meta: Meta) -> Image:
    return _discard_transfer(image, meta)


def _discard_transfer(image: Image, meta: Meta) -> Image:
    """Back to `queued`; whatever the sender may have left behind is looked for and removed."""
    sweeps = image.sweeps
    if image.transfer:
        sweeps = merged([*sweeps, Sweep(store=image.transfer.store, below=image.transfer.epoch + 1)])
    return replace(image, transfer=None, sweeps=sweeps, updated_at=meta.at, **cleared())


@on(e.ImageSent)
def _sent(image: Image, event: e.ImageSent, meta: Meta) -> Image:
    return image
