"""A file store that can be told to fail, to be full or to stand still at any of its calls; staging can be one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from kernel.errors import StoreFull
from kernel.events import Identity
from kernel.extend import Leftover, Stored, StoreDriver, StoreSite
from stores.file import FileConfig, FileStore

T = TypeVar("T")
Kind = Literal["exception", "full", "hang"]


class TroubleStore(FileStore):
    """`plan` says at which call what happens; the last one struck is noted in `struck`."""

    def __init__(self, config: FileConfig, site: StoreSite) -> None:
        super().__init__(config, site)
        self.plan: dict[str, Kind] = {}
        self.struck: list[str] = []
        self.adopts = True

    @classmethod
    async def open(cls, config: FileConfig, site: StoreSite) -> FileStore:
        store = await cls.connect(config, site)
        assert isinstance(store, TroubleStore)
        PLACES[site.deployment, site.name] = store
        return store

    async def _strike(self, call: str) -> None:
        kind = self.plan.get(call)
        if kind is None:
            return
        self.struck.append(call)
        if kind == "exception":
            raise RuntimeError("this driver has a fault")
        if kind == "full":
            raise StoreFull(self._name)
        await asyncio.Event().wait()

    async def _after(self, call: str, work: Callable[[], Awaitable[T]]) -> T:
        await self._strike(call)
        return await work()

    async def put(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> Stored:
        async def some() -> AsyncIterator[bytes]:
            async for chunk in chunks:
                yield chunk
                await self._strike("put")

        return await super().put(name, some(), size)

    async def adopt(self, name: str, path: Path, identity: Identity) -> Stored | None:
        if not self.adopts:
            return None
        return await self._after("put", lambda: super(TroubleStore, self).adopt(name, path, identity))

    async def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._strike("read")
        async for chunk in super().read(url, offset, length):
            yield chunk

    async def size(self, url: str) -> int:
        return await self._after("size", lambda: super(TroubleStore, self).size(url))

    async def identify(self, url: str) -> Identity:
        return await self._after("identify", lambda: super(TroubleStore, self).identify(url))

    async def seal(self, name: str) -> tuple[Stored, Identity]:
        return await self._after("seal", lambda: super(TroubleStore, self).seal(name))

    async def delete(self, url: str) -> None:
        await self._after("delete", lambda: super(TroubleStore, self).delete(url))

    async def remove(self, name: str) -> None:
        await self._after("delete", lambda: super(TroubleStore, self).remove(name))

    async def leftovers(self, prefix: str) -> Sequence[Leftover]:
        return await self._after("leftovers", lambda: super(TroubleStore, self).leftovers(prefix))


PLACES: Final[dict[tuple[UUID, str], TroubleStore]] = {}
"""The stores of this run, by deployment and name."""


def place(deployment: Any, name: str) -> TroubleStore:
    """A store by its name; staging has one too."""
    return PLACES[deployment, name]


EXTENSION: Final = StoreDriver(
    name="trouble", config=FileConfig, connect=TroubleStore.open, schemes=frozenset({"trouble"})
)
