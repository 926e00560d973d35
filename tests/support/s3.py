"""S3 stores for tests, what they send, and a look into their bucket past them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from kernel.extend import StoreSite
from stores._s3_client import Bucket, open_client
from stores.s3 import EXTENSION, S3Config, S3Store
from tests.support.services import provide

MIB = 1 << 20


def s3_config(**options: Any) -> S3Config:
    """The service of this run, with an operator's options."""
    provide("s3")
    assert EXTENSION.selftest is not None
    usual = EXTENSION.selftest(Path()).model_dump()
    return S3Config(**{**usual, "s3_store_thread_pools": 3, "s3_store_large_object_size": 1, **options})


def address() -> tuple[str, int]:
    """Host and port of the service."""
    place = urlsplit(provide("s3"))
    assert place.hostname is not None
    assert place.port is not None
    return place.hostname, place.port


async def s3_store(deployment: UUID | None = None, **options: Any) -> S3Store:
    """A store that sends 5 MiB parts, three at once, whatever is 1 MiB or more."""
    return await S3Store.connect(s3_config(**options), StoreSite(name="one", deployment=deployment or uuid4()))


@asynccontextmanager
async def raw_bucket(**options: Any) -> AsyncIterator[Bucket]:
    """The bucket as anybody sees it who has the keys."""
    config = s3_config(**options)
    keys = config.s3_store_access_key.get_secret_value(), config.s3_store_secret_key.get_secret_value()
    client = await open_client(config.s3_store_host, "us-east-1", *keys, "path", None)
    bucket = Bucket("raw", config.s3_store_bucket, client)
    try:
        yield bucket
    finally:
        await bucket.close()


def intercept(monkeypatch: pytest.MonkeyPatch, around: Callable[[str, Callable[[], Awaitable[Any]]], Any]) -> None:
    """Have every request pass through `around`, which is told the operation and how to go on."""
    real = Bucket.call

    async def call(bucket: Bucket, operation: str, **arguments: Any) -> Any:
        return await around(operation, lambda: real(bucket, operation, **arguments))

    monkeypatch.setattr(Bucket, "call", call)


def requests_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that are asked for from now on."""
    seen: list[str] = []

    async def note(operation: str, go_on: Callable[[], Awaitable[Any]]) -> Any:
        seen.append(operation)
        return await go_on()

    intercept(monkeypatch, note)
    return seen
