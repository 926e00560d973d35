"""So many at once; others wait for their turn, unless too many wait already or it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from kernel.errors import Unavailable


class Turns:
    """A limit that bursts pass through.

    Whoever waits has sent little yet, and nothing has been recorded for him: a client
    whose data is not read is held up by its own connection.
    """

    def __init__(self, at_once: int, waiting: int, patience: float, what: str) -> None:
        """`patience` is in seconds; `what` is limited, in the plural."""
        self._free = asyncio.Semaphore(at_once)
        self._places = waiting
        self._patience = patience
        self._what = what

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn and take it; `Unavailable` when that is hopeless."""
        await self._wait()
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self) -> None:
        if self._free.locked() and not self._places:
            raise self._too_many()
        self._places -= 1
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            raise self._too_many() from None
        finally:
            self._places += 1

    def _too_many(self) -> Unavailable:
        return Unavailable(f"Too many {self._what} are being served; try again later")
