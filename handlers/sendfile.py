"""Sending a file without its bytes passing through Python.

uvloop has no sendfile, and aiohttp's FileResponse answers conditional requests that
this API must ignore; so the kernel's sendfile is called here, in a thread.  A thread
serves a fast client until it is done; a slow client gives its thread back whenever
its socket is full, so that many of them cannot use up the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from aiohttp import web

_POOL: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="send")
_PIECE: Final = 8 << 20
_PATIENCE: Final = 0.05
"""Seconds a thread waits for a socket to take more before it goes back to the pool."""

_STALLED: Final = 300.0
"""Seconds without a byte taken after which a client is given up."""


async def send_file(
    request: web.BaseRequest, response: web.StreamResponse, path: Path, offset: int, length: int
) -> int:
    """Send `length` bytes of a file as the body of a prepared response; returns how many went out."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if transport is None or sock is None or transport.get_extra_info("sslcontext") is not None:
        return await _copy(response, path, offset, length)
    await _flushed(transport)
    if transport.is_closing():
        return 0
    loop = asyncio.get_running_loop()
    pump = _Pump(path, os.dup(sock.fileno()))
    sent = 0
    try:
        while sent < length:
            moved = await loop.run_in_executor(_POOL, pump.move, offset + sent, length - sent)
            sent += moved
            if sent < length and not await _writable(loop, pump.out):
                break
    except ConnectionError:
        transport.abort()
    finally:
        if not pump.close(wait=False):
            loop.run_in_executor(_POOL, pump.close)
    return sent


class _Pump:
    """A file and a socket of our own, for one thread after the other.

    Who waits for a thread may be cancelled at any moment.  Closing waits for the thread
    all the same, which would go on with whatever file has their numbers next.
    """

    def __init__(self, path: Path, out: int) -> None:
        self.out = out
        self._path = path
        self._file = -1
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def move(self, offset: int, length: int) -> int:
        """As much as the socket takes without a pause; raises when the client is gone."""
        with self._lock:
            if self._file < 0 and not self._stop.is_set():
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return self._move(offset, length)

    def _move(self, offset: int, length: int) -> int:
        sent = 0
        deadline = time.monotonic() + 1.0
        while sent < length and time.monotonic() < deadline and not self._stop.is_set():
            try:
                moved = os.sendfile(self.out, self._file, offset + sent, min(_PIECE, length - sent))
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.out, select.POLLOUT)
                if not poll.poll(_PATIENCE * 1000):
                    break
                continue
            except ConnectionError:
                if sent:
                    break  # the next call finds the client gone, too; until then these bytes count
                raise
            if moved == 0:
                if sent:
                    break
                raise ConnectionError("the file is shorter than it was")
            sent += moved
        return sent

    def close(self, wait: bool = True) -> bool:
        """Stop, and close both once no thread uses them any more; False when that is to be waited for."""
        self._stop.set()
        if not self._lock.acquire(blocking=wait):
            return False
        try:
            os.close(self.out)
            if self._file >= 0:
                os.close(self._file)
        finally:
            self._lock.release()
        return True


async def _writable(loop: asyncio.AbstractEventLoop, out: int) -> bool:
    """Wait until the socket takes more; False when the client takes nothing for too long."""
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(out, _mark, ready)
    try:
        async with asyncio.timeout(_STALLED):
            await ready
    except TimeoutError:
        return False
    finally:
        loop.remove_writer(out)
    return True


def _mark(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _flushed(transport: asyncio.Transport) -> None:
    """Wait until everything written so far, the headers, has left the transport's buffer."""
    while transport.get_write_buffer_size() > 0 and not transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(0.001)  # transports tell nobody when they are empty


async def _copy(response: web.StreamResponse, path: Path, offset: int, length: int) -> int:
    """The slow way, for transports that have to encrypt."""
    loop = asyncio.get_running_loop()
    sent = 0
    file = await loop.run_in_executor(_POOL, open, path, "rb")
    try:
        file.seek(offset)
        while sent < length:
            chunk = await loop.run_in_executor(_POOL, file.read, min(1 << 20, length - sent))
            if not chunk:
                break
            await response.write(chunk)
            sent += len(chunk)
    finally:
        file.close()
    return sent


def enlarge(sock: socket.socket) -> None:
    """Let the kernel buffer more of a download, so that fewer wake-ups are needed."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
