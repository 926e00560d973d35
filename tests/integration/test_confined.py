"""Confined programs: every wall holds, and nothing outlives whoever started it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kernel.confined import Bounds, Ended, TookTooLong, run, walls
from tests.support.step_bench import programs
from tests.support.stores import within

MIB = 1 << 20
ROOMY = Bounds(seconds=20)


async def python(code: str, bounds: Bounds = ROOMY, **more: object) -> Ended:
    """Run Python, confined."""
    return await run([sys.executable, "-I", "-c", code], bounds, **more)  # type: ignore[arg-type]


async def shell(code: str, bounds: Bounds = ROOMY) -> Ended:
    return await run(["/bin/sh", "-c", code], bounds)


# --- limits, which hold on every machine -------------------------------------------------


async def test_a_program_ends_as_it_likes() -> None:
    ended = await shell("echo out; echo err >&2; exit 3")
    assert (ended.code, ended.out, ended.err, ended.trouble) == (3, b"out\n", "err", None)


async def test_one_that_cannot_be_run_says_so() -> None:
    ended = await run(["/nowhere/at/all"], ROOMY)
    assert ended.code == 126
    assert "cannot be run: No such file" in ended.err


async def test_processor_time_is_limited() -> None:
    began = time.monotonic()
    ended = await shell("while :; do :; done", Bounds(seconds=20, cpu=1))
    assert (ended.code, ended.trouble) == (-signal.SIGXCPU, "it used more processor time than it may")
    assert time.monotonic() - began < 15


async def test_one_that_ignores_the_warning_is_killed() -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    ended = await python(code, Bounds(seconds=20, cpu=1))
    assert (ended.code, ended.trouble) == (-signal.SIGKILL, "it was killed")


async def test_memory_is_limited() -> None:
    code = f"x = bytes({300 * MIB}); print(len(x))"
    assert "MemoryError" in (await python(code, Bounds(seconds=20, memory=200 * MIB))).err
    assert (await python(code)).code == 0


async def test_the_size_of_files_is_limited(tmp_path: Path) -> None:
    target = tmp_path / "made"
    ended = await shell(f"exec head -c {2 * MIB} /dev/zero > {target}", Bounds(seconds=20, file=MIB))
    assert (ended.code, ended.trouble) == (-signal.SIGXFSZ, "its output is larger than allowed")
    assert target.stat().st_size <= MIB


async def test_limits_are_those_that_were_asked_for() -> None:
    bounds = Bounds(seconds=20, cpu=7, memory=300 * MIB, file=5, processes=40)
    code = (
        "import resource as r; kinds = r.RLIMIT_CPU, r.RLIMIT_AS, r.RLIMIT_FSIZE, r.RLIMIT_NPROC, r.RLIMIT_CORE\n"
        "print(*(r.getrlimit(kind)[0] for kind in kinds))"
    )
    assert (await python(code, bounds)).out.split() == [b"7", b"314572800", b"5", b"40", b"0"]


async def test_limits_are_never_raised() -> None:
    """A service that is held to less cannot give more away."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_FSIZE)[1])"
    wanted = hard - 1 if hard > 0 else 1 << 50
    assert (await python(code, Bounds(seconds=20, file=wanted))).out == f"{wanted}\n".encode()


async def test_the_wall_clock_ends_it() -> None:
    began = time.monotonic()
    with pytest.raises(TookTooLong, match=r"longer than 0\.3 seconds"):
        await shell("sleep 600", Bounds(seconds=0.3))
    assert time.monotonic() - began < 5
    assert programs() == set()


async def test_what_it_started_ends_with_it() -> None:
    """Even if it hides its outputs from us."""
    with pytest.raises(TookTooLong):
        await shell("sleep 600 & sleep 600 >/dev/null 2>&1 & wait", Bounds(seconds=0.5))
    assert programs() == set()


async def test_what_it_leaves_behind_is_not_waited_for() -> None:
    """A program in the background holds the outputs open; it ends when the one that started it does."""
    ended = await within(shell("sleep 600 & echo $!"))
    assert ended.code == 0
    async with asyncio.timeout(10):
        with suppress(psutil.NoSuchProcess):
            while psutil.Process(int(ended.out)).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)


async def test_cancelling_kills_it_and_what_it_started() -> None:
    running = asyncio.create_task(shell("sleep 600 & sleep 600"))
    async with asyncio.timeout(10):
        while sum(psutil.Process(pid).name() == "sleep" for pid in programs()) < 2:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(running)
    assert programs() == set()


