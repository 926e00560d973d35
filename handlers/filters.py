"""Query parameters of the image list, as clients write them, to a `Listing`.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from msgspec import Struct

from kernel.errors import Invalid
from kernel.ids import stream_of
from kernel.listing import SORTABLE, Comparison, Direction, Listing, SortKey, complete, property_term

_OPERATORS: Final = frozenset({"in", "eq", "neq", "gt", "gte", "lt", "lte"})
_LISTABLE: Final = {
    "name": "name",
    "status": "status",
    "id": "id",
    "container_format": "container_format",
    "disk_format": "disk_format",
}
_EXACT: Final = {
    "owner": "owner",
    "checksum": "checksum",
    "os_hash_algo": "os_hash_algo",
    "os_hash_value": "os_hash_value",
}
_NUMBERS: Final = frozenset({"size", "virtual_size", "min_ram", "min_disk"})
_TIMES: Final = frozenset({"created_at", "updated_at"})
_PAGING: Final = frozenset({"limit", "marker", "sort", "sort_key", "sort_dir", "deleted"})
_VISIBILITIES: Final = frozenset({"public", "private", "shared", "community", "all"})
_MEMBER_STATUSES: Final = frozenset({"pending", "accepted", "rejected", "all"})
_LEAST, _MOST = -(2**63), 2**63 - 1


class Wanted(Struct, frozen=True, kw_only=True):
    """What a list request asks for."""

    listing: Listing
    marker: str | None
    page: int
    """How many images the answer may hold."""
    nothing: bool = False
    """Whether a filter can match nothing at all."""


def parse(
    query: Sequence[tuple[str, str]],
    *,
    project: str | None,
    admin: bool,
    default_limit: int,
    most: int,
    reads: Callable[[str], bool] = lambda name: True,
) -> Wanted:
    """Read the parameters; `Invalid` naming the one that is wrong.

    reads: whether the caller may read a custom property of this name; if not, a filter on it matches nothing.
    """
    last = dict(query)
    if "changes-since" in last:
        raise Invalid("The filter changes-since is not supported")
    filters = _Filters(reads)
    for name, value in last.items():
        if name not in _PAGING and name != "tag":
            filters.add(name, value)
    tags = [value.strip() for name, value in query if name == "tag"]
    if tags:
        filters.compare("tags", "has", tags)
    page = _limit(last.get("limit"), default_limit, most)
    listing = Listing(
        project=project,
        admin=admin,
        visibility=cast(Any, filters.visibility),
        member_status=cast(Any, filters.member_status),
        hidden=filters.hidden,
        comparisons=tuple(filters.comparisons),
        sort=_sort(query),
        limit=page + 1,
    )
    return Wanted(listing=listing, marker=last.get("marker"), page=page, nothing=filters.nothing)


class _Filters:
    """Collects what the filters mean."""

    def __init__(self, reads: Callable[[str], bool]) -> None:
        self._reads = reads
        self.comparisons: list[Comparison] = []
        self.visibility: str | None = None
        self.member_status = "accepted"
        self.hidden = False
        self.nothing = False

    def compare(self, column: str, operator: Any, value: Any) -> None:
        self.comparisons.append(Comparison(column, operator, value))

    def add(self, name: str, value: str) -> None:
        base = name[:-4] if name.endswith(("_min", "_max")) else ""
        if name in _LISTABLE:
            self._listable(name, value)
        elif name in _EXACT:
            self.compare(_EXACT[name], "=", value)
        elif name in _NUMBERS:
            self._number(name, value)
        elif base in _NUMBERS:
            self._bound(name, base, value)
        elif name in _TIMES:
            self._time(name, value)
        elif name == "visibility":
            self._visibility(value)
        elif name == "member_status":
            self.member_status = _one_of(name, value, _MEMBER_STATUSES)
        elif name == "os_hidden":
            self.hidden = _one_of(name, value.lower(), frozenset({"true", "false"})) == "true"
        elif name == "protected":
            self.compare("protected", "=", _one_of(name, value, frozenset({"true", "false"})) == "true")
        else:
            self.nothing = self.nothing or not self._reads(name)
            self.compare("properties", "has", [property_term(name, value)])

    def _listable(self, name: str, value: str) -> None:
        operator, colon, rest = value.partition(":")
        if not colon or operator not in _OPERATORS:
            values = [value]
        elif operator == "eq":
            values = [rest]
        elif operator == "in":
            values = split_in(rest)
        else:
            raise Invalid(f"The operator {operator} cannot be used with the filter {name}")
        if name == "id":
            self.compare("image_id", "any", values)
            self.compare("id", "any", [stream for item in values if (stream := stream_of(item))])
        else:
            self.compare(_LISTABLE[name], "any", values)
        self.nothing = self.nothing or not values or (name == "id" and not self.comparisons[-1].value)

    def _number(self, name: str, value: str) -> None:
        number = _integer(value)
        if number is None or not _LEAST <= number <= _MOST:
            self.nothing = True
        else:
            self.compare(name, "=", number)

    def _bound(self, name: str, column: str, value: str) -> None:
        number = _integer(value)
        if number is None:
            raise Invalid(f"The filter {name} needs an integer, not '{value}'")
        self.compare(column, ">=" if name.endswith("_min") else "<=", max(_LEAST, min(number, _MOST)))

    def _visibility(self, value: str) -> None:
        if value == "":
            self.nothing = True
        else:
            self.visibility = _one_of("visibility", value, _VISIBILITIES)

    def _time(self, name: str, value: str) -> None:
        """Compare on the whole second that clients are shown."""
        operator, colon, rest = value.partition(":")
        if not colon or operator not in _OPERATORS:
            operator, rest = "eq", value
        if operator == "in":
            raise Invalid(f"The operator in cannot be used with the filter {name}")
        at = _instant(name, rest)
        whole = at.replace(microsecond=0)
        following = _next_second(whole)
        exact = at == whole
        match operator:
            case "gt":
                self.compare(name, ">=", following)
            case "gte":
                self.compare(name, ">=", whole if exact else following)
            case "lt":
                self.compare(name, "<", whole if exact else following)
            case "lte":
                self.compare(name, "<", following)
            case "eq":
                self.compare(name, ">=", whole)
                self.compare(name, "<", following)
                self.nothing = self.nothing or not exact
            case "neq" if exact:
                self.compare(f"date_trunc('second', {name})", "<>", whole)


def split_in(text: str) -> list[str]:
    """Values of an `in:` filter; double quotes hold commas together, a backslash keeps a quote."""
    values: list[str] = []
    position = 0
    while position <= len(text):
        if text[position : position + 1] == '"':
            value, position = _quoted(text, position + 1)
            if position < len(text) and text[position] != ",":
                raise Invalid("A quoted value must be followed by a comma or the end")
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            value = text[position:end]
            if '"' in value:
                raise Invalid("A quote may only stand at the beginning and the end of a value")
            position = end
        if value:
            values.append(value)
        position += 1
    return values


def _quoted(text: str, position: int) -> tuple[str, int]:
    out = ""
    while position < len(text):
        char = text[position]
        if char == "\\" and text[position + 1 : position + 2] in ('"', "\\"):
            out += text[position + 1]
            position += 2
        elif char == '"':
            return out, position + 1
        else:
            out += char
            position += 1
    raise Invalid("A quoted value is not closed")


def _one_of(name: str, value: str, allowed: frozenset[str]) -> str:
    if value not in allowed:
        raise Invalid(f"The filter {name} must be one of {', '.join(sorted(allowed))}, not '{value}'")
    return value


def _integer(text: str) -> int | None:
    try:
        return int(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _instant(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Invalid(f"The filter {name} needs an ISO 8601 time, not '{text}'") from None
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        raise Invalid(f"The filter {name} needs a time that exists, not '{text}'") from None


def _next_second(at: datetime) -> datetime:
    """One second later, or the end of time."""
    try:
        return at + timedelta(seconds=1)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _limit(text: str | None, default: int, most: int) -> int:
    if text is None:
        return min(default, most)
    number = _integer(text)
    if number is None or number < 0:
        raise Invalid(f"limit must be an integer of at least 0, not '{text}'")
    return min(number, most)


def _sort(query: Sequence[tuple[str, str]]) -> tuple[SortKey, ...]:
    """`sort=key:dir,…`, or repeated `sort_key` and `sort_dir`; by default the newest first."""
    keys = [value.strip() for name, value in query if name == "sort_key"]
    directions = [value.strip() for name, value in query if name == "sort_dir"]
    combined = [value for name, value in query if name == "sort"]
    if combined:
        if keys or directions:
            raise Invalid("sort cannot be combined with sort_key or sort_dir")
        pairs = [item.partition(":") for item in combined[-1].split(",")]
        keys = [key.strip() for key, _, _ in pairs]
        directions = [direction.strip() if colon else "desc" for _, colon, direction in pairs]
    if not keys:
        keys = ["created_at"]
    if not directions:
        directions = ["desc"]
    for key in keys:
        if key not in SORTABLE:
            raise Invalid(f"Cannot sort by '{key}'; sort keys are {', '.join(SORTABLE)}")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise Invalid(f"A sort direction is asc or desc, not '{direction}'")
    if len(directions) == 1:
        directions *= len(keys)
    if len(directions) != len(keys):
        raise Invalid(f"There are {len(keys)} sort keys but {len(directions)} sort directions")
    pairs_of = zip(keys, directions, strict=True)
    return complete([SortKey(key, cast(Direction, direction)) for key, direction in pairs_of])
