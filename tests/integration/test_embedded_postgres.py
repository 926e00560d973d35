"""The life of a private Postgres, and all the ways in which its users, its keeper and itself can die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from kernel.errors import ConfigError, Unavailable
from ops.embedded_postgres import EmbeddedPostgres, ensure_database
from ops.postgres_binaries import Account
from ops.postgres_keeper import SOCKET, postmaster_pid
from tests.support.private_postgres import (
    Python,
    User,
    a_cluster,
    a_place,
    alive,
    ask,
    eventually,
    keeper_of,
    kill,
    processes,
    uid_of,
)


@pytest.fixture
def fresh() -> Iterator[Path]:
    """Where nothing has been made yet."""
    with a_place() as place:
        yield place / "pg"


@pytest.fixture(scope="module")
def _made() -> Iterator[Path]:
    with a_cluster() as root:
        yield root


@pytest.fixture
def root(_made: Path) -> Iterator[Path]:
    """A cluster with one fact in it that nobody uses; also afterwards nothing may run there."""
    yield _made
    eventually(lambda: not processes(_made))


def assert_intact(server: EmbeddedPostgres) -> None:
    assert ask(server, "SELECT min(fact) FROM facts") == "kept"


# --- the plain life of a server -------------------------------------------------


def test_it_is_made_on_first_use_and_ends_with_its_last_user(fresh: Path) -> None:
    first, second = EmbeddedPostgres(fresh), EmbeddedPostgres(fresh)
    with first, second:
        assert first.dsn() == second.dsn()
        first.release()
        first.release()
        assert not first.wait_stopped(timeout=0.1)
        assert ask(second, "SELECT 1") == 1
    assert second.wait_stopped()
    assert "database system is shut down" in (fresh / "log").read_text().splitlines()[-1]


def test_acquiring_again_is_the_same_share(root: Path) -> None:
    server = EmbeddedPostgres(root).acquire()
    assert server.acquire() is server
    server.release()
    assert server.wait_stopped()


def test_it_is_durable_private_and_sorts_the_same_everywhere(root: Path) -> None:
    with EmbeddedPostgres(root, settings={"max_connections": "17"}) as server:
        shown = {
            name: ask(server, f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "listen_addresses", "max_connections", "data_checksums")
        }
        assert shown == {
            "fsync": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
            "max_connections": "17",
            "data_checksums": "on",
        }
        assert ask(server, "SELECT string_agg(w, '' ORDER BY w) FROM unnest('{b,a,Z,é}'::text[]) w") == "Zabé"
        assert ask(server, "SELECT upper('é')") == "É"
        for folder in (root / "run", root / "data"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((root / "run" / SOCKET).stat().st_mode) == 0o700


def test_the_dsn_leaves_nothing_to_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGSSLMODE": "verify-full", "PGUSER": "x"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(root) as server:
        assert_intact(server)


def test_a_database_is_created_once_however_many_ask(root: Path) -> None:
    async def ask_for(server: EmbeddedPostgres, name: str) -> None:
        await asyncio.gather(*(ensure_database(server.dsn("postgres"), name) for _ in range(6)))
        connection = await asyncpg.connect(server.dsn(name))
        assert await connection.fetchval("SELECT current_database()") == name
        await connection.close()

    with EmbeddedPostgres(root) as server:
        asyncio.run(ask_for(server, "entrepot"))
        asyncio.run(ask_for(server, 'odd "name" / 100%'))


def test_a_database_on_no_server_is_unavailable(root: Path) -> None:
    with pytest.raises(Unavailable):
        asyncio.run(ensure_database(EmbeddedPostgres(root).dsn("postgres"), "entrepot"))


def test_ensuring_needs_a_share(root: Path) -> None:
    with pytest.raises(RuntimeError, match="acquire"):
        EmbeddedPostgres(root).ensure()


@pytest.mark.parametrize("name", ["d" * 120, "a, b, and 50% of ünïcode #1"], ids=["long", "odd"])
def test_any_path_will_do(fresh: Path, name: str) -> None:
    with EmbeddedPostgres(fresh / name) as server:
        sockets = Path(ask(server, "SHOW unix_socket_directories"))
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert server.wait_stopped()
    shutil.rmtree(sockets)


def test_a_socket_folder_of_somebody_elses_is_refused(fresh: Path) -> None:
    fresh.mkdir()
    server = EmbeddedPostgres(fresh / ("d" * 120))
    (sockets,) = map(Path, parse_qs(urlsplit(server.dsn()).query)["host"])
    sockets.symlink_to(fresh)
    try:
        with pytest.raises(ConfigError, match="socket"):
            server.acquire()
    finally:
        sockets.unlink()


# --- death ----------------------------------------------------------------------


@pytest.mark.parametrize("account", [None, pytest.param("nobody", marks=pytest.mark.root)], ids=["self", "nobody"])
def test_a_killed_user_takes_the_server_along_only_if_it_was_the_last(fresh: Path, account: str | None) -> None:
    python = Python.copied(fresh.with_name("python")) if account else Python.ours()
    if account:
        fresh.mkdir(mode=0o700)
        shutil.chown(fresh, account)
    join = partial(User, fresh, account=account, python=python)
    with join() as one, join() as other:
        postmaster = one.postmaster()
        assert other.postmaster() == postmaster
        if account:
            assert {uid_of(postmaster), uid_of(keeper_of(fresh))} == {pwd.getpwnam(account).pw_uid}
        one.kill()
        with join() as third:
            assert third.postmaster() == postmaster
            third.leave()
        assert alive(postmaster)
        other.kill()
        eventually(lambda: not alive(postmaster))
    assert "database system is shut down" in (fresh / "log").read_text().splitlines()[-1]


def test_a_user_stays_connected_when_another_is_killed(root: Path) -> None:
    async def outlive(server: EmbeddedPostgres, other: User) -> None:
        connection = await asyncpg.connect(server.dsn("postgres"))
        other.kill()
        with User(root) as third:  # its coming and going shows that no end is under way
            third.postmaster()
            third.leave()
        assert await connection.fetchval("SELECT min(fact) FROM facts") == "kept"
        await connection.close()

    with EmbeddedPostgres(root) as server, User(root) as other:
        other.postmaster()
        asyncio.run(outlive(server, other))


def test_a_server_whose_keeper_was_killed_is_adopted(root: Path) -> None:
    with User(root) as one, User(root) as other:
        postmaster = one.postmaster()
        assert other.postmaster() == postmaster
        kill(keeper_of(root))
        with User(root) as third:
            assert third.postmaster() == postmaster
            assert alive(keeper_of(root))
            for user in (one, other, third):
                user.kill()
        eventually(lambda: not alive(postmaster))


def test_leaving_a_server_whose_keeper_was_killed_ends_it(root: Path) -> None:
    with EmbeddedPostgres(root) as server:
        os.kill(keeper_of(root), signal.SIGKILL)  # it may still be dying while we leave
    assert server.wait_stopped()
    assert postmaster_pid(str(server.data)) is None


def test_an_adopted_server_that_dies_is_brought_back(root: Path) -> None:
    with EmbeddedPostgres(root) as server:
        postmaster = postmaster_pid(str(server.data))
        assert postmaster is not None
        kill(keeper_of(root))
        server.ensure()
        assert postmaster_pid(str(server.data)) == postmaster
        kill(postmaster)
        server.ensure()
        assert_intact(server)


def test_a_killed_server_is_brought_back_with_all_that_was_committed(root: Path) -> None:
    with EmbeddedPostgres(root) as server:
        for n in range(3):
            ask(server, f"INSERT INTO facts VALUES ('written {n}')")
            postmaster = postmaster_pid(str(server.data))
            assert postmaster is not None
            kill(postmaster)
            server.ensure()
            assert ask(server, "SELECT max(fact) FROM facts") == f"written {n}"
        assert "automatic recovery in progress" in (root / "log").read_text()


def test_bringing_back_waits_for_a_backend_that_is_still_writing(root: Path) -> None:
    busy = """
        DO $$ DECLARE began timestamptz := clock_timestamp(); BEGIN
            WHILE clock_timestamp() < began + interval '1 s' LOOP PERFORM 1; END LOOP;
        END $$
    """

    async def crash(server: EmbeddedPostgres) -> None:
        connection = await asyncpg.connect(server.dsn("postgres"))
        work = asyncio.ensure_future(connection.execute(busy))
        watcher = await asyncpg.connect(server.dsn("postgres"))
        while not await watcher.fetchval("SELECT true FROM pg_stat_activity WHERE query ~ 'DO' AND state = 'active'"):
            assert not work.done()
        postmaster = postmaster_pid(str(server.data))
        assert postmaster is not None
        await asyncio.to_thread(kill, postmaster)
        await asyncio.to_thread(server.ensure)
        await asyncio.gather(work, return_exceptions=True)
        connection.terminate()
        watcher.terminate()

    with EmbeddedPostgres(root) as server:
        asyncio.run(crash(server))
        assert_intact(server)


def test_a_signal_to_the_whole_container_orphans_nothing(root: Path) -> None:
    with EmbeddedPostgres(root) as server:
        keeper = keeper_of(root)
        for stray in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(keeper, stray)
        assert_intact(server)
    assert server.wait_stopped()
    assert not alive(keeper)


def test_kills_during_initdb_leave_a_place_that_can_be_used(fresh: Path) -> None:
    for moment in (".", "PG_VERSION", "global/pg_control"):
        earlier = set(fresh.glob("data.new.*"))
        with User(fresh) as user:
            eventually(lambda known=earlier: set(fresh.glob("data.new.*")) - known)  # type: ignore[misc]
            (unfinished,) = set(fresh.glob("data.new.*")) - earlier
            if moment != ".":
                eventually((unfinished / "PG_VERSION").exists)
                user.process.send_signal(signal.SIGSTOP)  # initdb goes on, but nobody renames what it makes
                eventually((unfinished / moment).exists)
            user.kill()
        assert not (fresh / "data").exists()
    with EmbeddedPostgres(fresh) as server:
        assert ask(server, "SELECT 1") == 1
    assert not any(fresh.glob("data.new.*"))


@pytest.mark.parametrize("left", ["a bystander", "nothing"])
def test_what_a_crash_left_in_the_lock_files_harms_nobody(root: Path, left: str) -> None:
    server = EmbeddedPostgres(root)
    with User(root) as user:
        postmaster = user.postmaster()
        kill(keeper_of(root), postmaster)
        user.kill()
    account = Account.for_data(server.data)
    with subprocess.Popen(["sleep", "600"], **account.popen()) as bystander:
        try:
            for file in (server.data / "postmaster.pid", root / "run" / f"{SOCKET}.lock"):
                lines = file.read_text().splitlines(keepends=True)
                file.write_text("".join([f"{bystander.pid}\n", *lines[1:]]) if left == "a bystander" else "")
            with server:
                assert_intact(server)
            assert server.wait_stopped()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_herd_of_cold_starts_gets_one_server(fresh: Path) -> None:
    with contextlib.ExitStack() as herd:
        users = [herd.enter_context(User(fresh)) for _ in range(6)]
        assert len({user.postmaster() for user in users}) == 1
        for user in users:
            user.leave()


def test_users_may_come_while_the_last_one_goes(root: Path) -> None:
    for _ in range(12):
        with EmbeddedPostgres(root) as server:
            assert_intact(server)
