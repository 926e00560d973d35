"""The file store on disks that are full, broken, slow, or gone; a cancellation can come at any moment."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kernel import errors
from stores import file as module
from stores.file import FileStore
from tests.support.disks import small_disk
from tests.support.files import Held, file_store, refusing
from tests.support.stores import DEADLINE, a_name, chunks, everything, failing, snapshot, turns, within

MIB = 1 << 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileStore]:
    made = await file_store(tmp_path / "images")
    yield made
    await made.close()


@pytest.mark.root
@pytest.mark.parametrize("thin", [False, True])
async def test_a_full_disk_is_said_to_be_full_and_nothing_stays(tmp_path: Path, thin: bool) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = await file_store(disk, filesystem_thin_provisioning=thin)
        kept = a_name()
        await store.put(kept, chunks(b"k" * MIB))
        before = snapshot(disk)
        with pytest.raises(errors.StoreFull, match="store one"):
            await within(store.put(a_name(), chunks(*[b"x" * (MIB // 2)] * 8)))
        assert snapshot(disk) == before
        assert [found.name for found in await store.leftovers("")] == [kept]
        await store.put(a_name(), chunks(b"y" * (MIB // 2)))
        await store.close()


@pytest.mark.root
async def test_a_copy_that_fills_the_disk_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        staging, first, second = [await file_store(disk / name) for name in ("staging", "first", "second")]
        stored = await staging.put(a_name(), chunks(os.urandom(MIB + MIB // 2)))
        path, identity = staging.path(stored.url), await staging.identify(stored.url)
        assert await first.adopt(a_name(), path, identity)
        with pytest.raises(errors.StoreFull):
            await second.adopt(a_name(), path, identity)
        assert list(await second.leftovers("")) == []
        for store in (staging, first, second):
            await store.close()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, errors.StoreFull),
        (errno.EDQUOT, errors.StoreFull),
        (errno.EACCES, errors.StoreDenied),
        (errno.EPERM, errors.StoreDenied),
        (errno.EROFS, errors.StoreDenied),
        (errno.EIO, errors.StoreUnavailable),
        (errno.ESTALE, errors.StoreUnavailable),
        (errno.EMFILE, errors.StoreUnavailable),
    ],
)
@pytest.mark.parametrize("call", ["pwrite", "fchmod", "fsync"])
async def test_what_the_system_refuses_has_a_meaning(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int, expected: type[Exception]
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(os, call, refusing(number))
        with pytest.raises(expected) as caught:
            await store.put(a_name(), chunks(b"x" * 3 * MIB))
    assert type(caught.value) is expected
    assert list(await store.leftovers("")) == []


async def test_a_disk_that_is_no_longer_mounted_is_not_taken_for_an_empty_one(store: FileStore, tmp_path: Path) -> None:
    name = a_name()
    stored = await store.put(name, chunks(b"x"))
    root = store.path(stored.url).parents[1]
    root.rename(tmp_path / "away")
    for doomed in (store.delete(stored.url), store.remove(name), store.size(stored.url), store.leftovers(name)):
        with pytest.raises(errors.StoreUnavailable):
            await doomed
    with pytest.raises(errors.StoreUnavailable):
        await store.put(a_name(), chunks(b"x"))
    with pytest.raises(errors.StoreUnavailable):
        await everything(store.read(stored.url))
    (tmp_path / "away").rename(root)
    assert await everything(store.read(stored.url)) == b"x"


async def test_a_disk_without_hard_links_keeps_names_exclusive(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    name = a_name()
    stored = await store.put(name, chunks(b"first"))
    with pytest.raises(errors.StoreError):
        await store.put(name, chunks(b"second"))
    assert await everything(store.read(stored.url)) == b"first"
    adopted = await store.adopt(a_name(), store.path(stored.url), await store.identify(stored.url))
    assert adopted
    assert await everything(store.read(adopted.url)) == b"first"
    assert len(await store.leftovers("")) == 2


async def test_on_a_disk_without_hard_links_a_late_writer_replaces_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    name = a_name()
    stored = await store.put(name, chunks(b"to learn where it lies"))
    await store.delete(stored.url)
    path = store.path(stored.url)

    async def slow() -> AsyncIterator[bytes]:
        yield b"late"
        path.write_bytes(b"early")

    with pytest.raises(errors.StoreError):
        await store.put(name, slow())
    assert path.read_bytes() == b"early"
    await store.remove(name)
    assert list(await store.leftovers("")) == []


async def test_stores_that_link_in_the_same_instant_do_not_both_keep_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, *stores = [await file_store(tmp_path / name) for name in ("staging", "first", "second")]
    stored = await staging.put(a_name(), chunks(b"x" * MIB))
    path, identity = staging.path(stored.url), await staging.identify(stored.url)
    together, real = threading.Barrier(2, timeout=DEADLINE), os.link

    def link(source: Any, target: Any, **options: Any) -> None:
        if source == path:
            together.wait()
        real(source, target, **options)

    monkeypatch.setattr(os, "link", link)
    made = await within(asyncio.gather(*(store.adopt(a_name(), path, identity) for store in stores)))
    assert path.stat().st_nlink <= 2
    for store, adopted in zip(stores, made, strict=True):
        assert adopted
        assert await everything(store.read(adopted.url)) == b"x" * MIB
        await store.close()
    await staging.close()


async def test_a_write_and_its_source_may_fail_together_without_a_complaint_of_asyncio(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "pwrite", refusing(errno.EIO))
    with pytest.raises(LookupError):
        await store.put(a_name(), failing(LookupError(), b"x" * MIB))
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("call", ["pwrite", "fsync", "link", "unlink"])
async def test_a_write_cancelled_inside_a_system_call_leaves_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    held = Held(monkeypatch, call)
    writing = asyncio.create_task(store.put(a_name(), chunks(b"x" * MIB)))
    await held.entered()
    writing.cancel()
    held.release()
    await within(asyncio.wait({writing}))
    assert writing.cancelled()
    assert list(await store.leftovers("")) == []


async def test_a_disk_that_hangs_lets_its_caller_go_and_is_cleaned_up_when_it_comes_back(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.01)
    held = Held(monkeypatch, "fsync")
    name = a_name()
    writing = asyncio.create_task(store.put(name, chunks(b"x")))
    await held.entered()
    writing.cancel()
    await within(asyncio.wait({writing}))
    assert writing.cancelled()
    assert [found.name for found in await store.leftovers("")] == [name]
    held.release()
    await asyncio.to_thread(store._pool.shutdown)  # waits for what is under way
    assert not list(store._root.glob("*/*"))


@pytest.mark.parametrize("call", ["pwrite", "fsync", "unlink"])
async def test_the_late_clean_up_after_a_hang_spares_another_attempt_of_the_same_name(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.01)
    name = a_name()
    with monkeypatch.context() as hanging:
        held = Held(hanging, call)
        writing = asyncio.create_task(store.put(name, chunks(b"first")))
        await held.entered()
    writing.cancel()
    await within(asyncio.wait({writing}))
    await store.remove(name)
    stored = await store.put(name, chunks(b"second"))
    held.release()
    await asyncio.to_thread(store._pool.shutdown)
    assert store.path(stored.url).read_bytes() == b"second"


async def test_a_copy_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging, store = await file_store(tmp_path / "staging"), await file_store(tmp_path / "images")
    stored = await staging.put(a_name(), chunks(*[b"x" * MIB] * 40))
    path, identity = staging.path(stored.url), await staging.identify(stored.url)
    assert await store.adopt(a_name(), path, identity), "the one link"
    monkeypatch.setattr(fcntl, "ioctl", refusing(errno.EOPNOTSUPP))
    held = Held(monkeypatch, "copy_file_range")
    copying = asyncio.create_task(store.adopt(a_name(), path, identity))
    await held.entered()
    copying.cancel()
    await turns(10)
    held.release()
    await within(asyncio.wait({copying}))
    assert copying.cancelled()
    assert held.calls == 1, "the copy of a large file stops where it is"
    assert len(await store.leftovers("")) == 1
    await staging.close()
    await store.close()


async def test_a_closed_store_says_so(store: FileStore) -> None:
    stored = await store.put(a_name(), chunks(b"x"))
    await store.close()
    with pytest.raises(errors.StoreUnavailable):
        await store.size(stored.url)
    with pytest.raises(errors.StoreUnavailable):
        await store.put(a_name(), chunks(b"x"))
