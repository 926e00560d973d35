"""Writing verified bytes to one store: adopted where possible, else streamed; stalls are noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from kernel.errors import Corrupt, EntrepotError, StoreError, StoreUnavailable
from kernel.events import Location
from kernel.extend import AdoptsFiles, Store, Stored
from kernel.leases import Lease
from kernel.marks import mark
from kernel.site import Site
from kernel.sources import Source
from kernel.watching import Pace

_TRIES: Final = 3
_ADOPTION_RATE: Final = 5 << 20
"""Bytes a second below which a copy inside the file system counts as stalled."""


class Writer:
    """Writes on behalf of one lease."""

    def __init__(self, site: Site, lease: Lease) -> None:
        self._site = site
        self._lease = lease

    async def write(self, store_name: str, name: str, source: Source) -> Location:
        """Write and compare what the store reports; a store that does not answer is tried again."""
        store = self._site.store(store_name)
        if store is None:
            raise StoreError(store_name, "is not configured any more")
        pause = 0.2
        for attempt in range(1, _TRIES + 1):
            try:
                mark("storing begins")
                stored = await self._put(store, store_name, name, source)
                mark("stored")
            except StoreUnavailable as error:
                if attempt == _TRIES or error.store != store_name:
                    raise  # where the bytes come from is for somebody else to see to
                await asyncio.sleep(pause)
                pause *= 4
                with contextlib.suppress(EntrepotError):
                    await store.remove(name)
            else:
                _compare(store_name, stored, source)
                return Location(store=store_name, url=stored.url, name=name, size=stored.size)
        raise AssertionError("the loop returns or raises")

    async def _put(self, store: Store, store_name: str, name: str, source: Source) -> Stored:
        size = source.size
        stall = self._site.settings.import_worker.store_stall_timeout
        self._lease.report("storing", 0, size, store_name)
        pace = Pace()
        try:
            if isinstance(store, AdoptsFiles) and source.file is not None:
                adoption = store.adopt(name, *source.file)
                adopted = await pace.supervise(adoption, stall + size / _ADOPTION_RATE)
                if adopted is not None:
                    return adopted
            chunks = pace.count(source.open(), lambda done: self._lease.report("storing", done, size, store_name))
            return await pace.supervise(store.put(name, chunks, size), stall)
        except TimeoutError:
            raise StoreError(store_name, f"the write made no progress for {stall:g} s") from None


async def keep(store: Store, store_name: str, name: str, chunks: AsyncGenerator[bytes, None], stall: float) -> Stored:
    """Write what somebody sends, who has time limits of his own; `StoreError` when the store stands still."""
    pace = Pace()
    try:
        return await pace.supervise(store.put(name, pace.feed(chunks)), stall)
    except TimeoutError:
        raise StoreError(store_name, f"the write made no progress for {stall:g} s") from None
    finally:
        with contextlib.suppress(RuntimeError):  # somebody who cannot be stopped still waits for a chunk
            await chunks.aclose()


def _compare(store_name: str, stored: Stored, source: Source) -> None:
    if stored.size != source.size:
        raise Corrupt(store_name, f"{source.size} bytes were written, the store reports {stored.size}")
    if stored.md5 is not None and source.digests.md5 and stored.md5 != source.digests.md5:
        raise Corrupt(store_name, "the store reports another checksum than that of the data written")
