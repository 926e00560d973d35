"""Imports as a whole: asked for, begun, called off, taken back, and the record of one that is over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from kernel import commands as c
from kernel import events as e
from kernel.decide.cleanup import record_purge
from kernel.decide.guards import missing_formats, must_exist
from kernel.decide.table import Table
from kernel.decide.turns import held_job, running
from kernel.errors import Conflict, Fenced, Invalid
from kernel.image import IMAGE_IMPORT, WITHOUT_DATA, Image, Task

RULES = Table()
on = RULES.on

_LOCK: Final = timedelta(minutes=60)
_PENDING_LOCK: Final = timedelta(minutes=120)
"""How long the lock of an import protects its image without a sign of life."""


def check_importable(image: Image, *, method: str, needs: str) -> None:
    """Refuse an import that the image's status or formats do not allow (checks 8 to 12 of the contract)."""
    must_exist(image)
    if needs != "active" and image.status == "active":
        raise Conflict(f"Image {image.id} with status active cannot be target for import")
    if needs == "active" and image.status != "active":
        raise Conflict(f"Only images with status active can be targeted for copying, not {image.status}")
    if needs == "queued" and image.status != "queued":
        raise Conflict(f"Image needs to be in 'queued' state to use '{method}', not {image.status}")
    if needs == "uploading" and (image.status != "uploading" or image.transfer is not None):
        raise Conflict(f"Image needs to be staged before '{method}' can be used; its status is {image.status}")
    missing = missing_formats(image)
    if missing:
        raise Conflict(f"'{missing[0]}' needs to be set before import")


@on(c.RequestImport)
def _request_import(command: c.RequestImport, image: Image) -> Sequence[e.Event]:
    request = command.request
    check_importable(image, method=request.method, needs=command.needs)
    if image.job is not None:
        raise Conflict("A prior operation is still in progress on this image")
    if not request.stores:
        raise Invalid("An import needs a store to write to")
    for store in request.stores if request.copies else ():
        if store in image.stores:
            raise Invalid(f"Image is already present at store {store}")
    return (request,)


@on(c.BeginImport)
def _begin(command: c.BeginImport, image: Image) -> Sequence[e.Event]:
    job = running(image, command)
    if job.started:
        return ()
    if job.flaw is not None:
        return (e.ImportStarted(), e.StepFailed(step="begin", reason=job.flaw, kind="bad_value"))
    if image.expected and not _until_success(image):
        return (e.ImportStarted(), e.ImageAppeared())
    return (e.ImportStarted(),)


def _until_success(image: Image) -> bool:
    """Whether the expected image is to be seen no sooner than its import has succeeded."""
    return image.task is not None and image.task.type == IMAGE_IMPORT


@on(c.CancelImport)
def _cancel(command: c.CancelImport, image: Image) -> Sequence[e.Event]:
    job = image.job
    if job is None or job.task_id != command.task_id:
        raise Conflict(f"Task {command.task_id} is not running")
    if job.failure is not None:
        raise Conflict(f"Task {command.task_id} has failed already and is being taken back")
    keeps_all = not job.copies and not job.registers and image.status not in WITHOUT_DATA
    if keeps_all and not job.todo:
        raise Conflict(f"Task {command.task_id} has stored all that it was to store: there is nothing left to call off")
    return (e.ImportCancelled(task_id=job.task_id, reason=command.reason),)


@on(c.FinishUndo)
def _finish_undo(command: c.FinishUndo, image: Image) -> Sequence[e.Event]:
    job = held_job(image, command)
    if job.failure is None:
        raise Fenced("The import has not failed")
    purge = record_purge(c.RecordPurge(blobs=command.purged, sweeps=command.swept), image)
    return (*purge, e.ImportFailed(task_id=job.task_id, reason=job.failure.reason))


def lock_expired(task: Task, heartbeat: datetime | None, now: datetime) -> bool:
    """Whether a task has been left alone for so long that it does not protect its image any more (contract 8.6)."""
    touched = task.updated_at if heartbeat is None else max(task.updated_at, heartbeat)
    return now - touched >= (_PENDING_LOCK if task.status in ("pending", "waiting") else _LOCK)


@on(c.PreemptImport)
def _preempt(command: c.PreemptImport, image: Image) -> Sequence[e.Event]:
    if image.job is None:
        return ()
    if image.job.task_id != command.task_id or image.version != command.as_of:
        raise Conflict("A prior operation is still in progress on this image")
    return (e.ImportPreempted(task_id=command.task_id),)


@on(c.ExpireImageImport)
def _expire(command: c.ExpireImageImport, image: Image) -> Sequence[e.Event]:
    record = image.expiring
    if record is None or record.id != command.task_id:
        return ()
    return (e.ImageImportExpired(task_id=record.id),)
