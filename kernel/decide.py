"""Deciding: a command and a state give events, or a refusal.

Pure: every fact comes in with the command.  Each command has one short function
in the table; a test holds the table to the list of commands.  Authorisation has
already happened at the edge, against the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from msgspec import UNSET

from kernel import commands as c
from kernel import events as e
from kernel import locations
from kernel.errors import Conflict, Fenced, Forbidden, Gone, Invalid, NotFound
from kernel.image import IMAGE_IMPORT, STAGING, TRANSITIONS, Fetch, Image, Job, Task
from kernel.patch import patch, within
from kernel.work import Kind, outstanding

C = TypeVar("C", bound=c.Command)
Rule = Callable[[Any, Image], Sequence[e.Event]]

RULES: dict[type[c.Command], Rule] = {}

_LOCK: Final = timedelta(minutes=60)
_PENDING_LOCK: Final = timedelta(minutes=120)
"""How long the lock of an import protects its image without a sign of life."""


def on(kind: type[C]) -> Callable[[Callable[[C, Image], Sequence[e.Event]]], Callable[[C, Image], Sequence[e.Event]]]:
    """Register the function that decides commands of one type."""

    def register(rule: Callable[[C, Image], Sequence[e.Event]]) -> Callable[[C, Image], Sequence[e.Event]]:
        RULES[kind] = rule
        return rule

    return register


def decide(command: c.Command, image: Image) -> Sequence[e.Event]:
    """The events that `command` causes in this state; raises what refuses it."""
    return RULES[type(command)](command, image)


# --- metadata --------------------------------------------------------------------------


@on(c.CreateImage)
def _create(command: c.CreateImage, image: Image) -> Sequence[e.Event]:
    if image.exists:
        raise Conflict(f"An image with the id {command.image.image_id} already exists, or existed once")
    return (command.image,)


@on(c.PatchImage)
def _patch(command: c.PatchImage, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    if not command.operations:
        return ()
    quotas = {"property_quota": command.property_quota, "tag_quota": command.tag_quota}
    return (patch(image, command.operations, **quotas),)


@on(c.AddTag)
def _add_tag(command: c.AddTag, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    if command.tag in image.tags:
        return ()
    within("tags", len(image.tags) + 1, command.quota)
    return (e.TagAdded(tag=command.tag),)


@on(c.RemoveTag)
def _remove_tag(command: c.RemoveTag, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    if command.tag not in image.tags:
        raise NotFound(f"Image {image.id} has no tag '{command.tag}'")
    return (e.TagRemoved(tag=command.tag),)


@on(c.Deactivate)
def _deactivate(command: c.Deactivate, image: Image) -> Sequence[e.Event]:
    return _act(image, "active", "deactivated", e.ImageDeactivated())


@on(c.Reactivate)
def _reactivate(command: c.Reactivate, image: Image) -> Sequence[e.Event]:
    return _act(image, "deactivated", "active", e.ImageReactivated())


def _act(image: Image, before: str, after: str, event: e.Event) -> Sequence[e.Event]:
    _must_exist(image)
    if image.status == after:
        return ()
    if image.status != before:
        raise Forbidden(f"Image status transition from {image.status} to {after} is not allowed")
    return (event,)


@on(c.ExpectImage)
def _expect(command: c.ExpectImage, image: Image) -> Sequence[e.Event]:
    if image.exists:
        raise Conflict("There is, or was, an image with the id that was chosen for this one")
    if not command.request.stores:
        raise Invalid("An import needs a store to write to")
    return (e.ImageExpected(image=command.image), command.request)


@on(c.DeleteImage)
def _delete(command: c.DeleteImage, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    if image.protected:
        raise Forbidden(f"Image {image.id} is protected and cannot be deleted")
    kept = [location for location in image.locations if location not in image.removable]
    if command.scrub_at is not None and image.status in ("active", "deactivated") and kept:
        return (e.DeletionScheduled(scrub_at=command.scrub_at),)
    return (e.ImageDeleted(),)


@on(c.ScrubImage)
def _scrub(command: c.ScrubImage, image: Image) -> Sequence[e.Event]:
    due = image.status == "pending_delete" and image.scrub_at is not None and image.scrub_at <= command.now
    return (e.ImageDeleted(),) if due else ()


@on(c.RemoveCopy)
def _remove_copy(command: c.RemoveCopy, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    if image.status != "active":
        raise Conflict(f"Only active images have copies that can be deleted; this one is {image.status}")
    if len(image.stores) < 2:
        raise Forbidden("An image cannot be deleted from the only store that holds it")
    copies = [location for location in image.locations if location.store == command.store]
    if not copies:
        raise NotFound(f"Image {image.id} has no data in store {command.store}")
    check_unlocked(image)
    return tuple(e.LocationRemoved(url=copy.url, store=copy.store, metadata=copy.metadata) for copy in copies)


# --- members ---------------------------------------------------------------------------


@on(c.AddMember)
def _add_member(command: c.AddMember, image: Image) -> Sequence[e.Event]:
    _must_be_shared(image)
    present = [name for name, member in image.members.items() if not member.removed]
    within("members", len(present) + 1, command.quota)
    if command.member in present:
        raise Conflict(f"Image {image.id} is shared with {command.member} already")
    return (e.MemberAdded(member=command.member),)


@on(c.SetMemberStatus)
def _set_member_status(command: c.SetMemberStatus, image: Image) -> Sequence[e.Event]:
    _must_be_shared(image)
    _must_be_member(image, command.member)
    return (e.MemberStatusChanged(member=command.member, status=command.status),)


@on(c.RemoveMember)
def _remove_member(command: c.RemoveMember, image: Image) -> Sequence[e.Event]:
    _must_be_shared(image)
    _must_be_member(image, command.member)
    return (e.MemberRemoved(member=command.member),)


# --- locations that clients register -----------------------------------------------------


@on(c.AddLocation)
def _add_location(command: c.AddLocation, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    locations.check_receptive(image, missing_formats(image))
    check_unlocked(image)
    return (locations.added(image, command.given, command.at, command.terms),)


@on(c.RemoveLocation)
def _remove_location(command: c.RemoveLocation, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    check_unlocked(image)
    return (locations.removed(image, command.index, command.terms),)


@on(c.ReplaceLocations)
def _replace_locations(command: c.ReplaceLocations, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    locations.check_receptive(image, missing_formats(image))
    check_unlocked(image)
    if not command.given:
        raise Forbidden("An image cannot be left without locations")
    return (locations.replaced(image, command.given, command.terms),)


def check_registrable(image: Image) -> None:
    """Refuse a location for an image that has data, or is getting some."""
    _must_exist(image)
    if image.status != "queued":
        raise Conflict(f"Only queued images take a location; this one is {image.status}")


@on(c.RegisterLocation)
def _register_location(command: c.RegisterLocation, image: Image) -> Sequence[e.Event]:
    check_registrable(image)
    check_unlocked(image)
    locations.check_receptive(image, missing_formats(image))
    return (command.request,)


# --- bytes from clients ----------------------------------------------------------------


@on(c.StartStaging)
def _start_staging(command: c.StartStaging, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    _must_be_free(image)
    if image.status != "queued":
        raise Conflict(_transition(image, "uploading"))
    return (e.StagingStarted(transfer=command.transfer, declared_size=command.declared_size),)


@on(c.CompleteStaging)
def _complete_staging(command: c.CompleteStaging, image: Image) -> Sequence[e.Event]:
    _must_be_sending(image, command.transfer, staging=True)
    return (e.DataStaged(transfer=command.transfer, blob=command.blob),)


@on(c.StartUpload)
def _start_upload(command: c.StartUpload, image: Image) -> Sequence[e.Event]:
    _must_exist(image)
    _must_be_free(image)
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


# --- imports ---------------------------------------------------------------------------


def check_importable(image: Image, *, method: str, needs: str) -> None:
    """Refuse an import that the image's status or formats do not allow (checks 8 to 12 of the contract)."""
    _must_exist(image)
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


