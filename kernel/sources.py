"""Where a store write gets its bytes: an opener that can be asked again, not a stream that runs dry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from kernel.errors import Corrupt, StoreError
from kernel.events import Blob, Identity
from kernel.extend import LocalFiles, Store
from kernel.image import STAGING
from kernel.streams import digest


class StagedSource:
    """Staged bytes.  `verify` first: afterwards `identity` is that of bytes known to be the recorded ones."""

    def __init__(self, store: Store, blob: Blob) -> None:
        self._store = store
        self.blob = blob
        self.identity: Identity | None = blob.identity

    def open(self) -> AsyncIterator[bytes]:
        """All bytes from the start; may be called again."""
        return self._store.read(self.blob.url)

    @property
    def path(self) -> Path | None:
        """The local file, if there is one that a store may adopt."""
        return self._store.path(self.blob.url) if isinstance(self._store, LocalFiles) else None

    async def untouched(self) -> bool:
        """Whether the file is just as it was when its digests were taken."""
        if self.blob.identity is None or not isinstance(self._store, LocalFiles):
            return False
        try:
            return await self._store.identify(self.blob.url) == self.blob.identity
        except StoreError:
            return False

    async def verify(self) -> None:
        """`BlobMissing` when the bytes are gone, `Corrupt` when they are not those that were recorded.

        A file that still has the recorded identity is not read again; one that was
        copied or touched since is hashed anew.
        """
        blob = self.blob
        if not isinstance(self._store, LocalFiles):
            size = await self._store.size(blob.url)
            if size != blob.size:
                raise Corrupt(STAGING, f"{blob.size} bytes were staged, {size} are there")
            return
        found = await self._store.identify(blob.url)
        if found == blob.identity:
            return
        size, digests, _ = await digest(self._store.read(blob.url), blob.digests.algo)
        if (size, digests) != (blob.size, blob.digests):
            raise Corrupt(STAGING, "the staged bytes have changed since they were staged")
        self.identity = found
