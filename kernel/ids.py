"""Ids that we choose: time-ordered, so that neighbours in time are neighbours in an index."""

from __future__ import annotations

from typing import NewType
from uuid import UUID

from uuid_utils.compat import uuid7

new_id = uuid7
"""A new UUID, version 7 (RFC 9562)."""

ImageId = NewType("ImageId", str)
"""An image id exactly as the client wrote it; compared case-sensitively."""


def stream_of(image_id: str) -> UUID | None:
    """The stream an image id names; None for text that can be no image's id."""
    if len(image_id) != 36 or image_id[8] != "-":
        return None
    try:
        return UUID(image_id)
    except ValueError:
        return None
