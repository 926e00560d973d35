"""Removing bytes that nobody needs: garbage by its location, leftovers by their names.

Everything here may be repeated.  What is recorded as valid is never touched, nor is
anything that is not of our own making; what cannot be removed now is simply not
reported as gone, and stays outstanding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import structlog
from msgspec import Struct

from kernel.errors import EntrepotError
from kernel.events import Sweep
from kernel.extend import Store, TakesForeign
from kernel.image import Image
from kernel.marks import mark
from kernel.site import Site

log = structlog.get_logger(__name__)

_PATIENCE: Final = 15.0
"""Seconds a store gets to remove one thing."""


class Purged(Struct, frozen=True):
    """What is gone, for `RecordPurge` or `FinishUndo`."""

    blobs: tuple[tuple[str, str], ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    complete: bool = True
    """Whether something was done, and nothing that was tried failed: what remains can be looked at again at once."""


def valid_names(image: Image) -> frozenset[str]:
    """Names of ours that the image's record vouches for."""
    names = {location.name for location in image.locations if location.name}
    if image.staged is not None:
        names.add(image.staged.name)
    if image.job is not None:
        names.update(image.job.writing.values())
        if image.job.data is not None:
            names.add(image.job.data.name)
    return frozenset(names)


class Purger:
    """Removes; needs no lease, since removing twice does no harm."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def purge(self, image: Image, now: datetime, epoch: int) -> Purged:
        """All garbage of the image that this node can reach, and the sweeps that are due.

        epoch: of the lease under which it is done.  What has a later one is somebody's new work, of which the
        image as it is here knows nothing; it is left alone however far a sweep goes.
        """
        within_reach = [item for item in image.garbage if item.node in (None, self._site.node)]
        blobs = await self.delete_all((item.store, item.url) for item in within_reach)
        due = [sweep for sweep in image.sweeps if sweep.due is None or sweep.due <= now]
        stores = {sweep.store: min(max(s.below for s in due if s.store == sweep.store), epoch + 1) for sweep in due}
        swept = await asyncio.gather(*(self._sweep(image, store, below) for store, below in stores.items()))
        clean = {store for store, done in zip(stores, swept, strict=True) if done}
        complete = len(blobs) == len({(item.store, item.url) for item in within_reach}) and len(clean) == len(stores)
        in_vain = len(within_reach) < len(image.garbage) and not blobs and not clean
        complete = complete and not in_vain
        return Purged(blobs, tuple(sweep for sweep in due if sweep.store in clean), complete)

    async def delete_all(self, wanted: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Delete locations; returns those that are gone."""
        targets = tuple(dict.fromkeys(wanted))
        gone = await asyncio.gather(*(self._delete(store, url) for store, url in targets))
        return tuple(target for target, done in zip(targets, gone, strict=True) if done)

    async def clear_way(self, image: Image, store: str, epoch: int) -> None:
        """Before writing again after a take-over: what earlier epochs left in the store only stands in the way."""
        await self._sweep(image, store, epoch)

    async def withdraw(self, image: Image, stores: Iterable[str], epoch: int) -> None:
        """After a lease was lost: what was written under it, or before, and never recorded.

        Whoever took over has looked for it, but may have done so before it was there: a process that stood
        still for a while and wakes up can write until somebody tells it that it is late.
        """
        await asyncio.gather(*(self._sweep(image, store, epoch + 1) for store in dict.fromkeys(stores)))

    async def _delete(self, name: str, url: str) -> bool:
        store = self._site.store(name)
        if store is None:
            log.warning("store_gone", store=name, url=url)
            return False
        try:
            async with asyncio.timeout(_PATIENCE):
                await _delete(store, url)
        except (EntrepotError, TimeoutError) as error:
            log.warning("not_deleted", store=name, url=url, reason=str(error) or "no answer")
            return False
        except Exception:  # a driver's fault keeps bytes, not the import
            log.exception("not_deleted", store=name, url=url)
            return False
        mark("deleted")
        return True

    async def _sweep(self, image: Image, name: str, below: int) -> bool:
        """Remove names of this image below an epoch, unless the record vouches for them."""
        store = self._site.store(name)
        if store is None:
            return True
        valid = valid_names(image)
        try:
            async with asyncio.timeout(_PATIENCE):
                for leftover in await store.leftovers(f"{image.id}/"):
                    if leftover.epoch < below and leftover.name not in valid:
                        log.info("leftover_removed", store=name, name=leftover.name)
                        await store.remove(leftover.name)
        except (EntrepotError, TimeoutError) as error:
            log.warning("not_swept", store=name, image_id=image.id, reason=str(error) or "no answer")
            return False
        except Exception:
            log.exception("not_swept", store=name, image_id=image.id)
            return False
        mark("swept")
        return True


async def _delete(store: Store, url: str) -> None:
    if isinstance(store, TakesForeign) and store.foreign(url):
        await store.delete_foreign(url)
    else:
        await store.delete(url)
