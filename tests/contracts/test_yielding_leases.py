"""A lease for clean-up gives way to real work, and is never mistaken for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kernel.errors import Fenced, LeaseHeld
from kernel.ids import new_id
from kernel.recorded import IMAGE
from tests.support.logs import Bench, MemoryBench, postgres_bench, request, taking

ME = new_id()


@pytest.fixture(params=["memory", "postgres"])
def where(request: pytest.FixtureRequest) -> str | None:
    """A database to keep the log in, or none."""
    return request.getfixturevalue("dsn") if request.param == "postgres" else None


@pytest.fixture
async def bench(where: str | None) -> AsyncIterator[Bench]:
    if where is None:
        yield MemoryBench()
        return
    async with postgres_bench(where) as made:
        yield made


@pytest.mark.parametrize("first", [True, False])
async def test_a_clean_up_and_real_work_of_one_process_never_share_an_epoch(bench: Bench, first: bool) -> None:
    """Both had seen the same state: the second is refused, or giving its lease back would take the other's."""
    stream = new_id()
    await bench.log.append(taking(stream, 1, ME, yielding=first))
    with pytest.raises(LeaseHeld):
        await bench.log.append(taking(stream, 1, ME, yielding=not first))
    await bench.log.append(taking(stream, 1, ME, yielding=first))


async def test_real_work_that_has_seen_the_clean_up_fences_it(bench: Bench) -> None:
    stream = new_id()
    await bench.log.append(taking(stream, 1, ME, yielding=True))
    await bench.log.append(taking(stream, 2, ME))
    late = {"category": IMAGE, "expected": 0, "holder": ME, "epoch": 1}
    with pytest.raises(Fenced):
        await bench.log.append(request(stream, **late))
