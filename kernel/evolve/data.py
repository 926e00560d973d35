"""What an image tells of its data, and an image without any."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kernel import events as e
from kernel.image import Image


def size_and_hashes(location: e.Location, digests: e.Digests) -> dict[str, Any]:
    """What is told of bytes that are all there."""
    return {
        "size": location.size,
        "checksum": digests.md5,
        "hash_algo": digests.algo,
        "hash_value": digests.value,
    }


def cleared() -> dict[str, Any]:
    """What `queued` means for an image that had, or nearly had, data."""
    return {
        "status": "queued",
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "hash_algo": None,
        "hash_value": None,
    }


def afresh(image: Image) -> Image:
    """A queued image without the location that a registration which failed may have left on it."""
    return replace(image, locations=()) if image.status == "queued" and image.locations else image
