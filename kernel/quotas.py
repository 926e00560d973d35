"""How much a project may use: what is checked at which moment, and against which limit.

Two sources, of which one rules: `user_storage_quota`, the same number of bytes for
every project, or the unified limits that Keystone keeps (`use_keystone_limits`).  The
checks themselves happen inside `append`, against the usage that it keeps, so that no
number of requests at once gets past a limit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from kernel.charges import COUNT_TOTAL, COUNT_UPLOADING, RESOURCES, SIZE_TOTAL, STAGE_TOTAL, Limit, Limits
from kernel.errors import OverQuota
from kernel.image import Image

Source = Callable[[str], Awaitable[Mapping[str, int]]]
"""Unified limits of a project by resource, sizes in MiB; `Unavailable` when nobody can tell them."""

STORAGE: Final = "user_storage_quota"

_MIB: Final = 1 << 20
_UNITS: Final = {SIZE_TOTAL: _MIB, STAGE_TOTAL: _MIB, COUNT_TOTAL: 1, COUNT_UPLOADING: 1}


class Quotas:
    """The limits of this site."""

    def __init__(self, storage: int = 0, source: Source | None = None) -> None:
        self._storage = storage if source is None else 0
        self._source = source

    @property
    def unified(self) -> bool:
        """Whether limits come from Keystone."""
        return self._source is not None

    async def create(self, owner: str | None) -> Limits:
        """A new image."""
        return await self._limits(owner, {COUNT_TOTAL: {}})

    async def refuse_another(self, owner: str | None, usage: Mapping[str, int]) -> None:
        """`OverQuota` when a project has all the images it may have: told before other faults, held in `append`."""
        for limit in (await self.create(owner)).values():
            used = usage.get(COUNT_TOTAL, 0) // limit.unit
            if 0 <= limit.most < used + 1:
                raise OverQuota(limit.name, limit.most, used, 1)

    async def make(self, owner: str | None) -> Limits:
        """An import that makes a new image: it counts at once, its data once the work begins."""
        return await self._limits(owner, {COUNT_TOTAL: {}, COUNT_UPLOADING: {"delta": 1}})

    async def stage(self, image: Image, declared: int | None) -> tuple[Limits, Limits]:
        """Staging: what is checked before the data, and what after it when nobody knew how much would come."""
        if self._source is None:
            return {}, {}
        before = await self._limits(image.owner, {STAGE_TOTAL: {"delta": declared or 0}, COUNT_UPLOADING: {}})
        return before, {} if declared is not None else await self._limits(image.owner, {STAGE_TOTAL: {"delta": 0}})

    async def upload(self, image: Image, declared: int | None) -> tuple[Limits, Limits]:
        """An upload: before the data and, where its length was unknown, after it.

        Of uploads of unknown length that share what room is left, the first one to end may overshoot.
        """
        if self._source is not None:
            before = await self._limits(image.owner, {SIZE_TOTAL: {"delta": declared or 0}, COUNT_UPLOADING: {}})
            return before, {} if declared is not None else await self._limits(image.owner, {SIZE_TOTAL: {"delta": 0}})
        room = self._stored(image.owner, delta=1 if declared is None else declared)
        return room, {} if declared is not None else self._stored(image.owner)

    async def store(self, owner: str | None) -> Limits:
        """Another copy of an image in a store, or a location that is registered."""
        return self._stored(owner) or await self._limits(owner, {SIZE_TOTAL: {}})

    async def begin(self, image: Image) -> Limits:
        """A job that starts."""
        job = image.job
        if job is None or job.started or self._source is None:
            return {}
        if not job.fetches and not job.copies:
            return await self._limits(image.owner, {SIZE_TOTAL: {"delta": image.size or 0}})
        return await self._limits(image.owner, {STAGE_TOTAL: {"always": True}, COUNT_UPLOADING: {"always": True}})

    async def bring(self, owner: str | None) -> Limits:
        """What a job brings into staging: a download, or what a plugin makes of the staged bytes."""
        return await self._limits(owner, {STAGE_TOTAL: {}})

    async def refuse_excess(self, owner: str | None, usage: Mapping[str, int]) -> None:
        """`OverQuota` when a project that asks for an import uses more space than it may already."""
        limits = await self._limits(owner, {SIZE_TOTAL: {}})
        for limit in limits.values():
            used = usage.get(SIZE_TOTAL, 0) // limit.unit
            if 0 <= limit.most < used:
                raise OverQuota(limit.name, limit.most, used, 0)

    async def report(self, owner: str | None, usage: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Usage and limit of every resource, as `info/usage` shows them; nothing without unified limits."""
        limits = await self._limits(owner, {name: {} for name in RESOURCES})
        return {
            limit.name: {"limit": limit.most, "usage": usage.get(limit.name, 0) // limit.unit}
            for limit in limits.values()
        }

    # --- sources -----------------------------------------------------------------------

    async def _limits(self, owner: str | None, wanted: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], Limit]:
        if self._source is None or owner is None:
            return {}
        known = await self._source(owner)
        return {
            (owner, name): Limit(
                name=name,
                most=known.get(name, 0),
                unit=_UNITS[name],
                delta=how.get("delta"),
                always=bool(how.get("always", False)),
            )
            for name, how in wanted.items()
        }

    def _stored(self, owner: str | None, delta: int | None = None) -> Limits:
        if not self._storage or owner is None:
            return {}
        return {(owner, SIZE_TOTAL): Limit(name=STORAGE, most=self._storage, delta=delta)}
