"""Folding the whole log and comparing it with the read models: do they tell the same story?

Everything is read in one snapshot, so a busy service does not blur the picture.  The
comparison goes row by row and names the first difference in each table.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from kernel.charges import charges
from kernel.codec import encode
from kernel.database import connect, let_go, reachable
from kernel.evolve import NOTHING, evolve
from kernel.image import FOLD, Image, Task
from kernel.log_postgres import assert_contiguous, decode_image, recorded
from kernel.queries import decode_task
from kernel.recorded import IMAGE, Recorded

PAGE: Final = 1000


class Difference(Struct, frozen=True):
    """Where a read model and the log disagree."""

    table: str
    key: str
    stored: str
    folded: str

    def __str__(self) -> str:
        return f"{self.table} {self.key}: the row says {self.stored}, the log says {self.folded}"


class Report(Struct, frozen=True, kw_only=True):
    """What a replay found."""

    events: int
    images: int
    seconds: float
    """Time spent reading and folding."""
    differences: tuple[Difference, ...]

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0


class Folded:
    """The whole log, folded."""

    def __init__(self) -> None:
        self.images: dict[UUID, Image] = {}
        self.tasks: dict[str, tuple[UUID, Task]] = {}
        self.events = 0

    def take(self, items: list[Recorded]) -> None:
        """Fold a run of events in log order."""
        images, tasks = self.images, self.tasks
        for item in items:
            if item.category != IMAGE:
                continue
            after = evolve(images.get(item.stream, NOTHING), item.event, item.meta)
            images[item.stream] = after
            if after.task is not None:
                tasks[after.task.id] = item.stream, after.task
        self.events += len(items)

    @property
    def usage(self) -> dict[tuple[str, str], int]:
        total: dict[tuple[str, str], int] = defaultdict(int)
        for image in self.images.values():
            for key, amount in charges(image).items():
                total[key] += amount
        return {key: amount for key, amount in total.items() if amount}


async def pages(connection: Any, after: int = 0) -> AsyncIterator[list[Recorded]]:
    """The log in pages, as one connection sees it, checked for holes."""
    while True:
        rows = await connection.fetch(
            "SELECT position, category, stream, version, event_id, type, data, meta FROM events"
            " WHERE position > $1 ORDER BY position LIMIT $2",
            after,
            PAGE,
        )
        page = recorded(rows)
        assert_contiguous(page, after)
        if page:
            yield page
            after = page[-1].position
        if len(page) < PAGE:
            return


async def check(dsn: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Replay everything and compare."""
    connection = await connect(dsn, "replay", statement_timeout="0", idle_in_transaction_session_timeout="0")
    try:
        with reachable():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                folded, seconds = await fold_all(connection, progress)
                differences = await _compare(connection, folded)
    finally:
        await let_go(connection)
    return Report(events=folded.events, images=len(folded.images), seconds=seconds, differences=tuple(differences))


async def fold_all(connection: Any, progress: Callable[[int, int], None]) -> tuple[Folded, float]:
    """Fold the log as `connection` sees it; returns the states and the seconds it took."""
    total = int(await connection.fetchval("SELECT coalesce(max(position), 0) FROM events"))
    folded = Folded()
    began = time.perf_counter()
    with _without_collector():
        async for page in pages(connection):
            folded.take(page)
            progress(folded.events, total)
    return folded, time.perf_counter() - began


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing folded becomes garbage in cycles, and looking for it costs a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# --- comparing ---------------------------------------------------------------------------


async def _compare(connection: Any, folded: Folded) -> list[Difference]:
    found: list[Difference | None] = [
        await _images(connection, folded.images),
        await _tasks(connection, folded.tasks),
        await _members(connection, folded.images),
        await _usage(connection, folded.usage),
    ]
    return [difference for difference in found if difference is not None]


async def _images(connection: Any, folded: dict[UUID, Image]) -> Difference | None:
    seen = 0
    async for row in connection.cursor(
        "SELECT id, s.fold, s.state, i.version, status, owner, name, size"
        " FROM images i FULL JOIN states s USING (id) ORDER BY id",
        prefetch=500,
    ):
        seen += 1
        image = folded.get(row["id"])
        if row["state"] is None:
            return Difference("states", str(row["id"]), "nothing", "a state")
        if image is None:
            return Difference("images", str(row["id"]), "an image", "nothing")
        if row["fold"] == FOLD and decode_image(row["state"]) != image:
            return _first_field(row["id"], decode_image(row["state"]), image)
        columns = (row["version"], row["status"], row["owner"], row["name"], row["size"])
        expected = (image.version, image.status, image.owner, image.name, image.size)
        if columns != expected:
            return Difference("images", str(row["id"]), repr(columns), repr(expected))
    if seen != len(folded):
        return Difference("images", "(all)", f"{seen} images", f"{len(folded)}")
    return None


def _first_field(stream: UUID, stored: Image, folded: Image) -> Difference:
    for name in Image.__struct_fields__:
        if getattr(stored, name) != getattr(folded, name):
            return Difference(
                "images", f"{stream} {name}", _short(getattr(stored, name)), _short(getattr(folded, name))
            )
    return Difference("images", str(stream), "one thing", "another")


async def _tasks(connection: Any, folded: dict[str, tuple[UUID, Task]]) -> Difference | None:
    rows = await connection.fetch("SELECT id, image, document FROM tasks")
    stored = {str(row["id"]): (row["image"], decode_task(row["document"])) for row in rows}
    return _first("tasks", stored, folded)


async def _members(connection: Any, images: dict[UUID, Image]) -> Difference | None:
    """Of former members the state remembers the newest only."""
    rows = await connection.fetch("SELECT image, member, status FROM members WHERE NOT removed")
    stored = {(row["image"], row["member"]): row["status"] for row in rows}
    folded = {
        (stream, name): member.status
        for stream, image in images.items()
        for name, member in image.members.items()
        if not member.removed
    }
    return _first("members", stored, folded)


async def _usage(connection: Any, folded: dict[tuple[str, str], int]) -> Difference | None:
    rows = await connection.fetch("SELECT owner, resource, amount FROM usage WHERE amount <> 0")
    return _first("usage", {(row["owner"], row["resource"]): row["amount"] for row in rows}, folded)


def _first(table: str, stored: dict[Any, Any], folded: dict[Any, Any]) -> Difference | None:
    if stored == folded:
        return None
    for key in sorted({*stored, *folded}, key=str):
        if stored.get(key) != folded.get(key):
            return Difference(table, str(key), _short(stored.get(key)), _short(folded.get(key)))
    return None


def _short(value: Any) -> str:
    text = encode(value).decode() if value is not None else "nothing"
    return text if len(text) <= 200 else f"{text[:200]}…"
