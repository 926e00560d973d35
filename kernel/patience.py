"""Waiting for something that is away to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kernel.errors import Unavailable

T = TypeVar("T")


async def patiently(attempt: Callable[[], Awaitable[T]], longest: float = 1.0) -> T:
    """Try until the database answers, pausing a little longer each time, up to `longest` seconds."""
    pause = 0.05
    while True:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)
