"""The database of an installation, for commands that read it while the service runs or rests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import typer

from kernel.appender import Appender
from kernel.database import Database
from kernel.errors import ConfigError
from kernel.ids import stream_of
from kernel.log_postgres import PostgresLog
from kernel.recorded import ACCESS, IMAGE, Recorded
from migrations.runner import pending
from ops.database import Postgres

_PAGE: Final = 1000


def home(config_file: Sequence[Path] | None, state: Path | None) -> Path:
    """The state directory: as given, else as configured."""
    if state is not None:
        return state.absolute()
    from kernel.registry import discover  # takes a while, and is only needed to read the configuration
    from ops.config import load

    return load(config_file or (), registry=discover()).state_dir


@contextmanager
def attached(
    config_file: Sequence[Path] | None, database: str | None, state: Path | None, *, make: bool = False
) -> Iterator[str]:
    """The DSN, for as long as the block lasts; starts an embedded database that rests, and stops it again.

    make: whether a database, and a schema, that are missing are no trouble.
    """
    directory = Path() if database else home(config_file, state)
    if not (database or make or exists(directory)):
        raise ConfigError(f"There is no database under {directory}: name one with --state or --database")
    postgres = Postgres(database, directory)
    dsn = postgres.acquire()
    try:
        if not make:
            _must_be_current(dsn)
        yield dsn
    finally:
        postgres.release()


def exists(directory: Path) -> bool:
    """Whether an embedded database was ever made in a state directory."""
    return (directory / "postgres" / "data" / "PG_VERSION").exists()


def _must_be_current(dsn: str) -> None:
    missing = asyncio.run(pending(dsn))
    if missing:
        raise ConfigError(f"The database lacks {', '.join(missing)}: run `entrepot migrate`, or start the service")


@asynccontextmanager
async def reading(dsn: str) -> AsyncIterator[tuple[Database, PostgresLog]]:
    """The database and its log, to read from."""
    database = Database(dsn, size=2)
    await database.open()
    try:
        yield database, PostgresLog(database, Appender(dsn))
    finally:
        await database.close()


def stream(image_id: str) -> UUID:
    """The stream of an image; wrong usage for what can be no image's id."""
    found = stream_of(image_id)
    if found is None:
        raise typer.BadParameter(f"'{image_id}' is no image id", param_hint="IMAGE")
    return found


def task_id(text: str) -> str:
    """The id of a task; wrong usage for what can be none."""
    if stream_of(text) is None:
        raise typer.BadParameter(f"'{text}' is no task id", param_hint="TASK")
    return text


async def story(log: PostgresLog, image: UUID) -> list[Recorded]:
    """Everything the log holds of an image, its downloads included, in order."""
    events: list[Recorded] = []
    for category in (IMAGE, ACCESS):
        version = 0
        while page := await log.read_stream(category, image, version, _PAGE):
            events += page
            version = page[-1].version
    return sorted(events, key=lambda item: item.position)
