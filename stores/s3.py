"""Keep image data as objects in a bucket of an S3 service.

    s3://<s3_store_bucket>/entrepot-<deployment>/<image>/<attempt>/<step>.<epoch>

Everything of ours lies below that prefix and is ours alone; nothing beside it is
ever changed.  Locations carry neither the service's address nor credentials: both
belong to the store, and may change.  Glance's form, `s3+https://<host>/<bucket>/<key>`,
can be read where it names this store's host and bucket.

How objects are written is told in `_s3_upload.py`.  What was half written is an
unfinished upload of the service's, and found as such.  (MinIO lists uploads only
under their full names; there, those of killed processes go when MinIO's own
clean-up takes them.)
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from kernel import errors
from kernel.extend import Leftover, Stored, StoreDriver, StoreSite
from kernel.options import IniBool
from stores._names import checked, epoch_of, is_name
from stores._s3_client import BeyondEnd, Bucket, open_client
from stores._s3_upload import HELD, MIB, Draft

_SCHEMES: Final = ("s3", "s3+http", "s3+https")
_HASHERS: Final = 2
"""Threads that take checksums."""
_GRACE: Final = 5.0
"""Seconds for which a cancelled caller waits for its clean-up."""
_AMAZON: Final = re.compile(r"(?:.+\.)?s3(?:[.-](?:dualstack\.)?(?P<region>[a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?")
_OURS: Final = "entrepot-"
"""Begins the keys of every service like this one."""
_ABOUT: Final = "about.txt"
_ABOUT_TEXT: Final = b"Objects below this prefix belong to a deployment of Entrepot; please leave them alone.\n"


class S3Config(BaseModel):
    """Operators' options of Glance's s3 store."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    s3_store_host: str
    """Address of the service, with or without `https://` (assumed) or `http://`."""
    s3_store_region_name: str = ""
    """Read off the host where that is Amazon's."""
    s3_store_access_key: SecretStr
    """Name of the key to sign requests with."""
    s3_store_secret_key: SecretStr
    """The key itself."""
    s3_store_bucket: str = Field(min_length=1)
    """Bucket of the objects."""
    s3_store_create_bucket_on_put: IniBool = False
    """Unlike in Glance, a missing bucket is made when the service starts."""
    s3_store_bucket_url_format: Literal["auto", "virtual", "path"] = "auto"
    """Where in URLs the bucket stands."""
    s3_store_large_object_size: int = Field(default=100, ge=1)
    """MB from which data is sent in parts; 64 at most, for smaller objects are kept in memory."""
    s3_store_large_object_chunk_size: int = Field(default=10, ge=5, le=5120)
    """MB of one part."""
    s3_store_thread_pools: int = Field(default=10, ge=1)
    """Parts on their way at once, as far as 64 MB of memory hold them."""
    s3_store_cacert: str = ""
    """File with the authorities to believe."""

    @field_validator("s3_store_host")
    @classmethod
    def _address(cls, value: str) -> str:
        endpoint = value if "://" in value else f"https://{value}"
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a host name, or an http or https URL")
        if "@" in parts.netloc:
            raise ValueError("must not contain credentials")
        return endpoint.rstrip("/")

    @property
    def authority(self) -> str:
        return urlsplit(self.s3_store_host).netloc

    @property
    def region(self) -> str | None:
        """What the operator says, else what the host's name tells; None when neither does."""
        amazon = _AMAZON.fullmatch(urlsplit(self.s3_store_host).hostname or "")
        return self.s3_store_region_name or (amazon and amazon["region"]) or None


