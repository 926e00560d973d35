"""One pass over the bytes: counted, capped, hashed and inspected while they are written.

    source ──rechunk──▶ ┬─▶ the store's writer (its own threads)
                        ├─▶ MD5 and inspection ┐ in threads, one chunk behind the writer;
                        └─▶ the configured hash ┘ the interpreter lock is free meanwhile

At most three chunks of one stream are in memory.  The event loop moves
references; it never hashes, parses or touches a file.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from kernel.errors import Invalid, TooLarge
from kernel.events import Digests, Facts
from kernel.inspector import Inspector

CHUNK: Final = 1 << 20
"""Bytes handed on at a time."""

_POOL: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="hash")


async def rechunk(source: AsyncIterator[bytes], size: int = CHUNK) -> AsyncIterator[bytes]:
    """The same bytes in pieces of about `size`, however small they arrive."""
    parts: list[bytes] = []
    held = 0
    async for part in source:
        if held + len(part) > size and held:
            yield b"".join(parts)
            parts, held = [], 0
        parts.append(part)
        held += len(part)
    if held:
        yield b"".join(parts)


class Intake:
    """Bytes on their way in.  Iterate once, to the end; then ask for size, digests and facts.

    Raises `TooLarge` above `cap` bytes, `Invalid` when the length is not the one declared.
    """

    def __init__(
        self,
        source: AsyncIterator[bytes],
        *,
        algorithm: str,
        cap: int,
        declared: int | None = None,
        inspect: bool = True,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._source = source
        self._algorithm = algorithm
        self._cap = cap
        self._declared = declared
        self._progress = progress
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._inspector = Inspector() if inspect else None
        self._facts: Facts | None = None
        self.size = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        behind: list[asyncio.Future[Any]] = []
        try:
            async for chunk in rechunk(self._source):
                self._count(len(chunk))
                for future in behind:
                    await future
                behind = [
                    loop.run_in_executor(_POOL, self._look, chunk),
                    loop.run_in_executor(_POOL, self._hash.update, chunk),
                ]
                yield chunk
            if self._declared is not None and self.size != self._declared:
                raise Invalid(f"{self._declared} bytes were announced, {self.size} arrived")
        finally:
            if behind:
                await asyncio.wait(behind)
        if self._inspector is not None:
            self._facts = await loop.run_in_executor(_POOL, self._inspector.finish)

    @property
    def digests(self) -> Digests:
        return Digests(md5=self._md5.hexdigest(), algo=self._algorithm, value=self._hash.hexdigest())

    @property
    def facts(self) -> Facts | None:
        return self._facts

    def _count(self, length: int) -> None:
        self.size += length
        if self.size > self._cap:
            raise TooLarge(f"Image data exceeds the limit of {self._cap} bytes")
        if self._declared is not None and self.size > self._declared:
            raise Invalid(f"{self._declared} bytes were announced, more arrived")
        self._progress(self.size)

    def _look(self, chunk: bytes) -> None:
        self._md5.update(chunk)
        if self._inspector is not None:
            self._inspector.eat(chunk)


async def digest(
    source: AsyncIterator[bytes], algorithm: str, *, inspect: bool = False
) -> tuple[int, Digests, Facts | None]:
    """Size, digests and facts of bytes that are already here."""
    intake = Intake(source, algorithm=algorithm, cap=1 << 62, inspect=inspect)
    async for _ in intake:
        pass
    return intake.size, intake.digests, intake.facts
