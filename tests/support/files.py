"""File stores for tests, and system calls that refuse or do not return."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kernel.extend import StoreSite
from stores.file import FileConfig, FileStore
from tests.support.stores import DEADLINE


async def file_store(datadir: Path, **options: Any) -> FileStore:
    """A file store in a directory, of a deployment of its own."""
    config = FileConfig(filesystem_store_datadir=datadir, **options)
    return await FileStore.connect(config, StoreSite(name="one", deployment=uuid4()))


class Held:
    """A system call that does not return before the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._entered, self._go = threading.Event(), threading.Event()
        self.calls = 0
        real: Callable[..., Any] = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            self._entered.set()
            assert self._go.wait(DEADLINE)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)
        self.release = self._go.set

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, DEADLINE)


def refusing(number: int) -> Callable[..., Any]:
    """A system call that is always refused."""

    def call(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call
