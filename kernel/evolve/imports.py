"""Imports as a whole: asked for, begun, completed, and the record of one that is over."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kernel import events as e
from kernel.evolve.data import afresh
from kernel.evolve.jobs import ended, expiring
from kernel.evolve.table import Table
from kernel.image import IMAGE_IMPORT, IMPORT, LOCATION_IMPORT, Image, Job, Task
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.ImportRequested)
def _import_requested(image: Image, event: e.ImportRequested, meta: Meta) -> Image:
    shown = event.stores if event.multi else ()
    importing = sorted({*(image.importing or ()), *shown})
    failed = sorted(set(image.failed or ()) - set(shown))
    job = Job(
        task_id=event.task_id,
        method=event.method,
        options=event.options,
        stores=event.stores,
        todo=event.stores,
        multi=event.multi,
        must_succeed=event.must_succeed,
        parallel=event.parallel,
        steps=event.steps,
        fetches=event.fetches,
        secret=event.secret,
        copies=event.copies,
        inspects=event.inspects,
        describes=event.describes,
        makes=event.type in (IMPORT, IMAGE_IMPORT),
        registers=event.type == LOCATION_IMPORT,
        flaw=event.flaw,
        data=None if event.fetches else image.staged,
    )
    task = Task(
        id=event.task_id,
        type=event.type,
        status="waiting" if event.type == IMAGE_IMPORT else "pending",
        method=event.method,
        owner=meta.by.project,
        user_id=meta.by.user,
        roles=meta.by.roles,
        correlation=meta.correlation,
        request_id=meta.request,
        request=event.request,
        stores=event.stores,
        multi=event.multi,
        created_at=meta.at,
        updated_at=meta.at,
        ttl=event.task_ttl,
    )
    keeps_status = event.copies or job.makes or (job.registers and not event.options["verify"])
    return replace(
        afresh(image),
        status=image.status if keeps_status else "importing",
        staged=None,
        job=job,
        task=task,
        importing=image.importing if job.registers else tuple(importing),
        failed=image.failed if job.registers else tuple(failed),
        multi=event.multi,
        updated_at=meta.at,
    )


@on(e.ImportStarted)
def _import_started(image: Image, event: e.ImportStarted, meta: Meta) -> Image:
    if image.job is None or image.task is None:
        return image
    status: Any = "uploading" if image.task.type == IMAGE_IMPORT else "processing"
    task = replace(image.task, status=status, updated_at=meta.at)
    return replace(image, job=replace(image.job, started=True), task=task)


@on(e.ImportCompleted)
def _import_completed(image: Image, event: e.ImportCompleted, meta: Meta) -> Image:
    task = ended(image.task, meta, "success")
    return replace(image, job=None, task=task, expiring=expiring(image, task), updated_at=meta.at)


@on(e.ImageImportExpired)
def _image_import_expired(image: Image, event: e.ImageImportExpired, meta: Meta) -> Image:
    return replace(image, expiring=None)
