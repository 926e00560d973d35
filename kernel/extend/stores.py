"""Stores: back ends that keep bytes, and what some of them can do beyond that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from msgspec import Struct
from pydantic import BaseModel

from kernel.events import Identity


class Stored(Struct, frozen=True, kw_only=True):
    """What a store reports after a write."""

    url: str
    """Finds the bytes again, as long as the image lives."""
    size: int
    md5: str | None = None
    """Hash that the store took itself, where it does."""


class Leftover(Struct, frozen=True):
    """A name of ours found in a store, whole or half written."""

    name: str
    epoch: int


class Store(Protocol):
    """Keeps bytes under names of ours: `<image>/<attempt>/<step>.<epoch>`.

    Names are unique: nobody writes one twice on purpose, and no write may
    replace another.  Drivers raise `kernel.errors.StoreError` and its kin only.
    """

    async def put(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> Stored:
        """Write all chunks, durably, or leave nothing behind: not on failure of the source, not on cancellation.

        A source that turns out longer or shorter than `size` is `Corrupt`; a name that is taken, `BlobExists`.
        """
        ...

    def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `offset`, at most `length` of them; `BlobMissing` when they are gone."""
        ...

    async def size(self, url: str) -> int:
        """Length in bytes; `BlobMissing` when they are gone."""
        ...

    async def delete(self, url: str) -> None:
        """Remove the bytes; quiet when they are gone already."""
        ...

    async def leftovers(self, prefix: str) -> Sequence[Leftover]:
        """Names of ours that begin with `prefix`, the half-written ones included."""
        ...

    async def remove(self, name: str) -> None:
        """Remove whatever lies under a name of ours, half-written or whole; quiet when there is nothing."""
        ...

    async def close(self) -> None:
        """Give connections and threads back."""
        ...

    @property
    def properties(self) -> Mapping[str, Any]:
        """What `stores/detail` tells operators; never a secret."""
        ...


@runtime_checkable
class AdoptsFiles(Protocol):
    """A store that can take a local file over without the bytes passing through this process."""

    async def adopt(self, name: str, path: Path, identity: Identity) -> Stored | None:
        """Make the file's bytes this store's, the file itself staying where it is.

        None when this file cannot be adopted (another disk): the caller then uses `put`.
        `Corrupt` when the file is not the one that `identity` describes.
        """
        ...


@runtime_checkable
class LocalFiles(Protocol):
    """A store whose objects are local files; staging has to be one."""

    def path(self, url: str) -> Path:
        """The file behind a URL."""
        ...

    def partial(self, name: str) -> Path:
        """Where the bytes of a name lie while it is being written; the file may not exist."""
        ...

    async def reserve(self, name: str) -> Path:
        """A path for a writer of ours, a subprocess say, to create; `seal` makes a file there an object.

        A directory may be made there instead: it lasts until `remove`, which takes all that is in it too.
        """
        ...

    async def seal(self, name: str) -> tuple[Stored, Identity]:
        """Make a reserved file durable and read-only."""
        ...

    async def identify(self, url: str) -> Identity:
        """The file as it is now."""
        ...

    async def untouched(self, seconds: float) -> Sequence[str]:
        """Names of ours, the half-written ones included, that nobody has written to for so long."""
        ...


@runtime_checkable
class Retains(Protocol):
    """A store on whose bytes others may depend: snapshots, clones, whoever has them open.

    It is asked before a deletion is recorded, so that the caller can be refused while the
    image is still whole.  Whoever begins to depend on the bytes after that makes `delete`
    raise the same; it is then tried again until the bytes are let go.
    """

    async def release(self, url: str) -> None:
        """Quiet if the bytes could be deleted now, or are gone; `BlobInUse` saying who depends on them if not."""
        ...


@runtime_checkable
class TakesForeign(Protocol):
    """A store in which others put bytes too, and where clients may register those by their location."""

    def foreign(self, url: str) -> bool:
        """Whether the location is none of ours, neither of this service nor of another one like it."""
        ...

    async def delete_foreign(self, url: str) -> None:
        """Remove bytes that somebody else put here; quiet when they are gone already."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSite:
    """What a store is told about its place: its name, and what below its root is ours."""

    name: str
    deployment: UUID
    fsync: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDriver:
    """A kind of back end; every `name:driver` in the configuration makes a store of it."""

    name: str
    config: type[BaseModel]
    connect: Callable[[Any, StoreSite], Awaitable[Store]]
    schemes: frozenset[str] = frozenset()
    """URL schemes whose locations belong to stores of this kind."""
    read_only: bool = False
    unavailable: str | None = None
    """Why it cannot be used here (a missing library), if so."""
    selftest: Callable[[Path], BaseModel] | None = None
    selftest_needs: str | None = None
    """A service that the selftest finds running, `s3` say; `ENTREPOT_TEST_S3` in the environment tells it where."""
