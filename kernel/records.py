"""Lists of tasks and of image imports as SQL: whose, in which state, in which order, after which.

Both are rows of one table: the public records of jobs, told apart by their type.
What has expired is simply not asked for; the log keeps it for ever, and so may the table.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

Kind = Literal["task", "image_import"]

KINDS: Final[dict[Kind, str]] = {"task": "t.type <> 'image_import'", "image_import": "t.type = 'image_import'"}

SORTABLE: Final = {
    "id": "t.id",
    "type": "t.type",
    "status": "t.status",
    "owner": "coalesce(t.owner, '')",
    "created_at": "t.created_at",
    "updated_at": "t.updated_at",
    "expires_at": "coalesce(t.expires_at, 'infinity')",
}
"""Sort keys on the wire -> expressions."""

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
    marker: UUID | None = None


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
    column, direction = SORTABLE[wanted.sort_key], "ASC" if wanted.ascending else "DESC"
    if wanted.marker is not None:
        place = SORTABLE[wanted.sort_key].replace("t.", "m.")
        sign = ">" if wanted.ascending else "<"
        conditions.append(
            f"({column}, t.id) {sign} (SELECT {place}, m.id FROM tasks m WHERE m.id = {put(wanted.marker)})"
        )
    order = f"{column} {direction}, t.id {direction}"
    where = " AND ".join(conditions)
    return f"{COLUMNS} {LEASED} WHERE {where} ORDER BY {order} LIMIT {put(wanted.limit)}", parameters
