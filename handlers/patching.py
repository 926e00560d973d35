"""Reading a patch document: media types, operations, paths, values; whatever is wrong in itself is refused here.

All operations are read before the image is looked at; the first offending one decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, get_args

from handlers.errors import HttpError
from handlers.schemas import READ_ONLY_PRESENCE, READ_ONLY_VALUES, RESERVED, RESERVED_PREFIX
from kernel.errors import Forbidden, Invalid, TooLarge
from kernel.patch import FIELDS, Operation, Right, Verb

NEW: Final = "application/openstack-images-v2.1-json-patch"
OLD: Final = "application/openstack-images-v2.0-json-patch"
ACCEPT_PATCH: Final = f"{NEW}, {OLD}"

MOST: Final = 10_000
"""Operations of one patch; more would keep everybody else waiting."""

_LONGEST: Final = 4096
"""Characters of a path: more than the longest name has, escaped and with blanks around it."""

Check = Callable[[str, Any], Any]
"""(name, value) -> the value as an image holds it; `Invalid` if the schema forbids it."""

Rights = Callable[[str], tuple[Right, ...]]
"""Name of a custom property -> what the caller may do to it."""

_VERBS: Final = get_args(Verb)
_UNESCAPED: Final = re.compile(r"~(?![01])")
_READ_ONLY: Final = frozenset(
    {*READ_ONLY_PRESENCE, *READ_ONLY_VALUES, "id", "os_hash_algo", "os_hash_value", *RESERVED} - {"locations"}
)


class LocationOperation(Operation, frozen=True, kw_only=True):
    """A step that concerns locations: `at` is what follows `/locations/`, None for the list as a whole."""

    at: str | None = None


def media_type(content_type: str) -> str:
    """Which of the two patch formats a request speaks; 415 for any other."""
    sent = content_type.partition(";")[0].strip().lower()
    if sent not in (NEW, OLD):
        message = f"A patch is {NEW} or {OLD}, not {sent or 'unspecified'}"
        raise HttpError(415, message, {"Accept-Patch": ACCEPT_PATCH})
    return sent


class Reader:
    """Reads documents of one media type; `locations` tells whether this site lets patches touch them."""

    def __init__(self, media: str, *, check: Check, rights: Rights, locations: bool) -> None:
        self._old = media == OLD
        self._check = check
        self._rights = rights
        self._locations = locations

    def operations(self, document: Sequence[Any]) -> tuple[Operation, ...]:
        """What a document asks for, in order."""
        if len(document) > MOST:
            raise TooLarge(f"A patch holds at most {MOST} operations, not {len(document)}")
        return tuple(self._operation(item) for item in document)

    def _operation(self, item: Any) -> Operation:
        if not isinstance(item, dict):
            raise Invalid("Every operation of a patch is an object")
        verb, path = _old_form(item) if self._old else _new_form(item)
        if not isinstance(path, str):
            raise Invalid("The path of an operation is a string")
        segments = _segments(path)
        name, at = segments[0], segments[1:]
        if name == "locations" and not self._locations:
            raise Forbidden("This site does not let patches touch locations")
        if len(at) > (name == "locations"):
            raise Invalid(f"The path {_short(path)} has too many segments")
        _may_be_touched(name)
        if verb != "remove" and "value" not in item:
            raise Invalid(f"The operation {verb} {_short(path)} lacks a value")
        value = item.get("value") if verb != "remove" else None
        if name == "locations":
            return LocationOperation(verb=verb, name=name, value=value, strict=self._old, at=at[0] if at else None)
        if verb != "remove":
            value = self._check(name, value)
        if name in FIELDS:
            return Operation(verb=verb, name=name, value=value, strict=self._old)
        return Operation(verb=verb, name=name, value=value, strict=self._old, rights=self._rights(name))


def _new_form(item: dict[str, Any]) -> tuple[Verb, Any]:
    for member in ("op", "path"):
        if member not in item:
            raise Invalid(f"An operation lacks '{member}'")
    verb = item["op"]
    if verb not in _VERBS:
        raise Invalid(f"Operations are {', '.join(_VERBS)}, not {_short(str(verb))}")
    return cast(Verb, verb), item["path"]


def _old_form(item: dict[str, Any]) -> tuple[Verb, Any]:
    named = [verb for verb in _VERBS if verb in item]
    if len(named) != 1:
        raise Invalid(f"An operation names exactly one of {', '.join(_VERBS)}")
    return cast(Verb, named[0]), item[named[0]]


def _segments(path: str) -> list[str]:
    if len(path) > _LONGEST:
        raise Invalid(f"The path '{_short(path)}' has more than {_LONGEST} characters")
    if not path.startswith("/"):
        raise Invalid(f"The path '{_short(path)}' does not begin with /")
    if path.endswith("/") or "//" in path:
        raise Invalid(f"The path '{_short(path)}' has an empty segment")
    if _UNESCAPED.search(path):
        raise Invalid(f"The path '{_short(path)}' has a ~ that escapes nothing")
    return [part.strip().replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def _may_be_touched(name: str) -> None:
    if name in _READ_ONLY or name.startswith(RESERVED_PREFIX):
        raise Forbidden(f"Attribute '{_short(name)}' is read-only")
    if not 1 <= len(name) <= 255:
        raise Invalid("The name of a property must have 1 to 255 characters")


def _short(text: str) -> str:
    """What a client sent, for a message: not all of it if it is long."""
    return text if len(text) <= 100 else f"{text[:100]}…"
