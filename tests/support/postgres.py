"""Real Postgres for tests: one server for the run, a migrated template, a clone for whoever asks.

The server is `ENTREPOT_TEST_DSN`, else a container where a Docker engine answers, else
the embedded one, which is kept between runs.  Databases carry their birth in their
names, so that what killed runs left behind is found and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from migrations.runner import migrate
from ops.embedded_postgres import EmbeddedPostgres

_PREFIX = "entrepot_test"
_STALE = 6 * 3600
_numbers = itertools.count(1)


class Server:
    """A server that databases can be made on."""

    def __init__(self, admin_dsn: str) -> None:
        self.admin_dsn = admin_dsn
        self._template: str | None = None

    def dsn(self, database: str) -> str:
        """The same server, another database."""
        parts = urlsplit(self.admin_dsn)
        return urlunsplit(parts._replace(path=f"/{database}"))

    async def fresh(self) -> str:
        """DSN of a new database with the schema of this version."""
        if self._template is None:
            self._template = await self._make_template()
        name = _name("db")
        await self._admin(f'CREATE DATABASE "{name}" TEMPLATE "{self._template}" STRATEGY FILE_COPY')
        return self.dsn(name)

    async def empty(self) -> str:
        """DSN of a new database without anything in it."""
        name = _name("empty")
        await self._admin(f'CREATE DATABASE "{name}"')
        return self.dsn(name)

    async def drop(self, dsn: str) -> None:
        name = urlsplit(dsn).path.lstrip("/")
        await self._admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def sweep(self) -> None:
        """Drop what runs that were killed left behind, and this run's template."""
        connection = await asyncpg.connect(self.admin_dsn)
        try:
            rows = await connection.fetch("SELECT datname FROM pg_database WHERE datname LIKE $1", f"{_PREFIX}_%")
            for row in rows:
                name: str = row["datname"]
                born = int(name.split("_")[2])
                if time.time() - born > _STALE or name == self._template:
                    with contextlib.suppress(asyncpg.PostgresError):
                        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()

    async def _make_template(self) -> str:
        name = _name("template")
        await self._admin(f'CREATE DATABASE "{name}"')
        await migrate(self.dsn(name))
        return name

    async def _admin(self, statement: str) -> None:
        connection: Any = await asyncpg.connect(self.admin_dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def _name(kind: str) -> str:
    return f"{_PREFIX}_{int(time.time())}_{os.getpid()}_{next(_numbers)}_{kind}"


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """The server of this run."""
    with contextlib.ExitStack() as stack:
        found = Server(_admin_dsn(stack))
        try:
            yield found
        finally:
            with ThreadPoolExecutor(1) as aside:  # whoever calls may have a loop of its own
                aside.submit(asyncio.run, found.sweep()).result()


def _admin_dsn(stack: contextlib.ExitStack) -> str:
    given = os.environ.get("ENTREPOT_TEST_DSN")
    if given:
        return given
    if docker_answers():
        return stack.enter_context(_container())
    root = Path(tempfile.gettempdir()) / f"entrepot-tests-{os.getuid()}"
    settings = {"max_connections": "300", "max_wal_size": "4GB"}
    postgres = EmbeddedPostgres(root, settings=settings)
    stack.enter_context(postgres)
    return postgres.dsn("postgres")


def docker_answers() -> bool:
    """Whether a Docker engine, not just its command, is there."""
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=2)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except DockerException:
        return False
    finally:
        client.close()


@contextlib.contextmanager
def _container() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer("postgres:18-alpine", driver=None) as container:
        yield str(container.get_connection_url())
