"""Limits that bursts pass through."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kernel.errors import Unavailable
from kernel.turns import Turns


class Customer:
    """Somebody who takes a turn and keeps it until told to leave."""

    def __init__(self, turns: Turns, came: list[Customer]) -> None:
        self._turns, self._came = turns, came
        self._leave = asyncio.Event()
        self.visit = asyncio.create_task(self._visit())

    async def _visit(self) -> None:
        async with self._turns.turn():
            self._came.append(self)
            await self._leave.wait()

    async def gone(self) -> None:
        self._leave.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self.visit


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def turns(at_once: int = 1, waiting: int = 2, patience: float = 60) -> Turns:
    return Turns(at_once, waiting, patience, "guests")


async def test_so_many_at_once_and_the_others_in_the_order_in_which_they_came() -> None:
    limit, came = turns(at_once=2), list[Customer]()
    guests = [Customer(limit, came) for _ in range(4)]
    await settle()
    assert came == guests[:2]
    await guests[1].gone()
    await settle()
    assert came == guests[:3]
    for guest in guests:
        await guest.gone()
    assert came == guests


async def test_whoever_would_wait_behind_too_many_is_sent_away_at_once() -> None:
    limit, came = turns(), list[Customer]()
    guests = [Customer(limit, came) for _ in range(3)]
    await settle()
    with pytest.raises(Unavailable, match="Too many guests are being served"):
        async with limit.turn():
            raise AssertionError
    for guest in guests:
        await guest.gone()
    assert came == guests


async def test_nobody_waits_for_ever() -> None:
    limit, came = turns(patience=0.01), list[Customer]()
    first = Customer(limit, came)
    await settle()
    with pytest.raises(Unavailable):
        async with limit.turn():
            raise AssertionError
    await first.gone()
    async with limit.turn():  # and the turn that was not taken is nobody's
        pass


async def test_whoever_leaves_while_he_waits_keeps_no_place() -> None:
    limit, came = turns(waiting=1), list[Customer]()
    first, second = Customer(limit, came), Customer(limit, came)
    await settle()
    second.visit.cancel()
    await settle()
    third = Customer(limit, came)
    await settle()
    await first.gone()
    await settle()
    assert came == [first, third]
    await third.gone()


async def test_without_places_to_wait_a_free_turn_is_still_taken() -> None:
    async with turns(waiting=0).turn():
        pass
