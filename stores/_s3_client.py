"""One bucket of an S3 service: requests to it, and whatever goes wrong as an error of ours.

aiobotocore is imported when the first store connects, not before: it costs some
35 MiB that only those should pay who use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import cache
from typing import Any, Final

import aiohttp

from kernel import errors

CONNECT_TIMEOUT: Final = 10
"""Seconds."""
READ_TIMEOUT: Final = 60
"""Seconds without a single byte of an answer."""
SEND_TIMEOUT: Final = 120
"""Seconds in which nothing of a body can be sent; longer than the other, which may pass before it is sent again."""
ATTEMPTS: Final = 3
"""Of each request, with growing pauses; above them the kernel tries whole writes again."""
_CONNECTIONS: Final = 512
_PIECE: Final = 1 << 20
_SLICE: Final = 256 << 10
"""Bytes handed to the transport at once; it may copy what the socket does not take."""

_DENIED: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "ExpiredToken"}
)
_FULL: Final = frozenset({"QuotaExceeded", "EntityTooLarge", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"})
_BUSY: Final = frozenset(
    {"SlowDown", "RequestTimeout", "RequestLimitExceeded", "Throttling", "OperationAborted", "BadDigest"}
)
_CODE: Final = re.compile("[0-9A-Za-z.]{1,64}")


class BeyondEnd(errors.BlobMissing):
    """the range begins at or behind the end of the object"""


class Sent:
    """Bytes of a request, handed over in slices: so a slow connection holds a slice, not a copy of everything.

    botocore asks for a length, `read` and `seek`; aiohttp iterates, from the start each time a request is repeated.
    """

    def __init__(self, data: memoryview, progress: Callable[[], None]) -> None:
        self._data, self._progress = data, progress

    def __len__(self) -> int:
        return len(self._data)

    def seek(self, *_: int) -> int:
        return 0

    def read(self, *_: int) -> bytes:
        return bytes(self._data)

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for at in range(0, len(self._data), _SLICE):
            self._progress()
            yield self._data[at : at + _SLICE]


class Bucket:
    """Requests to one bucket."""

    conditional = False
    """Whether the service keeps `If-None-Match: *`, so that of two writers of one name the second is refused."""

    def __init__(self, store: str, name: str, client: Any) -> None:
        self.store, self.name, self._client = store, name, client

    async def create(self, region: str | None) -> None:
        """Make the bucket, unless somebody else just did for whom we may use it."""
        where = {} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            await self.call("create_bucket", **where)
        except errors.StoreError as refused:
            try:
                await self.call("head_bucket")
            except errors.StoreError:
                raise refused from None

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request, named as botocore names it."""
        try:
            answer: dict[str, Any] = await getattr(self._client, operation)(Bucket=self.name, **arguments)
        except Exception as error:
            raise explain(self.store, error) from error
        return answer

    async def send(self, operation: str, data: memoryview, **arguments: Any) -> dict[str, Any]:
        """A request with a body, given up when nothing of it can be sent for a while."""
        loop = asyncio.get_running_loop()

        def progress() -> None:
            with contextlib.suppress(RuntimeError):  # what sends may notice last that the request is over
                patience.reschedule(loop.time() + SEND_TIMEOUT)

        try:
            async with asyncio.timeout(SEND_TIMEOUT) as patience:
                return await self.call(operation, Body=Sent(data, progress) if data else b"", **arguments)
        except TimeoutError as error:
            raise errors.StoreUnavailable(self.store, "it takes no data") from error

    async def pages(self, operation: str, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """All pages of a listing."""
        try:
            async for page in self._client.get_paginator(operation).paginate(Bucket=self.name, **arguments):
                yield page
        except Exception as error:
            raise explain(self.store, error) from error

    async def stream(self, key: str, begin: int, wanted: str | None) -> AsyncGenerator[bytes, None]:
        """The bytes of an object, or of the range `wanted`, which begins at `begin`."""
        answer = await self.call("get_object", Key=key, **({"Range": wanted} if wanted else {}))
        body = answer["Body"]
        try:
            if wanted and not answer.get("ContentRange", "").startswith(f"bytes {begin}-"):
                raise errors.StoreUnavailable(self.store, "it sent another range than it was asked for")
            while piece := await body.read(_PIECE):
                yield piece
        except Exception as error:
            raise explain(self.store, error) from error
        finally:
            body.close()

    async def head(self, key: str) -> dict[str, Any] | None:
        """What is known of an object; None when there is none."""
        try:
            return await self.call("head_object", Key=key)
        except errors.BlobMissing:
            return None

    async def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Keys and ids of unfinished uploads."""
        return [
            (upload["Key"], upload["UploadId"])
            async for page in self.pages("list_multipart_uploads", Prefix=prefix)
            for upload in page.get("Uploads", ())
            if upload["Key"].startswith(prefix)
        ]

    async def abort(self, key: str, upload: str) -> None:
        """Give an unfinished upload up; `BlobMissing` when there is none."""
        await self.call("abort_multipart_upload", Key=key, UploadId=upload)

    async def delete(self, key: str) -> None:
        """Remove an object; quiet when there is none."""
        try:
            await self.call("delete_object", Key=key)
        except errors.BlobMissing:
            return

    async def close(self) -> None:
        await self._client.close()


def explain(store: str, error: Exception) -> errors.StoreError:
    """The error of ours that says what happened.  Of the service's words only its code is repeated."""
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NotConnected
    from botocore.parsers import ResponseParserError

    if isinstance(error, errors.StoreError):
        return error
    if isinstance(error, ClientError):
        return _refusal(store, error.response)
    broken = (NotConnected, HTTPClientError, IncompleteReadError, ResponseParserError)
    if isinstance(error, (*broken, aiohttp.ClientError, OSError, TimeoutError)):
        return errors.StoreUnavailable(store, f"the connection failed ({type(error).__name__})")
    return errors.StoreError(store, f"the request could not be made ({type(error).__name__})")


def _refusal(store: str, answer: dict[str, Any]) -> errors.StoreError:
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(answer.get("Error", {}).get("Code", ""))
    said = f"the service answered {code if _CODE.fullmatch(code) else status}"
    match status, code:
        case (501, _):
            return errors.StoreError(store, said)
        case _, "NoSuchBucket":
            return errors.StoreUnavailable(store, "its bucket is gone")
        case (416, _) | (_, "InvalidRange"):
            return BeyondEnd(store)
        case (412, _) | (_, "ConditionalRequestConflict"):
            return errors.BlobExists(store, "an object of this name exists already")
        case (507, _) | (413, _):
            return errors.StoreFull(store, said)
        case _ if code in _FULL:
            return errors.StoreFull(store, said)
        case _ if code in _DENIED or status in (401, 403, 405):
            return errors.StoreDenied(store, said)
        case (404, _):
            return errors.BlobMissing(store)
        case _ if code in _BUSY or status in (408, 425, 429) or status >= 500:
            return errors.StoreUnavailable(store, said)
        case _:
            return errors.StoreError(store, said)


async def open_client(
    endpoint: str, region: str, access_key: str, secret_key: str, addressing: str, authorities: str | None
) -> Any:
    """A client of botocore's S3 service; nothing is sent yet."""
    session = await asyncio.to_thread(_load)
    client = await session.create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        # Without encryption there is nothing to verify, and no need to read all authorities for it.
        verify=authorities if endpoint.startswith("https:") else False,
        config=_config(addressing),
    ).__aenter__()
    client.meta.events.register_last("before-call.s3", _expect_nothing)
    return client


@cache
def _load() -> Any:
    """The session of all S3 stores, with the service's description read, which takes a while and blocks."""
    from aiobotocore.session import AioSession

    # Its debug lines show what is signed, access key included.
    for name in ("botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger(name).level))
    session = AioSession()
    session.set_config_variable("config_file", os.devnull)
    loader = session.get_component("data_loader")
    for kind in ("service-2", "paginators-1", "endpoint-rule-set-1"):
        loader.load_service_model("s3", kind)
    loader.load_data("partitions")
    loader.load_data("endpoints")
    return session


def _config(addressing: str) -> Any:
    from aiobotocore.config import AioConfig

    return AioConfig(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # Bodies are not hashed on the event loop: their MD5, taken in a thread, is a signed header.
        s3={"addressing_style": addressing, "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _expect_nothing(params: dict[str, Any], **_: Any) -> None:
    """Send bodies at once: a server that does not know `Expect: 100-continue` would be waited for in vain."""
    params["headers"].pop("Expect", None)
