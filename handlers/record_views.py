"""Tasks and image imports as clients see them, and the schemas that say so.  Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from handlers import views
from handlers.schemas import ImageBody
from handlers.views import Viewer, stamp
from kernel.image import IMPORT
from kernel.queries import TaskRecord

TASK_TYPES: Final = ("import", "api_image_import", "location_import")
TASK_STATUSES: Final = ("pending", "processing", "success", "failure")
IMPORT_STATUSES: Final = ("waiting", "uploading", "verifying", "success", "failure")

_UUID: Final = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"


def task(record: TaskRecord, *, brief: bool = False) -> dict[str, Any]:
    """A task of the Tasks API; `brief` as in lists."""
    shown = record.task
    document: dict[str, Any] = {
        "id": shown.id,
        "type": shown.type,
        "status": shown.status,
        "owner": shown.owner,
        "created_at": stamp(shown.created_at),
        "updated_at": stamp(shown.updated_at),
        "self": f"/v2/tasks/{shown.id}",
        "schema": "/v2/schemas/task",
    }
    if shown.expires_at is not None:
        document["expires_at"] = stamp(shown.expires_at)
    if brief:
        return document
    makes = shown.type == IMPORT
    known = not makes or shown.status in ("processing", "success")
    about = {"image_id": record.image_id if known else None, "request_id": shown.request_id, "user_id": shown.user_id}
    document |= {name: value for name, value in about.items() if value is not None}
    document["input"] = shown.request if makes else views.task_input(shown, record.image_id)
    document["result"] = {"image_id": record.image_id} if shown.status == "success" else None
    document["message"] = shown.message or views.progress_text(record)
    return document


def image_import(record: TaskRecord, viewer: Viewer) -> dict[str, Any]:
    """An image import: what was asked, and once it has ended what came of it."""
    shown = record.task
    document: dict[str, Any] = {
        "id": shown.id,
        "status": shown.status,
        "location": shown.request["location"],
        "created_at": stamp(shown.created_at),
        "updated_at": stamp(shown.updated_at),
        "self": f"/v2/image-imports/{shown.id}",
        "schema": "/v2/schemas/image-import",
    }
    for name in ("stores", "all_stores", "all_stores_must_succeed"):
        if shown.request.get(name) is not None:
            document[name] = shown.request[name]
    if shown.status == "success":
        document["image_ref"] = f"/v2/images/{record.image_id}"
    else:
        given = shown.request.get("image_properties") or {}
        document["image_properties"] = {
            name: value
            for name, value in given.items()
            if name in ImageBody.model_fields or viewer.reads is None or viewer.reads(name)
        }
    if shown.status == "failure":
        document["message"] = shown.message
    if shown.expires_at is not None:
        document["expires-by"] = _expiry(shown.expires_at)
    if viewer.admin and shown.owner is not None:
        document["owner"] = shown.owner
    return document


def _expiry(at: datetime) -> str:
    """As the proposal of this resource has it: a numeric zone."""
    return at.strftime("%Y-%m-%dT%H:%M:%S+0000")


# --- schemas -----------------------------------------------------------------------------

_TEXT: Final = {"type": "string"}
_FIXED: Final = {"type": "string", "readOnly": True}

_TASK_BRIEF: Final[dict[str, Any]] = {
    "id": {"description": "An identifier for the task", "type": "string", "pattern": _UUID},
    "type": {"description": "The type of task represented by this content", "type": "string", "enum": [*TASK_TYPES]},
    "status": {"description": "The current status of this task", "type": "string", "enum": [*TASK_STATUSES]},
    "owner": {"description": "The project that the task belongs to, if any", "type": ["string", "null"]},
    "expires_at": {"description": "When the task can no longer be seen", "type": ["string", "null"]},
    "created_at": {"description": "When the task was created", **_TEXT},
    "updated_at": {"description": "When the task was last updated", **_TEXT},
    "self": _FIXED,
    "schema": _FIXED,
}

TASK: Final[dict[str, Any]] = {
    "name": "task",
    "properties": {
        **_TASK_BRIEF,
        "input": {"description": "What the task was asked to do", "type": ["object", "null"]},
        "result": {"description": "What came of it, once it has succeeded", "type": ["object", "null"]},
        "message": {"description": "How it goes, or why it failed", **_TEXT},
        "image_id": {"description": "The image concerned", **_TEXT},
        "request_id": {"description": "The request that created the task", **_TEXT},
        "user_id": {"description": "The user who created the task", **_TEXT},
    },
}


def _collection(name: str, items: str, item: dict[str, Any]) -> dict[str, Any]:
    """In the form of the other collection schemas."""
    return {
        "name": name,
        "properties": {items: {"type": "array", "items": item}, "first": _TEXT, "next": _TEXT, "schema": _TEXT},
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


TASKS: Final = _collection("tasks", "tasks", {"name": "task", "properties": _TASK_BRIEF})

_STORES: Final[dict[str, Any]] = {"type": "array", "items": _TEXT}

IMPORT_REQUEST: Final[dict[str, Any]] = {
    "name": "image-import-request",
    "type": "object",
    "additionalProperties": False,
    "required": ["location"],
    "properties": {
        "location": {"type": "string", "minLength": 1, "maxLength": 2048},
        "image_properties": {
            "type": "object",
            "description": "as the body of POST /v2/images without id and read-only attributes",
        },
        "stores": {"type": ["array", "null"], "items": _TEXT, "minItems": 1},
        "all_stores": {"type": "boolean", "default": False},
        "all_stores_must_succeed": {"type": "boolean", "default": True},
    },
}

_IMPORT: Final[dict[str, Any]] = {
    "name": "image-import",
    "type": "object",
    "required": ["id", "status", "location", "created_at", "updated_at", "self", "schema"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        "status": {"type": "string", "enum": [*IMPORT_STATUSES]},
        "location": _TEXT,
        "image_properties": {"type": "object"},
        "image_ref": {"type": "string", "pattern": "^/v2/images/"},
        "message": _TEXT,
        "expires-by": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+0000$"},
        "stores": _STORES,
        "all_stores": {"type": "boolean"},
        "all_stores_must_succeed": {"type": "boolean"},
        "owner": _TEXT,
        "created_at": _TEXT,
        "updated_at": _TEXT,
        "self": _FIXED,
        "schema": _FIXED,
    },
}

IMAGE_IMPORT: Final[dict[str, Any]] = {**_IMPORT, "request": IMPORT_REQUEST}

IMAGE_IMPORTS: Final = _collection("image-imports", "image-imports", _IMPORT)
