"""Query parameters of the lists of tasks and of image imports.  Pure but for the marker."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import urlencode

from msgspec.structs import replace

from handlers.call import Call
from kernel.errors import Invalid
from kernel.ids import stream_of
from kernel.image import Task
from kernel.queries import TaskRecord
from kernel.records import Kind, Wanted

_MOST_DIGITS: Final = 18

Query = Sequence[tuple[str, str]]


async def page(
    call: Call,
    kind: Kind,
    *,
    everybody: bool,
    sort_keys: Collection[str],
    statuses: Collection[str],
    types: Collection[str] = (),
) -> tuple[list[TaskRecord], bool]:
    """The records that a list request asks for, and whether there are more after them."""
    settings = call.service.settings.default
    given = dict(call.query)
    limit = _limit(given.get("limit"), settings.limit_param_default, settings.api_limit_max)
    wanted = Wanted(
        kind=kind,
        everybody=everybody,
        project=_project(call),
        status=_one_of("status", given.get("status"), statuses),
        type=_one_of("type", given.get("type"), types) if types else None,
        sort_key=_one_of("sort_key", given.get("sort_key"), sort_keys) or "created_at",
        ascending=_one_of("sort_dir", given.get("sort_dir"), ("asc", "desc")) == "asc",
        limit=limit + 1,
    )
    if "marker" in given:
        wanted = replace(wanted, marker=await _marker(call, wanted, given["marker"]))
    records = await call.service.queries.records(wanted) if limit else []
    return records[:limit], len(records) > limit


def links(call: Call, path: str, last: TaskRecord | None) -> dict[str, str]:
    """Links to the first page and, if there are more records after `last`, to the next."""
    query = [(name, value) for name, value in call.query if name != "marker"]
    document = {"first": _link(path, query)}
    if last is not None:
        document["next"] = _link(path, [*query, ("marker", last.task.id)])
    return document


# --- pieces ------------------------------------------------------------------------------


def _project(call: Call) -> str | None:
    """Whose records the caller sees; without a project only an administrator has any."""
    return call.actor.project_id if call.admin else call.actor.project_id or ""


async def _marker(call: Call, wanted: Wanted, text: str) -> Task:
    """The record after which the page starts; it must be one that the caller could be shown."""
    marker = stream_of(text)
    record = await call.service.queries.task(marker) if marker is not None else None
    ours = record is not None and (record.task.type == "image_import") is (wanted.kind == "image_import")
    if record is None or not ours or not (wanted.everybody or record.task.owner == wanted.project):
        raise Invalid(f"marker: there is no '{text}' that you can see")
    return record.task


def _limit(text: str | None, default: int, most: int) -> int:
    if text is None:
        return min(default, most)
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise Invalid(f"limit must be a number that is not negative, not '{text}'")
    return min(int(text), most)


def _one_of(name: str, value: str | None, allowed: Collection[str]) -> str | None:
    if value is not None and value not in allowed:
        raise Invalid(f"{name}: '{value}' is not one of {', '.join(allowed)}")
    return value


def _link(path: str, query: Query) -> str:
    return f"{path}?{urlencode(query)}" if query else path
