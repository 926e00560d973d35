"""Opening an image's data: copies are tried by store weight until one answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import structlog
from msgspec import Struct

from kernel.errors import EntrepotError, StoreError, Unavailable
from kernel.events import Location
from kernel.extend import LocalFiles, Store
from kernel.image import Image
from kernel.site import Site

log = structlog.get_logger(__name__)


class Copy(Struct, frozen=True):
    """A copy that answered."""

    location: Location
    store: Store
    size: int

    @property
    def path(self) -> Path | None:
        """The local file behind it, if there is one."""
        return self.store.path(self.location.url) if isinstance(self.store, LocalFiles) else None

    def read(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        return self.store.read(self.location.url, offset, length)


def in_order(site: Site, image: Image, prefer: Sequence[str] = ()) -> list[Location]:
    """Locations in the order in which they are tried: preferred stores first, then by weight."""
    rank = {name: index for index, name in enumerate(site.by_weight({loc.store for loc in image.locations}))}
    wanted = {name: index for index, name in enumerate(prefer)}
    return sorted(image.locations, key=lambda loc: (wanted.get(loc.store, len(wanted)), rank.get(loc.store, len(rank))))


async def open_copy(site: Site, image: Image, prefer: Sequence[str] = ()) -> Copy:
    """The first copy that is there; `Unavailable` when none is, for the image says that there should be one."""
    for location in in_order(site, image, prefer):
        store = site.store(location.store)
        if store is None:
            continue
        try:
            size = await store.size(location.url)
            if image.size is not None and size != image.size:
                raise StoreError(location.store, f"{image.size} bytes are recorded, {size} are there")
        except EntrepotError as error:
            log.warning("copy_unreadable", image_id=image.id, store=location.store, reason=str(error))
            continue
        return Copy(location, store, size)
    raise Unavailable("The data of this image cannot be read from any store right now")
