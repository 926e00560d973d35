"""Bring a database to the schema of this version: forward only, one node at a time.

Every file runs once, in a transaction of its own, and is remembered with its
checksum.  A database that knows a migration this version does not have was
migrated by a newer one: starting on it is refused, as is a file that was edited
after it had been applied.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import Any, Final

from msgspec import Struct

from kernel.database import connect, let_go, reachable
from kernel.errors import ConfigError, SchemaTooNew

_LOCK: Final = 0x656E747265706F74  # the bytes of "entrepot"
_FILE: Final = re.compile(r"(\d{4})_\w+\.sql")


class Migration(Struct, frozen=True):
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations of this version, in order."""
    found = []
    for file in files("migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), file.name, file.read_text()))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(dsn: str) -> list[str]:
    """Apply what is missing and return its names; waits while another node does the same."""
    connection = await connect(dsn, "migrations", statement_timeout="0", lock_timeout="0")
    try:
        with reachable():
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
            return await _catch_up(connection)
    finally:
        await let_go(connection)


async def pending(dsn: str) -> list[str]:
    """Names of the migrations that `migrate` would apply."""
    connection = await connect(dsn, "migrations")
    try:
        with reachable():
            return [migration.name for migration in _missing(await _applied(connection))]
    finally:
        await let_go(connection)


async def _catch_up(connection: Any) -> list[str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (number int PRIMARY KEY, name text NOT NULL,"
        " checksum text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    done = []
    for migration in _missing(await _applied(connection)):
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
        done.append(migration.name)
    return done


async def _applied(connection: Any) -> dict[int, str]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
        return {}
    rows = await connection.fetch("SELECT number, checksum FROM schema_migrations")
    return {row["number"]: row["checksum"] for row in rows}


def _missing(applied: dict[int, str]) -> list[Migration]:
    known = {migration.number: migration for migration in migrations()}
    newer = sorted(set(applied) - set(known))
    if newer:
        raise SchemaTooNew(
            f"The database has migration {newer[-1]:04}, this version knows none above {max(known):04}: "
            "it was migrated by a newer entrepot. Run that version, or restore a backup from before the upgrade."
        )
    for number, checksum in applied.items():
        if known[number].checksum != checksum:
            raise ConfigError(
                f"Migration {known[number].name} was applied in another form than the one in this version"
            )
    return [migration for number, migration in known.items() if number not in applied]
