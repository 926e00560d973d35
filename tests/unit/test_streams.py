"""One pass over the bytes, by as many consumers as there are, none of which holds up the others for good."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterable

import pytest

from kernel.errors import Invalid, TooLarge
from kernel.streams import CHUNK, Intake, digest, rechunk, shown

DATA = bytes(range(256)) * 40_000
"""Not quite ten chunks."""


async def parts(sizes: Iterable[int], data: bytes = DATA) -> AsyncIterator[bytes]:
    """The data in parts of these sizes, and then the rest."""
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


def intake(source: AsyncIterator[bytes], **more: object) -> Intake:
    return Intake(source, **{"algorithm": "sha512", "cap": 1 << 40, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(), (1,), (CHUNK,), (CHUNK - 1, 1, 1), (7,) * 1000, (3 * CHUNK, 5)])
async def test_the_digests_are_those_of_the_whole_however_it_arrives(sizes: tuple[int, ...]) -> None:
    size, digests, _ = await digest(parts(sizes), "sha512")
    assert size == len(DATA)
    assert (digests.md5, digests.value) == (hashlib.md5(DATA).hexdigest(), hashlib.sha512(DATA).hexdigest())


async def test_small_parts_are_put_together_and_large_ones_left_alone() -> None:
    large = bytes(2 * CHUNK)
    (piece,) = [piece async for piece in rechunk(parts((), large))]
    assert piece == large
    pieces = [len(piece) async for piece in rechunk(parts((CHUNK // 4,) * 6, large))]
    assert (pieces[0], sum(pieces)) == (CHUNK, len(large))


async def test_whoever_is_shown_the_data_sees_all_of_it_in_a_thread() -> None:
    seen, threads = hashlib.sha512(), set()

    def eat(chunk: bytes) -> None:
        threads.add(threading.current_thread())
        seen.update(chunk)

    passed = b"".join([chunk async for chunk in shown(parts((1, CHUNK, 0, 7)), eat)])
    assert passed == DATA
    assert seen.digest() == hashlib.sha512(DATA).digest()
    assert threading.current_thread() not in threads


async def test_many_streams_at_once_go_in_smaller_chunks() -> None:
    """What they hold together is little more than what a few hold."""

    def source() -> AsyncIterator[bytes]:
        return parts((16 << 10,) * 600)

    streams = [aiter(intake(source())) for _ in range(128)]
    for stream in streams:
        await anext(stream)
    assert sum([len(await anext(stream)) for stream in streams]) <= 16 << 20
    for stream in streams[1:]:
        await stream.aclose()
    assert len(await anext(streams[0])) == CHUNK
    await streams[0].aclose()


async def test_streams_without_end_leave_others_their_turn() -> None:
    """Even when they keep every thread busy."""
    eaten = 0

    async def endless() -> AsyncIterator[bytes]:
        chunk = bytes(16 * CHUNK)  # so long that the next one is always there in time
        while True:
            yield chunk
            await asyncio.sleep(0)

    def eat(chunk: bytes) -> None:
        nonlocal eaten
        eaten += 1
        hashlib.sha512(chunk)

    async def drain() -> None:
        async for _ in shown(endless(), eat):
            pass

    others = [asyncio.create_task(drain()) for _ in range(8)]
    while eaten < 32:
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        size, _, _ = await digest(parts(()), "sha512")
    assert size == len(DATA)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def test_whoever_falls_behind_holds_the_source_up() -> None:
    """A few chunks wait for the slowest consumer, not the whole image."""
    may, handed = threading.Event(), 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal handed
        for _ in range(50):
            handed += 1
            yield bytes(CHUNK)

    def hold(chunk: bytes) -> None:
        assert may.wait(30)

    taken = intake(source(), also=hold)
    reading = asyncio.create_task(_drain(taken))
    stuck, before = 0, -1
    while stuck < 50:  # until nothing has moved for many turns of the loop
        await asyncio.sleep(0)
        stuck, before = (stuck + 1, before) if handed == before else (0, handed)
    assert handed < 10
    may.set()
    await reading
    assert taken.size == 50 * CHUNK


async def test_a_consumer_that_fails_fails_the_stream() -> None:
    def refuse(chunk: bytes) -> None:
        raise ValueError("not this")

    with pytest.raises(ValueError, match="not this"):
        await _drain(intake(parts((CHUNK,) * 5), also=refuse))


async def test_sources_that_stand_still_hold_no_thread() -> None:
    """Many clients may send nothing for a while; others are served meanwhile."""
    still = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(CHUNK)
        await still.wait()
        yield b"end"

    waiting = [asyncio.create_task(_drain(intake(slow()))) for _ in range(30)]
    async with asyncio.timeout(30):
        size, _, _ = await digest(parts(()), "sha512")
    assert size == len(DATA)
    still.set()
    await asyncio.gather(*waiting)


async def test_a_stream_given_up_in_the_middle_leaves_no_consumer_at_work() -> None:
    seen = 0

    def count(chunk: bytes) -> None:
        nonlocal seen
        seen += 1

    stream = aiter(intake(parts((CHUNK,) * 8), also=count))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    before = seen
    await asyncio.sleep(0)
    assert seen == before <= 1


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"cap": 5}, TooLarge), ({"declared": 5}, Invalid), ({"declared": len(DATA) + 1}, Invalid)],
)
async def test_sizes_are_held_to_what_was_said(limits: dict[str, int], error: type[Exception]) -> None:
    with pytest.raises(error):
        await _drain(intake(parts((CHUNK,)), **limits))


async def _drain(stream: Intake) -> None:
    async for _ in stream:
        pass
