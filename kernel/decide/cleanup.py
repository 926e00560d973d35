"""Work that changes hands, and bytes that are gone."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import commands as c
from kernel import events as e
from kernel.decide.guards import must_be_known
from kernel.decide.table import Table
from kernel.image import Image

RULES = Table()
on = RULES.on


@on(c.TakeOver)
def _take_over(command: c.TakeOver, image: Image) -> Sequence[e.Event]:
    must_be_known(image)
    return (e.LeaseTakenOver(sweep_at=command.sweep_at),)


@on(c.RecordPurge)
def record_purge(command: c.RecordPurge, image: Image) -> Sequence[e.Event]:
    """Only what is still looked for counts: what was recorded before is not recorded again."""
    must_be_known(image)
    wanted = {(item.store, item.url) for item in image.garbage}
    blobs = tuple(blob for blob in command.blobs if blob in wanted)
    sweeps = tuple(sweep for sweep in command.sweeps if sweep in image.sweeps)
    return (e.BytesPurged(blobs=blobs, sweeps=sweeps),) if blobs or sweeps else ()
