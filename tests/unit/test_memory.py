"""Giving memory back."""

from __future__ import annotations

import asyncio

import psutil

from ops.memory import give_back, keep_lean


def held() -> int:
    return int(psutil.Process().memory_info().rss)


def test_what_lies_in_gaps_goes_back_to_the_system() -> None:
    large, small = [], []
    for _ in range(500):
        large.append(b"x" * (100 << 10))
        small.append(b"x" * 1000)  # keeps the heap from shrinking at its end
    full = held()
    del large
    give_back()
    assert held() < full - (30 << 20)
    assert len(small) == 500


async def test_it_goes_on_until_told_to_stop() -> None:
    stop = asyncio.Event()
    keeping = asyncio.create_task(keep_lean(stop))
    await asyncio.sleep(0)
    assert not keeping.done()
    stop.set()
    await keeping
