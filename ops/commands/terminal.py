"""What people and scripts see: results on stdout, progress and complaints on stderr.

Whatever others wrote (names, reasons, hosts) passes through `units.plain` on its way
to a terminal.  Progress bars appear on terminals only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ops.commands import units

_WIDE: Final = 240
"""Columns where there is no terminal whose width counts."""

Counted = Callable[[int, int], None]
"""Told how much is done, and of how much."""


class _Console(Console):
    """A console whose reader may leave when it has seen enough: that is no trouble."""

    def on_broken_pipe(self) -> None:
        _reader_left()


def _reader_left() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return _Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


out: Final = _console(stderr=False)
err: Final = _console(stderr=True)


def say(text: str = "", style: str | None = None) -> None:
    """A line of a result."""
    out.print(Text(text, style=style or ""), soft_wrap=True)


def note(text: str, style: str | None = "dim") -> None:
    """A line beside the result: what is going on."""
    err.print(Text(text, style=style or ""), soft_wrap=True)


def document(value: Any) -> None:
    """A result as JSON."""
    _print(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str))


def line(value: Any) -> None:
    """One of many results as JSON, on a line of its own, at once."""
    _print(orjson.dumps(value, default=str))


def _print(raw: bytes) -> None:
    try:
        print(raw.decode(), flush=True)
    except BrokenPipeError:
        _reader_left()


def table(*columns: str, right: tuple[str, ...] = (), loose: str | None = None) -> Table:
    """A table without frills; all columns but `loose` keep their text on one line."""
    made = Table(box=None, pad_edge=False, header_style="bold dim", show_edge=False)
    for name in columns:
        justify: Any = "right" if name in right else "left"
        made.add_column(name, no_wrap=name != loose, justify=justify, overflow="fold" if name == loose else "ellipsis")
    return made


def facts(*rows: tuple[str, str]) -> None:
    """What is known of one thing, a line each."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        out.print(Text(name.ljust(width), style="dim"), Text(units.plain(value)), soft_wrap=True)


# --- progress ----------------------------------------------------------------------------


class _Amount(ProgressColumn):
    """How much of how much."""

    def __init__(self, shown: Callable[[float], str]) -> None:
        super().__init__()
        self._shown = shown

    def render(self, task: Task) -> Text:
        total = f" / {self._shown(task.total)}" if task.total is not None else ""
        return Text(f"{self._shown(task.completed)}{total}", style="cyan")


class _Speed(ProgressColumn):
    """How fast: as measured here, unless whoever does the work has told."""

    def __init__(self, shown: Callable[[float], str]) -> None:
        super().__init__()
        self._shown = shown

    def render(self, task: Task) -> Text:
        told = task.fields.get("rate")
        speed = told if told is not None else task.finished_speed or task.speed
        return Text(self._shown(speed) if speed else "", style="green")


def bars(*, bytes_: bool = True) -> Progress:
    """Progress bars of bytes, or of events, which vanish in the end."""
    amount, speed = (units.size, units.rate) if bytes_ else (_number, _number_rate)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        _Amount(amount),
        _Speed(speed),
        TimeRemainingColumn(compact=True),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


@contextmanager
def bar(what: str, *, bytes_: bool = False) -> Iterator[Counted]:
    """One progress bar for as long as the block lasts."""
    with bars(bytes_=bytes_) as progress:
        task = progress.add_task(what, total=None)

        def moved(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield moved


def _number(count: float) -> str:
    return f"{count:,.0f}"


def _number_rate(count: float) -> str:
    return f"{count:,.0f}/s"
