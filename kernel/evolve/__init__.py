"""Folding: the next state from a state and an event.

Total and pure: no function here asks the clock or reads configuration, and none
refuses an event that this version knows.
Each event has one function, in the module of the noun that it is about; a test
holds the tables to the list of events.

- `life`, `metadata`, `members`, `locations`: the image itself
- `transfers`: bytes that clients send
- `imports`, `steps`, `stores`, `undo`: an import as a whole, on its way, at its end, taken back
- `cleanup`: what is left to remove
- `garbage`, `jobs`, `data`: no events, but parts of the state that several of the others change
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from kernel import events as e
from kernel.errors import UnknownEvent
from kernel.evolve import cleanup, imports, life, locations, members, metadata, steps, stores, transfers, undo
from kernel.evolve.table import Rule
from kernel.image import Image
from kernel.recorded import Meta, Recorded

_EPOCH = datetime.fromtimestamp(0, UTC)

NOTHING = Image(created_at=_EPOCH, updated_at=_EPOCH, at=_EPOCH)
"""The state before the first event."""

RULES: Final[dict[type[e.Event], Rule]] = {
    **life.RULES,
    **metadata.RULES,
    **members.RULES,
    **locations.RULES,
    **transfers.RULES,
    **imports.RULES,
    **steps.RULES,
    **stores.RULES,
    **undo.RULES,
    **cleanup.RULES,
}


def evolve(image: Image, event: e.Event | e.Unrecognised, meta: Meta) -> Image:
    """The state after `event`; `UnknownEvent` if a newer node wrote it, for nobody may guess what it means."""
    if isinstance(event, e.Unrecognised):
        raise UnknownEvent(f"this version does not know the event {event.type} v{event.v}; upgrade this node")
    after = RULES[type(event)](image, event, meta)
    return replace(after, version=image.version + 1, at=meta.at)


def fold(recorded: Iterable[Recorded], image: Image = NOTHING) -> Image:
    """The state after a run of events of one stream."""
    for item in recorded:
        image = evolve(image, item.event, item.meta)
    return image
