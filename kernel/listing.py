"""Lists of images as SQL: who may see, what is asked for, in which order, after which.

Each way in which an image can be visible is one branch with its own index and its
own limit; their union is merged, and an image that is visible in two ways is shown once.
Leaving it out of one of the branches instead would mean to walk past all of them
where most public images are the caller's own.  Where the images after a marker are
two ranges of an index (nulls lie at one end of it), each range is a branch too.  So a
page costs the same whether its project has ten images or a hundred thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

Direction = Literal["asc", "desc"]

SORTABLE: Final = {
    "name": "name",
    "status": "status",
    "container_format": "container_format",
    "disk_format": "disk_format",
    "size": "size",
    "id": "id",
    "created_at": "created_at",
    "updated_at": "updated_at",
}
"""Sort keys on the wire -> columns."""

_NULLABLE: Final = frozenset({"name", "container_format", "disk_format", "size"})
_ALIVE: Final = "status NOT IN ('deleted', 'pending_delete', 'expected')"


class Comparison(Struct, frozen=True):
    """`column operator value`; `any` compares with a list, `has` an array with what it must contain."""

    column: str
    operator: Literal["=", "<>", "<", "<=", ">", ">=", "any", "has", "is"]
    value: Any


class SortKey(Struct, frozen=True):
    key: str
    direction: Direction = "desc"


NEWEST: Final = (SortKey("created_at"), SortKey("id"))
"""The order of lists that ask for none."""


class Listing(Struct, frozen=True, kw_only=True):
    """What a caller wants to see."""

    project: str | None
    admin: bool
    visibility: Literal["public", "private", "shared", "community", "all"] | None = None
    member_status: Literal["pending", "accepted", "rejected", "all"] = "accepted"
    hidden: bool = False
    comparisons: tuple[Comparison, ...] = ()
    sort: tuple[SortKey, ...] = NEWEST
    limit: int = 25


class Marker(Struct, frozen=True, kw_only=True):
    """The image after which a page starts: its values in the sort columns."""

    values: dict[str, Any]


_FEWEST_WITH: Final = 50
"""Images that a branch is read for, however few are wanted, if they must have a tag or a property.

Nobody knows how rare a value is that is not among the usual ones: the planner takes it
for one in two hundred.  For a few of those it would walk along the order, and past all
images where there is none.
"""

_LONGEST_TERM: Final = 500
"""Characters; an index holds no more than some 2,700 bytes of each."""


def property_term(name: str, value: str | None) -> str:
    """How a custom property stands in the row's array: unambiguous whatever the name holds, short enough to index."""
    term = f"{len(name)}:{name}={value or ''}"
    if len(term) <= _LONGEST_TERM:
        return term
    return f"#{sha256(term.encode()).hexdigest()}"


