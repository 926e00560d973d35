"""Locations that clients register, reorder and take away: what may be done to which image.  Pure.

Clients count locations in the order in which data is read: heaviest store first, then as
they were added.  Commands therefore carry that order of the stores.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kernel.errors import Conflict, Forbidden, Invalid
from kernel.events import Digests, Location, LocationAdded, LocationRemoved, LocationsReplaced
from kernel.image import Image
from kernel.patch import within

_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_MD5: Final = 32
"""Hex digits."""


class Proof(Struct, frozen=True, kw_only=True):
    """What a client says of the bytes at a location."""

    algo: str
    value: str
    checksum: str | None = None


class Given(Struct, frozen=True, kw_only=True):
    """A location as a client gave it, its store and size found out by the edge."""

    location: Location
    proof: Proof | None = None


class Terms(Struct, frozen=True, kw_only=True):
    """What the site demands of locations."""

    order: tuple[str, ...] = ()
    """Stores in the order in which data is read."""
    quota: int = -1
    """Most locations of an image; negative is no limit."""
    algorithm: str = "sha512"
    """The only one in which new hashes are taken."""


def in_order(locations: Sequence[Location], order: Sequence[str]) -> list[Location]:
    """Locations as clients see and count them."""
    rank = {store: index for index, store in enumerate(order)}
    return sorted(locations, key=lambda location: rank.get(location.store, len(rank)))


def held(image: Image) -> tuple[Location, ...]:
    """Locations that count: a queued image may have one left from a registration that failed."""
    return () if image.status == "queued" else image.locations


def check_receptive(image: Image, missing: Sequence[str]) -> None:
    """Refuse a location that the image's status or formats do not allow; `missing` names formats that are not set."""
    if image.status not in ("queued", "active"):
        raise Conflict(f"Locations can be added only to queued and active images, not to one that is {image.status}")
    if image.status == "queued" and missing:
        raise Invalid(f"Properties {', '.join(missing)} must be set before a location can be added")


def added(image: Image, given: Given, at: int | None, terms: Terms) -> LocationAdded:
    """The location put at a place, by default the last; beyond the end is the end."""
    there = held(image)
    location = given.location
    _must_differ([*there, location])
    within("locations", len(there) + 1, terms.quota)
    shown = in_order(there, terms.order)
    index = there.index(shown[at]) if at is not None and at < len(shown) else None
    return LocationAdded(
        location=location, size=location.size, digests=_digests(image, given.proof, terms.algorithm), index=index
    )


def removed(image: Image, index: int, terms: Terms) -> LocationRemoved:
    """The location with this number taken away; never the last."""
    if image.status != "active":
        raise Conflict(f"Locations can be removed only from active images, not from one that is {image.status}")
    shown = in_order(image.locations, terms.order)
    if index >= len(shown):
        raise Invalid(f"Image {image.id} has no location number {index}")
    if len(shown) == 1:
        raise Forbidden("The last location of an image cannot be removed")
    gone = shown[index]
    return LocationRemoved(url=gone.url, store=gone.store, metadata=gone.metadata)


def replaced(image: Image, given: Sequence[Given], terms: Terms) -> LocationsReplaced:
    """The same places with other metadata, in another order."""
    if {item.location.url for item in given} != {location.url for location in image.locations}:
        raise Invalid("Replacing locations can change their metadata, not the set of their URLs")
    for item in given:
        _digests(image, item.proof, terms.algorithm)
    known = {location.url: location for location in reversed(image.locations)}
    locations = tuple(replace(known[item.location.url], metadata=item.location.metadata) for item in given)
    _must_differ(locations)
    within("locations", len(locations), terms.quota)
    return LocationsReplaced(locations=locations)


def _must_differ(locations: Sequence[Location]) -> None:
    for index, location in enumerate(locations):
        if any((other.url, other.metadata) == (location.url, location.metadata) for other in locations[:index]):
            raise Invalid("The image has a location with this URL and this metadata already")


def _digests(image: Image, proof: Proof | None, algorithm: str) -> Digests | None:
    """What is new of the hashes a client vouches for; those that are known must be the same."""
    if proof is None:
        return None
    pairs = ((proof.algo, image.hash_algo), (proof.value, image.hash_value), (proof.checksum, image.checksum))
    if any(said is not None and known is not None and said != known for said, known in pairs):
        raise Conflict("The hashes given differ from those of the image")
    if all(said is None or known is not None for said, known in pairs):
        return None
    if image.status != "queued":
        raise Conflict("Hashes can be given only while the image is queued")
    if proof.algo != algorithm:
        raise Conflict(f"os_hash_algo must be {algorithm} at this site")
    if not is_hash(proof.value, 2 * hashlib.new(algorithm, usedforsecurity=False).digest_size):
        raise Conflict(f"os_hash_value is not a hash of {algorithm}")
    if proof.checksum is not None and not is_hash(proof.checksum, _MD5):
        raise Conflict("checksum is not an MD5 hash")
    return Digests(md5=(proof.checksum or "").lower(), algo=proof.algo, value=proof.value.lower())


def is_hash(text: str, digits: int) -> bool:
    """Whether a text is so many hexadecimal digits."""
    return len(text) == digits and _HEX.fullmatch(text) is not None
