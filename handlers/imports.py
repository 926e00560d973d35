"""Imports: ask for one, and see what became of it."""

from __future__ import annotations

from typing import Any, Final

import orjson
from aiohttp.web import StreamResponse
from pydantic import BaseModel, ValidationError

from handlers import views
from handlers.call import Call
from handlers.proxy import forwarded, host_of
from handlers.routing import Route
from handlers.schemas import ImportBody, describe, validated
from handlers.store_choice import choose
from kernel import commands as c
from kernel import events as e
from kernel.context import Actor
from kernel.decide import check_importable, check_unlocked, lock_expired
from kernel.errors import Conflict, Forbidden, Invalid, NotFound
from kernel.extend import ImportMethod
from kernel.handle import Guard
from kernel.ids import new_id, stream_of
from kernel.image import Image
from kernel.masking import masked

MOST_REQUEST: Final = 256 << 10
"""Bytes: all of it is kept with the task, and with the image, which is written anew with every step of the job."""


async def import_image(call: Call) -> StreamResponse:
    """`POST /v2/images/{image_id}/import`; the checks are in the contract's order."""
    document = await call.json(dict, most=MOST_REQUEST)
    body = validated(ImportBody, document)
    method = call.service.site.methods.get(body.method.name)
    if method is None:
        raise Invalid(f"Unknown import method name '{body.method.name}'")
    options = _options(method, document["method"])
    if body.stores is not None and not body.stores:
        raise Invalid("stores: the list is empty")
    if call.service.settings.default.api_version_profile == "pike":  # where an import was a task in name as well
        for rule in ("get_task", "add_task", "modify_task"):
            call.must(rule)
    await refuse_excess(call)
    image_id = call.parameters["image_id"]
    image = await call.service.queries.image(image_id)
    preempted = await preempted_by(call, image)
    guard = _importable(call, image_id, method, options, preempted)
    guard(image)
    choice = choose(call.service.site, body, call.request.headers.get("X-Image-Meta-Store"), image, method)
    if choice is None:
        return call.empty(202)
    elsewhere = host_of(call, image) if method.needs == "uploading" else None
    if elsewhere is not None:
        return await forwarded(call, elsewhere, orjson.dumps(document))
    if method.admit is not None:
        await method.admit(options, call.service.site.configs.get(f"method:{method.name}"))
    recorded, secrets = split_secrets(method, options, call.actor)
    request = _request(call, method, recorded, document, choice.stores, body, secret=bool(secrets))
    await call.service.commands.handle(
        image_id,
        *preempted,
        c.RequestImport(needs=method.needs, request=request),
        context=call.context,
        guard=guard,
        secrets=call.service.vault.seal(secrets),
    )
    return call.empty(202)


async def tasks_of_image(call: Call) -> StreamResponse:
    """`GET /v2/images/{image_id}/tasks`"""
    image = await call.image()
    stream = stream_of(image.id)
    assert stream is not None
    owner = None if call.admin else call.actor.project_id or ""
    records = await call.service.queries.tasks_of(stream, owner)
    return call.reply({"tasks": [views.image_task(record) for record in records]})


async def info_import(call: Call) -> StreamResponse:
    """`GET /v2/info/import`"""
    methods = {
        "description": "Import methods available.",
        "type": "array",
        "value": list(call.service.site.methods),
    }
    return call.reply({"import-methods": methods})


# --- pieces ------------------------------------------------------------------------------


def _options(method: ImportMethod, document: dict[str, Any]) -> BaseModel:
    """What the method needs of the request."""
    if document.get("uri") and "uri" not in method.options.model_fields:
        raise Invalid(f"'uri' is not for the method '{method.name}'")
    try:
        return method.options.model_validate(document)
    except ValidationError as error:
        raise Invalid(f"method.{describe(error)}") from None


def split_secrets(method: ImportMethod, options: BaseModel, actor: Actor) -> tuple[dict[str, Any], dict[str, str]]:
    """What of a method's options may be recorded, and what is kept secret."""
    if method.secrets is not None:
        return method.secrets(options, actor)
    return options.model_dump(exclude_none=True), {}


async def refuse_excess(call: Call) -> None:
    """Check 6: a project that uses too much already imports nothing."""
    service, project = call.service, call.actor.project_id
    if service.site.quotas.unified:
        await service.site.quotas.refuse_excess(project, await service.queries.usage(project))


async def preempted_by(call: Call, image: Image) -> tuple[c.PreemptImport, ...]:
    """What makes way for a new import: one that nobody has touched for so long that it does not protect its image."""
    stream = stream_of(image.id)
    if image.job is None or image.task is None or stream is None:
        return ()
    heartbeat = await call.service.queries.heartbeat(stream)
    if not lock_expired(image.task, heartbeat, call.service.clock.now()):
        return ()
    return (c.PreemptImport(task_id=image.job.task_id, as_of=image.version),)


def _importable(
    call: Call,
    image_id: str,
    method: ImportMethod,
    options: BaseModel,
    preempted: tuple[c.PreemptImport, ...],
) -> Guard:
    """Checks 7 to 15: the order decides what a caller who fails several of them is told."""

    def check(image: Image) -> None:
        if not call.sees(image):
            raise NotFound(f"No image found with ID {image_id}")
        check_importable(image, method=method.name, needs=method.needs)
        if method.check is not None:
            method.check(options)
        if not call.policy.allowed_image(call.actor, method.rule, image):
            raise Forbidden("You are not authorized to complete this action")
        if not any(item.as_of == image.version for item in preempted):
            check_unlocked(image)
        if method.copies and not call.service.site.multi:
            raise Conflict(f"'{method.name}' needs a site with several stores")

    return check


def _request(
    call: Call,
    method: ImportMethod,
    options: dict[str, Any],
    document: dict[str, Any],
    stores: tuple[str, ...],
    body: ImportBody,
    *,
    secret: bool,
) -> e.ImportRequested:
    """The import with everything resolved, so that neither a restart nor a replay asks the configuration again."""
    site, settings = call.service.site, call.service.settings
    return e.ImportRequested(
        task_id=str(new_id()),
        method=method.name,
        request=masked(document),
        options=options,
        stores=stores,
        multi=site.multi,
        must_succeed=body.all_stores_must_succeed if site.multi else True,
        parallel=1 if method.copies else settings.image_import_opts.max_parallel_stores,
        steps=() if method.copies else tuple(site.steps),
        fetches=method.open is not None,
        secret=secret,
        copies=method.copies,
        inspects=not method.copies,
        describes=method.describe is not None,
        task_ttl=settings.task.task_time_to_live * 3600,
    )


OFFERED: Final[dict[str, Any]] = {
    "gate": lambda settings: settings.default.enable_image_import,
    "closed": "Image import is not supported at this site",
}
"""For routes of sites that offer imports."""

ROUTES: Final = (
    Route(
        method="POST",
        path="/images/{image_id}/import",
        handler=import_image,
        body="json",
        success=(202,),
        errors=(400, 401, 403, 404, 409, 413),
        summary="Import an image",
        **OFFERED,
    ),
    Route(
        method="GET",
        path="/images/{image_id}/tasks",
        handler=tasks_of_image,
        summary="Tasks of an image",
    ),
    Route(
        method="GET",
        path="/info/import",
        handler=info_import,
        errors=(400, 401, 404),
        summary="Import methods of this site",
        **OFFERED,
    ),
)
