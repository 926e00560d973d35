"""Keep image data as files below one directory.

    <filesystem_store_datadir>/entrepot-<deployment>/<shard>/<image>@<attempt>@<step>.<epoch>

Everything of ours lies there and is ours alone; nothing beside it is ever changed.
The shards exist from the start, so that a write costs one fsync of the file and
one of its directory.  A file being written carries the suffix `.part`.

Calls that block run in a few threads of this store, so that a disk that hangs
holds up nobody else.  A cancelled caller waits a moment for its clean-up; if the
disk hangs, the thread does it whenever it comes back.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
import stat
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kernel import errors
from kernel.events import Identity
from kernel.extend import Leftover, Stored, StoreDriver, StoreSite
from stores._files import (
    PART,
    PIECE,
    Draft,
    Reader,
    make_directories,
    make_directory,
    open_source,
    regular,
    remove_tree,
    sync_directory,
)
from stores._names import checked, epoch_of, is_name

P = ParamSpec("P")
T = TypeVar("T")

_THREADS: Final = 8
_GRACE: Final = 5.0
"""Seconds for which a cancelled caller waits for its clean-up."""
_SCHEMES: Final = ("file://", "filesystem://")
_SHARD: Final = re.compile("[0-9a-f]{2}")

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP})


class FileConfig(BaseModel):
    """Operators' options of Glance's file store, as far as they mean something here."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    filesystem_store_datadir: Path
    """Directory of the objects."""
    filesystem_store_chunk_size: int = Field(default=65536, ge=1)
    """Bytes; the grain in which thin provisioning looks for zeros."""
    filesystem_thin_provisioning: bool = False
    """Whether runs of zeros become holes."""
    filesystem_store_file_perm: int = 0
    """Its digits are octal, as Glance reads them: 640 is rw-r-----.  We drop the write bits: data never changes."""

    @field_validator("filesystem_store_file_perm")
    @classmethod
    def _readable(cls, value: int) -> int:
        if value > 0 and not re.fullmatch("[4567][0-7]{2}", str(value)):
            raise ValueError("must be three octal digits that let the owner read")
        return value

    @property
    def file_mode(self) -> int:
        perm = self.filesystem_store_file_perm
        return int(str(perm), 8) & 0o555 if perm > 0 else 0o440

    @property
    def directory_mode(self) -> int:
        """Whoever may read the files may pass the directories."""
        return 0o755 if self.file_mode & 0o007 else 0o750


