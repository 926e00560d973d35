"""Locations: those that clients register, the work of finding out what lies there, and copies that go."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import commands as c
from kernel import events as e
from kernel import locations
from kernel.decide.guards import check_unlocked, missing_formats, must_exist
from kernel.decide.table import Table
from kernel.decide.turns import in_turn
from kernel.errors import Conflict, Forbidden, NotFound
from kernel.image import Image

RULES = Table()
on = RULES.on


@on(c.AddLocation)
def _add_location(command: c.AddLocation, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    locations.check_receptive(image, missing_formats(image))
    check_unlocked(image)
    return (locations.added(image, command.given, command.at, command.terms),)


@on(c.RemoveLocation)
def _remove_location(command: c.RemoveLocation, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    check_unlocked(image)
    return (locations.removed(image, command.index, command.terms),)


@on(c.ReplaceLocations)
def _replace_locations(command: c.ReplaceLocations, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    locations.check_receptive(image, missing_formats(image))
    check_unlocked(image)
    if not command.given:
        raise Forbidden("An image cannot be left without locations")
    return (locations.replaced(image, command.given, command.terms),)


def check_registrable(image: Image) -> None:
    """Refuse a location for an image that has data, or is getting some."""
    must_exist(image)
    if image.status != "queued":
        raise Conflict(f"Only queued images take a location; this one is {image.status}")


@on(c.RegisterLocation)
def _register_location(command: c.RegisterLocation, image: Image) -> Sequence[e.Event]:
    check_registrable(image)
    check_unlocked(image)
    locations.check_receptive(image, missing_formats(image))
    return (command.request,)


@on(c.RecordLocation)
def _record_location(command: c.RecordLocation, image: Image) -> Sequence[e.Event]:
    job, location = in_turn(image, command, "register"), command.location
    missing = missing_formats(image)
    if missing:
        reason = f"Properties {', '.join(missing)} are not set any more"
        return (e.StepFailed(step="register", reason=reason, kind="bad_value"),)
    added = e.LocationAdded(location=location, size=location.size, digests=command.digests)
    return (added,) if job.options["hash"] else (added, e.ImportCompleted(task_id=job.task_id))


@on(c.RecordHash)
def _record_hash(command: c.RecordHash, image: Image) -> Sequence[e.Event]:
    job = in_turn(image, command, "hash")
    return (e.DataHashed(digests=command.digests), e.ImportCompleted(task_id=job.task_id))


@on(c.RemoveCopy)
def _remove_copy(command: c.RemoveCopy, image: Image) -> Sequence[e.Event]:
    must_exist(image)
    if image.status != "active":
        raise Conflict(f"Only active images have copies that can be deleted; this one is {image.status}")
    if len(image.stores) < 2:
        raise Forbidden("An image cannot be deleted from the only store that holds it")
    copies = [location for location in image.locations if location.store == command.store]
    if not copies:
        raise NotFound(f"Image {image.id} has no data in store {command.store}")
    check_unlocked(image)
    return tuple(e.LocationRemoved(url=copy.url, store=copy.store, metadata=copy.metadata) for copy in copies)
