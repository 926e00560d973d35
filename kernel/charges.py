"""What an image costs its owner, by resource: pure, so that usage is a fold like everything else.

The difference of the charges before and after a command is applied, and checked
against limits, inside the very call that appends the events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from kernel.errors import OverQuota
from kernel.image import Image

SIZE_TOTAL: Final = "image_size_total"
STAGE_TOTAL: Final = "image_stage_total"
COUNT_TOTAL: Final = "image_count_total"
COUNT_UPLOADING: Final = "image_count_uploading"

RESOURCES: Final = (SIZE_TOTAL, STAGE_TOTAL, COUNT_TOTAL, COUNT_UPLOADING)
"""Sizes are counted in bytes, the others in images."""


def charges(image: Image) -> dict[tuple[str, str], int]:
    """(owner, resource) -> amount.  An image without owner is nobody's cost.

    What is on its way into a store counts as if it were there, so that nobody else is
    promised the same room; a job that brings its data along counts from its start.
    """
    if not image.exists or (image.gone and not image.expected) or image.owner is None:
        return {}
    owner, job = image.owner, image.job
    size = image.size or 0
    declared = (image.transfer.declared_size or 0) if image.transfer else 0
    saving = image.status == "saving"
    making = job is not None and job.makes and image.status == "queued"
    registering = job is not None and job.registers
    if job is not None and (job.fetches or job.copies):
        staged = job.started
    else:
        staged = image.status in ("uploading", "importing", "expected") or making
    copies = len(image.locations) + (len(job.writing) if job is not None else 0)
    return {
        (owner, COUNT_TOTAL): 1,
        (owner, SIZE_TOTAL): size * copies + (declared if saving else 0),
        (owner, STAGE_TOTAL): max(size, declared) if staged and not registering else 0,
        (owner, COUNT_UPLOADING): 1 if staged or saving else 0,
    }


def delta(before: Image, after: Image) -> dict[tuple[str, str], int]:
    """What changes from one state to the next; zero changes are left out."""
    old, new = charges(before), charges(after)
    changed = {key: new.get(key, 0) - old.get(key, 0) for key in (*old, *(key for key in new if key not in old))}
    return {key: amount for key, amount in changed.items() if amount}


# --- limits ------------------------------------------------------------------------------


class Limit(Struct, frozen=True, kw_only=True):
    """The most of a resource that an owner may use, and how a change counts against it."""

    name: str
    """What the owner is told that he has exceeded."""
    most: int
    """In units; negative: no limit."""
    unit: int = 1
    """Usage and change each count in whole units, rounded down."""
    delta: int | None = None
    """The change to count, whatever the real one is; None: the real one, if it is a growth."""
    always: bool = False
    """Whether usage is checked even if nothing is added to it."""


Limits = Mapping[tuple[str, str], Limit]
"""(owner, resource) -> limit."""

Charge = tuple[str, str, int, int | None]
"""Owner, resource, change, and the most that usage and change together may be, if there is a limit."""

_MOST: Final = 1 << 61


def charged(changes: Mapping[tuple[str, str], int], limits: Limits) -> tuple[Charge, ...]:
    """Changes of usage with the limits that they are held to, for `append`, which knows of no units."""
    charges: list[Charge] = []
    for key, amount in changes.items():
        limit = limits.get(key)
        most = _room(limit, amount) if limit is not None and amount > 0 else None
        charges.append((*key, amount, None if most is None else most + amount))
    for key, limit in limits.items():
        if changes.get(key, 0) <= 0 and (limit.always or limit.delta is not None):
            most = _room(limit, 0)
            if most is not None:
                charges.append((*key, 0, most))
    return tuple(charges)


def explained(refused: OverQuota, changes: Mapping[tuple[str, str], int], limits: Limits) -> OverQuota:
    """A refusal in the words and units of the limit."""
    for key, limit in limits.items():
        if key[1] == refused.resource:
            delta = _counted(limit, max(changes.get(key, 0), 0))
            return OverQuota(limit.name, limit.most, refused.usage // limit.unit, delta)
    return refused


def _counted(limit: Limit, growth: int) -> int:
    return (growth if limit.delta is None else limit.delta) // limit.unit


def _room(limit: Limit, growth: int) -> int | None:
    """The most that may be in use before the change."""
    if limit.most < 0:
        return None
    return min((limit.most - _counted(limit, growth) + 1) * limit.unit - 1, _MOST)
