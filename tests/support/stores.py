"""What the store suites share: every driver there is, places to keep bytes, sources that behave or do not."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Awaitable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID, uuid4

import stores
from kernel.extend import Store, StoreDriver, StoreSite
from tests.support import memory_store
from tests.support.services import provide

T = TypeVar("T")

DEADLINE = 20.0
"""Seconds after which a test that waits has failed."""


def discovered() -> list[StoreDriver]:
    """Every driver in `stores/` that can test itself, and the memory store."""
    found = [memory_store.EXTENSION]
    for module in pkgutil.iter_modules(stores.__path__):
        extension = getattr(importlib.import_module(f"stores.{module.name}"), "EXTENSION", None)
        if isinstance(extension, StoreDriver) and extension.selftest is not None:
            found.append(extension)
    return found


def having(power: type[Any]) -> list[StoreDriver]:
    """Those drivers whose stores can do what an extra Protocol of `kernel/extend/` describes."""

    async def able(driver: StoreDriver) -> bool:
        with TemporaryDirectory() as directory:
            store = await connected(driver, Path(directory))
            await store.close()
            return isinstance(store, power)

    return [driver for driver in discovered() if asyncio.run(able(driver))]


async def connected(driver: StoreDriver, directory: Path, deployment: UUID | None = None) -> Store:
    """A store of this kind as its `selftest` has it, with everything made durable."""
    assert driver.selftest is not None
    if driver.selftest_needs is not None:
        provide(driver.selftest_needs)
    site = StoreSite(name="one", deployment=deployment or uuid4())
    return await driver.connect(driver.selftest(directory), site)


def a_name(image: str | None = None, step: str = "data", epoch: int = 1) -> str:
    """A name as the kernel gives them."""
    return f"{image or uuid4()}/{uuid4()}/{step}.{epoch}"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """A source that delivers these parts and ends."""
    for part in parts:
        yield part


async def failing(error: Exception, *parts: bytes) -> AsyncIterator[bytes]:
    """A source that breaks after these parts."""
    for part in parts:
        yield part
    raise error


class Stuck:
    """A source that delivers its parts, says so, and then never goes on."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.reached = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        self.reached.set()
        await asyncio.Event().wait()


async def within(awaitable: Awaitable[T]) -> T:
    """What is waited for, or a failed test."""
    async with asyncio.timeout(DEADLINE):
        return await awaitable


async def turns(count: int) -> None:
    """Let the event loop go round so many times."""
    for _ in range(count):
        turn = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(turn.set_result, None)
        await turn


async def everything(source: AsyncIterator[bytes]) -> bytes:
    """All bytes of a source."""
    return b"".join([chunk async for chunk in source])


async def digest(source: AsyncIterator[bytes]) -> str:
    """What a source delivers, told apart without keeping it."""
    seen = sha256()
    async for chunk in source:
        seen.update(chunk)
    return seen.hexdigest()


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a directory, to compare two moments: mode, and for files time of change and content."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes())
        if path.is_file()
        else (path.lstat().st_mode, 0, b"")
        for path in sorted(directory.rglob("*"))
    }
