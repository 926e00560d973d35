"""Image imports: from a location to an image that is not there until it has proved to be one."""

from __future__ import annotations

from typing import Any, Final

from aiohttp.web import StreamResponse
from pydantic import ConfigDict, Field, field_validator

from handlers import record_lists, record_views
from handlers.call import Call
from handlers.imports import MOST_REQUEST
from handlers.making import DOWNLOAD, future_image, make
from handlers.routing import Route
from handlers.schemas import StoreWishes, validated
from handlers.store_choice import choose
from kernel.errors import Forbidden, Invalid, NotFound
from kernel.evolve import NOTHING
from kernel.ids import stream_of
from kernel.image import IMAGE_IMPORT
from kernel.queries import TaskRecord
from kernel.settings import Settings

_SORT_KEYS: Final = ("created_at", "updated_at", "status", "id")


class ImportRequest(StoreWishes):
    """The body of `POST /v2/image-imports`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    location: str = Field(min_length=1, max_length=2048)
    image_properties: dict[str, Any] = Field(default={})

    @field_validator("location")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value


async def create(call: Call) -> StreamResponse:
    """`POST /v2/image-imports`"""
    call.must("add_image_import")
    if call.actor.project_id is None and not call.admin:
        raise Forbidden("Image imports belong to projects, and you act in none")
    document = await call.json(dict, most=MOST_REQUEST)
    body = validated(ImportRequest, document)
    if body.stores is not None and not body.stores:
        raise Invalid("stores: the list is empty")
    image = future_image(call, body.image_properties, container_format="bare")
    site, settings = call.service.site, call.service.settings
    choice = choose(site, body, None, NOTHING, call.service.registry.methods[DOWNLOAD])
    assert choice is not None
    handled = await make(
        call,
        image,
        type=IMAGE_IMPORT,
        location=body.location,
        request=document,
        stores=choice.stores,
        must_succeed=body.all_stores_must_succeed,
        steps=tuple(site.steps),
        ttl=(settings.image_imports.time_to_live or settings.task.task_time_to_live) * 3600,
    )
    record = handled.after.task
    assert record is not None
    headers = {"Location": f"{call.base_url}/v2/image-imports/{record.id}"}
    return call.reply(_shown(call, TaskRecord(record, image.image_id)), 201, headers)


async def index(call: Call) -> StreamResponse:
    """`GET /v2/image-imports`: the caller's project's; admins get everybody's if they ask for `all_projects`."""
    call.must("get_image_imports")
    everybody = dict(call.query).get("all_projects", "false").lower()
    if everybody not in ("true", "false"):
        raise Invalid("all_projects is true or false")
    if everybody == "true" and not call.admin:
        raise Forbidden("Only administrators see the image imports of all projects")
    found, more = await record_lists.page(
        call,
        "image_import",
        everybody=everybody == "true",
        sort_keys=_SORT_KEYS,
        statuses=record_views.IMPORT_STATUSES,
    )
    document: dict[str, Any] = {
        "image-imports": [_shown(call, record) for record in found],
        "schema": "/v2/schemas/image-imports",
        **record_lists.links(call, "/v2/image-imports", found[-1] if more else None),
    }
    return call.reply(document)


async def show(call: Call) -> StreamResponse:
    """`GET /v2/image-imports/{import_id}`"""
    import_id = call.parameters["import_id"]
    wanted = stream_of(import_id)
    record = await call.service.queries.task(wanted) if wanted is not None else None
    if record is None or not _sees(call, record):
        raise NotFound(f"No image import found with ID {import_id}")
    call.must("get_image_import", {"project_id": record.task.owner, "owner": record.task.owner})
    return call.reply(_shown(call, record))


async def schema(call: Call) -> StreamResponse:
    """`GET /v2/schemas/image-import`"""
    return call.reply(record_views.IMAGE_IMPORT)


async def list_schema(call: Call) -> StreamResponse:
    """`GET /v2/schemas/image-imports`"""
    return call.reply(record_views.IMAGE_IMPORTS)


# --- pieces ------------------------------------------------------------------------------


def _sees(call: Call, record: TaskRecord) -> bool:
    task = record.task
    own = task.owner is not None and task.owner == call.actor.project_id
    return task.type == IMAGE_IMPORT and (own or call.admin)


def _shown(call: Call, record: TaskRecord) -> dict[str, Any]:
    return record_views.image_import(record, call.viewer)


def _offered(settings: Settings) -> bool:
    return settings.image_imports.enabled


ROUTES: Final = (
    Route(
        method="POST",
        path="/image-imports",
        handler=create,
        body="json",
        success=(201,),
        errors=(400, 401, 403, 404, 409, 413),
        summary="Import an image that appears once it has proved to be one",
        gate=_offered,
    ),
    Route(method="GET", path="/image-imports", handler=index, summary="List image imports", gate=_offered),
    Route(method="GET", path="/image-imports/{import_id}", handler=show, summary="Show an image import", gate=_offered),
    Route(
        method="GET",
        path="/schemas/image-import",
        handler=schema,
        errors=(400, 401, 404),
        summary="Schema of an image import",
        gate=_offered,
    ),
    Route(
        method="GET",
        path="/schemas/image-imports",
        handler=list_schema,
        errors=(400, 401, 404),
        summary="Schema of a list of image imports",
        gate=_offered,
    ),
)
