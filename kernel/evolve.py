"""Folding: the next state from a state and an event.

Total and pure: no function here asks the clock or reads configuration, and none
refuses an event that this version knows.
Each event has one function in the table; a test holds the table to the list of
events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from kernel import events as e
from kernel.errors import UnknownEvent
from kernel.events import Sweep
from kernel.image import (
    IMAGE_IMPORT,
    IMPORT,
    LOCATION_IMPORT,
    STAGING,
    WITHOUT_DATA,
    Change,
    Failure,
    Fetch,
    Garbage,
    Image,
    Job,
    Member,
    Status,
    Task,
    Transfer,
)
from kernel.recorded import Meta, Recorded

_EPOCH = datetime.fromtimestamp(0, UTC)

NOTHING = Image(created_at=_EPOCH, updated_at=_EPOCH, at=_EPOCH)
"""The state before the first event."""

E = TypeVar("E", bound=e.Event)
Rule = Callable[[Image, Any, Meta], Image]

RULES: dict[type[e.Event], Rule] = {}


def on(kind: type[E]) -> Callable[[Callable[[Image, E, Meta], Image]], Callable[[Image, E, Meta], Image]]:
    """Register the function that folds events of one type."""

    def register(rule: Callable[[Image, E, Meta], Image]) -> Callable[[Image, E, Meta], Image]:
        RULES[kind] = rule
        return rule

    return register


def evolve(image: Image, event: e.Event | e.Unrecognised, meta: Meta) -> Image:
    """The state after `event`; `UnknownEvent` if a newer node wrote it, for nobody may guess what it means."""
    if isinstance(event, e.Unrecognised):
        raise UnknownEvent(f"this version does not know the event {event.type} v{event.v}; upgrade this node")
    after = RULES[type(event)](image, event, meta)
    return replace(after, version=image.version + 1, at=meta.at)


def fold(recorded: Iterable[Recorded], image: Image = NOTHING) -> Image:
    """The state after a run of events of one stream."""
    for item in recorded:
        image = evolve(image, item.event, item.meta)
    return image


# --- metadata ------------------------------------------------------------------------


@on(e.ImageCreated)
def _created(image: Image, event: e.ImageCreated, meta: Meta) -> Image:
    return Image(
        id=event.image_id,
        owner=event.owner,
        name=event.name,
        visibility=event.visibility,
        protected=event.protected,
        hidden=event.hidden,
        disk_format=event.disk_format,
        container_format=event.container_format,
        min_disk=event.min_disk,
        min_ram=event.min_ram,
        tags=event.tags,
        properties=event.properties,
        created_at=meta.at,
        updated_at=meta.at,
        at=meta.at,
    )


@on(e.ImageExpected)
def _expected(image: Image, event: e.ImageExpected, meta: Meta) -> Image:
    return replace(_created(image, event.image, meta), status="expected")


@on(e.ImageAppeared)
def _appeared(image: Image, event: e.ImageAppeared, meta: Meta) -> Image:
    """It is as old as it is visible: whoever asks for what is new since yesterday misses none."""
    if not image.expected:
        return image
    status: Status = "active" if image.locations else "queued"
    return replace(image, status=status, created_at=meta.at, updated_at=meta.at)


_ATTRIBUTES = (
    "name",
    "owner",
    "visibility",
    "protected",
    "hidden",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
    "tags",
)


@on(e.ImageUpdated)
def _updated(image: Image, event: e.ImageUpdated, meta: Meta) -> Image:
    changed = {name: value for name in _ATTRIBUTES if (value := getattr(event, name)) is not UNSET}
    properties = _properties(image, event.properties_set, event.properties_removed)
    job = image.job
    if job is not None and (job.format_changes or job.property_changes):
        touched = {*changed, *event.properties_set, *event.properties_removed}
        job = replace(
            job,
            format_changes={name: was for name, was in job.format_changes.items() if name not in changed},
            property_changes={name: was for name, was in job.property_changes.items() if name not in touched},
        )
    return replace(image, **changed, properties=properties, job=job, updated_at=meta.at)


@on(e.TagAdded)
def _tag_added(image: Image, event: e.TagAdded, meta: Meta) -> Image:
    return replace(image, tags=(*image.tags, event.tag), updated_at=meta.at)


@on(e.TagRemoved)
def _tag_removed(image: Image, event: e.TagRemoved, meta: Meta) -> Image:
    return replace(image, tags=tuple(tag for tag in image.tags if tag != event.tag), updated_at=meta.at)


@on(e.MemberAdded)
def _member_added(image: Image, event: e.MemberAdded, meta: Meta) -> Image:
    former = image.members.get(event.member)
    since = former.created_at if former else meta.at
    member = Member(status="pending", created_at=since, updated_at=meta.at)
    return replace(image, members={**image.members, event.member: member})


@on(e.MemberStatusChanged)
def _member_status(image: Image, event: e.MemberStatusChanged, meta: Meta) -> Image:
    member = image.members.get(event.member)
    if member is None:
        return image
    member = replace(member, status=event.status, updated_at=meta.at)
    return replace(image, members={**image.members, event.member: member})


@on(e.MemberRemoved)
def _member_removed(image: Image, event: e.MemberRemoved, meta: Meta) -> Image:
    member = image.members.get(event.member)
    if member is None:
        return image
    member = replace(member, removed=True, updated_at=meta.at)
    return replace(image, members=_remembered({**image.members, event.member: member}))


_MOST_FORMER = 128
"""Former members that are remembered, so that one who comes back is as old as before."""


def _remembered(members: dict[str, Member]) -> dict[str, Member]:
    """All members, and of the former ones those that left last: a state does not grow for ever."""
    former = sorted((member.updated_at, name) for name, member in members.items() if member.removed)
    forgotten = {name for _, name in former[:-_MOST_FORMER]}
    return {name: member for name, member in members.items() if name not in forgotten} if forgotten else members


@on(e.ImageDeactivated)
def _deactivated(image: Image, event: e.ImageDeactivated, meta: Meta) -> Image:
    return replace(image, status="deactivated", updated_at=meta.at)


@on(e.ImageReactivated)
def _reactivated(image: Image, event: e.ImageReactivated, meta: Meta) -> Image:
    return replace(image, status="active", updated_at=meta.at)


@on(e.DeletionScheduled)
def _deletion_scheduled(image: Image, event: e.DeletionScheduled, meta: Meta) -> Image:
    """What was there before a running copy waits; what the copy has made goes at once."""
    made = image.removable
    return replace(
        _without_work(replace(image, garbage=(*image.garbage, *map(_garbage, made))), meta),
        status="pending_delete",
        deleted_at=meta.at,
        scrub_at=event.scrub_at,
        locations=tuple(location for location in image.locations if location not in made),
    )


@on(e.ImageDeleted)
def _deleted(image: Image, event: e.ImageDeleted, meta: Meta) -> Image:
    image = _without_work(image, meta)
    return replace(
        image,
        status="deleted",
        deleted_at=image.deleted_at or meta.at,
        scrub_at=None,
        locations=(),
        garbage=(*image.garbage, *map(_garbage, image.locations)),
    )


def _without_work(image: Image, meta: Meta) -> Image:
    """The image with nothing under way: whatever was is given up, its bytes are garbage or searched for."""
    garbage, sweeps = list(image.garbage), list(image.sweeps)
    if image.staged:
        garbage.append(_waste(image.staged))
    if image.transfer:
        sweeps.append(Sweep(store=image.transfer.store, below=image.transfer.epoch + 1))
    task = image.task
    if image.job:
        task = _end(task, meta, "failure", "The image has been deleted")
        stores = (STAGING, *image.job.stores)
        sweeps += [Sweep(store=store, below=_NO_EPOCH) for store in stores]
    return replace(
        image,
        updated_at=meta.at,
        staged=None,
        transfer=None,
        job=None,
        task=task,
        garbage=tuple(garbage),
        sweeps=_merge(sweeps),
    )


_NO_EPOCH = 2**62
"""A sweep below this takes every unrecorded name: nothing of a deleted image is worth keeping."""


# --- bytes coming in -----------------------------------------------------------------


@on(e.StagingStarted)
def _staging_started(image: Image, event: e.StagingStarted, meta: Meta) -> Image:
    image = _afresh(image)
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
    image = _afresh(image)
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
        **_published(event.location, event.digests),
    )


@on(e.UploadFailed)
def _upload_failed(image: Image, event: e.UploadFailed, meta: Meta) -> Image:
    return _discard_transfer(image, meta)


def _discard_transfer(image: Image, meta: Meta) -> Image:
    """Back to `queued`; whatever the sender may have left behind is looked for and removed."""
    sweeps = image.sweeps
    if image.transfer:
        sweeps = _merge([*sweeps, Sweep(store=image.transfer.store, below=image.transfer.epoch + 1)])
    return replace(image, transfer=None, sweeps=sweeps, updated_at=meta.at, **_cleared())


# --- imports -------------------------------------------------------------------------


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
        _afresh(image),
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


@on(e.MetadataCopied)
def _metadata_copied(image: Image, event: e.MetadataCopied, meta: Meta) -> Image:
    formats = {"disk_format": event.disk_format, "container_format": event.container_format}
    image = _step_changes(image, formats, event.properties, ())
    return _job(image, meta, described=True, expected_size=event.size)


@on(e.FetchStarted)
def _fetch_started(image: Image, event: e.FetchStarted, meta: Meta) -> Image:
    fetch = Fetch(name=event.name, total=event.total, validator=event.validator, boot=event.boot)
    return _job(image, meta, touch=False, fetch=fetch)


@on(e.DataFetched)
def _fetched(image: Image, event: e.DataFetched, meta: Meta) -> Image:
    if image.job and not image.job.copies:
        image = replace(image, size=event.blob.size)
    image = _job(image, meta, data=event.blob)
    if image.job is not None and image.task is not None and image.task.type == IMAGE_IMPORT:
        image = replace(image, task=replace(image.task, status="verifying"))
    return image


@on(e.StepCompleted)
def _step_completed(image: Image, event: e.StepCompleted, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    formats = {
        name: value for name in ("disk_format", "container_format") if (value := getattr(event, name)) is not UNSET
    }
    image = _step_changes(image, formats, event.properties_set, event.properties_removed)
    changed: dict[str, Any] = {"steps_done": job.steps_done + 1}
    if event.virtual_size is not UNSET:
        changed["virtual_size"] = event.virtual_size
    if event.blob is not None:
        former = job.data
        changed["data"] = event.blob
        image = replace(image, size=event.blob.size)
        if former is not None:
            image = replace(image, garbage=(*image.garbage, _waste(former)))
    return _job(image, meta, **changed)


@on(e.DataInspected)
def _inspected(image: Image, event: e.DataInspected, meta: Meta) -> Image:
    if image.job is not None and event.disk_format is not UNSET:
        image = replace(image, disk_format=event.disk_format)
    return _job(image, meta, touch=False, inspected=True, virtual_size=event.virtual_size)


@on(e.StepFailed)
def _step_failed(image: Image, event: e.StepFailed, meta: Meta) -> Image:
    return _fail(image, meta, Failure(reason=event.reason, kind=event.kind, blame_all=True))


@on(e.StoreStarted)
def _store_started(image: Image, event: e.StoreStarted, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    return _job(image, meta, touch=False, writing={**job.writing, event.store: event.name})


@on(e.StoreSucceeded)
def _store_succeeded(image: Image, event: e.StoreSucceeded, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    todo = _without(job.todo, event.store)
    published: dict[str, Any] = {}
    if not job.copies:
        published = {**_published(event.location, event.digests), "virtual_size": job.virtual_size}
        if image.status in ("importing", "queued") and (not job.must_succeed or not todo):
            published["status"] = "active"
    image = replace(
        image,
        locations=(*image.locations, event.location),
        importing=_without(image.importing or (), event.store),
        **published,
    )
    done = (*job.done, event.store)
    return _job(image, meta, todo=todo, done=done, writing=_drop(job.writing, event.store))


@on(e.StoreFailed)
def _store_failed(image: Image, event: e.StoreFailed, meta: Meta) -> Image:
    job = image.job
    if job is None:
        return image
    todo, failed = _without(job.todo, event.store), (*job.failed, event.store)
    image = replace(
        image,
        importing=_without(image.importing or (), event.store),
        failed=_with(image.failed or (), (event.store,) if job.multi else ()),
        sweeps=_merge([*image.sweeps, Sweep(store=event.store, below=(meta.epoch or 0) + 1)]),
    )
    image = _job(image, meta, todo=todo, failed=failed, writing=_drop(job.writing, event.store))
    if job.must_succeed:
        return _fail(image, meta, Failure(reason=event.reason, kind=event.kind))
    if not todo and not job.done:
        return _fail(image, meta, Failure(reason=f"None of the uploads finished: {event.reason}", kind=event.kind))
    return image


@on(e.StagingCleared)
def _staging_cleared(image: Image, event: e.StagingCleared, meta: Meta) -> Image:
    node = image.job.data.node if image.job and image.job.data else None
    left = (Garbage(store=STAGING, url=url, node=node) for url in event.kept)
    garbage = (*(item for item in image.garbage if item.store != STAGING), *left)
    return _job(replace(image, garbage=garbage), meta, touch=False, data=None, cleared=True)


@on(e.ImportCompleted)
def _import_completed(image: Image, event: e.ImportCompleted, meta: Meta) -> Image:
    task = _end(image.task, meta, "success")
    return replace(image, job=None, task=task, expiring=_expiring(image, task), updated_at=meta.at)


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
        sweeps = _merge([*sweeps, *late])
    image = _undo_changes(image, job)
    task = _end(image.task, meta, "failure", event.reason)
    if job.registers:
        image = _unregistered(image, job)
    else:
        image = replace(
            image,
            importing=tuple(store for store in image.importing or () if store not in job.stores),
            failed=_with(image.failed or (), blamed if job.multi else ()),
        )
    return replace(
        image,
        job=None,
        task=task,
        expiring=_expiring(image, task),
        sweeps=sweeps,
        updated_at=meta.at,
        **_without_data(image, job, meta),
    )


def _unregistered(image: Image, job: Job) -> Image:
    """Bytes that were refused are not ours to delete; where none can be deleted the image still tells of them."""
    if image.status == "importing" and not job.options["leave"]:
        return replace(image, locations=())
    return image


def _afresh(image: Image) -> Image:
    """A queued image without the location that a registration which failed may have left on it."""
    return replace(image, locations=()) if image.status == "queued" and image.locations else image


def _without_data(image: Image, job: Job, meta: Meta) -> dict[str, Any]:
    """What becomes of an image whose data its import did not bring; one that it was to make goes altogether."""
    if image.status not in WITHOUT_DATA or job.copies:
        return {}
    return {**_cleared(), **({"status": "deleted", "deleted_at": meta.at} if job.makes else {})}


@on(e.ImportCancelled)
def _import_cancelled(image: Image, event: e.ImportCancelled, meta: Meta) -> Image:
    return _fail(image, meta, Failure(reason=event.reason, kind="forbidden", from_outside=True))


def _fail(image: Image, meta: Meta, failure: Failure) -> Image:
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
        garbage += map(_garbage, image.removable)
        locations = tuple(loc for loc in locations if loc.store not in job.done)
    writing = job.writing
    if not failure.from_outside:
        sweeps += [Sweep(store=store, below=(meta.epoch or 0) + 1) for store in writing]
        writing = {}
    if job.data is not None:
        garbage.append(_waste(job.data))
    job = replace(job, failure=failure, writing=writing, data=None)
    return replace(image, job=job, locations=locations, garbage=tuple(garbage), sweeps=_merge(sweeps))


@on(e.ImportPreempted)
def _import_preempted(image: Image, event: e.ImportPreempted, meta: Meta) -> Image:
    """The copies that it completed stay; whatever else it may have left is searched for."""
    job = image.job
    if job is None:
        return image
    garbage, locations = list(image.garbage), image.locations
    if job.data is not None:
        garbage.append(_waste(job.data))
    status = _without_data(image, job, meta)
    if status:
        garbage += map(_garbage, image.removable)
        locations = tuple(loc for loc in locations if loc.store not in job.done)
    task = _end(image.task, meta, "failure", "Expired lock preempted")
    return replace(
        _undo_changes(image, job),
        job=None,
        task=task,
        expiring=_expiring(image, task),
        locations=locations,
        importing=tuple(store for store in image.importing or () if store not in job.stores),
        failed=tuple(store for store in image.failed or () if store not in job.stores),
        garbage=tuple(garbage),
        sweeps=_merge([*image.sweeps, *(Sweep(store=store, below=_NO_EPOCH) for store in (STAGING, *job.stores))]),
        updated_at=meta.at,
        **status,
    )


@on(e.ImageImportExpired)
def _image_import_expired(image: Image, event: e.ImageImportExpired, meta: Meta) -> Image:
    return replace(image, expiring=None)


def _expiring(image: Image, ended: Task | None) -> Task | None:
    """The record whose expiry somebody is to be told of."""
    return ended if ended is not None and ended.type == IMAGE_IMPORT else image.expiring


# --- locations -----------------------------------------------------------------------


@on(e.LocationAdded)
def _location_added(image: Image, event: e.LocationAdded, meta: Meta) -> Image:
    image = _afresh(image)
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
        garbage=_unneeded(image.garbage, locations),
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
    return _job(replace(image, status=status, updated_at=meta.at, **hashes), meta)


@on(e.LocationsReplaced)
def _locations_replaced(image: Image, event: e.LocationsReplaced, meta: Meta) -> Image:
    garbage = _unneeded(image.garbage, event.locations)
    return replace(image, locations=event.locations, garbage=garbage, updated_at=meta.at)


@on(e.LocationRemoved)
def _location_removed(image: Image, event: e.LocationRemoved, meta: Meta) -> Image:
    for index, location in enumerate(image.locations):
        if (location.url, location.store, location.metadata) == (event.url, event.store, event.metadata):
            kept = (*image.locations[:index], *image.locations[index + 1 :])
            garbage = image.garbage
            if all(other.url != location.url for other in kept):
                garbage = (*garbage, _garbage(location))
            return replace(image, locations=kept, garbage=garbage, updated_at=meta.at)
    return image


# --- work and clean-up ---------------------------------------------------------------


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
    return replace(image, job=job, sweeps=_merge([*image.sweeps, *now, *late]))


@on(e.BytesPurged)
def _purged(image: Image, event: e.BytesPurged, meta: Meta) -> Image:
    gone = set(event.blobs)
    swept = {(sweep.store, sweep.due): sweep.below for sweep in event.sweeps}
    return replace(
        image,
        garbage=tuple(item for item in image.garbage if (item.store, item.url) not in gone),
        sweeps=tuple(sweep for sweep in image.sweeps if swept.get((sweep.store, sweep.due), -1) < sweep.below),
    )


@on(e.ImageSent)
def _sent(image: Image, event: e.ImageSent, meta: Meta) -> Image:
    return image


# --- pieces --------------------------------------------------------------------------


def _job(image: Image, meta: Meta, *, touch: bool = True, **changed: Any) -> Image:
    """The image with its job changed; `touch` moves `updated_at`, as a change that clients can see."""
    if image.job is None:
        return image
    task = replace(image.task, updated_at=meta.at) if image.task else None
    updated_at = meta.at if touch else image.updated_at
    return replace(image, job=replace(image.job, **changed), task=task, updated_at=updated_at)


def _published(location: e.Location, digests: e.Digests) -> dict[str, Any]:
    return {
        "size": location.size,
        "checksum": digests.md5,
        "hash_algo": digests.algo,
        "hash_value": digests.value,
    }


def _cleared() -> dict[str, Any]:
    """What `queued` means for an image that had, or nearly had, data."""
    return {
        "status": "queued",
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "hash_algo": None,
        "hash_value": None,
    }


_LONGEST_TTL = 100 * 365 * 86400
"""Seconds: folding may not fail, however long somebody wanted to keep a task."""


def _end(task: Task | None, meta: Meta, status: Any, message: str = "") -> Task | None:
    if task is None:
        return None
    expires = meta.at + timedelta(seconds=min(max(task.ttl, 0), _LONGEST_TTL))
    return replace(task, status=status, message=message, updated_at=meta.at, expires_at=expires)


def _properties(image: Image, added: dict[str, str | None], removed: tuple[str, ...]) -> dict[str, str | None]:
    if not added and not removed:
        return image.properties
    return {name: value for name, value in {**image.properties, **added}.items() if name not in removed}


def _step_changes(
    image: Image, formats: dict[str, Any], added: dict[str, str | None], removed: tuple[str, ...]
) -> Image:
    """Apply what a step changed and remember what was there before the first of them."""
    job = image.job
    if job is None:
        return image
    format_changes, property_changes = dict(job.format_changes), dict(job.property_changes)
    for name in formats:
        format_changes.setdefault(name, Change(old=getattr(image, name)))
    for name in (*added, *removed):
        was = Change(old=image.properties.get(name), was_absent=name not in image.properties)
        property_changes.setdefault(name, was)
    job = replace(job, format_changes=format_changes, property_changes=property_changes)
    return replace(image, properties=_properties(image, added, removed), job=job, **formats)


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


def _waste(blob: e.Blob) -> Garbage:
    return Garbage(store=STAGING, url=blob.url, node=blob.node)


def _garbage(location: e.Location) -> Garbage:
    return Garbage(store=location.store, url=location.url)


def _unneeded(garbage: tuple[Garbage, ...], locations: tuple[e.Location, ...]) -> tuple[Garbage, ...]:
    """Garbage without what one of these locations names."""
    needed = {_garbage(location) for location in locations}
    return tuple(item for item in garbage if item not in needed)


def _merge(sweeps: Iterable[Sweep]) -> tuple[Sweep, ...]:
    """One sweep a store and due time, the widest."""
    widest: dict[tuple[str, datetime | None], Sweep] = {}
    for sweep in sweeps:
        key = sweep.store, sweep.due
        if key not in widest or widest[key].below < sweep.below:
            widest[key] = sweep
    return tuple(widest.values())


def _without(stores: tuple[str, ...], store: str) -> tuple[str, ...]:
    return tuple(item for item in stores if item != store)


def _with(stores: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*stores, *more}))


def _drop(writing: dict[str, str], store: str) -> dict[str, str]:
    return {key: value for key, value in writing.items() if key != store}