class S3Store:
    """A `Store` in a bucket."""

    def __init__(self, config: S3Config, site: StoreSite, bucket: Bucket) -> None:
        self._name, self._config, self._bucket = site.name, config, bucket
        self._root = f"{_OURS}{site.deployment}/"
        self._url = f"s3://{bucket.name}/"
        self._large = min(config.s3_store_large_object_size * MIB, HELD)
        self._part = config.s3_store_large_object_chunk_size * MIB
        self._pool = ThreadPoolExecutor(_HASHERS, thread_name_prefix=f"store-{site.name}")
        self._errands: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, config: S3Config, site: StoreSite) -> S3Store:
        """The store, its bucket there or made; `ConfigError` when it is not, or cannot be written."""
        authorities = config.s3_store_cacert or None
        if authorities is not None:
            try:
                await asyncio.to_thread(ssl.create_default_context, cafile=authorities)
            except OSError as error:
                option = f"s3_store_cacert = {authorities}"
                raise errors.ConfigError(f"store {site.name}: {option}: {error.strerror or error}") from error
        client = await open_client(
            config.s3_store_host,
            config.region or "us-east-1",
            config.s3_store_access_key.get_secret_value(),
            config.s3_store_secret_key.get_secret_value(),
            config.s3_store_bucket_url_format,
            authorities,
        )
        store = cls(config, site, Bucket(site.name, config.s3_store_bucket, client))
        try:
            await store._prepare()
        except BaseException:
            await store.close()
            raise
        return store

    async def _prepare(self) -> None:
        option = f"s3_store_bucket = {self._bucket.name}"
        try:
            await self._find_bucket()
            await self._try_out()
        except errors.BlobMissing as error:
            hint = "make it, or set s3_store_create_bucket_on_put"
            raise errors.ConfigError(f"store {self._name}: {option}: there is no such bucket; {hint}") from error
        except errors.StoreUnavailable as error:
            option = f"s3_store_host = {self._config.s3_store_host}"
            raise errors.ConfigError(f"store {self._name}: {option}: {error.detail}") from error
        except errors.StoreError as error:
            raise errors.ConfigError(f"store {self._name}: {option}: {error.detail}") from error

    async def _find_bucket(self) -> None:
        try:
            await self._bucket.call("head_bucket")
        except errors.BlobMissing:
            if not self._config.s3_store_create_bucket_on_put:
                raise
            await self._bucket.create(self._config.region)

    async def _try_out(self) -> None:
        """See whether we may write, and whether the service refuses to write a name twice when it is told so."""
        key, text = self._root + _ABOUT, memoryview(_ABOUT_TEXT)
        try:
            for _ in range(2):
                await self._bucket.send("put_object", text, Key=key, IfNoneMatch="*", ContentType="text/plain")
        except errors.BlobExists:
            self._bucket.conditional = True
        except errors.StoreFull:  # a full store can still be read, and made less full
            return
        except errors.StoreError as error:
            if type(error) is not errors.StoreError:
                raise
            # It knows no conditional writes and says so.
            await self._bucket.send("put_object", text, Key=key, ContentType="text/plain")

    # --- the store -----------------------------------------------------------------------

    async def put(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> Stored:
        key = self._root + checked(self._name, name)
        async with self._draft(key) as draft:
            if size is not None and size < self._large:
                md5 = await draft.put(chunks, size)
                return Stored(url=self._url + key, size=size, md5=md5)
            await draft.begin()
            written = await draft.pour(chunks, size, self._part, self._config.s3_store_thread_pools)
            await draft.finish()
            return Stored(url=self._url + key, size=written)

    async def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        key = self._key(url)
        if length == 0:
            await self._check_end(url, offset)
            return
        wanted = None
        if offset or length is not None:
            wanted = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        try:
            async with aclosing(self._bucket.stream(key, offset, wanted)) as pieces:
                async for piece in pieces:
                    yield piece
        except BeyondEnd:
            await self._check_end(url, offset)

    async def _check_end(self, url: str, offset: int) -> None:
        """At the very end there is nothing to read; beyond it, the object is not the one that we knew."""
        if offset > await self.size(url):
            raise errors.BlobMissing(self._name, f"the object ends before byte {offset}")

    async def size(self, url: str) -> int:
        found = await self._bucket.head(self._key(url))
        if found is None:
            raise errors.BlobMissing(self._name)
        length: int = found["ContentLength"]
        return length

    async def delete(self, url: str) -> None:
        key = self._key(url)
        if self._name_of(key) is None:
            raise errors.StoreDenied(self._name, "the location is not one of ours, it is never deleted")
        await self._bucket.delete(key)

    def foreign(self, url: str) -> bool:
        return not self._key(url).startswith(_OURS)

    async def delete_foreign(self, url: str) -> None:
        if not self.foreign(url):
            raise errors.StoreDenied(self._name, "the location is that of a service like this one")
        await self._bucket.delete(self._key(url))

    async def leftovers(self, prefix: str) -> Sequence[Leftover]:
        # Uploads first: one that is completed meanwhile is among the objects then.
        keys = {key for key, _ in await self._bucket.uploads(self._root + prefix)}
        async for page in self._bucket.pages("list_objects_v2", Prefix=self._root + prefix):
            keys.update(found["Key"] for found in page.get("Contents", ()))
        names = sorted(name for key in keys if (name := self._name_of(key)))
        return [Leftover(name, epoch_of(name)) for name in names]

    async def remove(self, name: str) -> None:
        wanted = self._root + checked(self._name, name)
        # Uploads first: one that is completed meanwhile is deleted then.
        for key, upload in await self._bucket.uploads(wanted):
            if key == wanted:
                await self._bucket.abort(key, upload)
        await self._bucket.delete(wanted)

    async def close(self) -> None:
        if self._errands:
            await asyncio.wait(self._errands, timeout=_GRACE)
        for errand in self._errands:
            errand.cancel()
        await self._bucket.close()
        self._pool.shutdown(wait=False)

    @property
    def properties(self) -> Mapping[str, Any]:
        """In bytes where the options are in MB, as Glance has it."""
        return {
            "s3_store_large_object_size": self._config.s3_store_large_object_size * MIB,
            "s3_store_large_object_chunk_size": self._part,
            "s3_store_thread_pools": self._config.s3_store_thread_pools,
        }

    # --- names and drafts ----------------------------------------------------------------

    def _key(self, url: str) -> str:
        """The key in our bucket that a location means."""
        bucket, authority = self._bucket.name, self._config.authority
        for place in (self._url, *(f"{scheme}://{authority}/{bucket}/" for scheme in _SCHEMES)):
            if url.startswith(place) and (key := url.removeprefix(place)):
                return key
        raise errors.StoreDenied(self._name, "the location lies outside the bucket of this store")

    def _name_of(self, key: str) -> str | None:
        """The name of ours that a key stands for; None for anything else."""
        name = key.removeprefix(self._root)
        return name if name != key and is_name(name) else None

    @asynccontextmanager
    async def _draft(self, key: str) -> AsyncIterator[Draft]:
        """An object in the making, of which nothing stays unless the block ends well."""
        draft = Draft(self._bucket, key, self._pool)
        try:
            yield draft
        except BaseException:
            await self._settle(draft.discard())
            raise

    async def _settle(self, errand: Coroutine[Any, Any, None]) -> None:
        """Clean up; what takes longer than the grace goes on unwatched."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        await asyncio.wait({task}, timeout=_GRACE)


def _selftest(directory: Path) -> S3Config:
    """A bucket of the service that `ENTREPOT_TEST_S3` names: `http://<key>:<secret>@<host>/<bucket>`."""
    place = urlsplit(os.environ["ENTREPOT_TEST_S3"])
    return S3Config(
        s3_store_host=f"{place.scheme}://{place.netloc.rpartition('@')[2]}",
        s3_store_access_key=SecretStr(unquote(place.username or "")),
        s3_store_secret_key=SecretStr(unquote(place.password or "")),
        s3_store_bucket=place.path.strip("/"),
        s3_store_create_bucket_on_put=True,
        s3_store_large_object_chunk_size=5,
        s3_store_thread_pools=1,
    )


EXTENSION: Final = StoreDriver(
    name="s3",
    config=S3Config,
    connect=S3Store.connect,
    schemes=frozenset(_SCHEMES),
    unavailable=None if find_spec("aiobotocore") else "aiobotocore is not installed: pip install 'entrepot[s3]'",
    selftest=_selftest,
    selftest_needs="s3",
)
