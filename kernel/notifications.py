"""What consumers are told: a pure function of an event and the states around it.

    notifications(event, before, after) -> messages, in order

The states are folded from the stream up to that very event, never read from a
newer row; the message ids follow from the event's, so a repetition can be told
from a new message.  Sinks only carry what comes out of here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeVar
from uuid import UUID, uuid5

from msgspec import UNSET, Struct

from kernel import events as e
from kernel.image import IMAGE_IMPORT, Image, Task
from kernel.recorded import Recorded
from kernel.rows import shown_properties

Priority = Literal["INFO", "ERROR"]
Payload = dict[str, Any] | str


class Notification(Struct, frozen=True, kw_only=True):
    """One message.  `position` is where its event stands in the log; `stream` orders it among its image's."""

    id: UUID
    event_type: str
    priority: Priority
    payload: Payload
    at: datetime
    position: int
    stream: UUID
    image_id: str | None = None
    request_id: str | None = None


class _Message(Struct, frozen=True):
    event_type: str
    payload: Payload
    priority: Priority = "INFO"


E = TypeVar("E", bound=e.Event)
Rule = Callable[[Any, Image, Image], Sequence[_Message]]

RULES: dict[type[e.Event], Rule] = {}

SILENT: Final[frozenset[type[e.Event]]] = frozenset(
    {
        e.ImageExpected,
        e.FetchStarted,
        e.DataInspected,
        e.StagingCleared,
        e.LeaseTakenOver,
        e.BytesPurged,
        e.ImportCancelled,
    }
)
"""Events that nobody outside is told of by themselves."""


def on(*kinds: type[E]) -> Callable[[Callable[[E, Image, Image], Sequence[_Message]]], Rule]:
    """Register the function that says what an event of these types means to consumers."""

    def register(rule: Callable[[E, Image, Image], Sequence[_Message]]) -> Rule:
        for kind in kinds:
            RULES[kind] = rule
        return rule

    return register


def notifications(item: Recorded, before: Image, after: Image) -> list[Notification]:
    """Everything that consumers are told because of one event."""
    rule = RULES.get(type(item.event))  # type: ignore[arg-type]  # a placeholder has no rule
    if rule is None:
        return []
    messages = rule(item.event, before, after)
    if after.expected:  # nobody hears of an image that is not there yet
        messages = [message for message in messages if not message.event_type.startswith("image.")]
    return [
        Notification(
            id=uuid5(item.event_id, str(index)),
            event_type=message.event_type,
            priority=message.priority,
            payload=message.payload,
            at=item.meta.at,
            position=item.position,
            stream=item.stream,
            image_id=after.id or getattr(item.event, "image_id", None),
            request_id=item.meta.request,
        )
        for index, message in enumerate(messages)
    ]


# --- images ----------------------------------------------------------------------------


@on(e.ImageCreated)
def _created(event: e.ImageCreated, before: Image, after: Image) -> Sequence[_Message]:
    return (_Message("image.create", _image(after)),)


@on(e.ImageAppeared)
def _appeared(event: e.ImageAppeared, before: Image, after: Image) -> Sequence[_Message]:
    """Created, and if it has its data already, uploaded to each store that holds it."""
    messages = [_Message("image.create", _image(after))]
    if after.status == "active":
        messages += [_Message("image.upload", _with_store(after, _shown_store(after, s))) for s in after.stores]
        messages.append(_Message("image.activate", _image(after)))
    return messages


@on(
    e.ImageUpdated,
    e.TagAdded,
    e.TagRemoved,
    e.ImageDeactivated,
    e.ImageReactivated,
    e.StagingStarted,
    e.DataStaged,
    e.StagingFailed,
    e.MetadataCopied,
    e.LocationAdded,
    e.DataHashed,
    e.LocationsReplaced,
    e.LocationRemoved,
)
def _updated(event: e.Event, before: Image, after: Image) -> Sequence[_Message]:
    messages = [_Message("image.update", _image(after))]
    if before.status != "active" and after.status == "active" and isinstance(event, e.LocationAdded | e.DataHashed):
        messages.insert(0, _Message("image.activate", _image(after)))
    return messages


@on(e.StepCompleted)
def _step_completed(event: e.StepCompleted, before: Image, after: Image) -> Sequence[_Message]:
    changes = len(event.properties_set) + len(event.properties_removed) + (event.blob is not None)
    changes += (event.disk_format is not UNSET) + (event.container_format is not UNSET)
    return tuple(_Message("image.update", _image(after)) for _ in range(changes))


