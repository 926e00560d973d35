"""Bytes that nobody needs: those that are known, and the sweeps that look for the others."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from kernel import events as e
from kernel.events import Sweep
from kernel.image import STAGING, Garbage

EVERY_EPOCH = 2**62
"""A sweep below this takes every unrecorded name: nothing of a deleted image is worth keeping."""


def staged_garbage(blob: e.Blob) -> Garbage:
    """Staged bytes, on the node that has them."""
    return Garbage(store=STAGING, url=blob.url, node=blob.node)


def stored_garbage(location: e.Location) -> Garbage:
    """A copy in a store."""
    return Garbage(store=location.store, url=location.url)


def unneeded(garbage: tuple[Garbage, ...], locations: tuple[e.Location, ...]) -> tuple[Garbage, ...]:
    """Garbage without what one of these locations names."""
    needed = {stored_garbage(location) for location in locations}
    return tuple(item for item in garbage if item not in needed)


def merged(sweeps: Iterable[Sweep]) -> tuple[Sweep, ...]:
    """One sweep a store and due time, the widest."""
    widest: dict[tuple[str, datetime | None], Sweep] = {}
    for sweep in sweeps:
        key = sweep.store, sweep.due
        if key not in widest or widest[key].below < sweep.below:
            widest[key] = sweep
    return tuple(widest.values())
