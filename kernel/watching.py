"""Doing something long while staying ready to drop it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from kernel.errors import StoreError
from kernel.leases import Lease

T = TypeVar("T")

_GRACE: Final = 5.0
"""Seconds that something cancelled gets to clean up before it is left to itself."""


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and give it a moment to clean up."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
    if task.done() and not task.cancelled():
        task.exception()  # seen, and of no interest any more


async def watched(lease: Lease, work: Coroutine[Any, Any, T], check: Callable[[], Awaitable[None]]) -> T:
    """Run `work`; each time the lease's holder is to look up, `check` decides by raising whether to drop it."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            watch = asyncio.create_task(lease.watch.wait())
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            watch.cancel()
            if not task.done():
                lease.watch.clear()
                await check()
        return await task
    finally:
        await cancelled(task)


async def timely(work: Awaitable[T], limit: float, store: str) -> T:
    """What a store is asked for, or a `StoreError` after `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError:
        raise StoreError(store, f"there was no answer for {limit:g} s") from None


async def steady(chunks: AsyncIterator[bytes], limit: float, store: str) -> AsyncIterator[bytes]:
    """The same chunks, as a store sends them; a `StoreError` when none comes for `limit` seconds."""
    while (chunk := await timely(anext(chunks, None), limit, store)) is not None:
        yield chunk


class Pace:
    """Notices when something that ought to move stands still."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def moved(self) -> None:
        self._last = time.monotonic()

    async def count(self, chunks: AsyncIterator[bytes], progress: Callable[[int], None]) -> AsyncIterator[bytes]:
        """The same chunks; each one asked for and each one delivered is a sign of life."""
        done = 0
        async for chunk in chunks:
            self.moved()
            yield chunk
            done += len(chunk)
            progress(done)
            self.moved()

    async def feed(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same chunks for a writer whose source may take its time: only while it has a chunk does time pass."""
        self._last = math.inf
        async for chunk in chunks:
            self.moved()
            yield chunk
            self._last = math.inf
        self.moved()

    async def supervise(self, work: Coroutine[Any, Any, T], limit: float) -> T:
        """Run `work`; `TimeoutError` once nothing has moved for `limit` seconds."""
        self.moved()
        task = asyncio.create_task(work)
        try:
            while not task.done():
                left = self._last + limit - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait({task}, timeout=min(left, limit))
            return await task
        finally:
            await cancelled(task)
