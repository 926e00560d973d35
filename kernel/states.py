"""The states around each event, for whoever reads the log in order.

Keeps the newest state of the streams it has met and folds on; a stream it has not
met, or has forgotten, is folded from its own events up to the one at hand.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from kernel.errors import LogBroken
from kernel.evolve import NOTHING, evolve, fold
from kernel.image import Image
from kernel.kept import Kept
from kernel.log import EventLog
from kernel.recorded import IMAGE, Recorded

_MOST: Final = 20_000
_HEAVIEST: Final = 64 << 20
"""Characters of custom properties in all, which are what may make a state megabytes."""


class States:
    """A bounded cache of folded streams."""

    def __init__(self, log: EventLog, most: int = _MOST) -> None:
        self._log = log
        self._known: Kept[UUID, Image] = Kept(most, _HEAVIEST)

    async def around(self, item: Recorded) -> tuple[Image, Image]:
        """The state before and after an event; `UnknownEvent` from the first one of a stream nobody here knows.

        Events of streams that hold no image leave the empty state as it is.
        """
        if item.category != IMAGE:
            return NOTHING, NOTHING
        before = self._known.get(item.stream)
        if before is None or before.version != item.version - 1:
            before = await self._fold(item.stream, item.version - 1)
        after = evolve(before, item.event, item.meta)
        self._known.put(item.stream, after, sum(len(value or "") for value in after.properties.values()))
        return before, after

    async def _fold(self, stream: UUID, version: int) -> Image:
        image = NOTHING
        while image.version < version:
            page = await self._log.read_stream(IMAGE, stream, image.version, min(500, version - image.version))
            if not page:
                raise LogBroken(f"stream {stream} has {image.version} events, {version} were expected")
            image = fold(page, image)
        return image
