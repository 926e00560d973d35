"""What an image is called and said to be: attributes, properties, tags."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from kernel import events as e
from kernel.evolve.table import Table
from kernel.image import Image
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


_ATTRIBUTES = (
    "name",
    "owner",
    "visibility",
    "protected",
    "hidden",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
    "tags",
)


@on(e.ImageUpdated)
def _updated(image: Image, event: e.ImageUpdated, meta: Meta) -> Image:
    changed = {name: value for name in _ATTRIBUTES if (value := getattr(event, name)) is not UNSET}
    properties = properties_after(image, event.properties_set, event.properties_removed)
    job = image.job
    if job is not None and (job.format_changes or job.property_changes):
        touched = {*changed, *event.properties_set, *event.properties_removed}
        job = replace(
            job,
            format_changes={name: was for name, was in job.format_changes.items() if name not in changed},
            property_changes={name: was for name, was in job.property_changes.items() if name not in touched},
        )
    return replace(image, **changed, properties=properties, job=job, updated_at=meta.at)


@on(e.TagAdded)
def _tag_added(image: Image, event: e.TagAdded, meta: Meta) -> Image:
    return replace(image, tags=(*image.tags, event.tag), updated_at=meta.at)


@on(e.TagRemoved)
def _tag_removed(image: Image, event: e.TagRemoved, meta: Meta) -> Image:
    return replace(image, tags=tuple(tag for tag in image.tags if tag != event.tag), updated_at=meta.at)


def properties_after(image: Image, added: dict[str, str | None], removed: tuple[str, ...]) -> dict[str, str | None]:
    """Custom properties with some set and others taken away; what is in both is gone."""
    if not added and not removed:
        return image.properties
    return {name: value for name, value in {**image.properties, **added}.items() if name not in removed}
