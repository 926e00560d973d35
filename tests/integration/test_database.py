"""Connections of one's own: made, let go, and no socket left behind."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import database
from kernel.database import connect, let_go
from kernel.errors import Unavailable


def socket_of(connection: Any) -> Any:
    return connection._transport.get_extra_info("socket")


async def test_a_connection_that_was_let_go_has_no_socket(dsn: str) -> None:
    """The loop may end right after: nothing is left to its next turn, or to the garbage collector."""
    connection = await connect(dsn, "test")
    sock = socket_of(connection)
    assert sock.fileno() >= 0
    await let_go(connection)
    assert sock.fileno() == -1
    assert connection.is_closed()


async def test_letting_go_twice_is_quiet(dsn: str) -> None:
    connection = await connect(dsn, "test")
    await let_go(connection)
    await let_go(connection)


async def test_a_connection_that_cannot_be_prepared_is_let_go(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = []

    async def fail(connection: Any) -> None:
        sockets.append(socket_of(connection))
        raise OSError("the server went away")

    monkeypatch.setattr(database, "_prepare", fail)
    with pytest.raises(Unavailable):
        await connect(dsn, "test")
    assert [sock.fileno() for sock in sockets] == [-1]


async def test_only_statements_without_a_limit_may_take_any_time(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A big table takes its time to be migrated or rebuilt; a dead server is not waited for."""
    monkeypatch.setattr(database, "_PATIENCE", 0.1)
    for settings, patient in (({}, False), ({"statement_timeout": "0"}, True)):
        connection = await connect(dsn, "test", **settings)
        try:
            await connection.execute("SELECT pg_sleep(0.5)")
        except TimeoutError:
            assert not patient
        else:
            assert patient
        finally:
            await let_go(connection)
