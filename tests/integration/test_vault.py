"""Credentials kept beside the log: nothing of them outlives its import for long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.fernet import Fernet

from kernel.database import Database
from kernel.ids import stream_of
from kernel.vault import Vault, load_key
from tests.support.running import several, site


async def test_what_was_forgotten_is_swept_by_age_unless_an_import_needs_it(dsn: str, directory: Path) -> None:
    async with site(dsn, directory, several(directory)) as running:
        idle, busy, young = [await running.image() for _ in range(3)]
    database = Database(dsn)
    await database.open()
    try:
        for image, days in ((idle, 8), (busy, 8), (young, 6)):
            await database.fetch(
                "INSERT INTO secrets (stream, name, data, made_at)"
                " VALUES ($1, 'uri', 'x', clock_timestamp() - $2 * interval '1 day')",
                stream_of(image),
                days,
            )
        await database.fetch("UPDATE images SET work = 'fetch' WHERE id = $1", stream_of(busy))
        await Vault(Fernet.generate_key(), database).sweep()
        left = await database.fetch("SELECT stream FROM secrets")
    finally:
        await database.close()
    assert {row["stream"] for row in left} == {stream_of(busy), stream_of(young)}


def test_processes_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(load_key, [tmp_path / "state" / "secret.key"] * 64))
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["secret.key"]
    assert (tmp_path / "state" / "secret.key").stat().st_mode & 0o777 == 0o600
