"""The command line as scripts meet it: a process, its two outputs, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pytest
import structlog

from ops.cli import main
from ops.commands import terminal

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
"""Seconds after which a command that does not end has failed."""

OK, TROUBLE, USAGE, DIFFERENCE, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [orjson.loads(line) for line in self.out.splitlines()]

    def ended(self, code: int) -> Ran:
        """The same, if this was the exit code; nobody ever sees a traceback."""
        assert self.code == code, f"exit code {self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err
        return self

    def refused(self, code: int = TROUBLE) -> str:
        """The one line on stderr that says why nothing was done."""
        self.ended(code)
        (line,) = self.err.strip().splitlines()
        assert line.startswith("entrepot: ")
        assert self.out == ""
        return line.removeprefix("entrepot: ")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ops.cli", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """Ours, without what a developer has set for himself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENTREPOT_", "OS_"))}
    return {**kept, **more}


def entrepot(*arguments: object, stdout: int = subprocess.PIPE, **variables: str) -> Ran:
    """Run a command to its end."""
    done = subprocess.run(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
        env=environment(**variables),
        cwd=CHECKOUT,
    )
    return Ran(done.returncode, done.stdout or "", done.stderr)


@contextlib.contextmanager
def logging_of_its_own() -> Iterator[None]:
    """What a command makes of logging, to streams that end with it, stays with it."""
    before = structlog.get_config(), logging.lastResort
    try:
        yield
    finally:
        structlog.configure(**before[0])
        logging.lastResort = before[1]


def here(*arguments: object, **variables: str) -> Ran:
    """The same command inside this process: for variations of what was run for real, as starting takes longest."""
    out, err = io.StringIO(), io.StringIO()
    terminal.out.width = terminal.err.width = 240
    with (
        logging_of_its_own(),
        mock.patch.object(sys, "argv", ["entrepot", *map(str, arguments)]),
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main()
    assert isinstance(left.value.code, int)
    return Ran(left.value.code, out.getvalue(), err.getvalue())


async def started(*arguments: object, **variables: str) -> Process:
    """A command that goes on while the test does something else."""
    return await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=environment(**variables),
        cwd=CHECKOUT,
    )


async def ended(process: Process) -> Ran:
    """A started command, at its end."""
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def line_with(stream: asyncio.StreamReader | None, text: str) -> str:
    """The next line that holds a text."""
    assert stream is not None
    async with asyncio.timeout(DEADLINE):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"it ended without saying '{text}'")