def check_unlocked(image: Image) -> None:
    """Refuse what may not happen while an import holds the image."""
    if image.job is not None:
        raise Conflict(f"Image {image.id} has an active task {image.job.task_id}")


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


@on(c.CancelImport)
def _cancel(command: c.CancelImport, image: Image) -> Sequence[e.Event]:
    job = image.job
    if job is None or job.task_id != command.task_id:
        raise Conflict(f"Task {command.task_id} is not running")
    if job.failure is not None:
        raise Conflict(f"Task {command.task_id} has failed already and is being taken back")
    return (e.ImportCancelled(task_id=job.task_id, reason=command.reason),)


@on(c.BeginImport)
def _begin(command: c.BeginImport, image: Image) -> Sequence[e.Event]:
    job = _running(image, command)
    if job.started:
        return ()
    if job.flaw is not None:
        return (e.ImportStarted(), e.StepFailed(step="begin", reason=job.flaw, kind="bad_value"))
    if image.expected and not _until_success(image):
        return (e.ImportStarted(), e.ImageAppeared())
    return (e.ImportStarted(),)


@on(c.RecordMetadata)
def _record_metadata(command: c.RecordMetadata, image: Image) -> Sequence[e.Event]:
    _in_turn(image, command, "describe")
    return (command.copied,)


