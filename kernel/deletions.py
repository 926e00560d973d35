"""Deleting an image or one of its copies: first ask the stores, then record, and only then remove.

    may he? does the state allow it? ─▶ do the stores let go? ─▶ record ─▶ (later) purge

A store that holds on to bytes others depend on is asked before anything is recorded, so
that a refusal finds the image whole.  The removal itself is outstanding work.

Whoever deletes one copy means that store, and is told when it cannot be reached; whoever
deletes an image means the image, which goes whatever becomes of its stores.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from kernel.charges import Limits
from kernel.commands import Command
from kernel.context import Context
from kernel.decide import decide
from kernel.errors import BlobMissing, EntrepotError, StoreUnavailable
from kernel.events import Location
from kernel.extend import Retains
from kernel.handle import Commands, Guard, Handled
from kernel.image import Image
from kernel.site import Site

log = structlog.get_logger(__name__)

_PATIENCE: Final = 15.0
"""Seconds a store gets to say whether it lets go."""

Bytes = tuple[str, str]
"""Store, URL."""


class _Moved(Exception):
    """The image has bytes by now whose store was not asked."""

    def __init__(self, image: Image) -> None:
        super().__init__()
        self.image = image


class Deletions:
    """Records deletions that the stores agree to."""

    def __init__(self, site: Site, commands: Commands) -> None:
        self._site = site
        self._commands = commands

    async def delete(
        self,
        image_id: str,
        *commands: Command,
        of: Callable[[Image], Sequence[Location]],
        context: Context,
        guard: Guard,
        limits: Limits | None = None,
        reachable: bool = False,
    ) -> Handled:
        """Have `commands` decided once the stores of all locations `of` the image agree, else `BlobInUse`.

        reachable: also those that have no say are to answer, else `StoreError`.
        """
        if not reachable and not any(isinstance(store, Retains) for store in self._site.stores.values()):
            return await self._commands.handle(image_id, *commands, context=context, guard=guard, limits=limits)
        asked: frozenset[Bytes] = frozenset()
        image = await self._commands.load(image_id)

        def unmoved(now: Image) -> None:
            guard(now)
            if not self._held(of(now), reachable) <= asked:
                raise _Moved(now)

        while True:
            guard(image)
            decide(commands[0], image)  # what is refused anyway bothers no store
            asked = self._held(of(image), reachable)
            await asyncio.gather(*(self._ask(store, url) for store, url in asked))
            try:
                return await self._commands.handle(image_id, *commands, context=context, guard=unmoved, limits=limits)
            except _Moved as moved:
                image = moved.image

    def _held(self, locations: Sequence[Location], reachable: bool) -> frozenset[Bytes]:
        """Bytes whose stores have a say, or are to answer at least."""
        held = ((location.store, location.url) for location in locations)
        return frozenset((store, url) for store, url in held if self._concerned(store, reachable))

    def _concerned(self, name: str, reachable: bool) -> bool:
        backend = self._site.backends.get(name)
        if backend is None:
            return False
        return isinstance(backend.store, Retains) or (reachable and not backend.read_only)

    async def _ask(self, name: str, url: str) -> None:
        store = self._site.backends[name].store
        try:
            async with asyncio.timeout(_PATIENCE):
                if isinstance(store, Retains):
                    await store.release(url)
                else:
                    with contextlib.suppress(BlobMissing):  # gone is as good as deleted
                        await store.size(url)
        except EntrepotError:
            raise
        except TimeoutError:
            raise StoreUnavailable(name) from None
        except Exception as fault:  # a driver's fault is no answer either
            log.exception("store_not_asked", store=name, url=url)
            raise StoreUnavailable(name) from fault
