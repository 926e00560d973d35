"""A private Postgres and its users, as tests need them: to start, find and kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import asyncpg

from ops.embedded_postgres import EmbeddedPostgres

CHECKOUT = Path(__file__).resolve().parents[2]

USER = """
import sys
from pathlib import Path
from ops.embedded_postgres import EmbeddedPostgres
from ops.postgres_keeper import postmaster_pid

with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(postmaster_pid(str(server.data)), flush=True)
    sys.stdin.read()
"""


class Python(NamedTuple):
    """An interpreter, and what has to be in its environment."""

    program: str
    environment: dict[str, str]

    @classmethod
    def ours(cls, *first: Path) -> Self:
        """Ours; looks for modules in `first` before anywhere else."""
        places = [*first, CHECKOUT, *(place for place in sys.path if place.endswith("site-packages"))]
        path = os.pathsep.join(map(str, places))
        return cls(sys.executable, {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})

    @classmethod
    def copied(cls, place: Path) -> Self:
        """A copy for other accounts: ours may lie under a closed folder, as pyenv does for root."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        needless = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib", "ensurepip", "__pycache__")
        shutil.copytree(sysconfig.get_path("stdlib"), place / "lib" / version, ignore=needless)
        library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
        if library.suffix != ".a":
            shutil.copy(library, place / "lib")
        (place / "bin").mkdir()
        program = shutil.copy(Path(sys.executable).resolve(), place / "bin" / version)
        return cls(str(program), {**cls.ours().environment, "LD_LIBRARY_PATH": str(place / "lib")})


class User:
    """Another process that uses the server until it is told to leave, or killed."""

    def __init__(self, root: Path, *, account: str | None = None, python: Python | None = None) -> None:
        entry = pwd.getpwnam(account) if account else None
        who: dict[str, Any] = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": ()} if entry else {}
        program, environment = python or Python.ours()
        self.process = subprocess.Popen(
            [program, "-c", USER, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment,
            **who,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def postmaster(self) -> int:
        """The server's pid, once this process uses it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return int(line)

    def kill(self) -> None:
        """End it as the kernel would."""
        self.process.kill()
        self.process.wait()

    def leave(self) -> None:
        """Have it release its share and exit."""
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, errors


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def alive(pid: int) -> bool:
    """Whether anything of the process runs: its first thread may be a zombie while another still holds its locks."""
    states = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            states.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return any(state not in "ZX" for state in states)


def processes(place: Path) -> dict[int, str]:
    """What runs on data under `place`: servers with their backends, keepers, initdb."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        inside = False
        with contextlib.suppress(OSError):
            inside = (entry / "cwd").readlink().is_relative_to(place)
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
            ours = any(program in words for program in ("postgres_keeper", "initdb", "bin/postgres"))
            if words and (inside or (ours and f"{place}/" in words)):
                found[int(entry.name)] = words
    return found


def keeper_of(root: Path) -> int:
    """The one keeper of this server."""
    (pid,) = [pid for pid, words in processes(root).items() if "postgres_keeper" in words]
    return pid


def uid_of(pid: int) -> int:
    """Whom the process runs as."""
    return Path(f"/proc/{pid}").stat().st_uid


def kill(*pids: int) -> None:
    """End processes the hard way, and see them gone."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, pids)))


def ask(server: EmbeddedPostgres, *statements: str) -> Any:
    """The value that the last of the statements gives."""

    async def run() -> Any:
        connection = await asyncpg.connect(server.dsn("postgres"), timeout=10)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


@contextlib.contextmanager
def a_place() -> Iterator[Path]:
    """A folder that every account can walk into (`tmp_path` is closed), in which nothing may be left running."""
    place = Path(tempfile.mkdtemp(prefix="entrepot-test-", dir="/tmp"))
    place.chmod(0o755)
    try:
        yield place
        eventually(lambda: not processes(place))
    finally:
        for pid in processes(place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def a_cluster() -> Iterator[Path]:
    """The root of a server that nobody uses, with one fact in its data."""
    with a_place() as place:
        with EmbeddedPostgres(place / "pg") as server:
            ask(server, "CREATE TABLE facts (fact text)", "INSERT INTO facts VALUES ('kept')")
        yield place / "pg"