@on(c.RecordFetchStart)
def _record_fetch_start(command: c.RecordFetchStart, image: Image) -> Sequence[e.Event]:
    job, started = _in_turn(image, command, "fetch"), command.started
    known = Fetch(name=started.name, total=started.total, validator=started.validator, boot=started.boot)
    return () if job.fetch == known else (started,)


@on(c.RecordFetch)
def _record_fetch(command: c.RecordFetch, image: Image) -> Sequence[e.Event]:
    _in_turn(image, command, "fetch")
    return (e.DataFetched(blob=command.blob),)


@on(c.RecordStep)
def _record_step(command: c.RecordStep, image: Image) -> Sequence[e.Event]:
    job = _in_turn(image, command, "step")
    if command.completed.step != job.steps[job.steps_done]:
        raise Fenced(f"It is not the turn of step {command.completed.step}")
    return (command.completed,)


@on(c.RecordInspection)
def _record_inspection(command: c.RecordInspection, image: Image) -> Sequence[e.Event]:
    _in_turn(image, command, "inspect")
    found = UNSET if command.disk_format is None else command.disk_format
    return (e.DataInspected(detected=command.detected, virtual_size=command.virtual_size, disk_format=found),)


@on(c.RecordLocation)
def _record_location(command: c.RecordLocation, image: Image) -> Sequence[e.Event]:
    job, location = _in_turn(image, command, "register"), command.location
    missing = missing_formats(image)
    if missing:
        reason = f"Properties {', '.join(missing)} are not set any more"
        return (e.StepFailed(step="register", reason=reason, kind="bad_value"),)
    added = e.LocationAdded(location=location, size=location.size, digests=command.digests)
    return (added,) if job.options["hash"] else (added, e.ImportCompleted(task_id=job.task_id))


@on(c.RecordHash)
def _record_hash(command: c.RecordHash, image: Image) -> Sequence[e.Event]:
    job = _in_turn(image, command, "hash")
    return (e.DataHashed(digests=command.digests), e.ImportCompleted(task_id=job.task_id))


@on(c.FailStep)
def _fail_step(command: c.FailStep, image: Image) -> Sequence[e.Event]:
    job = _job(image, command)
    if _turned_round(image, command):
        return ()
    if job.done and not job.must_succeed:  # what is stored stays; it is the rest that cannot be had
        return tuple(e.StoreFailed(store=store, reason=command.reason, kind=command.kind) for store in job.todo)
    return (e.StepFailed(step=command.step, reason=command.reason, kind=command.kind, inspection=command.inspection),)


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
    if _turned_round(image, command) or _handled(image, command.store):
        return ()
    _storing(image, command, command.store)
    return (e.StoreSucceeded(store=command.store, location=command.location, digests=command.digests),)


@on(c.RecordStoreFailure)
def _record_store_failure(command: c.RecordStoreFailure, image: Image) -> Sequence[e.Event]:
    if _turned_round(image, command) or _handled(image, command.store):
        return ()
    _storing(image, command, command.store)
    return (e.StoreFailed(store=command.store, reason=command.reason, kind=command.kind),)


