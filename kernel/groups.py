"""Lists in an order that no index has: by something of few values first, then by something else.

Images of one value of the first key lie in the order of the next one, which has an index.  So such a list is read
group by group until the page is full, instead of sorting all that the caller may see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from kernel.listing import SORTABLE, Comparison, Listing, Marker, Query, SortKey

Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Runs a statement with its arguments."""

_OF_FEW_VALUES: Final = frozenset({"status", "disk_format", "container_format"})
_MOST_SORTED: Final = 15_000
_INDEXED: Final = "status NOT IN ('deleted', 'pending_delete')"


def grouped(listing: Listing) -> bool:
    """Whether the list is read group by group."""
    first, *rest = listing.sort
    indexed = [SortKey("created_at", first.direction), SortKey("id", first.direction)]
    return first.key in _OF_FEW_VALUES and rest != indexed


async def page(fetch: Fetch, listing: Listing, marker: Marker | None, *, gathered: bool = False) -> list[Any]:
    """Rows of (id, version) in the order asked for; every statement must see the same state of the database."""
    if not grouped(listing):
        query = Query(listing, marker, gathered=gathered)
        return list(await fetch(query.sql, *query.parameters))
    column = SORTABLE[listing.sort[0].key]
    values = [row["value"] for row in await fetch(_values(column))]
    rows: list[Any] = []
    for value, begin in groups(listing, values, marker):
        part = within(listing, value, listing.limit - len(rows))
        rows += await page(fetch, part, begin, gathered=gathered or await _few(fetch, column, value))
        if len(rows) >= listing.limit:
            break
    return rows


async def _few(fetch: Fetch, column: str, value: str | None) -> bool:
    """Whether a group is so small that it is best sorted whole.

    The next key's order may hold all of it at its far end, as queued images have no size; a large group cannot be far.
    """
    same = f"{column} IS NULL" if value is None else f"{column} = $1"
    counted = (
        f"SELECT count(*) FROM (SELECT FROM images WHERE {same} AND {_INDEXED} LIMIT {_MOST_SORTED + 1}) AS members"
    )
    found: int = (await fetch(counted, *(() if value is None else (value,))))[0][0]
    return found <= _MOST_SORTED


def groups(
    listing: Listing, values: Iterable[str | None], marker: Marker | None
) -> list[tuple[str | None, Marker | None]]:
    """The values whose images a page can hold, in order, each with the place in it to begin after; null is smallest."""
    first = listing.sort[0]
    ordered = sorted(values, key=_place, reverse=first.direction == "desc")
    if marker is None:
        return [(value, None) for value in ordered]
    at = marker.values[SORTABLE[first.key]]
    if first.direction == "asc":
        beyond = [value for value in ordered if _place(value) > _place(at)]
    else:
        beyond = [value for value in ordered if _place(value) < _place(at)]
    return [(at, marker), *((value, None) for value in beyond)]


def within(listing: Listing, value: str | None, limit: int) -> Listing:
    """The part of a list in which the first sort key has this value."""
    same = Comparison(SORTABLE[listing.sort[0].key], "is", value)
    return replace(listing, comparisons=(*listing.comparisons, same), sort=listing.sort[1:], limit=limit)


def _place(value: str | None) -> tuple[bool, str]:
    return (value is not None, value or "")


def _values(column: str) -> str:
    """A statement for the values there are: one step along the column's index for each."""
    return (
        f"WITH RECURSIVE v (value) AS ((SELECT min({column}) FROM images WHERE {_INDEXED}) UNION ALL"
        f" SELECT (SELECT min({column}) FROM images WHERE {column} > v.value AND {_INDEXED})"
        " FROM v WHERE v.value IS NOT NULL)"
        " SELECT value FROM v WHERE value IS NOT NULL UNION ALL"
        f" SELECT NULL WHERE EXISTS (SELECT FROM images WHERE {column} IS NULL AND {_INDEXED})"
    )
