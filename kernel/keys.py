"""Encryption keys that go with an image: forgotten with it, if cinder asked for that.

Best effort, once, after the image is gone: what fails is logged, and is the key
manager's to clear away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from kernel.context import Actor
from kernel.extend import KeySource

_PATIENCE: Final = 10.0
"""Seconds for which a deletion waits for the key manager."""

log = structlog.get_logger(__name__)


async def forget_key(keys: KeySource | None, properties: Mapping[str, str | None], actor: Actor) -> None:
    """Have the key of a deleted image forgotten, in the name of who deleted it.  Never fails."""
    key_id = properties.get("cinder_encryption_key_id")
    if keys is None or not key_id or properties.get("cinder_encryption_key_deletion_policy") != "on_image_deletion":
        return
    try:
        await asyncio.wait_for(keys.delete(key_id, actor), _PATIENCE)
    except Exception as error:
        log.warning("key_not_deleted", key=key_id[:64], reason=str(error) or type(error).__name__)