@on(e.ImageDeleted, e.DeletionScheduled)
def _deleted(event: e.Event, before: Image, after: Image) -> Sequence[_Message]:
    if before.gone:  # it was told when it vanished for its users
        return ()
    messages = [_gone(after)]
    if before.job is not None and after.task is not None:
        messages.append(_Message("task.failure", _task(after.task)))
    return messages


def _gone(image: Image) -> _Message:
    payload = {**_image(image), "deleted": True, "deleted_at": _time(image.deleted_at)}
    return _Message("image.delete", payload)


@on(e.MemberAdded)
def _member_added(event: e.MemberAdded, before: Image, after: Image) -> Sequence[_Message]:
    return _member("image.member.create", after, event.member)


@on(e.MemberStatusChanged)
def _member_changed(event: e.MemberStatusChanged, before: Image, after: Image) -> Sequence[_Message]:
    return _member("image.member.update", after, event.member)


@on(e.MemberRemoved)
def _member_removed(event: e.MemberRemoved, before: Image, after: Image) -> Sequence[_Message]:
    return _member("image.member.delete", after, event.member)


# --- data ------------------------------------------------------------------------------


@on(e.UploadStarted)
def _upload_started(event: e.UploadStarted, before: Image, after: Image) -> Sequence[_Message]:
    store = event.store if event.multi else None
    return (_Message("image.update", _image(after)), _Message("image.prepare", _with_store(after, store)))


@on(e.DataUploaded)
def _uploaded(event: e.DataUploaded, before: Image, after: Image) -> Sequence[_Message]:
    store = event.location.store if after.multi else None
    return (
        _Message("image.upload", _with_store(after, store)),
        _Message("image.activate", _image(after)),
        _Message("image.update", _image(after)),
    )


@on(e.UploadFailed)
def _upload_failed(event: e.UploadFailed, before: Image, after: Image) -> Sequence[_Message]:
    store = event.store if before.transfer and before.transfer.multi else None
    return (_failed_upload(after, store, event.kind), _Message("image.update", _image(after)))


# --- imports ---------------------------------------------------------------------------


@on(e.ImportRequested)
def _import_requested(event: e.ImportRequested, before: Image, after: Image) -> Sequence[_Message]:
    assert after.task is not None
    if after.task.type == IMAGE_IMPORT:
        return (_record("create", after.task, after),)
    return (_Message("task.create", _task(after.task)), _Message("image.update", _image(after)))


@on(e.DataFetched)
def _fetched(event: e.DataFetched, before: Image, after: Image) -> Sequence[_Message]:
    if after.task is not None and after.task.type == IMAGE_IMPORT:
        return (_record("update", after.task, after),)
    return (_Message("image.update", _image(after)),)


@on(e.ImportStarted)
def _import_started(event: e.ImportStarted, before: Image, after: Image) -> Sequence[_Message]:
    if after.task is None:
        return ()
    if after.task.type == IMAGE_IMPORT:
        return (_record("update", after.task, after),)
    task = _task(after.task)
    return (_Message("task.processing", task), _Message("task.run", task))


@on(e.StepFailed)
def _step_failed(event: e.StepFailed, before: Image, after: Image) -> Sequence[_Message]:
    return (_failed_upload(after, None, event.kind),) if event.inspection else ()


@on(e.StoreStarted)
def _store_started(event: e.StoreStarted, before: Image, after: Image) -> Sequence[_Message]:
    return (_Message("image.prepare", _with_store(after, _shown_store(after, event.store))),)


@on(e.StoreSucceeded)
def _store_succeeded(event: e.StoreSucceeded, before: Image, after: Image) -> Sequence[_Message]:
    messages = [_Message("image.upload", _with_store(after, _shown_store(after, event.store)))]
    if before.status != "active" and after.status == "active":
        messages.append(_Message("image.activate", _image(after)))
    return (*messages, _Message("image.update", _image(after)))


@on(e.StoreFailed)
def _store_failed(event: e.StoreFailed, before: Image, after: Image) -> Sequence[_Message]:
    failed = _failed_upload(after, _shown_store(after, event.store), event.kind)
    if after.job is not None and after.job.failure is not None:
        return (failed,)
    return (failed, _Message("image.update", _image(after)))


@on(e.ImportCompleted)
def _import_completed(event: e.ImportCompleted, before: Image, after: Image) -> Sequence[_Message]:
    return _ended(before, after, "task.success")


@on(e.ImportFailed)
def _import_failed(event: e.ImportFailed, before: Image, after: Image) -> Sequence[_Message]:
    return _ended(before, after, "task.failure")


def _ended(before: Image, after: Image, event_type: str) -> Sequence[_Message]:
    task = after.task
    if task is None:
        return ()
    if task.type == IMAGE_IMPORT:
        return (_record("update", task, after),)
    told = _Message(event_type, _task(task))
    if not after.gone:
        return (_Message("image.update", _image(after)), told)
    return (told,) if before.gone else (_gone(after), told)


