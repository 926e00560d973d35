"""Images, tasks and members as clients see them: the only home of wire names.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kernel.events import Location
from kernel.image import LOCATION_IMPORT, Image, Task
from kernel.locations import in_order
from kernel.queries import TaskRecord
from kernel.rows import shown_properties
from kernel.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who looks, as far as it changes what there is to see."""

    site: Site
    admin: bool
    nullable: Collection[str]
    """Custom properties that the image schema describes, so that they can be null."""
    reads: Callable[[str], bool] | None = None
    """Whether he may read a custom property of this name; None: all."""


def stamp(at: datetime) -> str:
    """A time as image resources carry it: UTC, whole seconds, a literal Z."""
    return f"{at.isoformat()[:19]}Z"


def precise(at: datetime | None) -> str | None:
    """A time as the tasks of an image carry it: microseconds, no zone."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f") if at else None


def image(shown: Image, viewer: Viewer) -> dict[str, Any]:
    """An image's representation."""
    path = f"/v2/images/{shown.id}"
    document: dict[str, Any] = {
        name: value if value is not None or name in viewer.nullable else ""
        for name, value in shown_properties(shown).items()
        if viewer.reads is None or viewer.reads(name)
    }
    document |= {
        "id": shown.id,
        "name": shown.name,
        "status": shown.status,
        "visibility": shown.visibility,
        "owner": shown.owner,
        "protected": shown.protected,
        "os_hidden": shown.hidden,
        "disk_format": shown.disk_format,
        "container_format": shown.container_format,
        "min_disk": shown.min_disk,
        "min_ram": shown.min_ram,
        "size": shown.size,
        "virtual_size": shown.virtual_size,
        "checksum": shown.checksum,
        "os_hash_algo": shown.hash_algo,
        "os_hash_value": shown.hash_value,
        "tags": list(shown.tags),
        "created_at": stamp(shown.created_at),
        "updated_at": stamp(shown.updated_at),
        "self": path,
        "file": f"{path}/file",
        "schema": "/v2/schemas/image",
    }
    site = viewer.site
    placed = in_order(shown.locations, site.reading_order) if viewer.admin or shown.status != "deactivated" else []
    if site.multi and placed:
        document["stores"] = ",".join(dict.fromkeys(location.store for location in placed))
    if site.settings.default.show_multiple_locations:
        document["locations"] = [location_of(location, site) for location in placed]
    if site.settings.default.show_image_direct_url and placed:
        document["direct_url"] = placed[0].url
    return document


def location_of(shown: Location, site: Site) -> dict[str, Any]:
    """A location, with the store that it is in where there are several."""
    store = {"store": shown.store} if site.multi else {}
    return {"url": shown.url, "metadata": {**shown.metadata, **store}}


def member(shown: Image, name: str) -> dict[str, Any]:
    """A project that an image is shared with."""
    record = shown.members[name]
    return {
        "member_id": name,
        "image_id": shown.id,
        "status": record.status,
        "created_at": stamp(record.created_at),
        "updated_at": stamp(record.updated_at),
        "schema": "/v2/schemas/member",
    }


def image_task(record: TaskRecord) -> dict[str, Any]:
    """A task as listed under its image."""
    task = record.task
    document = {
        "id": task.id,
        "type": task.type,
        "status": task.status,
        "owner": task.owner,
        "input": task_input(task, record.image_id),
        "result": {"image_id": record.image_id} if task.status == "success" else None,
        "message": task.message or progress_text(record),
        "image_id": record.image_id,
        "request_id": task.request_id,
        "user_id": task.user_id,
        "created_at": precise(task.created_at),
        "updated_at": precise(task.updated_at),
        "expires_at": precise(task.expires_at),
        "deleted": False,
        "deleted_at": None,
    }
    if record.progress is not None:
        document["progress"] = progress(record)
    return document


def task_input(task: Task, image_id: str) -> dict[str, Any]:
    """What the task was asked, as clients read it."""
    if task.type == LOCATION_IMPORT:
        said = task.request.get("validation_data") or {}
        return {"image_id": image_id, "loc_url": task.request["url"], "validation_data": said}
    stores: list[str | None] = list(task.stores) if task.multi else [None]
    return {"image_id": image_id, "import_req": task.request, "backend": stores}


def progress(record: TaskRecord) -> dict[str, Any] | None:
    """Live progress of a running task; bytes and bytes a second."""
    now = record.progress
    if now is None:
        return None
    return {"stage": now.stage, "store": now.store, "done": now.done, "total": now.total, "rate": round(now.rate)}


def progress_text(record: TaskRecord) -> str:
    """Progress as a sentence, for clients that only know the message."""
    now = record.progress
    if now is None:
        return ""
    where = f" to {now.store}" if now.store else ""
    return f"{now.stage}{where}: copied {now.done >> 20} MiB"
