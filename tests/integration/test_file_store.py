"""The file store on its disk: where things lie, how they are shared, and whose they are."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from kernel import errors
from kernel.extend import StoreSite
from stores._files import remove_tree
from stores.file import FileConfig, FileStore
from tests.support.disks import small_disk
from tests.support.files import file_store, refusing
from tests.support.stores import Stuck, a_name, chunks, everything, snapshot, within

MIB = 1 << 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileStore]:
    made = await file_store(tmp_path / "images")
    yield made
    await made.close()


# --- where things lie --------------------------------------------------------------------


async def test_everything_lies_in_a_directory_of_ours_spread_over_shards(tmp_path: Path) -> None:
    deployment = uuid4()
    config = FileConfig(filesystem_store_datadir=tmp_path / "var" / "images")
    store = await FileStore.connect(config, StoreSite(name="one", deployment=deployment))
    stored = await store.put("7d3f0c1a-0000-4000-8000-0000000000AB/att-1/store.x.3", chunks(b"x"))
    path = tmp_path / f"var/images/entrepot-{deployment}/ab/7d3f0c1a-0000-4000-8000-0000000000AB@att-1@store.x.3"
    assert stored.url == f"file://{path}"
    assert path.read_bytes() == b"x"
    assert await everything(store.read(stored.url.replace("file:", "filesystem:"))) == b"x"
    assert len(list(path.parents[1].iterdir())) == 256
    await store.close()


async def test_operators_are_told_what_glance_tells_them(tmp_path: Path) -> None:
    store = await file_store(
        tmp_path, filesystem_thin_provisioning="yes", filesystem_store_chunk_size="4096", unknown=1
    )
    assert store.properties == {"data_dir": str(tmp_path), "chunk_size": 4096, "thin_provisioning": True}
    await store.close()


async def test_a_taken_name_is_refused_before_the_source_is_asked_for_anything(store: FileStore) -> None:
    name, asked = a_name(), []

    async def source() -> AsyncIterator[bytes]:
        asked.append(1)
        yield b"x"

    await store.put(name, chunks(b"x"))
    with pytest.raises(errors.StoreError):
        await store.put(name, source())
    assert not asked


@pytest.mark.parametrize(
    ("option", "mode"), [(0, 0o440), (-1, 0o440), ("640", 0o440), ("0644", 0o444), (400, 0o400), ("755", 0o555)]
)
async def test_file_permissions_are_octal_digits_without_the_right_to_write(
    tmp_path: Path, option: int | str, mode: int
) -> None:
    store = await file_store(tmp_path, filesystem_store_file_perm=option)
    stored = await store.put(a_name(), chunks(b"x"))
    assert store.path(stored.url).stat().st_mode & 0o777 == mode
    await store.close()


@pytest.mark.parametrize(
    "options",
    [
        {"filesystem_store_file_perm": 888},
        {"filesystem_store_file_perm": 44},
        {"filesystem_store_chunk_size": 0},
        {"filesystem_store_datadir": None},
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        FileConfig.model_validate({"filesystem_store_datadir": tmp_path, **options})


async def test_a_directory_that_cannot_be_made_is_named_together_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ConfigError, match=f"filesystem_store_datadir: {tmp_path}/file/images"):
        await file_store(tmp_path / "file" / "images")


@pytest.mark.root
async def test_a_read_only_disk_is_named_together_with_its_option(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "ro") as disk, pytest.raises(errors.ConfigError, match=f"datadir: {disk}:"):
        await file_store(disk)


# --- what a write costs ------------------------------------------------------------------


@pytest.mark.parametrize("fsync", [True, False])
async def test_a_write_lasts_at_the_price_of_one_fsync_for_the_file_and_one_for_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: bool
) -> None:
    site = StoreSite(name="one", deployment=uuid4(), fsync=fsync)
    staging, store = [
        await FileStore.connect(FileConfig(filesystem_store_datadir=tmp_path / name), site) for name in ("s", "i")
    ]
    synced: list[str] = []
    real = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", watched)
    name = a_name()
    stored = await staging.put(name, chunks(b"x" * 20 * MIB))
    path, identity = staging.path(stored.url), await staging.identify(stored.url)
    adopted = await store.adopt(name, path, identity)
    assert adopted
    (converted := await staging.reserve(output := a_name())).write_bytes(b"converted")
    await staging.seal(output)
    await staging.remove(name)
    expected = [f"{path}.part", path.parent, store.path(adopted.url).parent, converted, converted.parent, path.parent]
    assert synced == ([str(place) for place in expected] if fsync else [])
    await staging.close()
    await store.close()


# --- adopting, seen from the disk --------------------------------------------------------


async def test_the_first_adoption_links_and_later_ones_copy(tmp_path: Path) -> None:
    staging = await file_store(tmp_path / "staging")
    stored = await staging.put(a_name(), chunks(b"x" * 3 * MIB))
    path, identity = staging.path(stored.url), await staging.identify(stored.url)
    links = []
    for number in range(3):
        store = await file_store(tmp_path / str(number), filesystem_store_file_perm=444)
        adopted = await store.adopt(a_name(), path, identity)
        assert adopted
        found = store.path(adopted.url).stat()
        links.append(found.st_nlink)
        assert (found.st_ino == identity.inode) is (number == 0)
        assert found.st_mode & 0o777 == 0o444
        await store.close()
    assert links == [2, 1, 1]
    await staging.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EINVAL])
async def test_a_file_that_this_disk_cannot_copy_by_itself_is_left_to_put(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stored = await store.put(a_name(), chunks(b"x"))
    path, identity = store.path(stored.url), await store.identify(stored.url)
    assert await store.adopt(a_name(), path, identity)
    monkeypatch.setattr(fcntl, "ioctl", refusing(number))
    monkeypatch.setattr(os, "copy_file_range", refusing(number))
    assert await store.adopt(a_name(), path, identity) is None
    assert len(await store.leftovers("")) == 2


async def test_a_file_that_changes_while_it_is_copied_is_corrupt(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await store.put(a_name(), chunks(b"x" * MIB))
    path, identity = store.path(stored.url), await store.identify(stored.url)
    assert await store.adopt(a_name(), path, identity)
    monkeypatch.setattr(fcntl, "ioctl", refusing(errno.EOPNOTSUPP))
    real = os.copy_file_range

    def meddled(*args: Any) -> int:
        os.utime(path, ns=(0, identity.mtime_ns + 1))
        return real(*args)

    monkeypatch.setattr(os, "copy_file_range", meddled)
    with pytest.raises(errors.Corrupt):
        await store.adopt(a_name(), path, identity)
    assert len(await store.leftovers("")) == 2


# --- thin provisioning -------------------------------------------------------------------

SPARSE = [
    [b"\0" * MIB],
    [b"\0" * MIB, b"a" * 4096, b"\0" * (3 * MIB)],
    [b"a", b"\0" * (2 * MIB), b"b"],
    [b"a" * 70_000, b"\0" * 1_000_001, b"b" * 3, b"\0" * 5],
    [bytes(65536) + b"x" * 65536] * 20,
    [b"a" * (MIB + 4096), bytes(61440) + (b"x" * 65536 + bytes(65536)) * 10],
]


@pytest.mark.parametrize("parts", SPARSE)
async def test_zeros_take_no_room_with_thin_provisioning(tmp_path: Path, parts: list[bytes]) -> None:
    thin = await file_store(tmp_path / "thin", filesystem_thin_provisioning=True)
    thick = await file_store(tmp_path / "thick")
    data = b"".join(parts)
    full, holes = await thick.put(a_name(), chunks(*parts)), await thin.put(a_name(), chunks(*parts), size=len(data))
    assert await everything(thin.read(holes.url)) == await everything(thick.read(full.url)) == data
    solid = sum(65536 for at in range(0, len(data), 65536) if data[at : at + 65536].strip(b"\0"))
    assert thin.path(holes.url).stat().st_blocks * 512 <= solid + 4096
    assert thick.path(full.url).stat().st_blocks * 512 >= len(data)

    path, identity = thin.path(holes.url), await thin.identify(holes.url)
    for _ in range(2):
        adopted = await thin.adopt(a_name(), path, identity)
        assert adopted
        assert await everything(thin.read(adopted.url)) == data
        assert thin.path(adopted.url).stat().st_blocks * 512 <= solid + 4096
    await thin.close()
    await thick.close()


# --- other people's files ----------------------------------------------------------------


async def test_foreign_files_are_never_changed(tmp_path: Path) -> None:
    deployment, image = uuid4(), str(uuid4())
    foreign = {
        image: b"an image of Glance's",
        f"{image}@att@store.1": b"looks like ours, beside our directory",
        f"entrepot-{uuid4()}/{image[-2:]}/{image}@att@store.1": b"another deployment's",
        f"entrepot-{deployment}/{image[-2:]}/{image}": b"no name of ours, inside our directory",
        f"entrepot-{deployment}/{image[-2:]}/{image}@att@store.1.part.bak": b"neither is this",
        f"entrepot-{deployment}/00/deep/{image}@att@store.1": b"nor a place of ours",
        f"entrepot-{deployment}/lost+found/x": b"",
    }
    for name, content in foreign.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(image)
    store = await FileStore.connect(
        FileConfig(filesystem_store_datadir=tmp_path), StoreSite(name="one", deployment=deployment)
    )
    before = {name: entry for name, entry in snapshot(tmp_path).items() if (tmp_path / name).is_file()}

    names = [f"{image}/att/store.{epoch}" for epoch in (1, 2, 3)]
    await store.put(names[0], chunks(b"x"))
    writing = asyncio.create_task(store.put(names[1], aiter(source := Stuck(b"half"))))
    await within(source.reached.wait())
    await store.delete((await store.put(names[2], chunks(b"y"))).url)
    assert [found.name for found in await store.leftovers("")] == names[:2]
    for found in await store.leftovers(image):
        await store.remove(found.name)
    writing.cancel()
    await within(asyncio.wait({writing}))
    for name in foreign:
        with pytest.raises(errors.StoreDenied):
            await store.delete(f"file://{tmp_path / name}")
    await store.close()
    assert {name: entry for name, entry in snapshot(tmp_path).items() if (tmp_path / name).is_file()} == before


async def test_an_image_that_glance_left_in_the_directory_can_be_read(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "images" / "glances").write_bytes(b"old data")
    url = f"file://{tmp_path}/images/glances"
    assert await store.size(url) == 8
    assert await everything(store.read(url, 4)) == b"data"
    with pytest.raises(errors.BlobMissing):
        await store.size(f"file://{next((tmp_path / 'images').glob('*/00'))}")


def test_a_directory_goes_whatever_permissions_a_program_left_in_it() -> None:
    """Somebody's workshop, with what a plugin unpacked there; root would not notice."""
    ordinary = 65534 if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as parent:
        workshop, elsewhere = Path(parent, "workshop"), Path(parent, "elsewhere")
        os.chown(parent, ordinary, -1)
        former = os.geteuid()
        os.seteuid(ordinary)
        try:
            (workshop / "a" / "b").mkdir(parents=True)
            (workshop / "a" / "b" / "file").write_bytes(b"x")
            elsewhere.mkdir(mode=0o555)
            (workshop / "link").symlink_to(elsewhere)
            for place, mode in ((workshop / "a" / "b", 0o555), (workshop / "a", 0), (workshop, 0o555)):
                place.chmod(mode)
            remove_tree(workshop)
            assert not workshop.exists()
            assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o555
        finally:
            os.seteuid(former)
