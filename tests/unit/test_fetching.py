"""Going on with what a predecessor had fetched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernel.evolve import NOTHING
from kernel.extend import FetchRequest, ImportMethod, NoConfig, Opened
from kernel.fetching import Fetch, SourceChanged

DATA = bytes(range(100))


async def rest(offset: int) -> AsyncIterator[bytes]:
    yield DATA[offset:]


async def open_source(request: FetchRequest) -> Opened:
    return Opened(chunks=rest(request.offset), total=len(DATA), offset=request.offset, validator='"v1"')


METHOD = ImportMethod(name="m", options=NoConfig, needs="queued", open=open_source)


async def fetched(had: Path, held: int) -> bytes:
    request = FetchRequest(
        image=NOTHING, options={}, secrets={}, settings=None, stores={}, size_cap=1000, validator='"v1"'
    )
    fetch = Fetch(METHOD, request, had, held)
    await fetch.open()
    return b"".join([chunk async for chunk in fetch.chunks()])


async def test_what_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    had = tmp_path / "had"
    had.write_bytes(DATA[:60] + b"still being written")
    assert await fetched(had, 60) == DATA


async def test_a_predecessor_that_cleans_up_meanwhile_is_no_failure(tmp_path: Path) -> None:
    """It is not dead but was stopped, and wakes while the source is asked for the rest: from the beginning then."""
    had = tmp_path / "had"
    with pytest.raises(SourceChanged):
        await fetched(had, 60)
    had.write_bytes(DATA[:30])
    with pytest.raises(SourceChanged):
        await fetched(had, 60)
