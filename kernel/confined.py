"""Programs that parse what strangers sent, run so that neither their bugs nor their size harm us.

    run ──▶ _jail.py: namespaces, Landlock, limits ──exec──▶ the program
     │          one process group of its own, killed whole:
     └─ wall clock, cancellation, the end of the service ─────▶ nothing is left running

The service reads no more of what a program says than it wants to hear.  Only the
limits are certain; which of the other walls stand depends on the machine, and
`walls` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from msgspec import Struct

from kernel.errors import EntrepotError

_JAIL: Final = str(Path(__file__).with_name("_jail.py"))
_SAID: Final = 1 << 20
"""Bytes kept of each of a program's two outputs; the rest is read and dropped."""
_PIECE: Final = 1 << 16
_GRACE: Final = 5.0
"""Seconds for which a killed program is waited for; only a disk that hangs can take longer."""
_CLEAN: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # an arena a thread is what makes qemu-img's address space large
}


class TookTooLong(EntrepotError):
    """A program did not come to an end in its time."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What a program may use."""

    seconds: float
    """By the wall clock."""
    cpu: int | None = None
    """Seconds of processor time."""
    memory: int | None = None
    """Bytes of address space."""
    file: int | None = None
    """Bytes of the largest file."""
    processes: int | None = None
    """Processes and threads of this account; 1 is none beside itself (root is not held to it)."""
    offline: bool = True
    """Whether it is to have no network and no special powers, where the machine can do that."""
    family: bool = False
    """Whether it starts programs of its own that are to end with the service, however that ends."""
    reads: tuple[Path, ...] = ()
    """If not empty: nothing but these, what it makes and the system's programs is within its reach."""
    makes: Path | None = None
    """The file that it is to write; it is made, empty, beforehand."""


class Ended(Struct, frozen=True, kw_only=True):
    """How a program ended."""

    code: int
    """Exit code; negative: the signal that ended it."""
    out: bytes
    err: str

    @property
    def trouble(self) -> str | None:
        """What a program that failed ran into, if it was a wall of ours."""
        walls = {
            signal.SIGXCPU: "it used more processor time than it may",
            signal.SIGXFSZ: "its output is larger than allowed",
            signal.SIGKILL: "it was killed",
        }
        if self.code >= 0:
            return None
        return walls.get(signal.Signals(-self.code), f"it crashed ({signal.Signals(-self.code).name})")


async def run(
    command: Sequence[str],
    bounds: Bounds,
    *,
    heard: Callable[[bytes], None] | None = None,
    feed: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end; `TookTooLong` when it takes longer than it may.

    command: begins with an absolute path.
    heard: given its standard output piece by piece, which then is not kept.
    feed: what it reads from standard input.
    environment: instead of a nearly empty one.
    """
    process = await asyncio.create_subprocess_exec(
        *_jailed(command, bounds),
        stdin=PIPE if feed else DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=_CLEAN if environment is None else environment,
        cwd="/",
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(bounds.seconds):
            return await _listen(process, heard, feed)
    except TimeoutError:
        raise TookTooLong(f"it took longer than {bounds.seconds:g} seconds") from None
    finally:
        await _end(process)


def _jailed(command: Sequence[str], bounds: Bounds) -> list[str]:
    limits = {
        "cpu": bounds.cpu,
        "memory": bounds.memory,
        "file": bounds.file,
        "processes": bounds.processes,
        "offline": 1 if bounds.offline else None,
        "family": 1 if bounds.family else None,
        "make": bounds.makes,
    }
    walls = [f"{key}={value}" for key, value in limits.items() if value is not None]
    walls += [f"read={path}" for path in bounds.reads]
    return [sys.executable, "-I", "-S", _JAIL, str(os.getpid()), *walls, "--", *command]


async def _listen(process: Process, heard: Callable[[bytes], None] | None, feed: bytes) -> Ended:
    out, err = _Tape(), _Tape()
    with _alone(process):
        async with asyncio.TaskGroup() as group:
            group.create_task(_drain(process.stdout, heard or out.add))
            group.create_task(_drain(process.stderr, err.add))
            if feed:
                group.create_task(_tell(process, feed))
    code = await process.wait()
    return Ended(code=code, out=bytes(out.kept), err=err.kept.decode(errors="replace").strip())


class _Tape:
    """Keeps the beginning of what is said."""

    def __init__(self) -> None:
        self.kept = bytearray()

    def add(self, piece: bytes) -> None:
        self.kept += piece[: _SAID - len(self.kept)]


async def _drain(stream: asyncio.StreamReader | None, take: Callable[[bytes], None]) -> None:
    assert stream is not None
    while piece := await stream.read(_PIECE):
        take(piece)


async def _tell(process: Process, feed: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it need not listen to the end
        process.stdin.write(feed)
        await process.stdin.drain()
    process.stdin.close()


@contextlib.contextmanager
def _alone(process: Process) -> Iterator[None]:
    """What a program has started ends with it, and not when its time is up: it may hold the outputs open."""
    try:
        exited = os.pidfd_open(process.pid)
    except ProcessLookupError:  # it has ended already
        _kill(process)
        yield
        return
    except OSError:  # the kernel is old
        yield
        return
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.remove_reader(exited)
        _kill(process)

    loop.add_reader(exited, end)
    try:
        yield
    finally:
        loop.remove_reader(exited)
        os.close(exited)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _end(process: Process) -> None:
    """Make sure that nothing of it runs on: neither the program nor what it started."""
    _kill(process)
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.wait({waiting}, timeout=_GRACE)
    waiting.cancel()


# --- what this machine can do ------------------------------------------------------------


@cache
def walls() -> frozenset[str]:
    """Which walls this machine offers beside the limits: `network`, `files`.  Blocks for a moment."""
    import subprocess

    probe = (
        f"import sys; sys.path.insert(0, {str(Path(_JAIL).parent)!r}); import _jail\n"
        "print('network' if _jail.go_offline() else '', 'files' if _jail.hide_files([], []) else '')"
    )
    done = subprocess.run(  # noqa: S603  # our own interpreter
        [sys.executable, "-I", "-S", "-c", probe], capture_output=True, text=True, timeout=30, check=False
    )
    return frozenset(done.stdout.split())
