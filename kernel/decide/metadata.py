"""What an image is called and said to be: attributes, properties, tags."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import commands as c
from kernel import events as e
from kernel.decide.guards import must_exist
from kernel.decide.table import Table
from kernel.errors import NotFound
from kernel.image import Image
from kernel.patch import patch, within

RULES = Table()
on = RULES.on


@on(c.PatchImage)
def _patch(command: c.PatchImage, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    if not command.operations:
        return ()
    quotas = {"property_quota": command.property_quota, "tag_quota": command.tag_quota}
    return (patch(image, command.operations, **quotas),)


@on(c.AddTag)
def _add_tag(command: c.AddTag, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    if command.tag in image.tags:
        return ()
    within("tags", len(image.tags) + 1, command.quota)
    return (e.TagAdded(tag=command.tag),)


@on(c.RemoveTag)
def _remove_tag(command: c.RemoveTag, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    if command.tag not in image.tags:
        raise NotFound(f"Image {image.id} has no tag '{command.tag}'")
    return (e.TagRemoved(tag=command.tag),)
