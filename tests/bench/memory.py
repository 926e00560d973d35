"""Peak memory of process trees: proportional set sizes, so that what processes share counts once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

import psutil

_EVERY = 0.2
"""Seconds between two looks."""


class Peak:
    """Watches while something runs: `with Peak(pids) as peak: …; peak.mib`."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mib = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._pids:
            self.mib = max(self.mib, sum(map(_pss, self._pids)) / 2**20)
            if self._done.wait(_EVERY):
                return


def _pss(pid: int) -> int:
    """Bytes of a process and its children, without a database among them."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                if "postgres" not in one.name():
                    total += one.memory_full_info().pss
    return total
