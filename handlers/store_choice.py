"""Which stores an import goes to.  Pure."""

from __future__ import annotations

from msgspec import Struct

from handlers.schemas import StoreWishes
from kernel.errors import Conflict, Invalid
from kernel.extend import ImportMethod
from kernel.image import Image
from kernel.site import Site


class Choice(Struct, frozen=True):
    stores: tuple[str, ...]


def choose(site: Site, body: StoreWishes, header: str | None, image: Image, method: ImportMethod) -> Choice | None:
    """The stores to write, in order; None when a copy to all stores finds nothing left to do."""
    if not site.multi:
        return Choice((site.default,))
    named = list(dict.fromkeys(body.stores)) if body.stores is not None else None
    if body.all_stores:
        if named is not None or header is not None:
            raise Invalid("all_stores cannot be combined with stores or X-Image-Meta-Store")
        stores = [name for name, backend in site.backends.items() if not backend.read_only]
    elif named is not None:
        if header is not None and named != [header]:
            raise Invalid("stores cannot be combined with X-Image-Meta-Store")
        stores = named
    elif header is not None:
        stores = [header]
    else:
        stores = [site.default]
    for name in stores:
        if name not in site.backends:
            raise Conflict(f"Store for identifier {name} not found")
    if method.copies:
        return _copies(stores, image, explicit=not body.all_stores)
    return Choice(tuple(stores))


def _copies(stores: list[str], image: Image, *, explicit: bool) -> Choice | None:
    held = set(image.stores)
    if explicit:
        for name in stores:
            if name in held:
                raise Invalid(f"Image is already present at store {name}")
    missing = tuple(name for name in stores if name not in held)
    return Choice(missing) if missing else None
