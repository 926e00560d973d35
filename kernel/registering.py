"""Registering bytes that lie somewhere already, and hashing them: the steps of a location import.

register (whose is it, how much) ─▶ LocationAdded ─▶ hash, with patience ─▶ DataHashed
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from kernel import commands as c
from kernel import events as e
from kernel.errors import Corrupt, Interrupted, Invalid, StoreError, StoreUnavailable
from kernel.image import Image, Job
from kernel.leases import Lease
from kernel.locating import locate
from kernel.marks import mark
from kernel.site import Site
from kernel.streams import Intake

log = structlog.get_logger(__name__)

_PAUSE: Final = 0.2
"""Seconds before data is read for the second time; twice as long before each further time."""
_LONGEST: Final = 5.0


class Registrar:
    """Performs the steps of one location import."""

    def __init__(self, site: Site, lease: Lease) -> None:
        self._site = site
        self._lease = lease

    async def register(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Find the store and the size of what is at the location."""
        self._lease.report("registering", 0)
        options = job.options
        location = await locate(self._site, options["url"], {}, options.get("store"))
        digests = None
        if not options["hash"] and options.get("os_hash_value"):
            digests = e.Digests(md5="", algo=options["os_hash_algo"], value=options["os_hash_value"])
        elif options["hash"] and not options.get(
            "os_hash_value"
        ):  # clients see by the algorithm that a hash will follow
            digests = e.Digests(md5="", algo=self._site.settings.default.hashing_algorithm, value="")
        return (c.RecordLocation(task_id=job.task_id, location=location, digests=digests),)

    async def hash(self, image: Image, job: Job) -> Sequence[c.Command]:
        """Read all of it, again if the store fails, and compare with what the client vouched for."""
        (location,) = image.locations
        settings, expected = self._site.settings.default, job.options.get("os_hash_value")
        algorithm = job.options.get("os_hash_algo") or settings.hashing_algorithm
        pause = _PAUSE
        for left in range(settings.http_retries, -1, -1):
            try:
                digests = await self._digests(location, algorithm)
                break
            except (StoreUnavailable, Interrupted) as error:
                if not left:
                    raise
                log.info("hashing_again", image_id=image.id, left=left, reason=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST)
        mark("hashed")
        if expected is not None and digests.value != expected:
            raise Invalid("The hash of the data differs from the one given")
        return (c.RecordHash(task_id=job.task_id, digests=digests),)

    async def _digests(self, location: e.Location, algorithm: str) -> e.Digests:
        store, size = self._site.store(location.store), location.size
        if store is None:
            raise StoreError(location.store, "is not configured any more")
        intake = Intake(
            store.read(location.url),
            algorithm=algorithm,
            cap=self._site.settings.default.image_size_cap,
            inspect=False,
            progress=lambda done: self._lease.report("hashing", done, size),
        )
        async for _ in intake:
            pass
        if intake.size != size:
            raise Corrupt(location.store, f"{size} bytes were announced, {intake.size} came")
        return intake.digests
