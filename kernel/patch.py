"""Changing an image by a list of operations: all of them in order, or none.  Pure.

What is wrong with an operation in itself has been refused when it was read, and what the
caller may never do, at the edge; here they meet the image as it is: what exists, what its
status allows, what its quotas leave.  The result names only what was touched, so that two
patches at once, or a patch during an upload, never undo one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from kernel.errors import Conflict, Forbidden, TooLarge
from kernel.events import ImageUpdated
from kernel.image import Image

Verb = Literal["add", "replace", "remove"]
Right = Literal["create", "read", "update", "delete"]

ALL_RIGHTS: Final[tuple[Right, ...]] = ("create", "read", "update", "delete")

FIELDS: Final = {
    "name": "name",
    "visibility": "visibility",
    "protected": "protected",
    "os_hidden": "hidden",
    "owner": "owner",
    "disk_format": "disk_format",
    "container_format": "container_format",
    "min_disk": "min_disk",
    "min_ram": "min_ram",
    "tags": "tags",
}
"""Attributes that clients may set -> where the state has them; every other name is a custom property."""

SERVICE_PREFIX: Final = "os_glance"
"""Begins the names of the service's own properties, which count for no quota."""


class Operation(Struct, frozen=True, kw_only=True):
    """One step of a patch."""

    verb: Verb
    name: str
    value: Any = None
    strict: bool = False
    """The older media type: adding what exists is a conflict."""
    rights: tuple[Right, ...] = ALL_RIGHTS
    """What the caller may do to a custom property of this name."""


def patch(
    image: Image, operations: Sequence[Operation], *, property_quota: int = -1, tag_quota: int = -1
) -> ImageUpdated:
    """What the operations change, taken together; raises for the first that cannot be.  Negative quotas: no limit."""
    draft = _Draft(image, tag_quota)
    for operation in operations:
        draft.apply(operation)
    return draft.result(property_quota)


def within(what: str, count: int, quota: int) -> None:
    """Refuse more than `quota` of something; negative is no limit."""
    if 0 <= quota < count:
        raise TooLarge(f"The limit of {quota} {what} an image is exceeded ({count})")


class _Draft:
    """A working copy, with a note of everything that was touched."""

    def __init__(self, image: Image, tag_quota: int) -> None:
        self._image = image
        self._tag_quota = tag_quota
        self._properties = dict(image.properties)
        self._fields: dict[str, Any] = {}
        self._touched: dict[str, None] = {}
        self._added = False

    def apply(self, operation: Operation) -> None:
        if operation.name in FIELDS:
            self._set_field(operation)
        elif operation.verb == "remove":
            self._remove(operation)
        else:
            self._set_property(operation)

    def result(self, property_quota: int) -> ImageUpdated:
        if self._added:
            counted = sum(not name.startswith(SERVICE_PREFIX) for name in self._properties)
            within("properties", counted, property_quota)
        kept = {name: self._properties[name] for name in self._touched if name in self._properties}
        gone = tuple(name for name in self._touched if name not in self._properties and name in self._image.properties)
        return ImageUpdated(**self._fields, properties_set=kept, properties_removed=gone)

    # --- attributes --------------------------------------------------------------------

    def _set_field(self, operation: Operation) -> None:
        name, value = operation.name, operation.value
        if operation.verb == "remove":
            raise Forbidden(f"Attribute '{name}' cannot be removed")
        if operation.verb == "add" and operation.strict:
            raise Conflict(f"Attribute '{name}' exists already")
        match name:
            case "owner":
                value = value or None
            case "disk_format" | "container_format":
                if self._image.status != "queued":
                    raise Forbidden(f"Attribute '{name}' can be changed only while the image is queued")
            case "tags":
                value = tuple(dict.fromkeys(value))
                within("tags", len(value), self._tag_quota)
        self._fields[FIELDS[name]] = value

    # --- custom properties -------------------------------------------------------------

    def _set_property(self, operation: Operation) -> None:
        name = operation.name
        seen = self._sees(operation)
        if operation.verb == "replace" and not seen:
            raise Conflict(f"Property '{name}' does not exist")
        if operation.verb == "add" and seen and operation.strict:
            raise Conflict(f"Property '{name}' exists already")
        _must("update" if seen else "create", operation)
        self._added = self._added or name not in self._image.properties
        self._properties[name] = operation.value
        self._touched[name] = None

    def _remove(self, operation: Operation) -> None:
        if not self._sees(operation):
            raise Conflict(f"Property '{operation.name}' does not exist")
        _must("delete", operation)
        del self._properties[operation.name]
        self._touched[operation.name] = None

    def _sees(self, operation: Operation) -> bool:
        return operation.name in self._properties and "read" in operation.rights


def _must(right: Right, operation: Operation) -> None:
    if right not in operation.rights:
        raise Forbidden(f"Property '{operation.name}' is protected")
