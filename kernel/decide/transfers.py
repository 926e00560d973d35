"""Bytes that clients send, staged or uploaded."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import commands as c
from kernel import events as e
from kernel.decide.guards import check_unlocked, missing_formats, must_exist
from kernel.decide.table import Table
from kernel.errors import Conflict, Fenced, Gone, Invalid
from kernel.image import STAGING, TRANSITIONS, Image

RULES = Table()
on = RULES.on


@on(c.StartStaging)
def _start_staging(command: c.StartStaging, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    check_unlocked(image)
    if image.status != "queued":
        raise Conflict(_transition(image, "uploading"))
    return (e.StagingStarted(transfer=command.transfer, declared_size=command.declared_size),)


@on(c.CompleteStaging)
def _complete_staging(command: c.CompleteStaging, image: Image) -> Sequence[e.Event]:
    _must_be_sending(image, command.transfer, staging=True)
    return (e.DataStaged(transfer=command.transfer, blob=command.blob),)


@on(c.StartUpload)
def _start_upload(command: c.StartUpload, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    check_unlocked(image)
    if image.status != "queued":
        raise Conflict(_transition(image, "saving"))
    missing = missing_formats(image)
    if missing:
        raise Invalid(f"Properties {', '.join(missing)} must be set before data can be uploaded")
    return (
        e.UploadStarted(
            transfer=command.transfer,
            store=command.store,
            multi=command.multi,
            declared_size=command.declared_size,
        ),
    )


@on(c.CompleteUpload)
def _complete_upload(command: c.CompleteUpload, image: Image) -> Sequence[e.Event]:
    _must_be_sending(image, command.transfer, staging=False)
    return (
        e.DataUploaded(
            transfer=command.transfer,
            location=command.location,
            digests=command.digests,
            virtual_size=command.virtual_size,
        ),
    )


@on(c.FailTransfer)
def _fail_transfer(command: c.FailTransfer, image: Image) -> Sequence[e.Event]:
    transfer = image.transfer
    if transfer is None or transfer.id != command.transfer:
        return ()
    if transfer.store == STAGING:
        return (e.StagingFailed(transfer=transfer.id, reason=command.reason),)
    return (e.UploadFailed(transfer=transfer.id, store=transfer.store, reason=command.reason, kind=command.kind),)


def _must_be_sending(image: Image, transfer: str, *, staging: bool) -> None:
    if image.gone:
        raise Gone("The image was deleted while its data was being sent")
    sending = image.transfer
    if sending is None or sending.id != transfer or (sending.store == STAGING) is not staging:
        raise Fenced("This transfer was given up; its data has been discarded")


def _transition(image: Image, to: str) -> str:
    assert to in TRANSITIONS["queued"]
    return f"Image status transition from {image.status} to {to} is not allowed"
