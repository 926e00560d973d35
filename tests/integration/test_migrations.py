"""Bringing a database to the schema of this version: once, whoever tries, and never backwards."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from kernel.errors import ConfigError, SchemaTooNew
from migrations import runner
from migrations.runner import Migration, migrate, migrations, pending

ROOT = Path(__file__).parents[2]
ALL = [migration.name for migration in migrations()]
PROGRAM = "import asyncio, sys; from migrations.runner import migrate; print(*asyncio.run(migrate(sys.argv[1])))"
DEADLINE = 60.0
"""Seconds after which a test that waits has failed."""


@pytest.fixture
async def operator(empty_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


async def applied(operator: Any) -> list[str]:
    return [row["name"] for row in await operator.fetch("SELECT name FROM schema_migrations ORDER BY number")]


async def test_an_empty_database_gets_everything_in_order(empty_dsn: str, operator: Any) -> None:
    assert ALL
    assert sorted(ALL) == ALL
    assert await pending(empty_dsn) == ALL
    assert await migrate(empty_dsn) == ALL
    assert await applied(operator) == ALL
    assert await pending(empty_dsn) == []
    assert await operator.fetchval("SELECT count(*) FROM deployment") == 1


async def test_a_second_time_nothing_happens(empty_dsn: str, operator: Any) -> None:
    await migrate(empty_dsn)
    before = await operator.fetchval("SELECT id FROM deployment")
    assert await migrate(empty_dsn) == []
    assert await operator.fetchval("SELECT id FROM deployment") == before


async def test_many_tasks_at_once_apply_everything_once(empty_dsn: str, operator: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*(migrate(empty_dsn) for _ in range(8)))
    assert sorted(answers) == [[]] * 7 + [ALL]
    assert await applied(operator) == ALL


async def test_many_processes_at_once_apply_everything_once(empty_dsn: str, operator: Any) -> None:
    async def process() -> list[str]:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, empty_dsn, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        said, _ = await started.communicate()
        assert started.returncode == 0
        return said.decode().split()

    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*(process() for _ in range(4)))
    assert sorted(answers) == [[]] * 3 + [ALL]
    assert await applied(operator) == ALL


async def test_only_what_is_missing_is_applied(empty_dsn: str, operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (
        Migration(1, "0001_a.sql", "CREATE TABLE a (n int)"),
        Migration(2, "0002_b.sql", "CREATE TABLE b (n int)"),
    )
    monkeypatch.setattr(runner, "migrations", lambda: [one])
    assert await migrate(empty_dsn) == ["0001_a.sql"]
    await operator.execute("INSERT INTO a VALUES (7)")
    monkeypatch.setattr(runner, "migrations", lambda: [one, two])
    assert await pending(empty_dsn) == ["0002_b.sql"]
    assert await migrate(empty_dsn) == ["0002_b.sql"]
    assert await operator.fetchval("SELECT n FROM a") == 7


async def test_a_migration_that_fails_leaves_nothing_of_itself(
    empty_dsn: str, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Migration(1, "0001_a.sql", "CREATE TABLE a (n int)")
    bad = Migration(2, "0002_b.sql", "CREATE TABLE b (n int); SELECT 1/0")
    monkeypatch.setattr(runner, "migrations", lambda: [good, bad])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_dsn)
    assert await applied(operator) == ["0001_a.sql"]
    assert await operator.fetchval("SELECT to_regclass('b') IS NULL")
    mended = Migration(2, "0002_b.sql", "CREATE TABLE b (n int)")
    monkeypatch.setattr(runner, "migrations", lambda: [good, mended])
    assert await migrate(empty_dsn) == ["0002_b.sql"]


async def test_a_migration_that_cannot_be_remembered_is_taken_back(
    empty_dsn: str, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "migrations", lambda: [Migration(1, "nul: \0", "CREATE TABLE a (n int)")])
    with pytest.raises(asyncpg.PostgresError):
        await migrate(empty_dsn)
    assert await operator.fetchval("SELECT to_regclass('a') IS NULL")


@pytest.mark.parametrize("look", [migrate, pending])
async def test_a_database_of_a_newer_version_is_refused(empty_dsn: str, operator: Any, look: Any) -> None:
    await migrate(empty_dsn)
    await operator.execute(
        "INSERT INTO schema_migrations (number, name, checksum) VALUES (9999, '9999_later.sql', 'x')"
    )
    with pytest.raises(SchemaTooNew, match="migration 9999"):
        await look(empty_dsn)


@pytest.mark.parametrize("look", [migrate, pending])
async def test_a_file_that_was_edited_after_it_was_applied_is_refused(empty_dsn: str, operator: Any, look: Any) -> None:
    await migrate(empty_dsn)
    await operator.execute("UPDATE schema_migrations SET checksum = 'x' WHERE number = 1")
    with pytest.raises(ConfigError, match=ALL[0]):
        await look(empty_dsn)


def test_a_checksum_is_that_of_the_text() -> None:
    one, two = Migration(1, "a", "SELECT 1"), Migration(1, "a", "SELECT 2")
    assert one.checksum != two.checksum
    assert one.checksum == Migration(2, "b", "SELECT 1").checksum


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(ALL) + 1))


async def test_images_of_the_first_schema_keep_their_states(
    empty_dsn: str, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = runner.migrations()
    monkeypatch.setattr(runner, "migrations", lambda: every[:2])
    await migrate(empty_dsn)
    await operator.execute(
        "INSERT INTO images (id, image_id, version, fold, state, status, visibility, hidden, protected, min_disk,"
        " min_ram, tags, properties, created_at, updated_at) VALUES (gen_random_uuid(), 'x', 7, 1, '{\"a\": 1}',"
        " 'queued', 'shared', false, false, 0, 0, '{}', '{}', now(), now())"
    )
    monkeypatch.setattr(runner, "migrations", lambda: every)
    await migrate(empty_dsn)
    row = await operator.fetchrow("SELECT s.version, s.fold, s.state FROM images i JOIN states s USING (id)")
    assert tuple(row) == (7, 1, '{"a": 1}')
