"""The process behind a private Postgres: owns the server, stops it when its last user is gone.

    user A ──shared──┐
    user B ──shared──┴─ users.lock ◄─exclusive, waits── keeper ──parent──► postgres

The kernel drops a lock with the process that held it, however that process died, so the
keeper's wait ends exactly when nobody is left, and no list of users can go stale.

`ops/embedded_postgres.py` starts this file as a program.  It hands over two descriptors:
one of users.lock, and one that already holds keeper.lock, so that there is never a moment
without an owner nor one with two.  The keeper leaves when the server ends, whoever ended
it; a keeper that was killed leaves the server running, and the next one adopts it.

It lives as long as the server and may have to start from a virtualenv that only root can
read: it imports little, all of it before it gives up being root, and nothing of ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Final, Literal

SOCKET: Final = ".s.PGSQL.5432"

_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_SECONDS_BETWEEN_LOOKS: Final = 0.05
_WAYS_TO_STOP: Final = (
    (signal.SIGINT, 30.0),  # fast: a checkpoint, then a clean end
    (signal.SIGQUIT, 10.0),  # immediate: the next start replays the WAL
    (signal.SIGKILL, 5.0),
)
"""What the postmaster is told, and for how many seconds it may then take its time."""

News = Literal["server ended", "users gone"]


# --- whose server is it ---------------------------------------------------------


def recorded(data: str) -> list[str]:
    """The lines of `postmaster.pid`; none when there is no such file."""
    try:
        with open(os.path.join(data, "postmaster.pid"), encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def postmaster_pid(data: str) -> int | None:
    """The live postmaster of this data directory; None also for a stale file whose pid is somebody else's by now."""
    with contextlib.suppress(IndexError, ValueError):
        pid = int(recorded(data)[0])
        if serves(pid, data):
            return pid
    return None


def serves(pid: int, data: str) -> bool:
    """Whether this process is a postmaster started on `data`.

    Its command line tells: pids are used again, start times move with the clock, and what
    else /proc knows is closed to a container's root.  A zombie has no command line.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
    except OSError:
        return False
    if os.path.basename(arguments[0]) not in (b"postgres", b"postmaster"):
        return False
    return any(flag == b"-D" and _same(folder, data) for flag, folder in pairwise(arguments))


def _same(folder: bytes, data: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(folder, data)
    return False


def drop_misleading(lock_file: str, data: str) -> None:
    """Remove a dead postmaster's lock file that Postgres would not dare to remove itself.

    It trusts any pid that exists, though that may be a bystander or a zombie, and gives up
    on an empty file.  Its other interlock, the shared memory tied to the data directory,
    still refuses to start beside surviving backends.
    """
    try:
        with open(lock_file, encoding="utf-8", errors="replace") as file:
            first = file.readline().strip()
    except OSError:
        return
    pid = abs(int(first)) if first.lstrip("-").isdigit() else None
    if pid is None or (os.path.exists(f"/proc/{pid}") and not serves(pid, data)):
        os.unlink(lock_file)


# --- the keeper's life ----------------------------------------------------------


def keep(data: str, sockets: str, users: int, command: Sequence[str]) -> None:
    """Start the server, or adopt the one that runs, and stay until it ends or nobody needs it."""
    pid = postmaster_pid(data)
    outlast: Callable[[int, str], None] = _outlast_stranger
    if pid is None:
        if not command:
            print("nothing to adopt: what answers on the socket is no process seen from here", file=sys.stderr)
            return
        pid, outlast = _start(data, sockets, command), _outlast_child
    news: SimpleQueue[News] = SimpleQueue()
    _tell(news, "server ended", partial(outlast, pid, data))
    _tell(news, "users gone", partial(fcntl.flock, users, fcntl.LOCK_EX))
    if news.get() == "users gone":
        _stop(pid, news)


def _start(data: str, sockets: str, command: Sequence[str]) -> int:
    for lock_file in (os.path.join(data, "postmaster.pid"), os.path.join(sockets, f"{SOCKET}.lock")):
        drop_misleading(lock_file, data)
    return os.posix_spawn(command[0], list(command), _ENVIRONMENT)


def _outlast_child(pid: int, _data: str) -> None:
    # not reaped, so that the pid cannot become somebody else's while we may still signal it
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _outlast_stranger(pid: int, data: str) -> None:
    while serves(pid, data):
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _tell(news: SimpleQueue[News], what: News, wait: Callable[[], object]) -> None:
    def watch() -> None:
        wait()
        news.put(what)

    threading.Thread(target=watch, daemon=True).start()


def _stop(pid: int, news: SimpleQueue[News]) -> None:
    for how, patience in _WAYS_TO_STOP:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        with contextlib.suppress(Empty):
            news.get(timeout=patience)
            return


def main(arguments: Sequence[str]) -> None:
    """Become a process of one's own, without root's powers, and keep the server."""
    data, sockets, users, lock, uid, gid, *command = arguments
    if os.fork():
        os._exit(0)
    for descriptor in (users, lock):
        os.set_inheritable(int(descriptor), False)  # a server that held them would outlive its users
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    for stray in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # a signal to a whole container or cgroup must not orphan the server: the users end us by leaving
        signal.signal(stray, lambda *_: None)
    keep(data, sockets, int(users), command)


if __name__ == "__main__":
    main(sys.argv[1:])