@on(c.ClearStaging)
def _clear_staging(command: c.ClearStaging, image: Image) -> Sequence[e.Event]:
    job = _in_turn(image, command, "clear")
    appears = (e.ImageAppeared(),) if image.expected else ()
    return (e.StagingCleared(kept=command.kept), *appears, e.ImportCompleted(task_id=job.task_id))


@on(c.FinishUndo)
def _finish_undo(command: c.FinishUndo, image: Image) -> Sequence[e.Event]:
    job = _job(image, command)
    if job.failure is None:
        raise Fenced("The import has not failed")
    purge = decide(c.RecordPurge(blobs=command.purged, sweeps=command.swept), image)
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


# --- work and clean-up -----------------------------------------------------------------


@on(c.TakeOver)
def _take_over(command: c.TakeOver, image: Image) -> Sequence[e.Event]:
    _must_be_known(image)
    return (e.LeaseTakenOver(sweep_at=command.sweep_at),)


@on(c.RecordPurge)
def _record_purge(command: c.RecordPurge, image: Image) -> Sequence[e.Event]:
    _must_be_known(image)
    wanted = {(item.store, item.url) for item in image.garbage}
    blobs = tuple(blob for blob in command.blobs if blob in wanted)
    sweeps = tuple(sweep for sweep in command.sweeps if sweep in image.sweeps)
    return (e.BytesPurged(blobs=blobs, sweeps=sweeps),) if blobs or sweeps else ()


# --- pieces ----------------------------------------------------------------------------


def missing_formats(image: Image) -> list[str]:
    """Which of the two formats that data needs are not set."""
    return [name for name in ("container_format", "disk_format") if getattr(image, name) is None]


def _until_success(image: Image) -> bool:
    """Whether the expected image is to be seen no sooner than its import has succeeded."""
    return image.task is not None and image.task.type == IMAGE_IMPORT


def _must_be_known(image: Image) -> None:
    if not image.exists:
        raise NotFound("No such image")


def _must_exist(image: Image) -> None:
    if not image.exists or image.gone:
        raise NotFound(f"No image found with ID {image.id}" if image.id else "No such image")


def _must_be_shared(image: Image) -> None:
    _must_exist(image)
    if image.visibility != "shared":
        raise Forbidden("Only shared images have members")


def _must_be_member(image: Image, name: str) -> None:
    member = image.members.get(name)
    if member is None or member.removed:
        raise NotFound(f"Image {image.id} is not shared with {name}")


def _must_be_free(image: Image) -> None:
    check_unlocked(image)


def _must_be_sending(image: Image, transfer: str, *, staging: bool) -> None:
    if image.gone:
        raise Gone("The image was deleted while its data was being sent")
    sending = image.transfer
    if sending is None or sending.id != transfer or (sending.store == STAGING) is not staging:
        raise Fenced("This transfer was given up; its data has been discarded")


def _job(image: Image, command: c.WorkerCommand) -> Job:
    job = image.job
    if job is None or job.task_id != command.task_id:
        raise Fenced(f"Task {command.task_id} does not hold the image any more")
    return job


def _running(image: Image, command: c.WorkerCommand) -> Job:
    job = _job(image, command)
    if job.failure is not None:
        raise Fenced(f"Task {command.task_id} is being taken back: {job.failure.reason}")
    return job


def _turned_round(image: Image, command: c.WorkerCommand) -> bool:
    """Whether the import is being taken back, so that how one of its steps ended matters to nobody any more."""
    return _job(image, command).failure is not None


def _handled(image: Image, store: str) -> bool:
    return image.job is not None and store in (*image.job.done, *image.job.failed)


def _in_turn(image: Image, command: c.WorkerCommand, kind: Kind) -> Job:
    """The running job, if this is what it needs next: nothing is recorded twice, nor out of order."""
    job, work = _running(image, command), outstanding(image)
    if work is None or work.kind != kind:
        raise Fenced(f"Task {command.task_id} does not need '{kind}' now")
    return job


def _storing(image: Image, command: c.WorkerCommand, store: str) -> Job:
    job = _running(image, command)
    if store not in job.todo:
        raise Fenced(f"Store {store} has been handled already")
    return _in_turn(image, command, "store")


def _transition(image: Image, to: str) -> str:
    assert to in TRANSITIONS["queued"]
    return f"Image status transition from {image.status} to {to} is not allowed"
