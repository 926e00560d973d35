"""Connections to Postgres: a pool for reading, settings that every connection shares.

Anything that says the server cannot be reached or went away becomes
`Unavailable`; nothing else is swallowed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import asyncpg

from kernel.errors import ConfigError, Unavailable

LOST: Final = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""Errors that mean: the server is not there, goes away, does not answer in time, had to give way, takes nothing in."""

FULL: Final = (asyncpg.DiskFullError, asyncpg.ReadOnlySQLTransactionError)
"""Those of them that mean that it can only be read: its disk is full, or another server has taken over."""

_SETTINGS: Final = {
    "jit": "off",
    "timezone": "UTC",
    "lock_timeout": "20s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "10s",
}

_PLANNED: Final = {"plan_cache_mode": "force_custom_plan", "random_page_cost": "1.1"}
"""For statements whose plan depends on their arguments; few disks have heads that must travel to a page."""

_MOST_URGENT: Final = 2

_PATIENCE: Final = 90.0
"""Seconds to wait for the answer to a statement that the server itself would have given up long before."""


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Turn every sign of a lost server into `Unavailable`."""
    try:
        yield
    except LOST as error:
        if isinstance(error, ValueError):  # asyncpg's word for an argument it cannot encode
            raise
        raise Unavailable(_trouble(error)) from error


def _trouble(error: BaseException) -> str:
    match error:
        case asyncpg.DiskFullError():
            return "The disk of the database is full"
        case asyncpg.ReadOnlySQLTransactionError():
            return "The database can only be read right now"
        case _:
            return "The database is not available"


async def _prepare(connection: Any) -> None:
    """JSON travels as bytes in both directions: we decode it ourselves, and faster."""
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=lambda value: value, decoder=bytes, format="binary"
    )


async def _keep(connection: Any) -> None:
    """Connections carry no state between uses, so there is nothing to reset."""


async def connect(dsn: str, application: str, **settings: str) -> Any:
    """A connection of one's own, outside the pool; whose statements may take any time if `statement_timeout` is "0"."""
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=10,
            command_timeout=None if settings.get("statement_timeout") == "0" else _PATIENCE,
            server_settings={**_SETTINGS, "application_name": f"entrepot {application}", **settings},
        )
        try:
            await _prepare(connection)
        except BaseException:
            await let_go(connection)
            raise
    except (ValueError, OverflowError):
        raise _senseless() from None
    except LOST as error:
        raise Unavailable(f"The database cannot be reached ({type(error).__name__})") from error
    return connection


def _senseless() -> ConfigError:
    """A DSN that asyncpg cannot read; its own words for that may hold a piece of the password."""
    return ConfigError(
        "The DSN of the database cannot be understood; it looks like postgresql://user:password@host:5432/name, "
        "and what is special in a password is written as %XX"
    )


async def let_go(connection: Any) -> None:
    """Drop a connection without ado.  Its socket is closed by the loop's next turn, which this waits for."""
    connection.terminate()
    await asyncio.sleep(0)


class Database:
    """The pool of one process."""

    def __init__(self, dsn: str, size: int = 8) -> None:
        self.dsn = dsn
        self._size = size
        self._pool: Any = None
        self._planning: Any = None
        self._urgent: Any = None

    async def open(self) -> None:
        try:
            self._pool = await self._make_pool(1, self._size)
            self._planning = await self._make_pool(0, self._size, **_PLANNED)
            self._urgent = await self._make_pool(0, _MOST_URGENT, lock_timeout="0")
        except (ValueError, OverflowError):
            raise _senseless() from None
        except LOST as error:
            raise Unavailable(f"The database cannot be reached ({type(error).__name__}: {error})") from error

    async def _join(self, *arguments: Any, **settings: Any) -> Any:
        """A connection for a pool.  Who was let in once may be again: a restore ends, a password is put right."""
        try:
            return await asyncpg.connect(*arguments, **settings)
        except asyncpg.PostgresError as error:
            if self._pool is None or isinstance(error, LOST):
                raise
            raise ConnectionRefusedError(str(error)) from error

    async def _make_pool(self, least: int, most: int, **settings: str) -> Any:
        return await asyncpg.create_pool(
            self.dsn,
            min_size=least,
            max_size=most,
            timeout=10,
            command_timeout=60,
            max_inactive_connection_lifetime=300,
            connect=self._join,
            init=_prepare,
            reset=_keep,
            server_settings={**_SETTINGS, "application_name": "entrepot", **settings},
        )

    async def close(self) -> None:
        for pool in (self._pool, self._planning, self._urgent):
            if pool is not None:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(pool.close(), 5)
                await let_go(pool)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for several statements."""
        with reachable():
            async with self._pool.acquire(timeout=5) as connection:
                yield connection

    async def fetch(self, query: str, *arguments: Any) -> Sequence[Any]:
        """All rows of a statement."""
        with reachable():
            async with self._pool.acquire(timeout=5) as connection:
                rows: Sequence[Any] = await connection.fetch(query, *arguments)
                return rows

    async def fetch_urgent(self, query: str, *arguments: Any) -> Sequence[Any]:
        """All rows of a statement that somebody's lease hangs on: no request can keep it waiting for a connection."""
        with reachable():
            async with self._urgent.acquire(timeout=5) as connection:
                rows: Sequence[Any] = await connection.fetch(query, *arguments)
                return rows

    async def fetch_planned(self, query: str, *arguments: Any) -> Sequence[Any]:
        """All rows of a statement whose best plan depends on its arguments: planned each time, for just these."""
        with reachable():
            async with self._planning.acquire(timeout=5) as connection:
                rows: Sequence[Any] = await connection.fetch(query, *arguments)
                return rows

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """A connection whose statements all see the database as it is now, and nothing later."""
        with reachable():
            async with (
                self._planning.acquire(timeout=5) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield connection

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        """The first row of a statement, or None."""
        rows = await self.fetch(query, *arguments)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        """The first column of the first row, or None."""
        row = await self.fetchrow(query, *arguments)
        return row[0] if row is not None else None
