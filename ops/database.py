"""Which database an installation has, and how to get at it: a real server, or the embedded one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from ops.embedded_postgres import EmbeddedPostgres, ensure_database

DATABASE: Final = "entrepot"


class Postgres:
    """The database of this installation: a real server, or the embedded one."""

    def __init__(self, dsn: str | None, state: Path) -> None:
        self._embedded = None if dsn else EmbeddedPostgres(state / "postgres")
        self._dsn = dsn

    def acquire(self) -> str:
        """Start or attach, create the database; returns its DSN.  Blocking."""
        if self._embedded is None:
            assert self._dsn is not None
            return self._dsn
        self._embedded.acquire()
        asyncio.run(ensure_database(self._embedded.dsn("postgres"), DATABASE))
        return self._embedded.dsn(DATABASE)

    async def revive(self) -> None:
        """Bring an embedded server back that has died; nothing to do for a real one."""
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.ensure)

    def release(self) -> None:
        """Let go; the last one out stops an embedded server."""
        if self._embedded is not None:
            self._embedded.leave()
