"""What an event says, in a line for people.  Pure.

One function an event type; a test holds the table to the list of events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from msgspec import UNSET

from kernel import events as e
from ops.commands import units

E = TypeVar("E", bound=e.Event)

SUMMARIES: Final[dict[type[e.Event], Callable[[Any], str]]] = {}

_ATTRIBUTES: Final = (
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


def summary(event: e.Event | e.Unrecognised) -> str:
    """One line, harmless to a terminal."""
    if isinstance(event, e.Unrecognised):
        return f"only a newer version can read this (v{event.v})"
    return units.short(SUMMARIES[type(event)](event), 160)


def _on(kind: type[E]) -> Callable[[Callable[[E], str]], Callable[[E], str]]:
    def register(say: Callable[[E], str]) -> Callable[[E], str]:
        SUMMARIES[kind] = say
        return say

    return register


# --- the image and its metadata ----------------------------------------------------------


@_on(e.ImageCreated)
def _created(event: e.ImageCreated) -> str:
    formats = f"{event.disk_format or 'no format'}/{event.container_format or 'no container'}"
    return f"'{event.name or ''}', {formats}, {event.visibility}"


@_on(e.ImageExpected)
def _expected(event: e.ImageExpected) -> str:
    return f"to be made by its import: {_created(event.image)}"


@_on(e.ImageAppeared)
def _appeared(event: e.ImageAppeared) -> str:
    return "the image is there for everybody to see"


@_on(e.ImageUpdated)
def _updated(event: e.ImageUpdated) -> str:
    values = [(name, getattr(event, name)) for name in _ATTRIBUTES]
    changed = [f"{name} = {_value(value)}" for name, value in values if value is not UNSET]
    changed += [f"{name} = {value}" for name, value in event.properties_set.items()]
    changed += [f"without {name}" for name in event.properties_removed]
    return ", ".join(changed) or "nothing"


@_on(e.TagAdded)
def _tag_added(event: e.TagAdded) -> str:
    return f"tag '{event.tag}'"


@_on(e.TagRemoved)
def _tag_removed(event: e.TagRemoved) -> str:
    return f"no tag '{event.tag}' any more"


@_on(e.MemberAdded)
def _member_added(event: e.MemberAdded) -> str:
    return f"shared with {event.member}"


@_on(e.MemberStatusChanged)
def _member_changed(event: e.MemberStatusChanged) -> str:
    return f"{event.member} says: {event.status}"


@_on(e.MemberRemoved)
def _member_removed(event: e.MemberRemoved) -> str:
    return f"no longer shared with {event.member}"


@_on(e.ImageDeactivated)
def _deactivated(event: e.ImageDeactivated) -> str:
    return "only administrators can download it now"


@_on(e.ImageReactivated)
def _reactivated(event: e.ImageReactivated) -> str:
    return "downloads are possible again"


@_on(e.DeletionScheduled)
def _deletion_scheduled(event: e.DeletionScheduled) -> str:
    return f"gone for clients; its bytes are kept until {event.scrub_at:%Y-%m-%d %H:%M:%S}"


@_on(e.ImageDeleted)
def _deleted(event: e.ImageDeleted) -> str:
    return "gone for clients; its bytes are to be removed"


# --- bytes coming in ---------------------------------------------------------------------


@_on(e.StagingStarted)
def _staging_started(event: e.StagingStarted) -> str:
    return f"a client sends {_announced(event.declared_size)} for an import"


@_on(e.DataStaged)
def _staged(event: e.DataStaged) -> str:
    return _blob(event.blob)


@_on(e.StagingFailed)
def _staging_failed(event: e.StagingFailed) -> str:
    return event.reason


@_on(e.UploadStarted)
def _upload_started(event: e.UploadStarted) -> str:
    return f"a client sends {_announced(event.declared_size)} to {event.store}"


@_on(e.DataUploaded)
def _uploaded(event: e.DataUploaded) -> str:
    return f"{_size(event.location.size)} in {event.location.store}, md5 {event.digests.md5}"


@_on(e.UploadFailed)
def _upload_failed(event: e.UploadFailed) -> str:
    return f"{event.store}: {event.reason}"


# --- imports -----------------------------------------------------------------------------


@_on(e.ImportRequested)
def _requested(event: e.ImportRequested) -> str:
    need = "" if len(event.stores) < 2 else ", all must succeed" if event.must_succeed else ", some may fail"
    steps = f", with {_list(event.steps)}" if event.steps else ""
    return f"{event.method} into {_list(event.stores)}{need}{steps}"


@_on(e.ImportStarted)
def _started(event: e.ImportStarted) -> str:
    return "a worker took it up"


@_on(e.MetadataCopied)
def _metadata_copied(event: e.MetadataCopied) -> str:
    formats = f"{event.disk_format}/{event.container_format}"
    return f"{formats} and {units.count(len(event.properties), 'property', 'properties')} taken over"


@_on(e.FetchStarted)
def _fetch_started(event: e.FetchStarted) -> str:
    return f"the source answered with {_announced(event.total)}"


@_on(e.DataFetched)
def _fetched(event: e.DataFetched) -> str:
    return _blob(event.blob)


@_on(e.StepCompleted)
def _step_completed(event: e.StepCompleted) -> str:
    values = [(name, getattr(event, name)) for name in ("disk_format", "container_format")]
    changed = [f"{name} = {value}" for name, value in values if value is not UNSET]
    changed += [f"{name} = {value}" for name, value in event.properties_set.items()]
    changed += [f"without {name}" for name in event.properties_removed]
    if event.blob is not None:
        changed.insert(0, f"new data, {_blob(event.blob)}")
    return f"{event.step}: {', '.join(changed) or 'nothing changed'}"


@_on(e.DataInspected)
def _inspected(event: e.DataInspected) -> str:
    virtual = f", {units.size(event.virtual_size)} when unpacked" if event.virtual_size else ""
    return f"{_list(event.detected) if event.detected else 'not looked into'}{virtual}"


@_on(e.StepFailed)
def _step_failed(event: e.StepFailed) -> str:
    return f"{event.step}: {event.reason}"


@_on(e.StoreStarted)
def _store_started(event: e.StoreStarted) -> str:
    return f"writing to {event.store}"


@_on(e.StoreSucceeded)
def _store_succeeded(event: e.StoreSucceeded) -> str:
    return f"{_size(event.location.size)} in {event.store}"


@_on(e.StoreFailed)
def _store_failed(event: e.StoreFailed) -> str:
    return f"{event.store}: {event.reason}"


@_on(e.StagingCleared)
def _cleared(event: e.StagingCleared) -> str:
    kept = f", but for {units.count(len(event.kept), 'file')} to be tried again" if event.kept else ""
    return f"the staged bytes are gone{kept}"


@_on(e.ImportCompleted)
def _completed(event: e.ImportCompleted) -> str:
    return "the import is done"


@_on(e.ImportFailed)
def _failed(event: e.ImportFailed) -> str:
    return event.reason


@_on(e.ImportCancelled)
def _cancelled(event: e.ImportCancelled) -> str:
    return event.reason


@_on(e.ImportPreempted)
def _preempted(event: e.ImportPreempted) -> str:
    return "its lock had expired: a new import took the image over"


@_on(e.ImageImportExpired)
def _record_expired(event: e.ImageImportExpired) -> str:
    return "the record of the image import is not shown any more"


# --- locations ---------------------------------------------------------------------------


@_on(e.LocationAdded)
def _location_added(event: e.LocationAdded) -> str:
    return f"{event.location.url} in {event.location.store}"


@_on(e.DataHashed)
def _hashed(event: e.DataHashed) -> str:
    return f"{event.digests.algo} {event.digests.value[:16]}"


@_on(e.LocationsReplaced)
def _locations_replaced(event: e.LocationsReplaced) -> str:
    return f"now {_list(location.url for location in event.locations)}"


@_on(e.LocationRemoved)
def _location_removed(event: e.LocationRemoved) -> str:
    return f"no longer {event.url} in {event.store}"


# --- work, clean-up, reads -----------------------------------------------------------------


@_on(e.LeaseTakenOver)
def _taken_over(event: e.LeaseTakenOver) -> str:
    why = "the former one was not heard of any more" if event.sweep_at else "the former one handed over"
    return f"another worker goes on: {why}"


@_on(e.BytesPurged)
def _purged(event: e.BytesPurged) -> str:
    parts = [f"{units.count(len(event.blobs), 'file')} removed"] if event.blobs else []
    if event.sweeps:
        stores = dict.fromkeys(str(getattr(sweep, "store", sweep)) for sweep in event.sweeps)
        parts.append(f"no leftovers in {_list(stores)} any more")
    return "; ".join(parts) or "nothing to remove"


@_on(e.ImageSent)
def _sent(event: e.ImageSent) -> str:
    whole = "" if event.sent == event.asked else f" of {units.size(event.asked)}: broken off"
    return f"{units.size(event.sent)}{whole} to {event.receiver_user or 'somebody'}"


# --- pieces ------------------------------------------------------------------------------


def _blob(blob: e.Blob) -> str:
    formats = _list(item.name for item in blob.facts.formats) if blob.facts and blob.facts.formats else ""
    return f"{units.size(blob.size)}, {formats + ', ' if formats else ''}md5 {blob.digests.md5}"


def _size(size: int | None) -> str:
    return units.size(size) if size is not None else "data"


def _announced(size: int | None) -> str:
    return units.size(size) if size is not None else "data of unknown length"


def _list(words: Iterable[str]) -> str:
    return ", ".join(words) or "nothing"


def _value(value: Any) -> str:
    return _list(value) if isinstance(value, tuple) else str(value)
