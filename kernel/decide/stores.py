"""What an import writes to its stores, and the staged bytes that are cleared when all are done."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import commands as c
from kernel import events as e
from kernel.decide.table import Table
from kernel.decide.turns import in_turn, running, turned_round
from kernel.errors import Fenced
from kernel.image import Image, Job

RULES = Table()
on = RULES.on


@on(c.StartStore)
def _start_store(command: c.StartStore, image: Image) -> Sequence[e.Event]:
    job = _storing(image, command, command.store)
    name = job.writing.get(command.store)
    if name == command.name:
        return ()
    if name is not None:
        raise Fenced(f"Store {command.store} is being written already")
    return (e.StoreStarted(store=command.store, name=command.name),)


@on(c.RecordStoreSuccess)
def _record_store_success(command: c.RecordStoreSuccess, image: Image) -> Sequence[e.Event]:
    if turned_round(image, command) or _handled(image, command.store):
        return ()
    _storing(image, command, command.store)
    return (e.StoreSucceeded(store=command.store, location=command.location, digests=command.digests),)


@on(c.RecordStoreFailure)
def _record_store_failure(command: c.RecordStoreFailure, image: Image) -> Sequence[e.Event]:
    if turned_round(image, command) or _handled(image, command.store):
        return ()
    _storing(image, command, command.store)
    return (e.StoreFailed(store=command.store, reason=command.reason, kind=command.kind),)


@on(c.ClearStaging)
def _clear_staging(command: c.ClearStaging, image: Image) -> Sequence[e.Event]:
    job = in_turn(image, command, "clear")
    appears = (e.ImageAppeared(),) if image.expected else ()
    return (e.StagingCleared(kept=command.kept), *appears, e.ImportCompleted(task_id=job.task_id))


def _handled(image: Image, store: str) -> bool:
    return image.job is not None and store in (*image.job.done, *image.job.failed)


def _storing(image: Image, command: c.WorkerCommand, store: str) -> Job:
    job = running(image, command)
    if store not in job.todo:
        raise Fenced(f"Store {store} has been handled already")
    return in_turn(image, command, "store")
