"""What an image costs its owner, by resource: pure, so that usage is a fold like everything else.

The difference of the charges before and after a command is applied, and checked
against limits, inside the very call that appends the events.
"""

from __future__ import annotations

from typing import Final

from kernel.image import Image

SIZE_TOTAL: Final = "image_size_total"
STAGE_TOTAL: Final = "image_stage_total"
COUNT_TOTAL: Final = "image_count_total"
COUNT_UPLOADING: Final = "image_count_uploading"

RESOURCES: Final = (SIZE_TOTAL, STAGE_TOTAL, COUNT_TOTAL, COUNT_UPLOADING)
"""Sizes are counted in bytes, the others in images."""


def charges(image: Image) -> dict[tuple[str, str], int]:
    """(owner, resource) -> amount.  An image without owner is nobody's cost."""
    if not image.exists or (image.gone and not image.expected) or image.owner is None:
        return {}
    owner = image.owner
    size = image.size or 0
    declared = (image.transfer.declared_size or 0) if image.transfer else 0
    copying = image.job is not None and image.job.copies
    making = image.job is not None and image.job.makes and image.status == "queued"
    staged = image.status in ("uploading", "importing", "expected") or copying or making
    return {
        (owner, COUNT_TOTAL): 1,
        (owner, SIZE_TOTAL): 0 if image.expected else size * len(image.locations),
        (owner, STAGE_TOTAL): max(size, declared) if staged else 0,
        (owner, COUNT_UPLOADING): 1 if staged or image.status == "saving" else 0,
    }


def delta(before: Image, after: Image) -> dict[tuple[str, str], int]:
    """What changes from one state to the next; zero changes are left out."""
    old, new = charges(before), charges(after)
    changed = {key: new.get(key, 0) - old.get(key, 0) for key in (*old, *(key for key in new if key not in old))}
    return {key: amount for key, amount in changed.items() if amount}
