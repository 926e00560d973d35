"""The life of an image: made, expected, blocked, deleted."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import commands as c
from kernel import events as e
from kernel.decide.guards import must_exist
from kernel.decide.table import Table
from kernel.errors import Conflict, Forbidden, Invalid
from kernel.image import Image

RULES = Table()
on = RULES.on


@on(c.CreateImage)
def _create(command: c.CreateImage, image: Image) -> Sequence[e.Event]:
    if image.exists:
        raise Conflict(f"An image with the id {command.image.image_id} already exists, or existed once")
    return (command.image,)


@on(c.ExpectImage)
def _expect(command: c.ExpectImage, image: Image) -> Sequence[e.Event]:
    if image.exists:
        raise Conflict("There is, or was, an image with the id that was chosen for this one")
    if not command.request.stores:
        raise Invalid("An import needs a store to write to")
    return (e.ImageExpected(image=command.image), command.request)


@on(c.Deactivate)
def _deactivate(command: c.Deactivate, image: Image) -> Sequence[e.Event]:
    return _act(image, "active", "deactivated", e.ImageDeactivated())


@on(c.Reactivate)
def _reactivate(command: c.Reactivate, image: Image) -> Sequence[e.Event]:
    return _act(image, "deactivated", "active", e.ImageReactivated())


def _act(image: Image, before: str, after: str, event: e.Event) -> Sequence[e.Event]:
    must_exist(image)
    if image.status == after:
        return ()
    if image.status != before:
        raise Forbidden(f"Image status transition from {image.status} to {after} is not allowed")
    return (event,)


@on(c.DeleteImage)
def _delete(command: c.DeleteImage, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    if image.protected:
        raise Forbidden(f"Image {image.id} is protected and cannot be deleted")
    kept = [location for location in image.locations if location not in image.removable]
    if command.scrub_at is not None and image.status in ("active", "deactivated") and kept:
        return (e.DeletionScheduled(scrub_at=command.scrub_at),)
    return (e.ImageDeleted(),)


@on(c.ScrubImage)
def _scrub(command: c.ScrubImage, image: Image) -> Sequence[e.Event]:
    due = image.status == "pending_delete" and image.scrub_at is not None and image.scrub_at <= command.now
    return (e.ImageDeleted(),) if due else ()
