"""Nodes on one database and one set of directories, and what must hold when the dust has settled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from kernel.database import connect, let_go
from kernel.dispatcher import ANCHOR
from kernel.evolve import NOTHING, evolve
from kernel.notifications import notifications
from kernel.recorded import IMAGE
from kernel.replay import check, pages
from tests.support.nodes import Node

STORES = ("fast", "cheap", "reliable")


def configuration(directory: Path, lease_seconds: float = 1.0, **sections: str) -> Path:
    """A glance-api.conf with three file stores, a read-only one, and short leases."""
    lines = [
        "[DEFAULT]",
        "enabled_backends = fast:file, cheap:file, reliable:file, web:http",
        f"node_staging_uri = file://{directory}/staging",
        "[glance_store]",
        "default_backend = fast",
        "[import_worker]",
        f"lease_seconds = {lease_seconds}",
        "max_concurrent = 8",
        "[entrepot]",
        "sinks = log",
        "body_timeout = 5",
        "[image_import_opts]",
        "image_import_plugins = [image_decompression]",
        "[import_filtering_opts]",
        "allowed_ports = []",
        "disallowed_networks = []",
        "[web]",
        "exempt_hosts = 127.0.0.1",
    ]
    for store in STORES:
        lines += [f"[{store}]", f"filesystem_store_datadir = {directory}/{store}"]
    for name, text in sections.items():
        lines += [f"[{name}]", text]
    path = directory / "glance-api.conf"
    path.write_text("\n".join(lines))
    return path


class World:
    """Several nodes that share everything."""

    def __init__(self, directory: Path, dsn: str, nodes: int = 2, config: Path | None = None) -> None:
        self.directory = directory
        self.dsn = dsn
        self.drill = directory / "drill"
        self.drill.mkdir(exist_ok=True)
        path = config or configuration(directory)
        self.nodes = [
            Node(directory, f"node{number}", path, dsn, drill=self.drill if number == 0 else None)
            for number in range(nodes)
        ]
        self.state = directory / "state"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        try:
            for node in self.nodes:  # one after another, so that the first one drives the consumers
                node.start()
                await node.ready()
            yield self
        finally:
            for node in self.nodes:
                if node.alive:
                    node.kill()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def arm(self, order: str) -> None:
        (self.drill / "struck").unlink(missing_ok=True)
        (self.drill / "armed").write_text(order)

    def disarm(self) -> None:
        (self.drill / "armed").unlink(missing_ok=True)

    @property
    def struck(self) -> bool:
        return (self.drill / "struck").exists()

    @property
    def passed(self) -> set[str]:
        """Names of all marks that the drilled node has passed."""
        path = self.drill / "passed"
        return set(path.read_text().splitlines()) if path.exists() else set()

    # --- what must hold ----------------------------------------------------------------

    async def settle(self, seconds: float = 60) -> None:
        """Wait until no image has any work left, late sweeps included, and all is delivered."""
        deadline = time.monotonic() + seconds
        connection: Any = await asyncpg.connect(self.dsn)
        try:
            while True:
                work = await connection.fetch("SELECT image_id, work, due_at FROM images WHERE work <> 'expire'")
                lag = await connection.fetchval(
                    "SELECT coalesce(max(position), 0) - (SELECT min(position) FROM consumers) FROM events"
                )
                leases = await connection.fetchval("SELECT count(*) FROM leases WHERE until > clock_timestamp()")
                if not work and lag == 0 and leases == 0:
                    return
                if time.monotonic() > deadline:
                    consumers = await connection.fetch("SELECT * FROM consumers")
                    raise AssertionError(f"left over: {work[:5]}, consumers behind by {lag}: {consumers}")
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    async def verify(self) -> dict[str, int]:
        """No orphan anywhere, the rows equal the log, every notification told once and in order."""
        await self.settle()
        report = await check(self.dsn)
        assert not report.differences, report.differences
        files = await self._no_orphans()
        told, repeated = await self._notifications()
        return {"events": report.events, "files": files, "notifications": told, "repeated": repeated}

    async def _no_orphans(self) -> int:
        connection: Any = await asyncpg.connect(self.dsn)
        try:
            rows = await connection.fetch("SELECT state FROM states")
            secrets = await connection.fetchval("SELECT count(*) FROM secrets")
        finally:
            await connection.close()
        assert secrets == 0
        recorded = set()
        for row in rows:
            state = orjson.loads(row["state"])
            recorded |= {location["url"] for location in state.get("locations", ())}
            if state.get("staged"):
                recorded.add(state["staged"]["url"])
        there = {
            f"file://{path}"
            for place in (*STORES, "staging")
            for path in (self.directory / place).rglob("*")
            if path.is_file() and f"/{place}/entrepot-" in str(path)
        }
        assert there == recorded, f"orphans: {sorted(there - recorded)}; missing: {sorted(recorded - there)}"
        return len(there)

    async def _notifications(self) -> tuple[int, int]:
        expected = await _expected(self.dsn)
        told: dict[str, list[str]] = defaultdict(list)
        seen: set[str] = set()
        repeated = 0
        for line in (self.state / "notifications.jsonl").read_bytes().splitlines():
            message = orjson.loads(line)
            if message["event_type"] == ANCHOR:
                continue
            if message["message_id"] in seen:
                repeated += 1
                continue
            seen.add(message["message_id"])
            told[stream_of_message(message, expected)].append(message["message_id"])
        for stream, ids in expected.items():
            assert told.get(stream, []) == ids, f"notifications of {stream} were lost or reordered"
        assert set(told) <= set(expected)
        return len(seen), repeated


def stream_of_message(message: dict[str, Any], expected: dict[str, list[str]]) -> str:
    """Whose message it is: found by its id, as payloads of errors are text."""
    owners = _owners(expected)
    return owners[message["message_id"]]


_cache: dict[int, dict[str, str]] = {}


def _owners(expected: dict[str, list[str]]) -> dict[str, str]:
    key = id(expected)
    if key not in _cache:
        _cache.clear()
        _cache[key] = {message: stream for stream, ids in expected.items() for message in ids}
    return _cache[key]


async def _expected(dsn: str) -> dict[str, list[str]]:
    """Message ids by stream, as the log alone says they must be."""
    images: dict[UUID, Any] = {}
    ids: dict[str, list[str]] = defaultdict(list)
    connection = await connect(dsn, "test")
    try:
        async for page in pages(connection):
            for item in page:
                before = images.get(item.stream, NOTHING) if item.category == IMAGE else NOTHING
                after = evolve(before, item.event, item.meta) if item.category == IMAGE else NOTHING
                if item.category == IMAGE:
                    images[item.stream] = after
                ids[str(item.stream)] += [str(m.id) for m in notifications(item, before, after)]
    finally:
        await let_go(connection)
    return {stream: found for stream, found in ids.items() if found}
