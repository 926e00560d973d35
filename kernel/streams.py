"""One pass over the bytes: counted, capped, hashed and inspected while they are written.

    source ──rechunk──▶ ┬─▶ the store's writer (its own threads)
                        ├─▶ MD5 and inspection ┐ in threads, one chunk behind the writer;
                        └─▶ the configured hash ┘ the interpreter lock is free meanwhile

A few chunks of one stream are in memory, however large it is, and of many streams at
once smaller ones.  The event loop moves references; it never hashes, parses or touches
a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Final

from kernel.errors import Invalid, TooLarge
from kernel.events import Digests, Facts
from kernel.inspector import Inspector

CHUNK: Final = 1 << 20
"""Bytes handed on at a time."""

_TOGETHER: Final = 16 << 20
"""Bytes that a chunk each of all streams of a process may come to; there are several chunks of each in memory."""

_SMALLEST: Final = 64 << 10
"""Below this it costs more to hand a chunk on than to hash it."""

_BEHIND: Final = 3
"""Chunks that hashing may lag behind writing."""

_TURN: Final = 4
"""Chunks after which a thread goes on with another stream, if one waits."""

_NICENESS: Final = 5
"""How far threads that hash stand back: the loop, which everybody waits for, gets three times their share."""


def _stand_back() -> None:
    with contextlib.suppress(OSError):  # only Linux has priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


_POOL: Final = ThreadPoolExecutor(
    max_workers=max(2, min(8, os.cpu_count() or 2)),
    thread_name_prefix="hash",
    initializer=_stand_back,
)
"""No more threads than processors: they would hash no faster, but keep the loop from its turn."""


async def rechunk(source: AsyncIterator[bytes], size: Callable[[], int] = lambda: CHUNK) -> AsyncIterator[bytes]:
    """The same bytes in pieces of about `size()`, however small they arrive."""
    parts: list[bytes] = []
    held = 0
    async for part in source:
        parts.append(part)
        held += len(part)
        if held >= size():
            yield _joined(parts)
            parts, held = [], 0
    if held:
        yield _joined(parts)


def share() -> int:
    """Bytes that one stream should hand on at a time, as many as there are now."""
    return max(_SMALLEST, min(CHUNK, _TOGETHER // max(1, Intake.running)))


def _joined(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Lane:
    """One consumer of the bytes, in order, in a thread, a few chunks behind the writer at most.

    The thread goes on to the next chunk by itself: the loop, which has others to serve,
    is asked for nothing but room.  It ends when it has caught up, so that a slow source
    holds no thread, and is started again by the next chunk; and after a few chunks, so
    that a fast one does not keep the threads from the others.
    """

    def __init__(self, work: Callable[[bytes], None]) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._room = asyncio.Event()
        self._wanted = False
        self._thread: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    async def take(self, chunk: bytes) -> None:
        """Hand a chunk over; waits while the lane is too far behind."""
        await self._until(_BEHIND - 1)
        self._waiting.append(chunk)
        if self._thread is None:
            self._start()

    async def finish(self) -> None:
        """Wait until everything handed over has been worked on."""
        while self._thread is not None:
            await asyncio.wait({self._thread})
        self._check()

    async def stop(self) -> None:
        """Drop what is waiting; a chunk under way is finished, for nobody can stop a thread."""
        self._waiting.clear()
        if self._thread is not None:
            await asyncio.wait({self._thread})

    async def _until(self, most: int) -> None:
        self._check()
        while len(self._waiting) > most:
            self._room.clear()
            self._wanted = True
            if len(self._waiting) > most:  # else the thread may not have seen that it is wanted
                await self._room.wait()
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        self._thread = self._loop.run_in_executor(_POOL, self._drain)
        self._thread.add_done_callback(self._drained)

    def _drained(self, thread: asyncio.Future[None]) -> None:
        self._thread = None
        if not thread.cancelled() and (error := thread.exception()) is not None:
            self._error = error
            self._waiting.clear()
        if self._waiting:
            self._start()
        self._room.set()

    def _drain(self) -> None:
        """In the thread: what waits, in order, until it is the turn of another stream."""
        for _ in range(_TURN):
            chunk = self._next()
            if chunk is None:
                return
            self._work(chunk)
            if self._wanted:
                self._wanted = False
                self._loop.call_soon_threadsafe(self._room.set)

    def _next(self) -> bytes | None:
        try:
            return self._waiting.popleft()
        except IndexError:  # caught up, or told to stop
            return None


async def shown(chunks: AsyncIterator[bytes], eat: Callable[[bytes], None]) -> AsyncGenerator[bytes, None]:
    """The same chunks, each of them shown to somebody in a thread, who has seen all once the last is asked for."""
    lane = _Lane(eat)
    try:
        async for chunk in chunks:
            await lane.take(chunk)
            yield chunk
        await lane.finish()
    finally:
        await lane.stop()


class Intake:
    """Bytes on their way in.  Iterate once, to the end; then ask for size, digests and facts.

    also: somebody else who is shown every chunk, in order, in a thread.

    Raises `TooLarge` above `cap` bytes, `Invalid` when the length is not the one declared.
    """

    running: ClassVar[int] = 0
    """Streams of this process that are under way."""

    def __init__(
        self,
        source: AsyncIterator[bytes],
        *,
        algorithm: str,
        cap: int,
        declared: int | None = None,
        inspect: bool = True,
        also: Callable[[bytes], None] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._source = source
        self._algorithm = algorithm
        self._cap = cap
        self._declared = declared
        self._also = also
        self._progress = progress
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._inspector = Inspector() if inspect else None
        self.size = 0
        self.facts: Facts | None = None

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        lanes = [_Lane(self._look), _Lane(self._hash.update)]
        if self._also is not None:
            lanes.append(_Lane(self._also))
        Intake.running += 1
        try:
            async for chunk in rechunk(self._source, share):
                self._count(len(chunk))
                for lane in lanes:
                    await lane.take(chunk)
                yield chunk
            if self._declared is not None and self.size != self._declared:
                raise Invalid(f"{self._declared} bytes were announced, {self.size} arrived")
            for lane in lanes:
                await lane.finish()
            if self._inspector is not None:
                self.facts = await asyncio.get_running_loop().run_in_executor(_POOL, self._inspector.finish)
        finally:
            Intake.running -= 1
            for lane in lanes:
                await lane.stop()

    @property
    def digests(self) -> Digests:
        return Digests(md5=self._md5.hexdigest(), algo=self._algorithm, value=self._hash.hexdigest())

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
