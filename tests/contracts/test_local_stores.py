"""What stores promise that adopt local files, and those whose objects are local files, as staging's are."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast
from uuid import uuid4

import msgspec
import pytest

from kernel.errors import BlobMissing, Corrupt, StoreDenied, StoreError
from kernel.events import Identity
from kernel.extend import AdoptsFiles, LocalFiles, Store, StoreDriver
from stores.file import EXTENSION as FILE
from tests.support.disks import another_disk
from tests.support.stores import Stuck, a_name, chunks, connected, everything, having, within

DATA = b"0123456789abcdef" * 200_000
ADOPTING = having(AdoptsFiles)
LOCAL = having(LocalFiles)


class Adopting(Store, AdoptsFiles, Protocol):
    """A store that takes files over."""


class Local(Store, LocalFiles, Protocol):
    """A store of files."""


@dataclass
class Staged:
    """A file in a staging store, as an import finds it."""

    store: Local
    url: str
    path: Path
    identity: Identity


async def staged_in(directory: Path, data: bytes = DATA) -> Staged:
    staging = cast(Local, await connected(FILE, directory))
    url = (await staging.put(a_name(step="stage"), chunks(data))).url
    return Staged(staging, url, staging.path(url), await staging.identify(url))


@pytest.fixture
async def staged(tmp_path: Path) -> AsyncIterator[Staged]:
    made = await staged_in(tmp_path / "staging")
    yield made
    await made.store.close()


@pytest.fixture(params=ADOPTING, ids=lambda driver: driver.name)
def adopting(request: pytest.FixtureRequest) -> StoreDriver:
    return cast(StoreDriver, request.param)


@pytest.fixture
async def store(adopting: StoreDriver, tmp_path: Path) -> AsyncIterator[Adopting]:
    opened = await connected(adopting, tmp_path)
    yield cast(Adopting, opened)
    await opened.close()


@pytest.fixture(params=LOCAL, ids=lambda driver: driver.name)
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Local]:
    opened = await connected(request.param, tmp_path)
    yield cast(Local, opened)
    await opened.close()


def test_the_file_store_has_both_powers() -> None:
    assert FILE in ADOPTING
    assert FILE in LOCAL


# --- adopting ----------------------------------------------------------------------------


async def test_an_adopted_file_is_the_stores_and_stays_where_it_is(store: Adopting, staged: Staged) -> None:
    stored = await store.adopt(a_name(), staged.path, staged.identity)
    assert stored is not None
    assert stored.size == await store.size(stored.url) == len(DATA)
    assert await everything(store.read(stored.url)) == DATA
    assert await staged.store.identify(staged.url) == staged.identity


async def test_an_empty_file_can_be_adopted(store: Adopting, tmp_path: Path) -> None:
    empty = await staged_in(tmp_path / "empty", b"")
    for _ in range(2):
        stored = await store.adopt(a_name(), empty.path, empty.identity)
        assert stored is not None
        assert stored.size == 0
        assert await everything(store.read(stored.url)) == b""
    await empty.store.close()


async def test_each_outlives_the_others(store: Adopting, staged: Staged) -> None:
    first = await store.adopt(a_name(), staged.path, staged.identity)
    second = await store.adopt(a_name(), staged.path, staged.identity)
    assert first
    assert second
    await store.delete(first.url)
    assert await everything(staged.store.read(staged.url)) == DATA
    await staged.store.delete(staged.url)
    assert await everything(store.read(second.url)) == DATA


@pytest.mark.parametrize("at_once", [False, True], ids=["in turn", "at once"])
async def test_several_stores_never_share_one_copy(
    adopting: StoreDriver, staged: Staged, tmp_path: Path, at_once: bool
) -> None:
    stores = [cast(Adopting, await connected(adopting, tmp_path / str(number))) for number in range(4)]
    adoptions = [store.adopt(a_name(), staged.path, staged.identity) for store in stores]
    made = await within(asyncio.gather(*adoptions)) if at_once else [await adoption for adoption in adoptions]
    assert staged.path.stat().st_nlink <= 2, "the staged file and one store may share an inode, no second one"
    for store, stored in zip(stores, made, strict=True):
        assert stored is not None
        assert await everything(store.read(stored.url)) == DATA
        await store.close()


async def test_adopting_again_under_the_same_name_is_already_done(store: Adopting, staged: Staged) -> None:
    name = a_name()
    once = await store.adopt(name, staged.path, staged.identity)
    again = await store.adopt(name, staged.path, staged.identity)
    assert once == again
    assert [found.name for found in await store.leftovers("")] == [name]


async def test_adopting_replaces_nothing(store: Adopting, staged: Staged) -> None:
    name = a_name()
    stored = await store.put(name, chunks(b"mine"))
    with pytest.raises(StoreError):
        await store.adopt(name, staged.path, staged.identity)
    assert await everything(store.read(stored.url)) == b"mine"
    assert staged.path.stat().st_nlink == 1


@pytest.mark.parametrize("member", ["inode", "size", "mtime_ns", "device"])
async def test_a_file_that_is_not_the_recorded_one_is_corrupt(store: Adopting, staged: Staged, member: str) -> None:
    recorded = msgspec.structs.replace(staged.identity, **{member: getattr(staged.identity, member) + 1})
    with pytest.raises(Corrupt):
        await store.adopt(a_name(), staged.path, recorded)
    assert list(await store.leftovers("")) == []


async def test_a_file_that_was_written_to_is_corrupt(store: Adopting, staged: Staged) -> None:
    staged.path.chmod(0o600)
    with staged.path.open("r+b") as file:
        file.write(b"X")
    os.utime(staged.path, ns=(0, staged.identity.mtime_ns + 1))
    with pytest.raises(Corrupt):
        await store.adopt(a_name(), staged.path, staged.identity)
    assert list(await store.leftovers("")) == []


async def test_a_link_in_place_of_the_file_is_not_followed(store: Adopting, staged: Staged, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(staged.path)
    with pytest.raises(StoreError):
        await store.adopt(a_name(), link, staged.identity)
    with pytest.raises(BlobMissing):
        await store.adopt(a_name(), tmp_path / "nothing", staged.identity)
    assert list(await store.leftovers("")) == []


async def test_a_file_on_another_disk_is_left_to_put(store: Adopting, tmp_path: Path) -> None:
    with another_disk(than=tmp_path) as directory:
        elsewhere = await staged_in(directory)
        assert await store.adopt(a_name(), elsewhere.path, elsewhere.identity) is None
        await elsewhere.store.close()
    assert list(await store.leftovers("")) == []


@pytest.mark.parametrize("name", ["../a/b.1", "a/b/c", "a/b/../c.1"])
async def test_a_file_is_not_adopted_under_a_name_that_is_not_ours(store: Adopting, staged: Staged, name: str) -> None:
    with pytest.raises(StoreError):
        await store.adopt(name, staged.path, staged.identity)
    assert staged.path.stat().st_nlink == 1


# --- local files -------------------------------------------------------------------------


async def test_what_another_program_wrote_can_be_sealed(files: Local) -> None:
    name = a_name(step="convert")
    path = await files.reserve(name)
    assert not path.exists()
    path.write_bytes(DATA)
    assert [found.name for found in await files.leftovers("")] == [name]
    stored, identity = await files.seal(name)
    assert stored.size == identity.size == len(DATA)
    assert identity == await files.identify(stored.url)
    assert stat.S_IMODE(files.path(stored.url).stat().st_mode) & 0o222 == 0
    assert not path.exists()
    assert await everything(files.read(stored.url)) == DATA


async def test_a_sealed_file_can_be_adopted(store: Adopting, staged: Staged) -> None:
    name = a_name(step="convert")
    (await staged.store.reserve(name)).write_bytes(b"converted")
    sealed, identity = await staged.store.seal(name)
    stored = await store.adopt(a_name(), staged.store.path(sealed.url), identity)
    assert stored is not None
    assert await everything(store.read(stored.url)) == b"converted"


async def test_what_was_put_is_read_only_and_can_be_identified(files: Local) -> None:
    stored = await files.put(a_name(), chunks(b"x"))
    before = await files.identify(stored.url)
    assert before.size == 1
    assert stat.S_IMODE(files.path(stored.url).stat().st_mode) & 0o222 == 0
    os.utime(files.path(stored.url), ns=(0, before.mtime_ns + 1))
    assert await files.identify(stored.url) != before
    await files.delete(stored.url)
    with pytest.raises(BlobMissing):
        await files.identify(stored.url)


async def test_reserving_and_sealing_respect_what_is_there(files: Local) -> None:
    name = a_name()
    with pytest.raises(BlobMissing):
        await files.seal(name)
    (await files.reserve(name)).write_bytes(b"half")
    with pytest.raises(StoreError):
        await files.reserve(name)
    with pytest.raises(StoreError):
        await files.put(name, chunks(b"other"))
    await files.remove(name)
    stored = await files.put(name, chunks(b"whole"))
    with pytest.raises(StoreError):
        await files.reserve(name)
    assert await everything(files.read(stored.url)) == b"whole"


async def test_sealing_replaces_nothing(files: Local) -> None:
    name = a_name()
    path = await files.reserve(name)
    stored = await files.put(name, chunks(b"faster"))
    path.write_bytes(b"slower")
    with pytest.raises(StoreError):
        await files.seal(name)
    assert await everything(files.read(stored.url)) == b"faster"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
async def test_only_a_regular_file_can_be_sealed(files: Local, make: Callable[[Path], None]) -> None:
    name = a_name()
    make(await files.reserve(name))
    with pytest.raises(StoreError):
        await within(files.seal(name))


async def test_a_path_outside_the_store_is_denied(files: Local) -> None:
    stored = await files.put(a_name(), chunks(b"x"))
    for url in ("file:///etc/passwd", f"{stored.url}/../../../../../etc/passwd", "http://x/y", "", "file://"):
        with pytest.raises(StoreDenied):
            files.path(url)
        with pytest.raises(StoreDenied):
            await files.delete(url)


@pytest.mark.parametrize("driver", LOCAL, ids=lambda driver: driver.name)
async def test_nothing_of_another_deployment_is_listed_or_removed(driver: StoreDriver, tmp_path: Path) -> None:
    ours, theirs = [await connected(driver, tmp_path, uuid4()) for _ in range(2)]
    name, source = a_name(), Stuck(b"half")
    stored = await theirs.put(name, chunks(b"theirs"))
    writing = asyncio.create_task(theirs.put(a_name(), aiter(source)))
    await within(source.reached.wait())
    assert list(await ours.leftovers("")) == []
    await ours.remove(name)
    with pytest.raises(StoreError):
        await ours.delete(stored.url)
    assert await everything(theirs.read(stored.url)) == b"theirs"
    assert len(await theirs.leftovers("")) == 2
    writing.cancel()
    await within(asyncio.wait({writing}))
    await ours.close()
    await theirs.close()


async def test_a_directory_at_a_reserved_path_goes_with_all_that_is_in_it(staged: Staged) -> None:
    """Somebody's workshop: a sweep knows it by its name, and removes it whole."""
    name = a_name(step="scratch", epoch=3)
    path = await staged.store.reserve(name)
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_bytes(b"x")
    assert [(left.name, left.epoch) for left in await staged.store.leftovers(name.partition("/")[0] + "/")] == [
        (name, 3)
    ]
    await staged.store.remove(name)
    assert not path.exists()
    await staged.store.remove(name)
    assert staged.path.read_bytes() == DATA
