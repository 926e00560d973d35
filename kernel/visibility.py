"""Who sees an image: pure.  Lists apply the same rules as conditions (`kernel/listing.py`)."""

from __future__ import annotations

from kernel.image import Image, member_of


def visible(image: Image, project: str | None, admin: bool) -> bool:
    """Whether showing the image by its id is open to the caller; policy may still forbid it."""
    if not image.exists or image.gone:
        return False
    if admin or image.owner is None or image.visibility in ("public", "community"):
        return True
    if project is None:
        return False
    return image.owner == project or member_of(image, project) is not None