class FileStore:
    """A `Store` on a file system that also adopts local files, and can be staging."""

    def __init__(self, config: FileConfig, site: StoreSite) -> None:
        self._name, self._fsync, self._config = site.name, site.fsync, config
        self._datadir = Path(os.path.abspath(config.filesystem_store_datadir))
        self._root = self._datadir / f"entrepot-{site.deployment}"
        self._hole = config.filesystem_store_chunk_size if config.filesystem_thin_provisioning else 0
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"store-{site.name}")

    @classmethod
    async def connect(cls, config: FileConfig, site: StoreSite) -> FileStore:
        """The store, its directories made; `ConfigError` when they cannot be, or cannot be written."""
        store = cls(config, site)
        try:
            await asyncio.get_running_loop().run_in_executor(store._pool, store._prepare)
        except OSError as error:
            await store.close()
            reason = error.strerror or error
            raise errors.ConfigError(f"filesystem_store_datadir: {store._datadir}: {reason}") from error
        return store

    def _prepare(self) -> None:
        mode = self._config.directory_mode
        make_directories(self._root, mode, self._fsync)
        missing = {f"{number:02x}" for number in range(256)}.difference(os.listdir(self._root))
        for shard in missing:
            make_directory(self._root / shard, mode)
        if missing and self._fsync:
            sync_directory(self._root)
        try:  # permission bits say little for root and on read-only disks
            tempfile.TemporaryFile(dir=self._root).close()
        except OSError as error:
            if error.errno not in _FULL:  # a full store can still be read, and made less full
                raise

    # --- the store -----------------------------------------------------------------------

    async def put(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> Stored:
        async with self._draft(name) as draft:
            await self._run(draft.open)
            await self._pour(draft, chunks)
            if size is not None and draft.size != size:
                raise errors.Corrupt(self._name, f"{size} bytes were announced and {draft.size} came")
            await self._run(draft.commit)
            return Stored(url=_url(draft.final), size=draft.size)

    async def _pour(self, draft: Draft, chunks: AsyncIterator[bytes]) -> None:
        """Write all chunks, the source working on the next piece while this one is written."""
        writing: asyncio.Future[None] | None = None
        held: list[bytes] = []
        count = 0
        async for chunk in chunks:
            held.append(chunk)
            count += len(chunk)
            if count < PIECE:
                continue
            if writing is not None:
                await writing
            writing = self._start(draft.write, _joined(held))
            writing.add_done_callback(_noted)
            held, count = [], 0
        if writing is not None:
            await writing
        if held:
            await self._run(draft.write, _joined(held))

    async def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        reader = Reader(self.path(url), offset, length)
        try:
            while piece := await self._run(reader.piece):
                yield piece
        except EOFError as error:
            raise errors.BlobMissing(self._name, f"the object ends before byte {offset}") from error
        finally:
            if not reader.closed:
                await self._settle(reader.close)

    async def size(self, url: str) -> int:
        path = self.path(url)
        return (await self._run(lambda: regular(os.stat(path)))).st_size

    async def delete(self, url: str) -> None:
        path = self.path(url)
        if self._name_at(path) is None:
            raise errors.StoreDenied(self._name, "the location is not one of ours, it is never deleted")
        await self._run(self._unlink, path)

    async def leftovers(self, prefix: str) -> Sequence[Leftover]:
        names = await self._run(self._scan, prefix)
        return [Leftover(name, epoch_of(name)) for name in sorted(names)]

    async def remove(self, name: str) -> None:
        path = self._path_of(name)
        await self._run(self._unlink, path, path.with_name(path.name + PART))

    async def close(self) -> None:
        self._pool.shutdown(wait=False)

    @property
    def properties(self) -> Mapping[str, Any]:
        return {
            "data_dir": str(self._config.filesystem_store_datadir),
            "chunk_size": self._config.filesystem_store_chunk_size,
            "thin_provisioning": self._config.filesystem_thin_provisioning,
        }

    def _unlink(self, *paths: Path) -> None:
        found = False
        for path in paths:
            try:
                path.unlink()
                found = True
            except FileNotFoundError:
                os.stat(path.parent)  # gone is fine, a disk that is not mounted is not
            except IsADirectoryError:  # somebody's workshop
                remove_tree(path)
                found = True
        if found and self._fsync:
            sync_directory(paths[0].parent)

    def _scan(self, prefix: str) -> set[str]:
        image, whole, _ = prefix.partition("/")
        shards = [_shard(image)] if whole else [name for name in os.listdir(self._root) if _SHARD.fullmatch(name)]
        return {
            name
            for shard in shards
            for entry in os.listdir(self._root / shard)
            if (name := self._name_at(self._root / shard / entry.removesuffix(PART))) and name.startswith(prefix)
        }

    # --- taking local files over ---------------------------------------------------------

    async def adopt(self, name: str, path: Path, identity: Identity) -> Stored | None:
        async with self._draft(name) as draft:
            return await self._run(self._adopt, draft, path, identity)

    def _adopt(self, draft: Draft, path: Path, identity: Identity) -> Stored | None:
        source = open_source(path)
        try:
            self._compare(source, identity)
            if os.stat(draft.final.parent).st_dev != identity.device:
                return None
            if draft.link(path, source):
                self._compare(source, identity)
            elif draft.fill(source):
                self._compare(source, identity)
                draft.commit()
            else:
                draft.discard()
                return None
            return Stored(url=_url(draft.final), size=identity.size)
        finally:
            os.close(source)

    def _compare(self, fd: int, identity: Identity) -> None:
        if _identity(os.fstat(fd)) != identity:
            raise errors.Corrupt(self._name, "the file to be taken over is not the one that was recorded")

    # --- local files, for staging --------------------------------------------------------

    def path(self, url: str) -> Path:
        scheme = next((scheme for scheme in _SCHEMES if url.startswith(scheme)), None)
        path = Path(url.removeprefix(scheme)) if scheme else self._datadir
        if ".." in path.parts or self._datadir not in path.parents:
            raise errors.StoreDenied(self._name, "the location lies outside the directory of this store")
        return path

    def partial(self, name: str) -> Path:
        final = self._path_of(name)
        return final.with_name(final.name + PART)

    async def reserve(self, name: str) -> Path:
        final = self._path_of(name)
        part = final.with_name(final.name + PART)
        if await self._run(lambda: os.path.lexists(final) or os.path.lexists(part)):
            raise errors.BlobExists(self._name, "an object of this name exists already")
        return part

    async def seal(self, name: str) -> tuple[Stored, Identity]:
        async with self._draft(name) as draft:
            if not stat.S_ISREG((await self._run(draft.take)).st_mode):
                raise errors.Corrupt(self._name, "what was written is not a regular file")
            sealed = await self._run(draft.commit)
            return Stored(url=_url(draft.final), size=sealed.st_size), _identity(sealed)

    async def identify(self, url: str) -> Identity:
        return _identity(await self._run(os.lstat, self.path(url)))

    async def untouched(self, seconds: float) -> Sequence[str]:
        return await self._run(self._older, time.time() - seconds)

    def _older(self, then: float) -> list[str]:
        return sorted(name for name in self._scan("") if self._written(name) <= then)

    def _written(self, name: str) -> float:
        """When a name was last written to; infinity when it has gone meanwhile."""
        final, times = self._path_of(name), []
        for path in (final, final.with_name(final.name + PART)):
            with suppress(FileNotFoundError):
                times.append(os.lstat(path).st_mtime)
        return max(times, default=math.inf)

    # --- names and files -----------------------------------------------------------------

    def _path_of(self, name: str) -> Path:
        image = checked(self._name, name).partition("/")[0]
        return self._root / _shard(image) / name.replace("/", "@")

    def _name_at(self, path: Path) -> str | None:
        """The name of ours that a file stands for; None for anything else."""
        name = path.name.replace("@", "/")
        return name if is_name(name) and self._path_of(name) == path else None

    # --- threads -------------------------------------------------------------------------

    @asynccontextmanager
    async def _draft(self, name: str) -> AsyncIterator[Draft]:
        """A file in the making, of which nothing stays unless the block ends well."""
        draft = Draft(self._path_of(name), mode=self._config.file_mode, fsync=self._fsync, hole=self._hole)
        try:
            yield draft
        except BaseException:
            draft.stop()
            await self._settle(draft.discard)
            raise

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._start(call, *args, **kwargs)

    def _start(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run a call in a thread; what the system refuses becomes an error of ours there."""

        def attempt() -> T:
            try:
                return call(*args, **kwargs)
            except OSError as error:
                raise self._explain(error) from error

        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, attempt)
        except RuntimeError as error:
            raise errors.StoreUnavailable(self._name, "the store was closed") from error

    async def _settle(self, call: Callable[[], None]) -> None:
        """Clean up, in a thread that may have to wait for another one; longer than the grace goes on unwatched."""
        try:
            done = asyncio.get_running_loop().run_in_executor(self._pool, call)
        except RuntimeError:  # closed meanwhile
            done = asyncio.get_running_loop().run_in_executor(None, call)
        done.add_done_callback(_noted)
        await asyncio.wait({done}, timeout=_GRACE)

    def _explain(self, error: OSError) -> errors.StoreError:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            return errors.StoreFull(self._name)
        if error.errno in _DENIED:
            return errors.StoreDenied(self._name)
        if error.errno == errno.EEXIST:
            return errors.BlobExists(self._name, "an object of this name exists already")
        if error.errno != errno.ENOENT:
            return errors.StoreUnavailable(self._name, reason)
        if not self._root.is_dir() or (error.filename and not os.path.isdir(os.path.dirname(error.filename))):
            return errors.StoreUnavailable(self._name, "its directory is gone; is the disk mounted?")
        return errors.BlobMissing(self._name)


def _url(path: Path) -> str:
    return f"file://{path}"


def _shard(image: str) -> str:
    """One of 256 directories, by the last two digits of the image id: the ones that differ in ids made in a row."""
    digits = image[-2:].lower()
    return digits if _SHARD.fullmatch(digits) else f"{zlib.crc32(image.encode()) & 0xFF:02x}"


def _identity(found: os.stat_result) -> Identity:
    return Identity(device=found.st_dev, inode=found.st_ino, size=found.st_size, mtime_ns=found.st_mtime_ns)


def _joined(chunks: list[bytes]) -> bytes:
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _noted(future: asyncio.Future[Any]) -> None:
    """Look at an outcome that nobody may wait for, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()


EXTENSION: Final = StoreDriver(
    name="file",
    config=FileConfig,
    connect=FileStore.connect,
    schemes=frozenset({"file", "filesystem"}),
    selftest=lambda directory: FileConfig(filesystem_store_datadir=directory / "images"),
)
