"""Errors of the database that nobody thought of pass, and what runs in the background goes on."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from structlog.testing import capture_logs

from kernel.ids import new_id
from tests.support.postgres import Server
from tests.support.running import single, site

DEADLINE = 30.0
"""Seconds after which a test that waits has failed."""


async def test_leases_are_renewed_and_work_is_found_again(dsn: str, directory: Path) -> None:
    """An operator restores a table, say."""
    with capture_logs() as told:

        def seen(*events: str) -> bool:
            return {entry["event"] for entry in told}.issuperset(events)

        async with site(dsn, directory, single(directory, import_worker="lease_seconds = 0.5")) as running:
            service = running.service
            service.leases.hold(new_id(), 1)
            await service.database.fetch("ALTER TABLE leases RENAME TO away")
            await running.until(lambda: seen("reactor_stumbled", "leases_not_renewed"), DEADLINE)
            await service.database.fetch("ALTER TABLE away RENAME TO leases")
            await running.until(lambda: seen("lease_lost"), DEADLINE)  # nobody had given it
            async with site(dsn, directory, single(directory), role="api") as other:
                image = await other.image()
                assert await other.stage(image, b"x") == 204
                assert await other.do_import(image) == 202
                assert (await other.ended(image, DEADLINE))["status"] == "active"


async def test_a_database_that_lets_nobody_in_is_one_that_is_away(postgres: Server, dsn: str, directory: Path) -> None:
    """It is being restored, or its password has just been changed: 503 for requests, and then everything goes on."""
    admin, name = await asyncpg.connect(postgres.admin_dsn), urlsplit(dsn).path.lstrip("/")
    async with site(dsn, directory, single(directory)) as running:
        image = await running.image()
        try:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            seen = {(await running.call("GET", f"/images/{image}")).status for _ in range(10)}
        finally:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await admin.close()
        assert seen == {503}
        await running.image()
        await running.settled(DEADLINE)
