"""What every store driver promises.  A driver with a `selftest` is held to it without being named here."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from kernel.errors import BlobMissing, Corrupt, StoreError, StoreReadOnly
from kernel.extend import Leftover, Store, StoreDriver
from tests.support.stores import (
    Stuck,
    a_name,
    chunks,
    connected,
    digest,
    discovered,
    everything,
    failing,
    turns,
    within,
)

MIB = 1 << 20
DRIVERS = discovered()
HOSTILE = [
    "",
    "/",
    "..",
    "a",
    "a/b",
    "a/b/c",
    "a/b/c.d",
    "a/b/c.1/d",
    "a/b/.1",
    "a//c.1",
    "/a/b/c.1",
    "../b/c.1",
    "a/../c.1",
    "a/b/../../../etc/passwd.1",
    "a/.b/c.1",
    "a/b/c.1\n",
    "a/b/c.1.part",
    "a/b@x/c.1",
    "a/b\\x/c.1",
    "a/b\0/c.1",
    "a/b/ü.1",
    "a/b/c.١",  # an Arabic digit: a digit to a careless pattern
    f"a/b/{'c' * 250}.1",
]


@pytest.fixture(params=[driver for driver in DRIVERS if not driver.read_only], ids=lambda driver: driver.name)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A fresh store of every kind that can be written."""
    opened = await connected(request.param, tmp_path)
    yield opened
    await opened.close()


async def mebibytes(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield number.to_bytes(4) * (MIB // 4)


def test_every_driver_in_the_box_is_held_to_the_contract() -> None:
    assert {"file", "http", "memory", "s3"} <= {driver.name for driver in DRIVERS}
    assert len({driver.name for driver in DRIVERS}) == len(DRIVERS)


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver.read_only], ids=lambda driver: driver.name)
async def test_a_read_only_driver_refuses_writes_and_has_nothing_to_clean_up(
    driver: StoreDriver, tmp_path: Path
) -> None:
    store = await connected(driver, tmp_path)
    with pytest.raises(StoreReadOnly):
        await store.put(a_name(), chunks(b"x"))
    assert list(await store.leftovers("")) == []
    await store.remove(a_name())
    for scheme in driver.schemes:
        await store.delete(f"{scheme}://example.org/image")
    await store.close()


async def test_what_was_put_can_be_read(store: Store) -> None:
    stored = await store.put(a_name(), chunks(b"one ", b"two ", b"three"), size=13)
    assert stored.size == 13
    assert await everything(store.read(stored.url)) == b"one two three"
    assert await store.size(stored.url) == 13


async def test_the_size_need_not_be_known_before(store: Store) -> None:
    stored = await store.put(a_name(), chunks(b"some", b"", b"thing"))
    assert stored.size == await store.size(stored.url) == 9


@pytest.mark.parametrize("parts", [(), (b"",), (b"", b"")])
async def test_no_data_is_data_too(store: Store, parts: tuple[bytes, ...]) -> None:
    stored = await store.put(a_name(), chunks(*parts))
    assert stored.size == await store.size(stored.url) == 0
    assert await everything(store.read(stored.url)) == b""


