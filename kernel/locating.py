"""Finding out whose a URL is and how much lies there."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import urlsplit

from kernel.errors import EntrepotError, Invalid, StoreError
from kernel.events import Location
from kernel.extend import TakesForeign
from kernel.site import Backend, Site

NEVER: Final = frozenset({"file", "filesystem", "swift+config"})
"""Schemes that would let clients name what is on the service's own disks, or in its configuration."""

_PATIENCE: Final = 30.0
"""Seconds a store gets to tell a size."""


def scheme_of(url: str) -> str:
    """The scheme of a URL, lower case; `Invalid` if it is none, or carries a password, which no log may keep."""
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError:
        raise Invalid("The location is not a URL") from None
    if not parts.scheme:
        raise Invalid("The location is not a URL")
    if secret is not None:
        raise Invalid("A location cannot carry a password")
    return parts.scheme.lower()


def owner_of(site: Site, url: str, named: Any = None) -> Backend:
    """The store that a URL belongs to: the one that is named, or the first whose driver knows the scheme."""
    scheme = scheme_of(url)
    able = [item for item in site.backends.values() if scheme in item.driver.schemes and scheme not in NEVER]
    if not able:
        raise Invalid(f"No store of this site keeps data at locations of the scheme '{scheme[:40]}'")
    if named is None:
        return able[0]
    for backend in able:
        if backend.name == named:
            return backend
    raise Invalid(f"metadata.store: no store of this name keeps data at locations of the scheme '{scheme[:40]}'")


async def locate(site: Site, url: str, metadata: dict[str, Any], store: str | None = None) -> Location:
    """The location as the image will have it, in a store that the caller or the metadata may name.

    `Invalid` when there is nothing, or nothing that may be registered.
    """
    backend = owner_of(site, url, store or (metadata.get("store") if site.multi else None))
    try:
        async with asyncio.timeout(_PATIENCE):
            if isinstance(backend.store, TakesForeign) and not backend.store.foreign(url):
                raise StoreError(backend.name, "what the service keeps for itself cannot be registered")
            size = await backend.store.size(url)
    except TimeoutError:
        raise Invalid(f"The location cannot be used: store {backend.name} does not answer") from None
    except EntrepotError as error:
        raise Invalid(f"The location cannot be used: {error}") from None
    if size <= 0:
        raise Invalid("The location cannot be used: there is no data")
    kept = {name: value for name, value in metadata.items() if name != "store" or not site.multi}
    return Location(store=backend.name, url=url, size=size, metadata=kept)
