"""Imports that make the image they import: what a task of the type `import` and an image import share."""

from __future__ import annotations

from typing import Any, Final

from handlers.call import Call
from handlers.images import described
from handlers.imports import refuse_excess, split_secrets
from kernel import commands as c
from kernel import events as e
from kernel.errors import Forbidden, Invalid
from kernel.extend import ImportMethod
from kernel.handle import Handled
from kernel.ids import new_id
from kernel.image import IMAGE_IMPORT
from kernel.masking import masked

DOWNLOAD: Final = "web-download"
"""The method that fetches; whether users may ask for it by itself makes no difference here."""


def future_image(call: Call, properties: dict[str, Any], **defaults: Any) -> e.ImageCreated:
    """The image that is to come of this; `Invalid` or `Forbidden` where no image could be created so."""
    if "id" in properties:
        raise Forbidden("Attribute 'id' is read-only")
    given = {name: value for name, value in properties.items() if value is not None or name not in defaults}
    image: e.ImageCreated = described(call, {**defaults, **given})
    if image.disk_format is None and image.container_format != "bare":
        raise Invalid("disk_format must be given, as only images in the container format bare are looked into")
    return image


async def make(
    call: Call,
    image: e.ImageCreated,
    *,
    type: str,  # noqa: A002  # as the event has it
    location: str,
    request: dict[str, Any],
    stores: tuple[str, ...],
    must_succeed: bool,
    steps: tuple[str, ...],
    ttl: int,
    flaw: str | None = None,
) -> Handled:
    """Record the import of what is at `location`; refuses what the filter of downloads refuses."""
    service = call.service
    await refuse_excess(call)
    method: ImportMethod = service.registry.methods[DOWNLOAD]
    options = method.options.model_validate({"uri": location})
    if method.admit is not None:
        await method.admit(options, service.site.configs.get(f"method:{DOWNLOAD}"))
    recorded, secrets = split_secrets(method, options, call.actor)
    wanted = e.ImportRequested(
        task_id=str(new_id()),
        type=type,
        method=DOWNLOAD,
        request=masked(request),
        options=recorded,
        stores=stores,
        multi=service.site.multi,
        must_succeed=must_succeed if service.site.multi else True,
        parallel=service.settings.image_import_opts.max_parallel_stores if type == IMAGE_IMPORT else 1,
        steps=steps,
        fetches=True,
        secret=bool(secrets),
        task_ttl=ttl,
        flaw=flaw,
    )
    limits = await service.site.quotas.make(image.owner)
    return await service.commands.handle(
        image.image_id,
        c.ExpectImage(image=image, request=wanted),
        context=call.context,
        limits=limits,
        secrets=service.vault.seal(secrets),
    )
