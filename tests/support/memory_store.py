"""A store without a disk for tests, which can be told to break or to wait.

It obeys the same contract suite as the real ones.  A store is found again by its
deployment and name, as bytes on a disk would be after a restart of the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from kernel import errors
from kernel.extend import Leftover, NoConfig, Stored, StoreDriver, StoreSite
from stores._names import checked, epoch_of

_PIECE: Final = 1 << 20

STORES: Final[dict[tuple[UUID, str], MemoryStore]] = {}
"""Every memory store of this test run, by deployment and name."""


class MemoryStore:
    """A `Store` that keeps its objects in a dictionary, `blobs`, open to tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blobs: dict[str, tuple[bytes, ...]] = {}
        self.blocked = asyncio.Event()
        """Set while a writer waits for the release of `block_writes`."""
        self._parts: set[str] = set()
        self._broken: Exception | None = None
        self._gate: asyncio.Event | None = None

    @classmethod
    async def connect(cls, config: NoConfig, site: StoreSite) -> MemoryStore:
        """The store of this deployment and name, with what it holds already."""
        return STORES.setdefault((site.deployment, site.name), cls(site.name))

    # --- hooks for tests -----------------------------------------------------------------

    def break_writes(self, error: Exception | None) -> None:
        """From now on every write raises `error`, in the middle too; None heals the store."""
        self._broken = error

    def block_writes(self) -> Callable[[], None]:
        """From now on every write waits where it is, until the function that this returns is called."""
        gate = self._gate = asyncio.Event()
        self.blocked.clear()

        def release() -> None:
            gate.set()
            if self._gate is gate:
                self._gate = None
                self.blocked.clear()

        return release

    async def _pass(self) -> None:
        if self._gate is not None:
            self.blocked.set()
            await self._gate.wait()
        if self._broken is not None:
            raise self._broken

    # --- the store -----------------------------------------------------------------------

    async def put(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> Stored:
        if checked(self.name, name) in self.blobs or name in self._parts:
            raise errors.BlobExists(self.name, "an object of this name exists already")
        self._parts.add(name)
        try:
            await self._pass()
            kept = []
            async for chunk in chunks:
                await self._pass()
                kept.append(bytes(chunk))
            if size is not None and sum(map(len, kept)) != size:
                raise errors.Corrupt(self.name, f"{size} bytes were announced and {sum(map(len, kept))} came")
            if name not in self._parts:
                raise errors.BlobMissing(self.name)  # removed by a successor while it was written
            self.blobs[name] = tuple(kept)
        finally:
            self._parts.discard(name)
        return Stored(url=self.url(name), size=sum(map(len, kept)))

    async def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        blob = self._find(url)
        size = sum(map(len, blob))
        if offset > size:
            raise errors.BlobMissing(self.name, f"the object ends before byte {offset}")
        end = size if length is None else min(size, offset + length)
        begin = 0
        for chunk in blob:
            wanted = chunk[max(0, offset - begin) : max(0, end - begin)]
            for at in range(0, len(wanted), _PIECE):
                yield wanted[at : at + _PIECE]
            begin += len(chunk)

    async def size(self, url: str) -> int:
        return sum(map(len, self._find(url)))

    async def delete(self, url: str) -> None:
        self.blobs.pop(self._name(url), None)

    async def leftovers(self, prefix: str) -> Sequence[Leftover]:
        names = sorted(name for name in {*self.blobs, *self._parts} if name.startswith(prefix))
        return [Leftover(name, epoch_of(name)) for name in names]

    async def remove(self, name: str) -> None:
        self.blobs.pop(checked(self.name, name), None)
        self._parts.discard(name)

    async def close(self) -> None:
        """Nothing to give back."""

    @property
    def properties(self) -> Mapping[str, Any]:
        return {}

    def url(self, name: str) -> str:
        """Where the bytes with a name of ours are."""
        return f"memory://{self.name}/{checked(self.name, name)}"

    def _name(self, url: str) -> str:
        name = url.removeprefix(f"memory://{self.name}/")
        if name == url:
            raise errors.StoreDenied(self.name, "the location is not one of ours")
        return name

    def _find(self, url: str) -> tuple[bytes, ...]:
        try:
            return self.blobs[self._name(url)]
        except KeyError:
            raise errors.BlobMissing(self.name) from None


def _config(directory: Path) -> NoConfig:
    return NoConfig()


EXTENSION: Final = StoreDriver(
    name="memory",
    config=NoConfig,
    connect=MemoryStore.connect,
    schemes=frozenset({"memory"}),
    selftest=_config,
)
