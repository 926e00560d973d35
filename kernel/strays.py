"""Staged files that nobody will ever ask for, found by looking into the staging area itself.

What the log knows of is removed as the log says (`kernel/purge.py`).  This finds the
rest: files of images that the log does not know (the database is older than the disk),
and what a process wrote after its image had been dealt with, on whichever node that was.
Every node looks into its own staging area, so where it is not shared the files go by
the hand of the one node that can reach them.

Only names of ours are looked at, and a deployment sees no other one's.  A name is given
once: what no record vouches for while nobody works on its image is never needed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from kernel.errors import StoreError, Unavailable
from kernel.extend import LocalFiles, Store
from kernel.ids import stream_of
from kernel.log import EventLog
from kernel.purge import valid_names
from kernel.recorded import IMAGE

log = structlog.get_logger(__name__)

_EVERY: Final = 3600.0
"""Seconds between two looks."""

_YOUNG: Final = 3600.0
"""Seconds for which a file is left alone after its last write, whatever is known of it."""


class Strays:
    """Keeps this node's staging area free of them."""

    def __init__(self, staging: Store, event_log: EventLog) -> None:
        self._staging = staging
        self._log = event_log

    async def keep_swept(self) -> None:
        """Sweep at once and then now and again, until cancelled."""
        while True:
            try:
                for name in await self.sweep():
                    log.info("stray_removed", name=name)
            except (StoreError, Unavailable) as error:
                log.warning("staging_not_swept", reason=str(error))
            except Exception:
                log.exception("staging_not_swept")
            await asyncio.sleep(_EVERY)

    async def sweep(self) -> Sequence[str]:
        """Remove what is stray now; returns the names."""
        if not isinstance(self._staging, LocalFiles):
            return ()
        names = await self._staging.untouched(_YOUNG)  # first the files, then what is known: never the reverse
        return [name for name in names if await self._stray(name) and await self._remove(name)]

    async def _remove(self, name: str) -> bool:
        """One that cannot be removed leaves the others no less stray."""
        try:
            await self._staging.remove(name)
        except StoreError as error:
            log.warning("stray_not_removed", name=name, reason=str(error))
            return False
        return True

    async def _stray(self, name: str) -> bool:
        image_id = name.partition("/")[0]
        stream = stream_of(image_id)
        if stream is None:
            return False
        image = (await self._log.load(stream)).image
        if not image.exists:  # a missing row is not enough to say that there is no such image
            return not await self._log.read_stream(IMAGE, stream, 0, 1)
        return image.transfer is None and image.job is None and name not in valid_names(image)
