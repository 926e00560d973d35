"""Bringing bytes in from elsewhere, going on after interruptions where the source allows.

    open(offset, validator) ─▶ chunks ─▶ … line breaks ─▶ open(offset, validator) ─▶ chunks ─▶ …

A source that offers a validator (a strong ETag, say) is asked for the rest.  After the
death of a process the next one first reads what its predecessor had written, then asks
for what is missing; it writes a file of its own, for the predecessor may only be
stopped.  A source that has changed meanwhile is read from its beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from kernel.errors import Interrupted, SourceFailed
from kernel.extend import FetchRequest, ImportMethod, Opened
from kernel.streams import CHUNK

log = structlog.get_logger(__name__)

_TRIES: Final = 4
"""Attempts in a row that brought next to nothing after which a source is given up."""
_NOTHING: Final = 64 << 10
"""Bytes below which an attempt counts as having brought nothing: nobody may keep us busy with drops."""


class SourceChanged(SourceFailed):
    """The source changed while it was being read."""


class Fetch:
    """One pass over a source, resumed as often as it makes progress."""

    def __init__(self, method: ImportMethod, request: FetchRequest, had: Path | None, held: int) -> None:
        assert method.open is not None
        self._open_source: Callable[[FetchRequest], Awaitable[Opened]] = method.open
        self._request = request
        self._had = had
        self._offset = held
        self._held = held
        self.validator = request.validator
        self.total: int | None = None
        self._opened: Opened | None = None

    @property
    def received(self) -> int:
        """Bytes that are here by now."""
        return self._offset

    async def open(self) -> None:
        """Ask the source for what is missing; afterwards `total` and `validator` are known."""
        await self.close()
        asked = replace(self._request, offset=self._offset, validator=self.validator)
        opened = self._opened = await self._open_source(asked)
        if opened.offset != self._offset:
            raise SourceChanged
        if self._offset and opened.validator != self.validator:
            raise SourceChanged
        if self.total is not None and opened.total not in (None, self.total):
            raise SourceChanged
        self.validator = opened.validator
        self.total = opened.total if opened.total is not None else self.total

    async def close(self) -> None:
        """Let go of the source."""
        opened, self._opened = self._opened, None
        if opened is not None and opened.close is not None:
            await opened.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Every byte of the source, once, in order."""
        if self._had is not None and self._held:
            async for chunk in _read(self._had, self._held):
                yield chunk
        barren = 0
        while True:
            assert self._opened is not None
            before = self._offset
            try:
                async for chunk in self._opened.chunks:
                    self._offset += len(chunk)
                    yield chunk
                if self.total is None or self._offset >= self.total:
                    return
                raise Interrupted(f"The source sent {self._offset} of {self.total} bytes")
            except Interrupted as error:
                barren = barren + 1 if self._offset - before < _NOTHING else 0
                if self.validator is None or barren >= _TRIES:
                    raise
                log.info("fetch_interrupted", image_id=self._request.image.id, at=self._offset, reason=str(error))
                await self._again(barren)

    async def _again(self, barren: int) -> None:
        for attempt in range(_TRIES):
            await asyncio.sleep(min(0.2 * 2 ** (barren + attempt), 5.0) if barren or attempt else 0)
            try:
                return await self.open()
            except Interrupted:
                if attempt == _TRIES - 1:
                    raise
        return None


async def _read(path: Path, length: int) -> AsyncIterator[bytes]:
    """The first bytes of a local file, in threads; `SourceChanged` when they cannot be had any more.

    A predecessor that was only stopped cleans up when it wakes, which may be right now.
    """
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except OSError:
        raise SourceChanged from None
    try:
        left = length
        while left:
            try:
                chunk = await asyncio.to_thread(file.read, min(CHUNK, left))
            except OSError:
                raise SourceChanged from None
            if not chunk:
                raise SourceChanged
            left -= len(chunk)
            yield chunk
    finally:
        await asyncio.to_thread(file.close)


def boot_id() -> str | None:
    """What tells one running system from another, and from itself after a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
