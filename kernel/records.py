"""Lists of tasks and of image imports as SQL: whose, in which state, in which order, after which.

Both are rows of one table: the public records of jobs, told apart by their type.
What has expired is simply not asked for; the log keeps it for ever, and so may the table.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

from kernel.image import Task

Kind = Literal["task", "image_import"]

KINDS: Final[dict[Kind, str]] = {"task": "t.type <> 'image_import'", "image_import": "t.type = 'image_import'"}

SORTABLE: Final = {
    "id": ("{}", "uuid"),
    "type": ("{}", "text"),
    "status": ("{}", "text"),
    "owner": ("coalesce({}, '')", "text"),
    "created_at": ("{}", "timestamptz"),
    "updated_at": ("{}", "timestamptz"),
    "expires_at": ("coalesce({}, 'infinity')", "timestamptz"),
}
"""Sort keys on the wire, which are columns too -> what is compared of them, and of which type it is."""

COLUMNS: Final = "SELECT t.document, t.image_id, l.progress FROM tasks t"
LEASED: Final = "LEFT JOIN leases l ON l.stream = t.image AND l.owner IS NOT NULL"


class Wanted(Struct, frozen=True, kw_only=True):
    """A page of records."""

    kind: Kind
    everybody: bool = False
    project: str | None = None
    """Only this project's, unless `everybody`'s are wanted; None is those of callers without a project."""
    status: str | None = None
    type: str | None = None
    sort_key: str = "created_at"
    ascending: bool = False
    limit: int = 25
    marker: Task | None = None
    """The record after which the page starts."""


def statement(wanted: Wanted, now: datetime) -> tuple[str, list[Any]]:
    """The statement and its parameters: rows of (document, image_id, progress), in order."""
    parameters: list[Any] = [now]

    def put(value: Any) -> str:
        parameters.append(value)
        return f"${len(parameters)}"

    conditions = [KINDS[wanted.kind], "(t.expires_at IS NULL OR t.expires_at > $1)"]
    if not wanted.everybody:
        conditions.append("t.owner IS NULL" if wanted.project is None else f"t.owner = {put(wanted.project)}")
    if wanted.status is not None:
        conditions.append(f"t.status = {put(wanted.status)}")
    if wanted.type is not None:
        conditions.append(f"t.type = {put(wanted.type)}")
    form, kind = SORTABLE[wanted.sort_key]
    column, direction = form.format(f"t.{wanted.sort_key}"), "ASC" if wanted.ascending else "DESC"
    if wanted.marker is not None:
        sign = ">" if wanted.ascending else "<"
        marker = getattr(wanted.marker, wanted.sort_key)
        place = form.format(f"{put(UUID(marker) if kind == 'uuid' else marker)}::{kind}")
        conditions.append(f"({column}, t.id) {sign} ({place}, {put(UUID(wanted.marker.id))})")
    order = f"{column} {direction}, t.id {direction}"
    where = " AND ".join(conditions)
    return f"{COLUMNS} {LEASED} WHERE {where} ORDER BY {order} LIMIT {put(wanted.limit)}", parameters
