"""The s3 store against a running service: parts, rivals, cancellation, outages, and what is none of its business."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from kernel import errors
from stores import _s3_client, _s3_upload
from stores._s3_client import Bucket
from stores.s3 import S3Store
from tests.support.line import line
from tests.support.s3 import MIB, address, intercept, raw_bucket, requests_of, s3_config, s3_store
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY
from tests.support.stores import Stuck, a_name, chunks, digest, everything, within

PART = 5 * MIB


@pytest.fixture
async def store() -> AsyncIterator[S3Store]:
    made = await s3_store()
    yield made
    await made.close()


@pytest.fixture
async def bucket() -> AsyncIterator[Bucket]:
    async with raw_bucket() as found:
        yield found


async def bytes_of(size: int, piece: int = 300_000) -> AsyncIterator[bytes]:
    """So many bytes, no two pieces alike, in pieces that fit no part."""
    for at in range(0, size, piece):
        seed = hashlib.sha256(at.to_bytes(8)).digest()
        yield (seed * (piece // 32 + 1))[: min(piece, size - at)]


def key_of(url: str) -> str:
    return url.split("/", 3)[3]


# --- one request or many -------------------------------------------------------------------


@pytest.mark.parametrize(("size", "parts"), [(PART - 1, 1), (PART, 1), (PART + 1, 2), (3 * PART, 3), (3 * PART + 7, 4)])
@pytest.mark.parametrize("announced", [True, False])
async def test_parts_end_where_they_should(
    store: S3Store, bucket: Bucket, size: int, parts: int, announced: bool
) -> None:
    stored = await store.put(a_name(), bytes_of(size), size if announced else None)
    assert stored.size == await store.size(stored.url) == size
    assert stored.md5 is None
    assert await digest(store.read(stored.url)) == await digest(bytes_of(size))
    found = await bucket.head(key_of(stored.url))
    assert found is not None
    assert found["ETag"].strip('"').endswith(f"-{parts}")


async def test_small_data_of_known_size_takes_one_request_and_its_md5_is_known(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = requests_of(monkeypatch)
    for data in (b"", b"x", b"x" * (MIB - 1)):
        stored = await store.put(a_name(), chunks(data[:7], data[7:]), len(data))
        assert stored.md5 == hashlib.md5(data).hexdigest()
        assert seen == ["put_object"]
        assert await everything(store.read(stored.url)) == data
        seen.clear()


@pytest.mark.parametrize("piece", [777, 11 * PART])
async def test_the_shape_of_the_source_does_not_matter(store: S3Store, piece: int) -> None:
    size = 2 * PART + 3
    stored = await store.put(a_name(), bytes_of(size, piece))
    assert await digest(store.read(stored.url)) == await digest(bytes_of(size, piece))


async def test_parts_go_out_at_once_but_never_more_than_the_operator_wants(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    three, at_once, most = asyncio.Event(), 0, 0

    async def count(operation: str, go_on: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal at_once, most
        if operation != "upload_part":
            return await go_on()
        at_once += 1
        most = max(most, at_once)
        if at_once == 3:
            three.set()
        await within(three.wait())
        try:
            return await go_on()
        finally:
            at_once -= 1

    intercept(monkeypatch, count)
    await store.put(a_name(), bytes_of(8 * PART))
    assert most == 3


async def test_data_of_unknown_length_comes_in_ever_larger_parts_until_there_are_no_more(
    store: S3Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_s3_upload, "_DOUBLING", 1)
    monkeypatch.setattr(_s3_upload, "_MOST_PARTS", 3)
    stored = await store.put(a_name(), bytes_of(7 * PART))
    found = await bucket.head(key_of(stored.url))
    assert found is not None
    assert found["ETag"].strip('"').endswith("-3")
    name = a_name()
    with pytest.raises(errors.StoreFull, match="s3_store_large_object_chunk_size"):
        await store.put(name, bytes_of(7 * PART + 1))
    assert list(await store.leftovers(name)) == []


async def test_announced_data_comes_in_parts_that_are_large_enough(
    store: S3Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_s3_upload, "_MOST_PARTS", 2)
    stored = await store.put(a_name(), bytes_of(3 * PART + 1), 3 * PART + 1)
    found = await bucket.head(key_of(stored.url))
    assert found is not None
    assert found["ETag"].strip('"').endswith("-2")


@pytest.mark.parametrize("announced", [2 * PART - 1, 2 * PART + 1])
async def test_large_data_of_another_length_than_announced_leaves_nothing(store: S3Store, announced: int) -> None:
    with pytest.raises(errors.Corrupt):
        await store.put(a_name(), bytes_of(2 * PART), announced)
    assert list(await store.leftovers("")) == []


async def test_a_large_write_holds_no_more_than_64_mib() -> None:
    store = await s3_store(s3_store_large_object_size=100, s3_store_large_object_chunk_size=10)
    await store.put(a_name(), bytes_of(PART))  # what is loaded once is not this write's
    tracemalloc.start()
    try:
        stored = await store.put(a_name(), bytes_of(256 * MIB, MIB))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stored.size == 256 * MIB
    assert held < 4 * MIB
    assert peak < 68 * MIB
    await store.delete(stored.url)
    await store.close()


async def test_ranges_cross_parts(store: S3Store) -> None:
    size = 2 * PART + 9
    data = await everything(bytes_of(size))
    stored = await store.put(a_name(), bytes_of(size))
    for offset, length in [(PART - 1, 2), (PART, 1), (PART + 3, None), (1, 2 * PART), (size - 1, 9), (size, 9)]:
        wanted = data[offset:] if length is None else data[offset : offset + length]
        assert await everything(store.read(stored.url, offset, length)) == wanted


# --- rivals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_name_is_written_once_whether_the_service_helps_or_not(
    store: S3Store, conditional: bool, announced: bool
) -> None:
    assert store._bucket.conditional
    store._bucket.conditional = conditional
    name = a_name()
    stored = await store.put(name, chunks(b"first"), 5 if announced else None)
    for size in (6, None):
        with pytest.raises(errors.BlobExists):
            await store.put(name, chunks(b"second"), size)
    assert await everything(store.read(stored.url)) == b"first"
    assert [found.name for found in await store.leftovers("")] == [name]


@pytest.mark.parametrize("announced", [True, False])
async def test_of_many_writers_of_one_name_exactly_one_wins(store: S3Store, announced: bool) -> None:
    name = a_name()
    texts = [f"writer {number}".encode() for number in range(8)]
    writing = (store.put(name, chunks(text), len(text) if announced else None) for text in texts)
    results = await within(asyncio.gather(*writing, return_exceptions=True))
    winners = [text for text, result in zip(texts, results, strict=True) if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert {type(result) for result in results if isinstance(result, BaseException)} == {errors.BlobExists}
    assert await everything(store.read(f"{store._url}{store._root}{name}")) == winners[0]
    await store.remove(name)
    assert list(await store.leftovers("")) == []


async def test_an_upload_that_a_successor_aborted_never_becomes_an_object(store: S3Store) -> None:
    name, source, go = a_name(), asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * (PART + 1)
        source.set()
        await go.wait()

    writing = asyncio.create_task(store.put(name, slow(), PART + 1))
    await within(source.wait())
    await store.remove(name)
    go.set()
    with pytest.raises(errors.StoreError):
        await within(writing)
    assert list(await store.leftovers("")) == []


@pytest.mark.parametrize("size", [5, None])
@pytest.mark.parametrize("loss", ["the answer", "the answer, and the request was repeated"])
async def test_an_object_whose_making_was_never_confirmed_is_recognized_as_ours(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, size: int | None, loss: str
) -> None:
    async def lose(operation: str, go_on: Callable[[], Awaitable[Any]]) -> Any:
        answer = await go_on()
        if operation in ("put_object", "complete_multipart_upload"):
            if loss == "the answer":
                raise errors.StoreUnavailable("one")
            raise errors.BlobExists("one")
        return answer

    intercept(monkeypatch, lose)
    stored = await store.put(a_name(), chunks(b"12345"), size)
    assert await everything(store.read(stored.url)) == b"12345"


# --- giving up -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, PART + 1, None, 0])
async def test_a_write_cancelled_at_any_request_leaves_nothing(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    count, wanted, reached = 0, 0, asyncio.Event()

    async def stop(operation: str, go_on: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal count
        count += 1
        if count == wanted:
            reached.set()
        return await go_on()

    intercept(monkeypatch, stop)
    while True:
        count, wanted = 0, wanted + 1
        reached.clear()
        writing = asyncio.create_task(store.put(a_name(), bytes_of(PART + 1 if size is None else size), size))
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait({writing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if writing.done():
            break
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(writing)
        assert list(await store.leftovers("")) == []
    assert wanted > (1 if size in (0, 3) else 4)


async def test_a_part_that_fails_ends_the_write_though_the_source_is_stuck(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(operation: str, go_on: Callable[[], Awaitable[Any]]) -> Any:
        if operation == "upload_part":
            raise errors.StoreFull("one")
        return await go_on()

    intercept(monkeypatch, refuse)
    with pytest.raises(errors.StoreFull):
        await within(store.put(a_name(), aiter(Stuck(b"x" * PART))))
    assert list(await store.leftovers("")) == []


async def test_a_service_that_dies_midway_is_unavailable_and_what_it_kept_can_be_removed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    name, go = a_name(), asyncio.Event()
    halfway = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"x" * (PART + 1)
        halfway.set()
        await go.wait()
        yield b"x" * PART

    async with line(*address()) as to_service:
        store = await s3_store(s3_store_host=f"http://127.0.0.1:{to_service.port}")
        whole = await store.put(a_name(), chunks(b"whole"), 5)
        writing = asyncio.create_task(store.put(name, source()))
        await within(halfway.wait())
        to_service.cut()
        go.set()
        with pytest.raises(errors.StoreUnavailable):
            await within(writing)
        for attempt in (store.size(whole.url), store.delete(whole.url), store.remove(name), store.leftovers("")):
            with pytest.raises(errors.StoreUnavailable):
                await within(attempt)
        with pytest.raises(errors.StoreUnavailable):
            await everything(store.read(whole.url))

        await to_service.mend()
        assert name in [found.name for found in await store.leftovers("")]
        await store.remove(name)
        assert name not in [found.name for found in await store.leftovers("")]
        assert await everything(store.read(whole.url)) == b"whole"
        await store.close()


async def test_a_download_that_breaks_off_does_not_look_complete() -> None:
    async with line(*address()) as to_service:
        store = await s3_store(s3_store_host=f"http://127.0.0.1:{to_service.port}")
        stored = await store.put(a_name(), bytes_of(4 * PART))
        reading = store.read(stored.url)
        await anext(reading)
        to_service.cut()
        with pytest.raises(errors.StoreUnavailable):
            await everything(reading)
        await store.close()


async def test_a_closed_store_says_so(store: S3Store) -> None:
    stored = await store.put(a_name(), chunks(b"x"))
    await store.close()
    with pytest.raises(errors.StoreError):
        await store.size(stored.url)
    with pytest.raises(errors.StoreError):
        await store.put(a_name(), chunks(b"x"), 1)


# --- what is none of its business --------------------------------------------------------------


async def test_what_others_keep_in_the_bucket_is_neither_listed_nor_removed(store: S3Store, bucket: Bucket) -> None:
    ours, neighbour = a_name(), await s3_store()
    theirs = await neighbour.put(ours, chunks(b"theirs"), 6)
    foreign = [f"{uuid4()}.txt", f"{store._root}readme", f"{store._root}{ours}/x", f"{store._root}{ours}0", f"x{ours}"]
    for key in foreign:
        await bucket.call("put_object", Key=key, Body=b"foreign")
        await bucket.call("create_multipart_upload", Key=key)
    await store.put(ours, chunks(b"ours"), 4)
    writing = asyncio.create_task(store.put(a_name(), aiter(stuck := Stuck(b"half"))))
    await within(stuck.reached.wait())

    assert ours in [found.name for found in await store.leftovers("")]
    for found in await store.leftovers(ours):
        if found.name == ours:
            await store.remove(found.name)
    for key in foreign:
        assert await bucket.head(key) is not None
        assert [name for name, _ in await bucket.uploads(key) if name == key] == [key]
        if key != f"{store._root}{ours}0":
            with pytest.raises(errors.StoreDenied):
                await store.delete(f"{store._url}{key}")
    with pytest.raises(errors.StoreDenied):
        await store.delete(theirs.url)
    assert await everything(neighbour.read(theirs.url)) == b"theirs"
    assert [found.name for found in await neighbour.leftovers("")] == [ours]
    writing.cancel()
    await within(asyncio.wait({writing}))
    await neighbour.close()


async def test_locations_in_glances_form_are_read_where_they_name_this_bucket(store: S3Store, bucket: Bucket) -> None:
    image = str(uuid4())
    await bucket.call("put_object", Key=image, Body=b"old")
    host = s3_config().authority
    for scheme in ("s3", "s3+http", "s3+https"):
        url = f"{scheme}://{host}/{bucket.name}/{image}"
        assert await everything(store.read(url)) == b"old"
        with pytest.raises(errors.StoreDenied):
            await store.delete(url)
    for url in (f"s3://elsewhere/{bucket.name}/{image}", f"s3://{host}/other/{image}", f"s3://{bucket.name}/"):
        with pytest.raises(errors.StoreDenied):
            await store.size(url)


async def test_registered_bytes_of_others_can_be_removed_those_of_a_service_never(
    store: S3Store, bucket: Bucket
) -> None:
    image, neighbour = str(uuid4()), await s3_store()
    await bucket.call("put_object", Key=image, Body=b"old")
    mine, theirs = await store.put(a_name(), chunks(b"x"), 1), await neighbour.put(a_name(), chunks(b"y"), 1)
    url = f"{store._url}{image}"
    assert store.foreign(url)
    for _ in range(2):
        await store.delete_foreign(url)
    assert await bucket.head(image) is None
    for kept in (mine.url, theirs.url, f"{store._url}{store._root}readme"):
        assert not store.foreign(kept)
        with pytest.raises(errors.StoreDenied):
            await store.delete_foreign(kept)
    with pytest.raises(errors.StoreDenied):
        store.foreign("s3://elsewhere/bucket/x")
    assert await everything(neighbour.read(theirs.url)) == b"y"
    await neighbour.close()


# --- secrets -----------------------------------------------------------------------------------


async def test_credentials_are_in_no_location_error_property_or_log_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_s3_client, "ATTEMPTS", 1)
    caplog.set_level(logging.DEBUG)
    async with line(*address()) as to_service:
        config = s3_config(s3_store_host=f"http://127.0.0.1:{to_service.port}")
        store = await s3_store(s3_store_host=config.s3_store_host)
        stored = await store.put(a_name(), bytes_of(PART + 1))
        said = [stored.url, repr(config), str(store.properties), repr(store)]
        await store.delete(stored.url)
        to_service.cut()
        for failing in (store.size(stored.url), store.put(a_name(), chunks(b"x"), 1), store.leftovers("")):
            with pytest.raises(errors.StoreError) as caught:
                await failing
            said += traceback.format_exception(caught.value)
        await store.close()
    said.append(caplog.text)
    for secret in (ACCESS_KEY, SECRET_KEY, SECRET_KEY.replace("/", "%2F")):
        assert secret not in "\n".join(said)


async def test_operators_are_told_sizes_in_bytes(store: S3Store) -> None:
    assert store.properties == {
        "s3_store_large_object_size": MIB,
        "s3_store_large_object_chunk_size": PART,
        "s3_store_thread_pools": 3,
    }