async def test_a_large_stream_goes_through_in_little_memory(store: Store) -> None:
    tracemalloc.start()
    try:
        stored = await store.put(a_name(), mebibytes(40))
        held, peak = tracemalloc.get_traced_memory()
        assert peak - held < 12 * MIB
        tracemalloc.reset_peak()
        assert await digest(store.read(stored.url)) == await digest(mebibytes(40))
        held, peak = tracemalloc.get_traced_memory()
        assert peak - held < 12 * MIB
    finally:
        tracemalloc.stop()
    assert stored.size == 40 * MIB


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, None), (0, 0), (0, 1), (1, None), (7, 5), (MIB - 1, 2), (MIB, MIB), (2 * MIB, 3), (2 * MIB, 9), (17, 9 * MIB)],
)
async def test_a_range_is_exactly_that_range(store: Store, offset: int, length: int | None) -> None:
    data = bytes(range(256)) * (MIB // 128) + b"end"
    stored = await store.put(a_name(), chunks(data[: MIB + 5], data[MIB + 5 :]))
    wanted = data[offset:] if length is None else data[offset : offset + length]
    assert await everything(store.read(stored.url, offset, length)) == wanted


async def test_from_the_very_end_there_is_nothing_and_beyond_it_no_object(store: Store) -> None:
    stored = await store.put(a_name(), chunks(b"12345"))
    assert await everything(store.read(stored.url, 5)) == b""
    with pytest.raises(BlobMissing):
        await everything(store.read(stored.url, 6))


async def test_a_reader_may_leave_early(store: Store) -> None:
    stored = await store.put(a_name(), mebibytes(3))
    async for chunk in store.read(stored.url):
        assert chunk
        break
    await store.delete(stored.url)


async def test_bytes_that_are_gone_are_said_to_be_gone(store: Store) -> None:
    stored = await store.put(a_name(), chunks(b"x"))
    await store.delete(stored.url)
    with pytest.raises(BlobMissing, match="one"):
        await everything(store.read(stored.url))
    with pytest.raises(BlobMissing):
        await everything(store.read(stored.url, 0, 0))
    with pytest.raises(BlobMissing):
        await store.size(stored.url)


async def test_deleting_or_removing_twice_is_quiet(store: Store) -> None:
    name = a_name()
    stored = await store.put(name, chunks(b"x"))
    await store.delete(stored.url)
    await store.delete(stored.url)
    await store.remove(name)
    await store.remove(a_name())


async def test_no_write_replaces_another(store: Store) -> None:
    name = a_name()
    stored = await store.put(name, chunks(b"first"))
    with pytest.raises(StoreError):
        await store.put(name, chunks(b"second"))
    assert await everything(store.read(stored.url)) == b"first"


async def test_of_two_writers_of_one_name_the_first_wins(store: Store) -> None:
    name, slow = a_name(), Stuck(b"half of the first")
    first = asyncio.create_task(store.put(name, aiter(slow)))
    await within(slow.reached.wait())
    with pytest.raises(StoreError):
        await store.put(name, chunks(b"second"))
    assert [found.name for found in await store.leftovers(name)] == [name]
    first.cancel()
    await within(asyncio.wait({first}))
    stored = await store.put(name, chunks(b"third"))
    assert await everything(store.read(stored.url)) == b"third"


async def test_many_may_write_at_once(store: Store) -> None:
    image = "7d3f0c1a-0000-4000-8000-0000000000aB"
    texts = [f"writer {number} ".encode() * (MIB // 8) for number in range(12)]
    stored = await within(asyncio.gather(*(store.put(a_name(image), chunks(text, text)) for text in texts)))
    assert len({one.url for one in stored}) == len(texts)
    for one, text in zip(stored, texts, strict=True):
        assert await everything(store.read(one.url)) == text * 2


@pytest.mark.parametrize("parts", [0, 1, 5])
async def test_a_cancelled_write_leaves_nothing(store: Store, parts: int) -> None:
    source = Stuck(*[b"x" * MIB] * parts)
    writing = asyncio.create_task(store.put(a_name(), aiter(source)))
    await within(source.reached.wait())
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(writing)
    assert list(await store.leftovers("")) == []


async def test_a_write_can_be_cancelled_at_any_moment(store: Store) -> None:
    for count in range(60):
        writing = asyncio.create_task(store.put(a_name(), mebibytes(2)))
        await turns(count)
        writing.cancel()
        await within(asyncio.wait({writing}))
        if writing.cancelled():
            assert list(await store.leftovers("")) == []
        else:
            await store.delete(writing.result().url)


@pytest.mark.parametrize("parts", [(), (b"x",), (b"x" * MIB,) * 5])
async def test_a_failing_source_stores_nothing(store: Store, parts: tuple[bytes, ...]) -> None:
    error = OSError(28, "the source's own trouble")
    with pytest.raises(OSError, match="own trouble") as caught:
        await store.put(a_name(), failing(error, *parts))
    assert caught.value is error
    assert list(await store.leftovers("")) == []


@pytest.mark.parametrize("announced", [0, 4, 6])
async def test_a_source_of_another_length_than_announced_stores_nothing(store: Store, announced: int) -> None:
    with pytest.raises(Corrupt):
        await store.put(a_name(), chunks(b"12345"), size=announced)
    assert list(await store.leftovers("")) == []


async def test_leftovers_are_the_names_below_a_prefix_and_can_be_removed(store: Store) -> None:
    image, other = "7d3f0c1a-0000-4000-8000-00000000000a", "7d3f0c1a-0000-4000-8000-00000000010a"
    attempt = f"{image}/0b1c2d3e-0000-7000-8000-000000000001"
    mine = [f"{attempt}/fetch.2", f"{attempt}/store-one.10"]
    for name in mine:
        await store.put(name, chunks(b"x"))
    foreign = a_name(other)
    kept = await store.put(foreign, chunks(b"kept"))
    half, source = f"{attempt}/convert.10", Stuck(b"half")
    writing = asyncio.create_task(store.put(half, aiter(source)))
    await within(source.reached.wait())

    expected = [Leftover(half, 10), Leftover(mine[0], 2), Leftover(mine[1], 10)]
    for prefix in (image, f"{image}/", attempt, f"{attempt}/"):
        assert sorted(await store.leftovers(prefix), key=lambda found: found.name) == expected
    assert {found.name for found in await store.leftovers("")} == {*mine, half, foreign}
    assert list(await store.leftovers("../")) == []

    for found in expected:
        await store.remove(found.name)
    assert list(await store.leftovers(image)) == []
    writing.cancel()
    await within(asyncio.wait({writing}))
    assert await everything(store.read(kept.url)) == b"kept"


async def test_a_writer_whose_name_was_removed_meanwhile_does_not_bring_it_back(store: Store) -> None:
    name, go = a_name(), asyncio.Event()
    reached = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        reached.set()
        await go.wait()

    writing = asyncio.create_task(store.put(name, source()))
    await within(reached.wait())
    await store.remove(name)
    go.set()
    with pytest.raises(StoreError):
        await within(writing)
    assert list(await store.leftovers("")) == []


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_that_is_not_ours_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError):
        await store.put(name, chunks(b"x"))
    with pytest.raises(StoreError):
        await store.remove(name)
    assert list(await store.leftovers("")) == []


async def test_a_location_elsewhere_is_not_touched(store: Store) -> None:
    for url in ("file:///etc/passwd", "memory://another/a/b/c.1", "nonsense", ""):
        with pytest.raises(StoreError):
            await store.delete(url)
        with pytest.raises(StoreError):
            await everything(store.read(url))


async def test_a_store_finds_its_bytes_after_a_restart(tmp_path: Path) -> None:
    for driver in DRIVERS:
        if not driver.read_only:
            await _restart(driver, tmp_path / driver.name)


async def _restart(driver: StoreDriver, directory: Path) -> None:
    deployment, name = uuid4(), a_name()
    before = await connected(driver, directory, deployment)
    stored = await before.put(name, chunks(b"still here"))
    await before.close()
    after = await connected(driver, directory, deployment)
    assert await everything(after.read(stored.url)) == b"still here"
    assert [found.name for found in await after.leftovers("")] == [name]
    await after.delete(stored.url)
    await after.close()
