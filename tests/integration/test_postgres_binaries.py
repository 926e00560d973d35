"""A private Postgres with programs of any origin, under any account; what cannot work, and what is said then."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.errors import ConfigError, Unavailable
from ops import postgres_binaries
from ops.embedded_postgres import EmbeddedPostgres
from ops.postgres_binaries import Account, Binaries, choose, installed, locales
from ops.postgres_keeper import postmaster_pid
from tests.support.private_postgres import (
    Python,
    User,
    a_cluster,
    a_place,
    ask,
    eventually,
    keeper_of,
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


# --- what cannot work, and what is said -----------------------------------------


def test_data_of_another_major_is_refused(fresh: Path) -> None:
    (fresh / "data").mkdir(parents=True)
    (fresh / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ConfigError, match=r"made by Postgres 9\.6.*pg_dump"):
        EmbeddedPostgres(fresh).acquire()


def test_what_is_no_data_directory_is_left_alone(fresh: Path) -> None:
    (fresh / "data").mkdir(parents=True)
    (fresh / "data" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        EmbeddedPostgres(fresh).acquire()
    assert (fresh / "data" / "thesis.txt").read_text() == "precious"


def test_of_several_postgres_the_one_that_made_the_data_is_taken(
    root: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = choose(root / "data")
    fresh.mkdir()
    for program in ("postgres", "initdb"):
        (fresh / program).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n")
        (fresh / program).chmod(0o755)
    monkeypatch.setattr(postgres_binaries, "installed", lambda: iter([Binaries(bindir=fresh), maker]))
    assert choose(fresh / "data").major() == "99"
    assert choose(root / "data") == maker


def test_without_any_postgres_it_says_what_to_install(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_binaries, "installed", lambda: iter(()))
    with pytest.raises(ConfigError, match=r"entrepot\[embedded\].*--database DSN"):
        EmbeddedPostgres(fresh).acquire()


def test_a_folder_without_postgres_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_PG_BIN", "/etc")
    with pytest.raises(ConfigError, match="/etc"):
        EmbeddedPostgres(fresh).acquire()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"no_such_thing": "1"}, ConfigError, "unrecognized configuration parameter"),
        ({"max_connections": "many"}, ConfigError, "invalid value for parameter"),
        ({"shared_preload_libraries": "no_such_library"}, Unavailable, "no_such_library"),
    ],
    ids=["unknown", "wrong", "fatal"],
)
def test_what_the_server_died_of_is_told(
    root: Path, settings: dict[str, str], error: type[Exception], words: str
) -> None:
    server = EmbeddedPostgres(root, settings=settings)
    with pytest.raises(error, match=words):
        server.acquire()
    assert server.wait_stopped()


def test_time_that_is_up_leaves_no_share_behind(root: Path) -> None:
    server = EmbeddedPostgres(root)
    with pytest.raises(Unavailable, match="not ready in time"):
        server.acquire(timeout=0)
    assert server.wait_stopped()


def test_the_log_is_turned(root: Path) -> None:
    with (root / "log").open("ab") as log:
        log.truncate(11_000_000)
    with EmbeddedPostgres(root):
        assert (root / "log").stat().st_size < 100_000
    assert (root / "log.1").stat().st_size == 11_000_000


# --- whose programs, whose account ----------------------------------------------


@pytest.mark.parametrize(
    "bindir",
    sorted({place.bindir.resolve() for place in installed() if place.complete}),
    ids=lambda path: path.parent.name,
)
def test_every_postgres_of_this_machine_will_do(fresh: Path, bindir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_PG_BIN", str(bindir))
    with EmbeddedPostgres(fresh) as server:
        assert ask(server, "SHOW server_version_num")[:2] == (fresh / "data" / "PG_VERSION").read_text().strip()
        assert ask(server, "SELECT string_agg(w, '' ORDER BY w) FROM unnest('{b,a,Z,é}'::text[]) w") == "Zabé"


def test_older_servers_are_not_asked_for_the_builtin_locale() -> None:
    assert locales("17") == [["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]]
    assert locales("16") == [["--locale=C.UTF-8"], ["--locale=C"]]


def test_the_keeper_is_small(root: Path) -> None:
    with EmbeddedPostgres(root):
        status = Path(f"/proc/{keeper_of(root)}/status").read_text()
    (resident,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
    assert resident < 20_000  # kB; most of it is the interpreter's own


@pytest.mark.root
def test_for_root_neither_server_nor_keeper_is_root(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_PG_USER", "nobody")
    nobody = pwd.getpwnam("nobody").pw_uid
    with EmbeddedPostgres(fresh) as server:
        postmaster = postmaster_pid(str(server.data))
        assert postmaster is not None
        assert {uid_of(postmaster), uid_of(keeper_of(fresh))} == {nobody}
    assert server.wait_stopped()
    monkeypatch.delenv("ENTREPOT_PG_USER")
    assert Account.for_data(server.data).uid == nobody, "a cluster stays with the account that owns it"


@pytest.mark.root
@pytest.mark.parametrize("name", ["root", "no-such-account"])
def test_an_account_that_cannot_run_postgres_is_refused(
    fresh: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTREPOT_PG_USER", name)
    with pytest.raises(ConfigError, match=f"{name}.*ENTREPOT_PG_USER"):
        EmbeddedPostgres(fresh).acquire()


@pytest.mark.root
def test_a_place_that_the_account_cannot_reach_is_refused_and_stays_closed(fresh: Path) -> None:
    fresh.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=f"{fresh} is closed"):
        EmbeddedPostgres(fresh / "pg").acquire()
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700


@pytest.mark.root
@pytest.mark.parametrize("umask", [0o022, 0o077], ids=["linked", "copied"])
def test_a_wheel_under_a_closed_folder_is_staged(root: Path, fresh: Path, umask: int) -> None:
    """As in a virtualenv under /root; and again after an upgrade, without what the upgrade replaced."""
    wheel = next(place.package for place in installed() if place.package)
    fresh.mkdir(mode=0o700)
    for folder in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(folder, fresh / folder.name)
    for path in fresh.rglob("*"):
        path.chmod(path.stat().st_mode & ~umask)
    program = fresh / wheel.name / "pginstall" / "bin" / "postgres"
    before = program.stat().st_mode
    for version in (1, 2):
        os.utime(program, (version, version))
        with User(root, python=Python.ours(fresh)) as user:
            running = Path(f"/proc/{user.postmaster()}/exe")
            (stage,) = root.glob("pg.*")
            assert running.readlink().is_relative_to(stage)
            assert running.samefile(program) == (umask == 0o022)
            user.leave()
        eventually(lambda: not processes(root))
    assert program.stat().st_mode == before
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
