"""Staged files that nobody needs any more go, and no others (import.md 8.9)."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from kernel.errors import StoreDenied
from kernel.image import STAGING
from kernel.strays import Strays
from stores.file import FileStore
from tests.integration.test_local_staging import node
from tests.support.formats import RAW1K
from tests.support.nodes import free_port
from tests.support.postgres import Server
from tests.support.raw import chunk, head
from tests.support.running import Site, single, site


def aged(path: Path, seconds: float = 7200) -> Path:
    """A file that was written long ago."""
    at = time.time() - seconds
    os.utime(path, (at, at))
    return path


async def planted(running: Site, name: str, *, half: bool = False, age: float = 7200) -> Path:
    """A file of ours in staging that no record vouches for."""
    staging = running.service.site.staging
    path: Path = staging.partial(name)  # type: ignore[attr-defined]
    path = path if half else path.with_name(path.name.removesuffix(".part"))
    path.write_bytes(b"x")
    return aged(path, age)


async def test_at_the_start_what_nobody_needs_is_removed(dsn: str, directory: Path) -> None:
    async with site(dsn, directory, single(directory)) as running:
        staged, done, deleted = [await running.image() for _ in range(3)]
        assert await running.stage(staged, RAW1K) == 204
        for image in (done, deleted):
            assert await running.stage(image, RAW1K) == 204
        assert await running.do_import(done) == 202
        await running.ended(done)
        assert (await running.call("DELETE", f"/images/{deleted}")).status == 204
        await running.until(lambda: len(running.files("staging")) == 1)
        (kept,) = running.files("staging")
        aged(kept)
        root = kept.parents[1]
        strays = [
            await planted(running, f"{uuid4()}/{uuid4()}/stage.1"),
            await planted(running, f"{uuid4()}/{uuid4()}/fetch.3", half=True),
            await planted(running, f"{done}/{uuid4()}/convert.1"),
            await planted(running, f"{deleted}/{uuid4()}/stage.1"),
            await planted(running, f"{staged}/{uuid4()}/stage.1"),
        ]
        young = await planted(running, f"{uuid4()}/{uuid4()}/stage.1", age=60)
        foreign = [aged_new(root / "00" / "note.txt"), aged_new(directory / "staging" / f"{uuid4()}.qcow2")]
        odd = await planted(running, "nobody/knows/stage.1")
    async with site(dsn, directory, single(directory)) as running:
        await running.until(lambda: not any(path.exists() for path in strays))
        assert all(path.exists() for path in (kept, young, odd, *foreign))
        assert await running.do_import(staged) == 202
        assert (await running.ended(staged))["status"] == "active"


def aged_new(path: Path) -> Path:
    path.write_bytes(b"not ours")
    return aged(path)


async def test_one_that_cannot_be_removed_does_not_keep_the_others(
    dsn: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(dsn, directory, single(directory)) as running:
        first, second = sorted([f"{uuid4()}/{uuid4()}/stage.1" for _ in range(2)])
        kept, gone = await planted(running, first), await planted(running, second)
        removing = FileStore.remove

        async def remove(store: FileStore, name: str) -> None:
            if name == first:
                raise StoreDenied(STAGING)
            await removing(store, name)

        monkeypatch.setattr(FileStore, "remove", remove)
        assert await Strays(running.service.site.staging, running.service.log).sweep() == [second]
        assert (kept.exists(), gone.exists()) == (True, False)


async def test_a_transfer_under_way_keeps_its_file_however_old(dsn: str, directory: Path) -> None:
    """A client that has paused looks like a file that nobody has touched."""
    async with site(dsn, directory, single(directory)) as running:
        image = await running.image()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.client.server.port)
        sent = {"Content_Type": "application/octet-stream", "Transfer_Encoding": "chunked"}
        writer.write(head("PUT", f"/v2/images/{image}/stage", **sent) + chunk(b"x" * (3 << 20)))
        await writer.drain()
        await running.until(lambda: running.files("staging"))
        aged(running.files("staging")[0])
        assert not await Strays(running.service.site.staging, running.service.log).sweep()
        writer.write(chunk(b""))
        assert b" 204 " in await reader.readline()
        writer.close()


async def test_a_missing_row_is_no_proof_that_there_is_no_image(dsn: str, directory: Path) -> None:
    """Somebody empties the read models and rebuilds them: staged bytes are still wanted."""
    async with site(dsn, directory, single(directory)) as running:
        image = await running.image()
        assert await running.stage(image, RAW1K) == 204
        aged(running.files("staging")[0])
        connection = await asyncpg.connect(dsn)
        await connection.execute("DELETE FROM states")
        await connection.close()
        assert not await Strays(running.service.site.staging, running.service.log).sweep()
        assert len(running.files("staging")) == 1


async def test_services_that_share_a_directory_leave_each_other_alone(
    dsn: str, directory: Path, postgres: Server
) -> None:
    other = await postgres.fresh()
    connection = await asyncpg.connect(other)
    await connection.execute("UPDATE deployment SET id = gen_random_uuid()")
    await connection.close()
    async with site(dsn, directory, single(directory)) as running:
        image = await running.image()
        assert await running.stage(image, RAW1K) == 204
        (kept,) = running.files("staging")
        aged(kept)
        stray = await planted(running, f"{uuid4()}/{uuid4()}/stage.1")
    async with site(other, directory, single(directory)) as running:
        assert not await Strays(running.service.site.staging, running.service.log).sweep()
        assert kept.exists()
        assert stray.exists()
    await postgres.drop(other)


async def test_each_node_sweeps_a_staging_area_of_its_own(dsn: str, directory: Path) -> None:
    """Nobody else reaches it; what the others have staged is wanted all the same, wherever it lies."""
    async with node(dsn, directory, "one", free_port()) as one:
        image = await one.image()
        assert await one.stage(image, RAW1K) == 204
        (kept,) = one.files("staging")
        aged(kept)
        stray = await planted(one, f"{uuid4()}/{uuid4()}/stage.1")
    async with node(dsn, directory, "two", free_port()) as other:
        assert not await Strays(other.service.site.staging, other.service.log).sweep()
        assert stray.exists()
    async with node(dsn, directory, "one", free_port()) as again:
        await again.until(lambda: not stray.exists())
        assert kept.exists()
