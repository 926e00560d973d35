"""Drills: let a process die, or stop, at a mark that somebody chose.

With `ENTREPOT_DRILL=DIRECTORY` a process looks, at every mark, for the file
`DIRECTORY/armed` with `kill NAME` or `stop NAME` in it.  The one that finds its mark
there renames the file to `struck`, and sends itself SIGKILL or SIGSTOP.  Names of all
marks passed are kept in `DIRECTORY/passed`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from kernel import marks

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def install(directory: str | None = None) -> None:
    """Make this process part of a drill, if the environment says so."""
    place = directory or os.environ.get("ENTREPOT_DRILL")
    if place:
        marks.install(_striker(Path(place)))


def _striker(place: Path) -> Callable[[str], None]:
    passed: set[str] = set()

    def strike(name: str) -> None:
        if name not in passed:
            passed.add(name)
            with contextlib.suppress(OSError), (place / "passed").open("a") as file:
                file.write(f"{name}\n")
        try:
            order = (place / "armed").read_text().strip()
        except OSError:
            return
        verb, _, target = order.partition(" ")
        if target != name:
            return
        try:
            (place / "armed").rename(place / "struck")
        except OSError:
            return  # another process was first
        os.kill(os.getpid(), _SIGNALS[verb])

    return strike
