"""The Tasks API: old, for administrators, kept because operators and Tempest use it.

`tasks_api_access` is judged before anything else is looked at, and is the only rule that
counts; the finer ones do in the profile `pike`, as they once did everywhere.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp.web import StreamResponse

from handlers import record_lists, record_views
from handlers.call import Call
from handlers.errors import HttpError
from handlers.imports import MOST_REQUEST
from handlers.making import future_image, make
from handlers.routing import Route
from kernel.errors import Invalid, NotFound
from kernel.ids import stream_of
from kernel.image import IMAGE_IMPORT, IMPORT
from kernel.queries import TaskRecord
from kernel.records import SORTABLE

_FIELDS: Final = frozenset(record_views.TASK["properties"])


async def create(call: Call) -> StreamResponse:
    """`POST /v2/tasks`"""
    _may(call, "add_task")
    given = _input(await call.json(dict, most=MOST_REQUEST))
    location = given.get("import_from")
    if not isinstance(location, str) or not location.strip():
        raise Invalid("input.import_from: invalid location")
    missing = next((name for name in ("import_from_format", "image_properties") if given.get(name) is None), None)
    flaw = None if missing is None else f"Input does not contain '{missing}' field"
    declared, properties = _described(given)
    image = future_image(call, properties, container_format="bare", disk_format=declared)
    site, settings = call.service.site, call.service.settings
    handled = await make(
        call,
        image,
        type=IMPORT,
        location=location,
        request=given,
        stores=(site.default,),
        must_succeed=True,
        steps=tuple(site.task_steps),
        ttl=settings.task.task_time_to_live * 3600,
        flaw=flaw,
    )
    task = handled.after.task
    assert task is not None
    headers = {"Location": f"{call.base_url}/v2/tasks/{task.id}"}
    return call.reply(record_views.task(TaskRecord(task, image.image_id)), 201, headers)


async def index(call: Call) -> StreamResponse:
    """`GET /v2/tasks`"""
    _may(call, "get_tasks")
    found, more = await record_lists.page(
        call,
        "task",
        everybody=call.admin,
        sort_keys=tuple(SORTABLE),
        statuses=record_views.TASK_STATUSES,
        types=record_views.TASK_TYPES,
    )
    document: dict[str, Any] = {
        "tasks": [record_views.task(record, brief=True) for record in found],
        "schema": "/v2/schemas/tasks",
        **record_lists.links(call, "/v2/tasks", found[-1] if more else None),
    }
    return call.reply(document)


async def show(call: Call) -> StreamResponse:
    """`GET /v2/tasks/{task_id}`"""
    _may(call, "get_task")
    task_id = call.parameters["task_id"]
    wanted = stream_of(task_id)
    record = await call.service.queries.task(wanted) if wanted is not None else None
    if record is None or record.task.type == IMAGE_IMPORT or not _sees(call, record):
        raise NotFound(f"Could not find task {task_id}")
    return call.reply(record_views.task(record))


async def delete(call: Call) -> StreamResponse:
    """`DELETE /v2/tasks/{task_id}`"""
    _may(call, "get_task")
    raise HttpError(405, "Tasks cannot be deleted; they expire by themselves", {"Allow": "GET"})


async def schema(call: Call) -> StreamResponse:
    """`GET /v2/schemas/task`"""
    return call.reply(record_views.TASK)


async def list_schema(call: Call) -> StreamResponse:
    """`GET /v2/schemas/tasks`"""
    return call.reply(record_views.TASKS)


# --- pieces ------------------------------------------------------------------------------


def _may(call: Call, rule: str) -> None:
    call.must("tasks_api_access")
    if call.service.settings.default.api_version_profile == "pike":
        call.must(rule)


def _sees(call: Call, record: TaskRecord) -> bool:
    owner = record.task.owner
    return call.admin or (owner is not None and owner == call.actor.project_id)


def _input(document: dict[str, Any]) -> dict[str, Any]:
    """The `input` of a body that is well formed otherwise."""
    unknown = next((name for name in document if name not in _FIELDS), None)
    if unknown is not None:
        raise Invalid(f"{unknown}: a task has no such attribute")
    kind = document.get("type")
    if kind != IMPORT:
        raise Invalid("type: is missing" if kind is None else "type: only tasks of the type import can be created")
    given = document.get("input")
    if not isinstance(given, dict):
        raise Invalid("input: must be an object")
    return given


def _described(given: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The format that the source is said to have, and what the image is to be like."""
    declared, properties = given.get("import_from_format"), given.get("image_properties")
    if declared is not None and not isinstance(declared, str):
        raise Invalid("input.import_from_format: must be a string")
    if properties is not None and not isinstance(properties, dict):
        raise Invalid("input.image_properties: must be an object")
    return declared, properties or {}


ROUTES: Final = (
    Route(
        method="POST",
        path="/tasks",
        handler=create,
        body="json",
        success=(201,),
        errors=(400, 401, 403, 413),
        summary="Create a task that imports a new image",
    ),
    Route(method="GET", path="/tasks", handler=index, errors=(400, 401, 403), summary="List tasks"),
    Route(method="GET", path="/tasks/{task_id}", handler=show, summary="Show a task"),
    Route(
        method="DELETE",
        path="/tasks/{task_id}",
        handler=delete,
        body="any",
        success=(),
        errors=(401, 403, 405),
        summary="Refused: tasks expire by themselves",
        refuses=True,
    ),
    Route(method="GET", path="/schemas/task", handler=schema, errors=(400, 401), summary="Schema of a task"),
    Route(
        method="GET", path="/schemas/tasks", handler=list_schema, errors=(400, 401), summary="Schema of a list of tasks"
    ),
)
