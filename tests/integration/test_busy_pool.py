"""Requests that keep every connection of the pool busy hold up no lease."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from kernel import database
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


async def test_a_renewal_keeps_its_place_before_those_who_would_take_the_lease(
    dsn: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a rebuild of a big log has the lock that both wait for."""
    monkeypatch.setitem(database._SETTINGS, "lock_timeout", "200ms")
    operator = await asyncpg.connect(dsn)
    async with site(dsn, directory, single(directory)) as running:
        service = running.service
        stream = new_id()
        await service.log.append(taking(stream, 1, service.leases.owner))
        lease = service.leases.hold(stream, 1)
        async with operator.transaction():
            await operator.execute("SELECT pg_advisory_xact_lock('events'::regclass::oid::bigint)")
            renewing = asyncio.create_task(service.leases.renew())
            await operator.execute("SELECT pg_sleep(1)")
        await renewing
        assert not lease.lost
    await operator.close()
