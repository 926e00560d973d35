"""What consumers are told: a pure function of an event and the states around it.

    notifications(event, before, after) -> messages, in order

The states are folded from the stream up to that very event, never read from a
newer row; the message ids follow from the event's, so a repetition can be told
from a new message.  What the messages look like is in `kernel/messages.py`; sinks
only carry what comes out of here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from uuid import uuid5

from msgspec import UNSET

from kernel import events as e
from kernel.image import IMAGE_IMPORT, Image
from kernel.messages import (
    Message,
    Notification,
    envelope,
    image_deleted,
    image_payload,
    member_messages,
    record_message,
    shown_store,
    store_payload,
    task_payload,
    upload_failed,
)
from kernel.recorded import Recorded

__all__ = ["RULES", "SILENT", "Notification", "envelope", "notifications"]

E = TypeVar("E", bound=e.Event)
Rule = Callable[[Any, Image, Image], Sequence[Message]]

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


def on(*kinds: type[E]) -> Callable[[Callable[[E, Image, Image], Sequence[Message]]], Rule]:
    """Register the function that says what an event of these types means to consumers."""

    def register(rule: Callable[[E, Image, Image], Sequence[Message]]) -> Rule:
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
def _created(event: e.ImageCreated, before: Image, after: Image) -> Sequence[Message]:
    return (Message("image.create", image_payload(after)),)


@on(e.ImageAppeared)
def _appeared(event: e.ImageAppeared, before: Image, after: Image) -> Sequence[Message]:
    """Created, and if it has its data already, uploaded to each store that holds it."""
    messages = [Message("image.create", image_payload(after))]
    if after.status == "active":
        messages += [Message("image.upload", store_payload(after, shown_store(after, s))) for s in after.stores]
        messages.append(Message("image.activate", image_payload(after)))
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
def _updated(event: e.Event, before: Image, after: Image) -> Sequence[Message]:
    messages = [Message("image.update", image_payload(after))]
    if before.status != "active" and after.status == "active" and isinstance(event, e.LocationAdded | e.DataHashed):
        messages.insert(0, Message("image.activate", image_payload(after)))
    return messages


@on(e.StepCompleted)
def _step_completed(event: e.StepCompleted, before: Image, after: Image) -> Sequence[Message]:
    changes = len(event.properties_set) + len(event.properties_removed) + (event.blob is not None)
    changes += (event.disk_format is not UNSET) + (event.container_format is not UNSET)
    return tuple(Message("image.update", image_payload(after)) for _ in range(changes))


@on(e.ImageDeleted, e.DeletionScheduled)
def _deleted(event: e.Event, before: Image, after: Image) -> Sequence[Message]:
    if before.gone:  # it was told when it vanished for its users
        return ()
    messages = [image_deleted(after)]
    if before.job is not None and after.task is not None:
        messages.append(Message("task.failure", task_payload(after.task)))
    return messages


@on(e.MemberAdded)
def _member_added(event: e.MemberAdded, before: Image, after: Image) -> Sequence[Message]:
    return member_messages("image.member.create", after, event.member)


@on(e.MemberStatusChanged)
def _member_changed(event: e.MemberStatusChanged, before: Image, after: Image) -> Sequence[Message]:
    return member_messages("image.member.update", after, event.member)


@on(e.MemberRemoved)
def _member_removed(event: e.MemberRemoved, before: Image, after: Image) -> Sequence[Message]:
    return member_messages("image.member.delete", after, event.member)


# --- data ------------------------------------------------------------------------------


@on(e.UploadStarted)
def _upload_started(event: e.UploadStarted, before: Image, after: Image) -> Sequence[Message]:
    store = event.store if event.multi else None
    return (Message("image.update", image_payload(after)), Message("image.prepare", store_payload(after, store)))


@on(e.DataUploaded)
def _uploaded(event: e.DataUploaded, before: Image, after: Image) -> Sequence[Message]:
    store = event.location.store if after.multi else None
    return (
        Message("image.upload", store_payload(after, store)),
        Message("image.activate", image_payload(after)),
        Message("image.update", image_payload(after)),
    )


@on(e.UploadFailed)
def _upload_failed(event: e.UploadFailed, before: Image, after: Image) -> Sequence[Message]:
    store = event.store if before.transfer and before.transfer.multi else None
    return (upload_failed(after, store, event.kind), Message("image.update", image_payload(after)))


# --- imports ---------------------------------------------------------------------------


@on(e.ImportRequested)
def _import_requested(event: e.ImportRequested, before: Image, after: Image) -> Sequence[Message]:
    assert after.task is not None
    if after.task.type == IMAGE_IMPORT:
        return (record_message("create", after.task, after),)
    return (Message("task.create", task_payload(after.task)), Message("image.update", image_payload(after)))


@on(e.DataFetched)
def _fetched(event: e.DataFetched, before: Image, after: Image) -> Sequence[Message]:
    if after.task is not None and after.task.type == IMAGE_IMPORT:
        return (record_message("update", after.task, after),)
    return (Message("image.update", image_payload(after)),)


@on(e.ImportStarted)
def _import_started(event: e.ImportStarted, before: Image, after: Image) -> Sequence[Message]:
    if after.task is None:
        return ()
    if after.task.type == IMAGE_IMPORT:
        return (record_message("update", after.task, after),)
    task = task_payload(after.task)
    return (Message("task.processing", task), Message("task.run", task))


@on(e.StepFailed)
def _step_failed(event: e.StepFailed, before: Image, after: Image) -> Sequence[Message]:
    return (upload_failed(after, None, event.kind),) if event.inspection else ()


@on(e.StoreStarted)
def _store_started(event: e.StoreStarted, before: Image, after: Image) -> Sequence[Message]:
    return (Message("image.prepare", store_payload(after, shown_store(after, event.store))),)


@on(e.StoreSucceeded)
def _store_succeeded(event: e.StoreSucceeded, before: Image, after: Image) -> Sequence[Message]:
    messages = [Message("image.upload", store_payload(after, shown_store(after, event.store)))]
    if before.status != "active" and after.status == "active":
        messages.append(Message("image.activate", image_payload(after)))
    return (*messages, Message("image.update", image_payload(after)))


@on(e.StoreFailed)
def _store_failed(event: e.StoreFailed, before: Image, after: Image) -> Sequence[Message]:
    failed = upload_failed(after, shown_store(after, event.store), event.kind)
    if after.job is not None and after.job.failure is not None:
        return (failed,)
    return (failed, Message("image.update", image_payload(after)))


@on(e.ImportCompleted)
def _import_completed(event: e.ImportCompleted, before: Image, after: Image) -> Sequence[Message]:
    return _ended(before, after, "task.success")


@on(e.ImportFailed)
def _import_failed(event: e.ImportFailed, before: Image, after: Image) -> Sequence[Message]:
    return _ended(before, after, "task.failure")


def _ended(before: Image, after: Image, event_type: str) -> Sequence[Message]:
    task = after.task
    if task is None:
        return ()
    if task.type == IMAGE_IMPORT:
        return (record_message("update", task, after),)
    told = Message(event_type, task_payload(task))
    if not after.gone:
        return (Message("image.update", image_payload(after)), told)
    return (told,) if before.gone else (image_deleted(after), told)


@on(e.ImportPreempted)
def _import_preempted(event: e.ImportPreempted, before: Image, after: Image) -> Sequence[Message]:
    return _ended(before, after, "task.failure")


@on(e.ImageImportExpired)
def _expired(event: e.ImageImportExpired, before: Image, after: Image) -> Sequence[Message]:
    record = before.expiring
    return () if record is None else (record_message("delete", record, after),)


@on(e.ImageSent)
def _sent(event: e.ImageSent, before: Image, after: Image) -> Sequence[Message]:
    payload = {
        "bytes_sent": event.sent,
        "image_id": event.image_id,
        "owner_id": event.owner,
        "receiver_tenant_id": event.receiver_project,
        "receiver_user_id": event.receiver_user,
    }
    return (Message("image.send", payload, "INFO" if event.sent == event.asked else "ERROR"),)
