"""Where a store write gets its bytes: something that can be opened again, not a stream that runs dry."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Final, Protocol

import structlog

from kernel.errors import BlobMissing, Corrupt, EntrepotError, StoreError, StoreUnavailable
from kernel.events import Blob, Digests, Identity, Location
from kernel.extend import LocalFiles, Store
from kernel.image import STAGING, Image
from kernel.site import Site
from kernel.streams import digest, shown
from kernel.watching import steady, timely

log = structlog.get_logger(__name__)

_TRIES: Final = 3
"""How often a copy may break off before it is not used again."""


class NoCopy(EntrepotError):
    """No store has a readable copy of the image"""


class Source(Protocol):
    """Bytes of known size and digests."""

    @property
    def size(self) -> int: ...

    @property
    def digests(self) -> Digests: ...

    @property
    def file(self) -> tuple[Path, Identity] | None:
        """The local file that a store may adopt, as it was when its bytes were known to be the recorded ones."""
        ...

    def open(self) -> AsyncIterator[bytes]:
        """All bytes from the start; may be called again."""
        ...

    async def verify(self) -> None:
        """Make sure that the bytes are there and the recorded ones; raises if not."""
        ...


class StagedSource:
    """Staged bytes; fit to be adopted once verified, or known to be untouched."""

    def __init__(self, store: Store, blob: Blob, patience: float) -> None:
        """`patience`: seconds for which staging may keep us waiting."""
        self._store = store
        self._patience = patience
        self.blob = blob
        self._identity: Identity | None = blob.identity

    @property
    def size(self) -> int:
        return self.blob.size

    @property
    def digests(self) -> Digests:
        return self.blob.digests

    @property
    def file(self) -> tuple[Path, Identity] | None:
        if self._identity is None or not isinstance(self._store, LocalFiles):
            return None
        return self._store.path(self.blob.url), self._identity

    def open(self) -> AsyncIterator[bytes]:
        return steady(self._store.read(self.blob.url), self._patience, STAGING)

    async def untouched(self) -> bool:
        """Whether the file is just as it was when its digests were taken."""
        if self.blob.identity is None or not isinstance(self._store, LocalFiles):
            return False
        try:
            return await timely(self._store.identify(self.blob.url), self._patience, STAGING) == self.blob.identity
        except StoreError:
            return False
        except Exception:
            log.exception("staged_file_unknown", url=self.blob.url)
            return False

    async def verify(self) -> None:
        """A file that still has the recorded identity is not read again; one that was copied or touched is hashed."""
        blob = self.blob
        if await self.untouched():
            return
        found = None
        if isinstance(self._store, LocalFiles):
            found = await timely(self._store.identify(blob.url), self._patience, STAGING)
        size, digests, _ = await digest(self.open(), blob.digests.algo)
        if (size, digests) != (blob.size, blob.digests):
            raise Corrupt(STAGING, "the staged bytes have changed since they were staged")
        self._identity = found


class CopySource:
    """The image's own copies, one after another until one can be read: the default store's first.

    What is read is compared with the image's hash on the way; a copy that differs is
    not used again.
    """

    def __init__(self, site: Site, image: Image) -> None:
        self._site = site
        self._image = image
        names = site.by_weight({location.store for location in image.locations})
        names.sort(key=lambda name: name != site.default)
        self._left = [location for name in names for location in image.locations if location.store == name]
        self._broken_off = Counter[str]()

    @property
    def size(self) -> int:
        return self._image.size or 0

    @property
    def digests(self) -> Digests:
        image = self._image
        return Digests(md5=image.checksum or "", algo=image.hash_algo or "", value=image.hash_value or "")

    @property
    def file(self) -> tuple[Path, Identity] | None:
        return None

    async def verify(self) -> None:
        """Find a copy that is there in full length."""
        while self._left:
            location = self._left[0]
            try:
                store = self._store(location)
                size = await timely(store.size(location.url), self._site.patience, location.store)
                if size != self.size:
                    raise BlobMissing(location.store, f"{self.size} bytes are recorded, {size} are there")
            except EntrepotError as error:
                self._discard(location, error)
            else:
                return
        raise NoCopy

    async def open(self) -> AsyncIterator[bytes]:
        await self.verify()
        location = self._left[0]
        hashed = hashlib.new(self._image.hash_algo or "sha512", usedforsecurity=False)
        length = 0
        try:
            read = steady(self._store(location).read(location.url), self._site.patience, location.store)
            async with aclosing(shown(read, hashed.update)) as chunks:
                async for chunk in chunks:
                    length += len(chunk)
                    yield chunk
        except StoreError as error:
            self._pass_over(location, error)
            raise
        if length != self.size or (self._image.hash_value and hashed.hexdigest() != self._image.hash_value):
            differs = Corrupt(location.store, "the copy differs from the image's recorded size or hash")
            self._discard(location, differs)
            raise differs

    def _store(self, location: Location) -> Store:
        store = self._site.store(location.store)
        if store is None:
            raise StoreError(location.store, "is not configured any more")
        return store

    def _pass_over(self, location: Location, error: StoreError) -> None:
        """What merely broke off is left for last, and read again if nothing else can be."""
        self._broken_off[location.url] += 1
        if isinstance(error, StoreUnavailable) and self._broken_off[location.url] < _TRIES:
            log.info("copy_broke_off", image_id=self._image.id, store=location.store, reason=str(error))
            self._left = [*(other for other in self._left if other != location), location]
        else:
            self._discard(location, error)

    def _discard(self, location: Location, error: EntrepotError) -> None:
        log.warning("copy_unreadable", image_id=self._image.id, store=location.store, reason=str(error))
        self._left = [other for other in self._left if other != location]
