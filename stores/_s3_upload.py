"""Writing one object to a bucket.

    small, size known    collect ──▶ PutObject
    anything else        CreateMultipartUpload ──▶ parts, several at once ──▶ CompleteMultipartUpload

What makes the object appear is refused when there is one already.  Such requests
run in tasks of their own: a caller who is cancelled must not leave it open
whether one took effect, so `discard` waits for the answer and undoes it.  A mark
in the object's metadata tells our own object from somebody else's when an answer
was lost and the repeated request is refused.

An upload of unknown length begins at once, however short it may turn out: others
see the name taken, and whoever aborts it can be sure that it never becomes an object.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Executor
from typing import Any, Final, TypeVar
from uuid import uuid4

from kernel import errors
from stores._s3_client import Bucket

T = TypeVar("T")
Answer = dict[str, Any]

MIB: Final = 1 << 20
HELD: Final = 64 * MIB
"""Most bytes of one write in memory, unless a single part has to be larger."""
_MOST_PARTS: Final = 10_000
"""The service's limit."""
_DOUBLING: Final = 2_000
"""Parts after which their size doubles when nobody knows how many will come: those of 10 MiB end at 605 GiB."""
_MARK: Final = "entrepot-write"


class Part:
    """Bytes that are sent together, collected in one place so that nobody's chunks are kept."""

    def __init__(self, number: int, room: int) -> None:
        self.number, self.size = number, 0
        self._view = memoryview(bytearray(room))

    @property
    def full(self) -> bool:
        return self.size == len(self._view)

    @property
    def data(self) -> memoryview:
        return self._view[: self.size]

    def take(self, chunk: memoryview) -> memoryview:
        """Copy what fits; the rest is returned."""
        count = min(len(chunk), len(self._view) - self.size)
        self._view[self.size : self.size + count] = chunk[:count]
        self.size += count
        return chunk[count:]


_NONE: Final = Part(0, 0)
"""Full from the start, so that the next byte calls for another."""


