"""Imports as operators handle them: call one off, try again where stores failed, tell what became of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Final

from aiohttp.web import StreamResponse
from msgspec import Struct, to_builtins
from pydantic import BaseModel, ConfigDict, StringConstraints

from handlers.call import Call
from handlers.routing import Route
from handlers.schemas import validated
from handlers.views import precise
from kernel import commands as c
from kernel import events as e
from kernel.codec import type_of
from kernel.errors import Conflict, NotFound
from kernel.events import Unrecognised
from kernel.explain import Explanation, Line, explain, unserved
from kernel.ids import new_id, stream_of
from kernel.image import Image, Task
from kernel.queries import TaskRecord
from kernel.recorded import IMAGE, Recorded

_COPY: Final = "copy-image"


class CancelBody(BaseModel):
    """What may be said when an import is called off."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, StringConstraints(max_length=255)] = ""


class _Found(Struct, frozen=True):
    record: TaskRecord
    image: Image

    @property
    def task(self) -> Task:
        return self.record.task


async def cancel(call: Call) -> StreamResponse:
    """`POST /ops/v1/imports/{task_id}/cancel`: it stops before its next visible effect and is taken back."""
    call.must("ops_write")
    document = await call.json(dict, absent={})
    body = validated(CancelBody, document)
    found = await _found(call)
    if found.task.final:
        raise Conflict(f"Task {found.task.id} is over: {found.task.status}")
    reason = f"Cancelled by an operator: {body.reason}" if body.reason else "Cancelled by an operator"
    command = c.CancelImport(task_id=found.task.id, reason=reason)
    await call.service.commands.handle(found.image.id, command, context=call.context)
    return call.reply({"task": found.task.id, "image_id": found.image.id, "message": reason}, 202)


async def retry(call: Call) -> StreamResponse:
    """`POST /ops/v1/imports/{task_id}/retry`: stores that lack the image get it from those that have it."""
    call.must("ops_write")
    found = await _found(call)
    site = call.service.site
    writable = [name for name, backend in site.backends.items() if not backend.read_only]
    stores = retriable(found.task, found.image, writable)
    request = e.ImportRequested(
        task_id=str(new_id()),
        method=_COPY,
        request={"method": {"name": _COPY}, "stores": list(stores), "all_stores_must_succeed": False},
        stores=stores,
        multi=site.multi,
        must_succeed=False,
        copies=True,
        inspects=False,
        task_ttl=call.service.settings.task.task_time_to_live * 3600,
    )
    await call.service.commands.handle(
        found.image.id, c.RequestImport(needs="active", request=request), context=call.context
    )
    return call.reply({"task": request.task_id, "image_id": found.image.id, "stores": list(stores)}, 202)


async def show(call: Call) -> StreamResponse:
    """`GET /ops/v1/imports/{task_id}/explain`

    Admins see everything; others see imports of their own images, with whoever else acted left out.
    """
    found = await _found(call)
    admin = call.may("ops_read")
    if not admin and not _own(call, found):
        raise _unknown(call)
    stream = stream_of(found.image.id)
    assert stream is not None
    items: list[Recorded] = []
    while page := await call.service.log.read_stream(IMAGE, stream, items[-1].version if items else 0):
        items += page
    told = explain(items, found.task, found.image, at_work=found.record.progress is not None)
    return call.reply(_document(told, found, None if admin else call.actor.project_id))


# --- pieces ------------------------------------------------------------------------------


def retriable(task: Task, image: Image, writable: Collection[str]) -> tuple[str, ...]:
    """Stores to fill; `Conflict` that says why there is nothing to be done, or nothing to do it with.  Pure."""
    if not task.final:
        raise Conflict(f"Task {task.id} is still running")
    if image.gone:
        raise Conflict("There is no image any more whose data could be copied")
    if image.job is not None:
        raise Conflict(f"Image {image.id} has an active task {image.job.task_id}")
    if image.status != "active":
        raise Conflict(
            f"No store holds the data of the image, which is {image.status}:"
            " it has to be sent or fetched once more, and imported again"
        )
    missing = unserved(task, image)
    if not missing:
        raise Conflict("There is nothing to retry: all stores that the task was to fill hold the image")
    stores = tuple(store for store in missing if store in writable)
    if not stores:
        raise Conflict(f"There is nothing to retry: {', '.join(missing)} cannot be written")
    return stores


async def _found(call: Call) -> _Found:
    """The task that the path names, however old, with its image; `NotFound`."""
    wanted = stream_of(call.parameters["task_id"])
    record = await call.service.queries.task(wanted, expired=True) if wanted is not None else None
    if record is None or record.image_id is None:
        raise _unknown(call)
    return _Found(record, await call.service.queries.image(record.image_id))


def _unknown(call: Call) -> NotFound:
    return NotFound(f"No import found with the task ID {call.parameters['task_id']}")


def _own(call: Call, found: _Found) -> bool:
    """Whether the caller may know: it is his image, or was to be, or was while it lived."""
    project = call.actor.project_id
    if project is None or found.image.owner != project:
        return False
    return found.task.owner == project if found.image.gone else call.sees(found.image)


def _document(told: Explanation, found: _Found, project: str | None) -> dict[str, Any]:
    task, image = found.task, found.image
    shown = image.expected or (image.gone and task.type == "image_import")
    return {
        "task": task.id,
        "type": task.type,
        "image_id": None if shown and project is not None else image.id,
        "image_status": None if image.gone else image.status,
        "status": task.status,
        "ending": told.ending,
        "summary": told.summary,
        "message": task.message,
        "stores": list(task.stores),
        "stores_holding_it": list(image.stores) if not image.gone else [],
        "cause": _place(told.cause) if told.cause is not None else None,
        "events": [_line(line, project) for line in told.lines],
        "next": list(told.advice),
    }


def _place(item: Recorded) -> dict[str, Any]:
    event = item.event
    known = event.type if isinstance(event, Unrecognised) else type_of(event)
    return {"event": known, "position": item.position, "at": precise(item.meta.at)}


def _line(line: Line, project: str | None) -> dict[str, Any]:
    by = to_builtins(line.item.meta.by)
    if project is not None and line.item.meta.by.project != project:
        by = {"user": "someone else"}
    return {**_place(line.item), "text": line.text, "by": by}


ROUTES: Final = (
    Route(
        method="POST",
        path="/imports/{task_id}/cancel",
        handler=cancel,
        body="json",
        success=(202,),
        errors=(400, 401, 403, 404, 409),
        summary="Call an import off",
    ),
    Route(
        method="POST",
        path="/imports/{task_id}/retry",
        handler=retry,
        success=(202,),
        errors=(400, 401, 403, 404, 409, 413),
        summary="Fill the stores that an import was to fill and that lack the image",
    ),
    Route(
        method="GET",
        path="/imports/{task_id}/explain",
        handler=show,
        errors=(400, 401, 404),
        summary="What became of an import, and what to do next",
    ),
)
