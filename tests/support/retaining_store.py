"""A memory store on whose bytes others may come to depend, as they do with snapshots and clones."""

from __future__ import annotations

from typing import Final

from kernel.errors import BlobInUse
from kernel.extend import NoConfig, StoreDriver, StoreSite
from tests.support.faulty_store import FaultyStore
from tests.support.memory_store import STORES, MemoryStore


class RetainingStore(FaultyStore):
    """Everything that `FaultyStore` can be told, and to hold on to what it has."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.in_use: str | None = None
        """Why nothing can be deleted, if so."""
        self.unasked = False
        """Whether they begin to depend on the bytes only after it was asked."""

    @classmethod
    async def connect(cls, config: NoConfig, site: StoreSite) -> MemoryStore:
        return STORES.setdefault((site.deployment, site.name), cls(site.name))

    async def release(self, url: str) -> None:
        if self.in_use is not None and not self.unasked and self._name(url) in self.blobs:
            raise BlobInUse(self.name, self.in_use)

    async def delete(self, url: str) -> None:
        if self.in_use is not None:
            self.deletions += 1
            raise BlobInUse(self.name, self.in_use)
        await super().delete(url)


EXTENSION: Final = StoreDriver(
    name="retaining", config=NoConfig, connect=RetainingStore.connect, schemes=frozenset({"memory"})
)