class Draft:
    """An object in the making."""

    def __init__(self, bucket: Bucket, key: str, pool: Executor) -> None:
        self._bucket, self._key, self._pool = bucket, key, pool
        self._mark = uuid4().hex
        self._upload: str | None = None
        self._etags: dict[int, str] = {}
        self._decisive: asyncio.Future[Any] | None = None
        self._may_exist = False

    # --- all at once -----------------------------------------------------------------------

    async def put(self, chunks: AsyncIterator[bytes], size: int) -> str | None:
        """Write `size` bytes with one request; returns the MD5 that the service reports, where it does."""
        whole = Part(1, size)
        async for chunk in chunks:
            if whole.take(memoryview(chunk)):
                raise self._longer(size)
            del chunk
        if not whole.full:
            raise self._shorter(size, whole.size)
        return await self._put(whole)

    async def _put(self, whole: Part) -> str | None:
        digest = await self._digest(whole)
        answer = await self._create(
            "put_object", whole.data, ContentMD5=base64.b64encode(digest).decode(), Metadata={_MARK: self._mark}
        )
        # An ETag need not be the MD5 (it is not with customers' keys); what equals it is.
        return digest.hex() if answer.get("ETag", "").strip('"') == digest.hex() else None

    # --- in parts --------------------------------------------------------------------------

    async def begin(self) -> None:
        """Take the name: an unfinished upload shows, to us and to others, that somebody writes."""
        if await self._bucket.head(self._key) is not None:
            raise self._taken("an object of this name exists already")
        if any(key == self._key for key, _ in await self._bucket.uploads(self._key)):
            raise self._taken("an object of this name is being written")
        await self._surely(self._begin())

    async def _begin(self) -> None:
        answer = await self._bucket.call("create_multipart_upload", Key=self._key, Metadata={_MARK: self._mark})
        self._upload = answer["UploadId"]

    async def pour(self, chunks: AsyncIterator[bytes], size: int | None, part: int, parallel: int) -> int:
        """Send everything in parts of `part` bytes, at most `parallel` of them in memory; returns the length."""
        if size is not None:
            part = max(part, -(-size // _MOST_PARTS))
        try:
            async with asyncio.TaskGroup() as sending:
                return await self._pour(sending, chunks, size, part, parallel)
        except BaseExceptionGroup as failed:
            first = failed.exceptions[0]
        raise first

    async def _pour(
        self, group: asyncio.TaskGroup, chunks: AsyncIterator[bytes], size: int | None, base: int, parallel: int
    ) -> int:
        part, number, done = _NONE, 0, 0
        sending: set[asyncio.Task[None]] = set()
        async for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                if part.full:
                    number += 1
                    room = self._room(number, base, None if size is None else size - done)
                    sending = await _fewer(sending, max(1, min(parallel, HELD // room)))
                    part = Part(number, room)
                rest = part.take(rest)
                if part.full:
                    done += part.size
                    sending.add(group.create_task(self._send(part)))
                    part = _NONE
            del chunk, rest
        if size is not None and done + part.size != size:
            raise self._shorter(size, done + part.size)
        if part.size:
            group.create_task(self._send(part))
        return done + part.size

    def _room(self, number: int, base: int, left: int | None) -> int:
        """Bytes that the next part may hold."""
        if left == 0:
            raise self._longer()
        if number > _MOST_PARTS:
            raise errors.StoreFull(
                self._bucket.store, "more data than 10000 parts hold; a larger s3_store_large_object_chunk_size helps"
            )
        if left is None:
            return base << (number - 1) // _DOUBLING
        return min(base, left)

    async def _send(self, part: Part) -> None:
        encoded = base64.b64encode(await self._digest(part)).decode()
        answer = await self._bucket.send(
            "upload_part",
            part.data,
            Key=self._key,
            UploadId=self._upload,
            PartNumber=part.number,
            ContentMD5=encoded,
        )
        self._etags[part.number] = answer["ETag"]

    async def finish(self) -> None:
        """Make the parts an object."""
        assert self._upload is not None
        if not self._etags:  # an upload needs a part, and not every service takes an empty one
            await self._bucket.abort(self._key, self._upload)
            await self._put(Part(1, 0))
            return
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())]
        await self._create("complete_multipart_upload", UploadId=self._upload, MultipartUpload={"Parts": parts})

    # --- requests that decide --------------------------------------------------------------

    async def _create(self, operation: str, data: memoryview | None = None, **arguments: Any) -> Answer:
        """Make the object appear, unless there is one of this name."""
        self._may_exist = True
        return await self._surely(self._create_unless_taken(operation, data, **arguments))

    async def _create_unless_taken(self, operation: str, data: memoryview | None, **arguments: Any) -> Answer:
        if self._bucket.conditional:
            arguments["IfNoneMatch"] = "*"
        elif await self._bucket.head(self._key) is not None:
            raise self._taken("an object of this name exists already")
        try:
            if data is None:
                return await self._bucket.call(operation, Key=self._key, **arguments)
            return await self._bucket.send(operation, data, Key=self._key, **arguments)
        except (errors.BlobExists, errors.BlobMissing, errors.StoreUnavailable):
            # The first attempt may have succeeded though its answer never came.
            if found := await self._ours():
                return found
            raise

    async def _ours(self) -> Answer | None:
        """What is known of the object, if it is the one that this draft made."""
        try:
            found = await self._bucket.head(self._key)
        except errors.StoreError:
            return None
        return found if found and found.get("Metadata", {}).get(_MARK) == self._mark else None

    async def _surely(self, request: Coroutine[Any, Any, T]) -> T:
        """Have a request answered, whatever happens to the caller meanwhile."""
        self._decisive = task = asyncio.ensure_future(request)
        task.add_done_callback(_noted)
        return await asyncio.shield(task)

    async def discard(self) -> None:
        """Undo everything; quiet when the service does not let us, for then it is found among the leftovers."""
        if self._decisive is not None:
            await asyncio.wait({self._decisive})
        if self._upload is not None:
            with contextlib.suppress(errors.StoreError):
                await self._bucket.abort(self._key, self._upload)
        if self._may_exist and await self._ours():
            with contextlib.suppress(errors.StoreError):
                await self._bucket.delete(self._key)

    # --- small things ----------------------------------------------------------------------

    async def _digest(self, part: Part) -> bytes:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _md5, part.data)
        except RuntimeError as error:
            raise errors.StoreUnavailable(self._bucket.store, "the store was closed") from error

    def _taken(self, why: str) -> errors.BlobExists:
        return errors.BlobExists(self._bucket.store, why)

    def _longer(self, size: int | None = None) -> errors.Corrupt:
        announced = "" if size is None else f" {size}"
        return errors.Corrupt(self._bucket.store, f"more than the{announced} bytes that were announced came")

    def _shorter(self, size: int, came: int) -> errors.Corrupt:
        return errors.Corrupt(self._bucket.store, f"{size} bytes were announced and {came} came")


async def _fewer(tasks: set[asyncio.Task[None]], limit: int) -> set[asyncio.Task[None]]:
    """Those that still run, once they are fewer than `limit`."""
    while len(tasks) >= limit:
        _, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return tasks


def _md5(data: memoryview) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _noted(future: asyncio.Future[Any]) -> None:
    """Look at an outcome that nobody may wait for, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()
