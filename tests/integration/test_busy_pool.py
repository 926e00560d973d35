"""Requests that keep every connection of the pool busy hold up no lease."""

from __future__ import annotations

import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from kernel.ids import new_id
from tests.support.logs import taking
from tests.support.running import single, site


async def test_leases_are_renewed_while_every_connection_is_in_use(dsn: str, directory: Path) -> None:
    with capture_logs() as told:
        async with site(dsn, directory, single(directory, import_worker="lease_seconds = 1")) as running:
            service = running.service
            stream = new_id()
            await service.log.append(taking(stream, 1, service.leases.owner))
            lease = service.leases.hold(stream, 1)
            busy = [asyncio.create_task(service.database.fetch("SELECT pg_sleep(4)")) for _ in range(16)]
            await asyncio.wait(busy)
            alive = "SELECT until > clock_timestamp() FROM leases WHERE stream = $1"
            assert await service.database.fetchval(alive, stream)
            assert not lease.lost
        assert "leases_not_renewed" not in {entry["event"] for entry in told}
