"""An event as the log holds it: with its place and its circumstances."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from kernel.context import Actor, Context
from kernel.events import Event, Unrecognised
from kernel.ids import new_id

Category = Literal["image", "access"]

IMAGE: Category = "image"
ACCESS: Category = "access"


class By(Struct, frozen=True, omit_defaults=True):
    """Who caused an event, as far as an audit needs it."""

    user: str | None = None
    project: str | None = None
    roles: tuple[str, ...] = ()


class Meta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The circumstances of an event."""

    at: datetime
    """When it happened, UTC; never runs backwards within a stream."""
    by: By = By()
    request: str | None = None
    correlation: UUID | None = None
    causation: UUID | None = None
    worker: UUID | None = None
    epoch: int | None = None
    v: int = 1
    """Schema version of the event's data."""


class Pending(Struct, frozen=True):
    """An event about to be appended."""

    event_id: UUID
    event: Event
    meta: Meta


class Recorded(Struct, frozen=True, kw_only=True):
    """An event in the log.  `position` is global and gapless, `version` counts from 1 within its stream."""

    position: int
    category: str
    stream: UUID
    version: int
    event_id: UUID
    event: Event | Unrecognised
    meta: Meta


def pending(
    events: Sequence[Event],
    context: Context,
    at: datetime,
    *,
    worker: UUID | None = None,
    epoch: int | None = None,
) -> tuple[Pending, ...]:
    """Give events the circumstances of the command that produced them."""
    actor = context.actor
    by = _by(actor)
    causation = context.causation
    out = []
    for event in events:
        event_id = new_id()
        meta = Meta(
            at=at,
            by=by,
            request=context.request_id,
            correlation=context.correlation,
            causation=causation,
            worker=worker,
            epoch=epoch,
        )
        out.append(Pending(event_id, event, meta))
        causation = event_id
    return tuple(out)


def _by(actor: Actor) -> By:
    return By(actor.user_id, actor.project_id, tuple(sorted(actor.roles)))