class Query:
    """Builds one statement; values travel as parameters only."""

    def __init__(self, listing: Listing, marker: Marker | None, *, gathered: bool = False) -> None:
        """gathered: whether to gather all that matches and sort it, instead of walking along an index in order."""
        self._listing = listing
        self._gathered = gathered
        self._marker = marker
        self.parameters: list[Any] = []
        self.plain = not listing.comparisons and listing.sort == NEWEST
        """Whether one plan suits all arguments: only the order and who asks matter."""
        self.sql = self._statement()
        """The statement: rows of (id, version), in order."""

    def _statement(self) -> str:
        conditions = [_ALIVE, f"hidden = {self._put(self._listing.hidden)}"]
        conditions += [self._comparison(item) for item in self._listing.comparisons]
        ranges = self._after(self._marker) if self._marker is not None else ["true"]
        order = ", ".join(_order(key) for key in self._listing.sort)
        columns = ", ".join(dict.fromkeys(("id", "version", *(_column(key) for key in self._listing.sort))))
        limit = self._put(self._listing.limit)
        enough = self._put(_FEWEST_WITH) if self._listing.limit < _FEWEST_WITH and self._must_have() else limit
        fence = " OFFSET 0) AS gathered" if self._gathered else ""
        start = f"(SELECT {columns} FROM " + (f"(SELECT {columns} FROM images" if fence else "images")
        branches = [
            f"{start} WHERE {' AND '.join((seen, *conditions, place))}{fence} ORDER BY {order} LIMIT {enough})"
            for seen in self._branches()
            for place in ranges
        ]
        if len(branches) == 1 and enough == limit:
            return branches[0][1:-1]
        once = ", ".join(_column(key) for key in self._listing.sort)
        union = " UNION ALL ".join(branches)
        # Materialized: or the planner would see through to the few that are wanted.
        seen = f"({union}) AS seen" if enough == limit else "seen"
        plan = "" if enough == limit else f"WITH seen AS MATERIALIZED ({union}) "
        return f"{plan}SELECT DISTINCT ON ({once}) id, version FROM {seen} ORDER BY {order} LIMIT {limit}"

    def _must_have(self) -> bool:
        return any(item.operator == "has" for item in self._listing.comparisons)

    # --- who may see -------------------------------------------------------------------

    def _branches(self) -> list[str]:
        wanted = self._listing.visibility
        if self._listing.admin:
            return [self._everything(wanted)]
        match wanted:
            case None:
                return [self._own(), "visibility = 'public'", *self._shared()]
            case "all":
                return [self._own(), "visibility = 'public'", "visibility = 'community'", *self._shared()]
            case "private":
                return [f"{self._own()} AND visibility = 'private'"]
            case "shared":
                return [f"{self._own()} AND visibility = 'shared'", *self._shared()]
            case "public" | "community":
                return [f"visibility = '{wanted}'"]

    def _own(self) -> str:
        return "false" if self._listing.project is None else f"owner = {self._put(self._listing.project)}"

    def _shared(self) -> list[str]:
        """Images that are shared with the caller's project."""
        if self._listing.project is None:
            return []
        memberships = self._memberships(self._put(self._listing.project))
        return [f"visibility = 'shared' AND id = ANY(ARRAY({memberships}))"]

    def _everything(self, wanted: str | None) -> str:
        if wanted == "all":
            return "true"
        if wanted is None:
            return f"(visibility <> 'community' OR owner = {self._put(self._listing.project)})"
        return f"visibility = {self._put(wanted)}"

    def _memberships(self, project: str) -> str:
        rows = f"SELECT image FROM members WHERE member = {project} AND NOT removed"
        if self._listing.member_status != "all":
            rows += f" AND status = {self._put(self._listing.member_status)}"
        return rows

    # --- what is asked for -------------------------------------------------------------

    def _comparison(self, item: Comparison) -> str:
        if item.operator == "any" and len(item.value) == 1:
            # Unlike a list of one, a value lets the index that finds it keep its order too.
            return f"{item.column} = {self._put(item.value[0])}"
        if item.operator == "is":
            return f"{item.column} IS NULL" if item.value is None else f"{item.column} = {self._put(item.value)}"
        place = self._put(item.value)
        match item.operator:
            case "any":
                return f"{item.column} = ANY({place})"
            case "has":
                return f"{item.column} @> {place}"
            case operator:
                return f"{item.column} {operator} {place}"

    def _after(self, marker: Marker) -> list[str]:
        """What comes after the marker in the order asked for, as ranges; null is smaller than anything."""
        first, *rest = self._listing.sort
        column, value = _column(first), marker.values[_column(first)]
        if column not in _NULLABLE:
            return [self._from(first, rest, marker)]
        if value is not None:
            beyond = self._from(first, rest, marker)
            return [beyond] if first.direction == "asc" else [beyond, f"{column} IS NULL"]
        later = self._later(rest, marker)
        among = [f"{column} IS NULL AND {later}"] if later else []
        return [*among, f"{column} IS NOT NULL"] if first.direction == "asc" else among or ["false"]

    def _from(self, first: SortKey, rest: Sequence[SortKey], marker: Marker) -> str:
        """The range of an index that begins at the marker, whose first key is not null."""
        keys = (first, *rest)
        sign = ">" if first.direction == "asc" else "<"
        if {key.direction for key in keys} == {first.direction} and not any(key.key in _NULLABLE for key in rest):
            columns = ", ".join(_column(key) for key in keys)
            values = ", ".join(self._put(marker.values[_column(key)]) for key in keys)
            return f"({columns}) {sign} ({values})"
        column = _column(first)
        place = self._put(marker.values[column])
        later = self._later(rest, marker)
        among = f" OR ({column} = {place} AND {later})" if later else ""
        return f"{column} {sign}= {place} AND ({column} {sign} {place}{among})"

    def _later(self, keys: Sequence[SortKey], marker: Marker) -> str:
        """What comes after the marker among the rows that are its equals so far; empty if nothing can."""
        alternatives: list[str] = []
        equal: list[str] = []
        for index, key in enumerate(keys):
            if index:
                equal.append(self._same(keys[index - 1], marker))
            further = self._further(_column(key), marker.values[_column(key)], key.direction)
            if further is not None:
                alternatives.append(" AND ".join((*equal, further)))
        return f"({' OR '.join(f'({item})' for item in alternatives)})" if alternatives else ""

    def _same(self, key: SortKey, marker: Marker) -> str:
        value = marker.values[_column(key)]
        return f"{_column(key)} IS NULL" if value is None else f"{_column(key)} = {self._put(value)}"

    def _further(self, column: str, value: Any, direction: Direction) -> str | None:
        if value is None:
            return f"{column} IS NOT NULL" if direction == "asc" else None
        place = self._put(value)
        if direction == "asc":
            return f"{column} > {place}"
        return f"({column} < {place} OR {column} IS NULL)" if column in _NULLABLE else f"{column} < {place}"

    def _put(self, value: Any) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}{_cast(value)}"


def _column(key: SortKey) -> str:
    return SORTABLE[key.key]


def _order(key: SortKey) -> str:
    column = _column(key)
    nulls = "" if column not in _NULLABLE else " NULLS FIRST" if key.direction == "asc" else " NULLS LAST"
    return f"{column} {key.direction.upper()}{nulls}"


def _cast(value: Any) -> str:
    match value:
        case bool():
            return "::boolean"
        case int():
            return "::bigint"
        case datetime():
            return "::timestamptz"
        case UUID():
            return "::uuid"
        case list() | tuple() if value and isinstance(value[0], UUID):
            return "::uuid[]"
        case list() | tuple():
            return "::text[]"
        case _:
            return "::text"


def complete(sort: Sequence[SortKey]) -> tuple[SortKey, ...]:
    """A total order: created_at and id are appended unless they are there; a key named again changes nothing."""
    directions = {key.direction for key in sort}
    last: Direction = next(iter(directions)) if len(directions) == 1 else "desc"
    named = {key.key: key for key in reversed(sort)}
    wanted = [named[key] for key in dict.fromkeys(key.key for key in sort)]
    return (*wanted, *(SortKey(key, last) for key in ("created_at", "id") if key not in named))
