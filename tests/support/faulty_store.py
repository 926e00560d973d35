"""A memory store whose reads and deletions fail on demand as well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from kernel.extend import NoConfig, StoreDriver, StoreSite
from tests.support.memory_store import STORES, MemoryStore


class FaultyStore(MemoryStore):
    """Everything that `MemoryStore` can be told, and more."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._unreadable: tuple[int, Exception] | None = None
        self._times: int | None = None
        self._undeletable: Exception | None = None
        self.deletions = 0
        """How often somebody tried to delete something."""

    @classmethod
    async def connect(cls, config: NoConfig, site: StoreSite) -> MemoryStore:
        return STORES.setdefault((site.deployment, site.name), cls(site.name))

    def break_reads(self, error: Exception | None, after: int = 0, times: int | None = None) -> None:
        """From now on reads, or so many, raise `error` once `after` bytes have gone out; None heals the store."""
        self._unreadable = (after, error) if error is not None else None
        self._times = times

    def break_deletes(self, error: Exception | None) -> None:
        """From now on nothing can be deleted."""
        self._undeletable = error

    async def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        gone_out = 0
        async for piece in super().read(url, offset, length):
            if self._unreadable is not None:
                after, error = self._unreadable
                if gone_out + len(piece) > after:
                    yield piece[: after - gone_out]
                    self._times = None if self._times is None else self._times - 1
                    if self._times == 0:
                        self._unreadable = None
                    raise error
            gone_out += len(piece)
            yield piece

    async def delete(self, url: str) -> None:
        self.deletions += 1
        if self._undeletable is not None:
            raise self._undeletable
        await super().delete(url)


EXTENSION: Final = StoreDriver(
    name="faulty", config=NoConfig, connect=FaultyStore.connect, schemes=frozenset({"memory"})
)
