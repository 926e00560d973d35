"""An installation for the command line: a service with a past, and copies of its database to tamper with."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests.support.cli import DIFFERENCE, OK, entrepot
from tests.support.nodes import Node
from tests.support.postgres import Server

SIZE = 300_000
_numbers = itertools.count(1)


@contextlib.contextmanager
def a_directory() -> Iterator[Path]:
    """A directory that every account can walk into, which Postgres as its own account has to."""
    made = Path(tempfile.mkdtemp(prefix="entrepot-test-"))
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def configured(directory: Path, *more: str) -> Path:
    """glance-api.conf of a site with stores fast (default) and cheap, which trusts everybody on this machine."""
    lines = [
        "[DEFAULT]",
        "enabled_backends = fast:file, cheap:file",
        f"node_staging_uri = file://{directory}/staging",
        "[glance_store]",
        "default_backend = fast",
        *more,
    ]
    for store in ("fast", "cheap"):
        lines += [f"[{store}]", f"filesystem_store_datadir = {directory}/{store}"]
    path = directory / "glance-api.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


def sample(directory: Path, size: int = SIZE) -> Path:
    """A file to import."""
    path = directory / "sample.img"
    path.write_bytes(bytes(range(250)) * (size // 250))
    return path


@contextlib.contextmanager
def serving(node: Node) -> Iterator[Node]:
    """A node, from answering to its graceful end."""
    node.start()
    try:
        asyncio.run(node.ready())
        yield node
    finally:
        if node.alive:
            node.terminate()


@dataclass(frozen=True)
class Past:
    """A database in which things have happened, the service being at rest."""

    dsn: str
    active: str
    """Id of an image that was imported into both stores, and downloaded."""
    failed: str
    """Id of an image whose import failed."""
    deleted: str


@contextlib.contextmanager
def a_past(postgres: Server) -> Iterator[Past]:
    """Real traffic, made through the command line and the API."""
    dsn = asyncio.run(postgres.fresh())
    with a_directory() as directory:
        node = Node(directory, "node", configured(directory), dsn)
        with serving(node):
            file = sample(directory)
            to = ("--json", "--url", node.url)
            active = entrepot("import", file, "--all-stores", "--property", "os_distro=debian", *to).ended(OK).json
            failed = entrepot("import", file, "--disk-format", "qcow2", *to).ended(DIFFERENCE).json
            deleted = entrepot("import", file, *to).ended(OK).json
            asyncio.run(_download_and_delete(node.url, active["id"], deleted["id"]))
            asyncio.run(_quiet(dsn))
        yield Past(dsn, active["id"], failed["id"], deleted["id"])
    asyncio.run(postgres.drop(dsn))


async def _download_and_delete(url: str, active: str, deleted: str) -> None:
    import aiohttp

    async with aiohttp.ClientSession(f"{url}/v2/images/") as session:
        async with session.get(f"{active}/file") as response:
            assert len(await response.read()) == SIZE
        async with session.delete(deleted) as response:
            assert response.status == 204


async def _quiet(dsn: str) -> None:
    """Until the download is noted, the deleted bytes are purged and nobody lags behind."""
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(20):
            while not await connection.fetchval(
                "SELECT NOT EXISTS (SELECT FROM images WHERE work IS NOT NULL AND due_at < clock_timestamp())"
                " AND EXISTS (SELECT FROM events WHERE type = 'ImageSent')"
                " AND NOT EXISTS (SELECT FROM consumers WHERE position < (SELECT max(position) FROM events))"
            ):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


# --- copies --------------------------------------------------------------------------------


@contextlib.contextmanager
def a_copy(postgres: Server, dsn: str) -> Iterator[str]:
    """A database of one's own with the same content."""
    original = urlsplit(dsn).path.lstrip("/")
    name = f"{original}_copy{next(_numbers)}"
    run(postgres.admin_dsn, f'CREATE DATABASE "{name}" TEMPLATE "{original}" STRATEGY FILE_COPY')
    copied = postgres.dsn(name)
    try:
        yield copied
    finally:
        asyncio.run(postgres.drop(copied))


def run(dsn: str, *statements: str) -> Any:
    """Execute statements; returns the value of the last."""

    async def all_of_them() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(all_of_them())


def tamper(dsn: str, *statements: str) -> None:
    """Change the log as somebody with the powers of its owner can."""
    run(
        dsn,
        "ALTER TABLE events DISABLE TRIGGER events_are_for_ever",
        *statements,
        "ALTER TABLE events ENABLE TRIGGER events_are_for_ever",
    )