@on(e.ImportPreempted)
def _import_preempted(event: e.ImportPreempted, before: Image, after: Image) -> Sequence[_Message]:
    return _ended(before, after, "task.failure")


@on(e.ImageImportExpired)
def _expired(event: e.ImageImportExpired, before: Image, after: Image) -> Sequence[_Message]:
    record = before.expiring
    return () if record is None else (_record("delete", record, after),)


@on(e.ImageSent)
def _sent(event: e.ImageSent, before: Image, after: Image) -> Sequence[_Message]:
    payload = {
        "bytes_sent": event.sent,
        "image_id": event.image_id,
        "owner_id": event.owner,
        "receiver_tenant_id": event.receiver_project,
        "receiver_user_id": event.receiver_user,
    }
    return (_Message("image.send", payload, "INFO" if event.sent == event.asked else "ERROR"),)


# --- payloads --------------------------------------------------------------------------


def _time(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else None


def _image(image: Image) -> dict[str, Any]:
    return {
        "id": image.id,
        "name": image.name,
        "status": image.status,
        "visibility": image.visibility,
        "is_public": image.visibility == "public",
        "checksum": image.checksum,
        "owner": image.owner,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "created_at": _time(image.created_at),
        "updated_at": _time(image.updated_at),
        "min_disk": image.min_disk,
        "min_ram": image.min_ram,
        "size": image.size,
        "virtual_size": image.virtual_size,
        "protected": image.protected,
        "deleted": False,
        "deleted_at": None,
        "properties": {name: value or "" for name, value in shown_properties(image).items()},
        "tags": list(image.tags),
    }


def _with_store(image: Image, store: str | None) -> dict[str, Any]:
    """The image with what consumers of a store write need; single-store sites name no store."""
    payload = _image(image)
    if store is not None:
        payload["backend"] = store
    payload["os_glance_importing_to_stores"] = list(image.importing or ())
    payload["os_glance_failed_import"] = list(image.failed or ())
    return payload


def _shown_store(image: Image, store: str) -> str | None:
    return store if image.multi else None


def _task(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "type": task.type,
        "status": task.status,
        "owner": task.owner,
        "result": None,
        "message": None,
        "expires_at": _time(task.expires_at),
        "created_at": _time(task.created_at),
        "updated_at": _time(task.updated_at),
        "deleted": False,
        "deleted_at": None,
    }


def _record(what: str, task: Task, image: Image) -> _Message:
    """What is told of an image import: nothing of where the data comes from, nor of what it is to become."""
    gone = _time(image.at) if what == "delete" else None
    payload = {
        "id": task.id,
        "status": task.status,
        "owner": task.owner,
        "image_id": image.id if task.status == "success" else None,
        "message": None,
        "created_at": _time(task.created_at),
        "updated_at": _time(task.updated_at),
        "expires_at": _time(task.expires_at),
        "deleted": gone is not None,
        "deleted_at": gone,
    }
    return _Message(f"image_import.{what}", payload)


def _member(event_type: str, image: Image, name: str) -> Sequence[_Message]:
    member = image.members.get(name)
    if member is None:
        return ()
    payload = {
        "image_id": image.id,
        "member_id": name,
        "status": member.status,
        "created_at": _time(member.created_at),
        "updated_at": _time(member.updated_at),
        "deleted": member.removed,
        "deleted_at": _time(member.updated_at) if member.removed else None,
    }
    return (_Message(event_type, payload),)


_TEXTS: Final = {
    "full": "Image storage media is full",
    "denied": "Insufficient permissions on image storage media",
    "bad_value": "Cannot save data for image",
    "duplicate": "Unable to upload duplicate image data for image",
    "forbidden": "Not allowed to upload image data for image",
    "vanished": "Image could not be found after upload; it may have been deleted during the upload, image",
    "http": "Failed to upload image data due to HTTP error, image",
    "internal": "Failed to upload image data due to internal error, image",
}


def _failed_upload(image: Image, store: str | None, kind: str) -> _Message:
    where = f" (store {store})" if store else ""
    return _Message("image.upload", f"{_TEXTS.get(kind, _TEXTS['internal'])} {image.id}{where}", "ERROR")


def envelope(message: Notification, publisher_id: str) -> dict[str, Any]:
    """A message in the form that oslo.messaging gave to notifications (its version 1)."""
    return {
        "message_id": str(message.id),
        "publisher_id": publisher_id,
        "event_type": message.event_type,
        "priority": message.priority,
        "payload": message.payload,
        "timestamp": message.at.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
