"""Services that stand while a module, or a part of a test, runs against them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from kernel.errors import StoreError
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import STORES
from tests.support.postgres import Server
from tests.support.running import Site, several, single, site

_MEMORY = Path("/dev/shm")
"""Where files cost nothing; on machines that have it."""

Config = Callable[[Path], str]
"""From a directory of the site's own to its glance-api.conf."""


@contextlib.asynccontextmanager
async def standing(postgres: Server, config: Config, **options: Any) -> AsyncIterator[Site]:
    """A service with a database and a directory of its own, gone without a trace afterwards."""
    dsn = await postgres.fresh()
    try:
        async with _on(dsn, config, **options) as running:
            yield running
    finally:
        await postgres.drop(dsn)


@contextlib.asynccontextmanager
async def _on(dsn: str, config: Config, **options: Any) -> AsyncIterator[Site]:
    await _rename(dsn)
    directory = Path(tempfile.mkdtemp(prefix="entrepot-api-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        async with site(dsn, directory, config(directory), **options) as running:
            yield running
    finally:
        shutil.rmtree(directory, ignore_errors=True)


SPARE: dict[str, list[str]] = defaultdict(list)
"""File of tests -> databases that a service has left with nothing to do, for the file's next one; dropped at the
end of the run.  Files never share one: in which order they run is anybody's guess."""


@contextlib.asynccontextmanager
async def passing(postgres: Server, config: Config, **options: Any) -> AsyncIterator[Site]:
    """A service for a part of a test.  Its log may begin with the stories of others, who left nothing outstanding."""
    spare = SPARE[os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]]
    dsn = spare.pop() if spare else await postgres.fresh()
    async with _on(dsn, config, **options) as running:
        yield running
    if await _idle(dsn):
        spare.append(dsn)
    else:
        await postgres.drop(dsn)


async def _idle(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return not await connection.fetchval("SELECT count(*) FROM images WHERE work IS NOT NULL")
    finally:
        await connection.close()


async def _rename(dsn: str) -> None:
    """Databases are clones of one template; a deployment of its own keeps a site's stores its own."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE deployment SET id = gen_random_uuid()")
    finally:
        await connection.close()


def one_store(**sections: str) -> Config:
    """Site S of the scenarios."""
    return lambda directory: single(directory, **_quick(sections))


def three_stores(**sections: str) -> Config:
    """Site M of the image scenarios: fast (default), cheap, web."""
    return lambda directory: four_stores(**sections)(directory).replace(" reliable:file,", "")


def four_stores(**sections: str) -> Config:
    """Site M4 of the import scenarios: fast (default), cheap, reliable, web."""
    return lambda directory: several(directory, **_quick(sections))


def memory_stores(**sections: str) -> Config:
    """M4 with stores that can be told to fail or to wait."""
    return lambda directory: four_stores(**sections)(directory).replace(":file", ":faulty")


def retaining_stores(**sections: str) -> Config:
    """M4 with stores that can be told to hold on to their bytes as well."""
    return lambda directory: four_stores(**sections)(directory).replace(":file", ":retaining")


def _quick(sections: dict[str, str]) -> dict[str, str]:
    """Nothing in these tests has to survive a power cut."""
    worker = sections.get("import_worker", "")
    return {**sections, "import_worker": f"fsync = off\n{worker}"}


def hooks(running: Site, store: str) -> FaultyStore:
    """The store behind a name, which can be told what to do."""
    found = STORES[running.service.site.deployment, store]
    assert isinstance(found, FaultyStore)
    return found


def objects(running: Site, store: str, image_id: str) -> list[bytes]:
    """What a store, or staging, holds of an image, half-written files included."""
    key = running.service.site.deployment, store
    if key in STORES:
        blobs = STORES[key].blobs.items()
        return [b"".join(parts) for name, parts in blobs if name.startswith(image_id)]
    found = []
    for path in running.files(store):
        if path.name.startswith(image_id):
            with contextlib.suppress(FileNotFoundError):  # removed since we looked
                found.append(path.read_bytes())
    return found


@contextlib.contextmanager
def broken(running: Site, store: str, error: Exception | None = None) -> Iterator[FaultyStore]:
    """\"X broken\": every write to the store fails meanwhile."""
    found = hooks(running, store)
    found.break_writes(error or StoreError(store, "it is broken"))
    try:
        yield found
    finally:
        found.break_writes(None)


@contextlib.asynccontextmanager
async def blocked(running: Site, store: str) -> AsyncIterator[FaultyStore]:
    """\"X blocked\": a write to the store waits until the block is left."""
    found = hooks(running, store)
    release = found.block_writes()
    try:
        yield found
    finally:
        release()


def somebody(roles: str = "member,reader", project: str | None = None) -> dict[str, str]:
    """Identity headers of a person in a project that nobody else is in."""
    project = project or f"p{uuid4().hex}"
    return {
        "X-Identity-Status": "Confirmed",
        "X-User-Id": f"u-{project}",
        "X-Project-Id": project,
        "X-Roles": roles,
    }
