"""Representations of images as JSON.  Most are asked for again unchanged, so the newest are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson

from handlers import views
from handlers.views import Viewer
from kernel.image import Image
from kernel.kept import Kept

_MOST_KEPT: Final = 4096
_HEAVIEST_KEPT: Final = 64 << 20
"""Bytes in all; properties may make each of them megabytes."""

_LARGE: Final = 256 << 10
"""Bytes of a representation that takes its time to make."""


class Rendered:
    """Keeps what was made for those who see everything there is; the representations of one service."""

    def __init__(self) -> None:
        self._kept: Kept[tuple[str, int, bool], bytes] = Kept(_MOST_KEPT, _HEAVIEST_KEPT)

    async def images(self, shown: Sequence[Image], viewer: Viewer) -> list[bytes]:
        """Images as this viewer sees them; others are served between two that are large."""
        made: list[bytes] = []
        for image in shown:
            made.append(self._made(image, viewer))
            if len(made[-1]) > _LARGE:
                await asyncio.sleep(0)
        return made

    def image(self, shown: Image, viewer: Viewer) -> orjson.Fragment:
        """The image as this viewer sees it, ready to stand in a document."""
        return orjson.Fragment(self._made(shown, viewer))

    def _made(self, shown: Image, viewer: Viewer) -> bytes:
        if viewer.reads is not None:
            return orjson.dumps(views.image(shown, viewer))
        key = (shown.id, shown.version, viewer.admin)
        made = self._kept.get(key)
        if made is None:
            made = orjson.dumps(views.image(shown, viewer))
            self._kept.put(key, made, len(made))
        return made