@pytest.mark.parametrize(
    ("program", "bounds"),
    [
        ("echo $$ > {told}; exec sleep 600", "seconds=600"),
        ("sleep 600 & echo $! > {told}; wait", "seconds=600, family=True"),
    ],
    ids=["it", "what it started"],
)
async def test_it_dies_with_the_service(tmp_path: Path, program: str, bounds: str) -> None:
    """`kill -9` of the service leaves no program behind that would write on."""
    told = tmp_path / "told"
    command = ["/bin/sh", "-c", program.format(told=told)]
    script = f"import asyncio; from kernel.confined import Bounds, run\nasyncio.run(run({command}, Bounds({bounds})))"
    service = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    async with asyncio.timeout(20):
        while not (told.exists() and told.read_text().strip()):
            await asyncio.sleep(0.01)
        left = psutil.Process(int(told.read_text()))
        service.kill()
        service.wait()
        with suppress(psutil.NoSuchProcess):
            while left.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)


# --- what goes in and out ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ended"),
    [("echo out; echo err >&2; exit 3", 3), ("kill -9 $$", -9), ("kill -6 $$", -6), ("kill -15 $$", -15)],
)
async def test_one_with_a_family_ends_like_any_other(code: str, ended: int) -> None:
    found = await shell(code, Bounds(seconds=20, family=True))
    assert found.code == ended
    assert (found.out, found.err) == ((b"out\n", "err") if ended == 3 else (b"", ""))
    assert (await shell("sleep 600 & exit 4", Bounds(seconds=20, family=True))).code == 4
    assert programs() == set()


async def test_its_outputs_are_read_to_the_end_and_kept_in_part() -> None:
    ended = await shell(f"head -c {3 * MIB} /dev/zero; head -c {3 * MIB} /dev/zero >&2")
    assert (ended.code, len(ended.out), len(ended.err)) == (0, MIB, MIB)


async def test_it_can_be_listened_to() -> None:
    heard: list[bytes] = []
    ended = await run(["/bin/sh", "-c", "echo a; echo b"], ROOMY, heard=heard.append)
    assert (b"".join(heard), ended.out) == (b"a\nb\n", b"")


async def test_it_can_be_told_something() -> None:
    text = b"x" * 3 * MIB
    assert (await run(["/usr/bin/wc", "-c"], ROOMY, feed=text)).out.strip() == str(len(text)).encode()
    assert (await run(["/bin/true"], ROOMY, feed=text)).code == 0


async def test_its_environment_is_nearly_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the service")
    ended = await shell("env; pwd")
    assert b"SECRET" not in ended.out
    assert ended.out.endswith(b"/\n")
    given = await run(["/usr/bin/env"], ROOMY, environment={"A": "b"})
    assert b"A=b" in given.out
    assert b"PATH" not in given.out


# --- walls that depend on the machine: where it has them, they hold ------------------------


async def test_no_network_is_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {port})) == 0)"
        offline, online = await python(code), await python(code, Bounds(seconds=20, offline=False))
    assert online.out == b"True\n"
    assert offline.out == (b"False\n" if "network" in walls() else b"True\n")


async def test_special_powers_are_given_up() -> None:
    """Root keeps reading and writing files; nobody keeps, or can gain, more."""
    ended = await shell("grep -E 'CapEff|NoNewPrivs' /proc/self/status")
    effective, no_new = (line.split()[1] for line in ended.out.decode().splitlines())
    assert int(effective, 16) & ~0b110 == 0
    assert no_new == "1"


async def test_other_files_are_out_of_reach(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).write_text(name)
    bounds = Bounds(seconds=20, reads=(tmp_path / "mine",), makes=tmp_path / "made")
    code = f"cd {tmp_path}; cat mine > made; cat other; echo x >> other; echo x > new; echo x >> mine; rm mine"
    ended = await shell(code, bounds)
    assert (tmp_path / "made").read_text() == "mine"
    if "files" in walls():
        assert ended.err.count("ermission denied") == 5
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            "mine": "mine",
            "other": "other",
            "made": "mine",
        }


async def test_what_it_makes_is_nobodys_yet(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.write_text("somebody's")
    ended = await shell("true", Bounds(seconds=20, makes=target))
    assert ended.code != 0
    assert target.read_text() == "somebody's"


async def test_whoever_has_no_powers_is_confined_in_a_namespace_of_his_own() -> None:
    """As ordinary accounts are; here it is a program that has given its powers up, and runs another."""
    inner = "import os; print(os.readlink('/proc/self/ns/net'), os.readlink('/proc/self/ns/user'))"
    outer = (
        "import asyncio, os, sys\n"
        "from kernel.confined import Bounds, run, walls\n"
        f"ended = asyncio.run(run([sys.executable, '-I', '-c', {inner!r}], Bounds(seconds=20)))\n"
        "print(ended.out.decode(), os.readlink('/proc/self/ns/net'), os.readlink('/proc/self/ns/user'), *walls())"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    ended = await run([sys.executable, "-P", "-c", outer], ROOMY, environment={"PYTHONPATH": paths})
    net, user, outer_net, outer_user, *offered = ended.out.decode().split()
    if "network" in offered:
        assert net != outer_net
        assert user != outer_user


def test_the_walls_of_this_machine_are_known() -> None:
    assert walls() <= {"network", "files"}
