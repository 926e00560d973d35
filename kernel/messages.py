"""What messages to consumers look like: their payloads, as Glance's consumers know them, and their envelope."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

from kernel.image import Image, Task
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


class Message(Struct, frozen=True):
    """What a notification says, before it has its place among the others."""

    event_type: str
    payload: Payload
    priority: Priority = "INFO"


def image_payload(image: Image) -> dict[str, Any]:
    """The image as all but a few messages tell of it."""
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


def store_payload(image: Image, store: str | None) -> dict[str, Any]:
    """The image with what consumers of a store write need; single-store sites name no store."""
    payload = image_payload(image)
    if store is not None:
        payload["backend"] = store
    payload["os_glance_importing_to_stores"] = list(image.importing or ())
    payload["os_glance_failed_import"] = list(image.failed or ())
    return payload


def shown_store(image: Image, store: str) -> str | None:
    """The store's name, where there are several to tell apart."""
    return store if image.multi else None


def image_deleted(image: Image) -> Message:
    """The image as it went."""
    payload = {**image_payload(image), "deleted": True, "deleted_at": _time(image.deleted_at)}
    return Message("image.delete", payload)


def task_payload(task: Task) -> dict[str, Any]:
    """The task of an import, without what was asked for: that may name a source."""
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


def record_message(what: str, task: Task, image: Image) -> Message:
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
    return Message(f"image_import.{what}", payload)


def member_messages(event_type: str, image: Image, name: str) -> Sequence[Message]:
    """What is told of a member; nothing, if there never was one of that name."""
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
    return (Message(event_type, payload),)


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


def upload_failed(image: Image, store: str | None, kind: str) -> Message:
    """A sentence in place of a payload, as Glance has it."""
    where = f" (store {store})" if store else ""
    return Message("image.upload", f"{_TEXTS.get(kind, _TEXTS['internal'])} {image.id}{where}", "ERROR")


def _time(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else None


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
