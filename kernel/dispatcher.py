"""Notifications from the log to one sink, in order for each image, at least once.

Every hour the sink is also given an anchor: where the head of the log is, and its hash.
Kept where the log's owner cannot reach it, it shows later whether an end was cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

import structlog

from kernel.audit import Anchor
from kernel.consumers import Parked, Place
from kernel.errors import EntrepotError, UnknownEvent
from kernel.extend import Refused, Sink
from kernel.log import EventLog
from kernel.notifications import Notification, notifications
from kernel.recorded import Recorded
from kernel.states import States

log = structlog.get_logger(__name__)

ANCHOR: Final = "log.anchor"
"""Type of the message that carries an anchor."""

HOUR: Final = 3600.0
_AGAIN: Final = 60.0
"""Seconds until an anchor that was not taken is offered again."""

_ANCHORS: Final = UUID(int=0)
"""The stream of anchors, which no image has."""


class Muted:
    """Which notification types the operator switched off: exact types, or groups such as `image.member`."""

    def __init__(self, disabled: Sequence[str]) -> None:
        self._exact = frozenset(disabled)
        self._groups = tuple(f"{name}." for name in disabled)

    def __contains__(self, event_type: object) -> bool:
        return isinstance(event_type, str) and (event_type in self._exact or event_type.startswith(self._groups))


class Dispatcher:
    """The effect of a sink: derive messages, hand them over."""

    def __init__(self, sink: Sink, log: EventLog, muted: Muted) -> None:
        self._sink = sink
        self._turn = asyncio.Lock()
        self._log = log
        self._muted = muted
        self._states = States(log)

    async def reset(self) -> None:
        self._states = States(self._log)

    async def apply(self, events: Sequence[Recorded]) -> None:
        messages, parked = await self._derive(events)
        try:
            if messages:
                await self._deliver(messages)
        except Refused as refused:
            await self._around(messages, refused, parked)
        if parked:
            raise Parked(parked)

    async def _derive(self, events: Sequence[Recorded]) -> tuple[list[Notification], dict[UUID, Place]]:
        messages: list[Notification] = []
        parked: dict[UUID, Place] = {}
        for item in events:
            if item.stream in parked:
                continue
            try:
                before, after = await self._states.around(item)
            except UnknownEvent as unknown:
                parked[item.stream] = item.position, str(unknown)
                continue
            messages += [m for m in notifications(item, before, after) if m.event_type not in self._muted]
        return messages, parked

    async def _around(self, messages: Sequence[Notification], refused: Refused, parked: dict[UUID, Place]) -> None:
        """The sink took what came before the refused message; go on without its image."""
        left = list(messages)
        while True:
            index = next(i for i, message in enumerate(left) if message.id == refused.message_id)
            parked[left[index].stream] = left[index].position, str(refused)
            left = [message for message in left[index:] if message.stream not in parked]
            if not left:
                return
            try:
                await self._deliver(left)
            except Refused as another:
                refused = another
            else:
                return

    async def _deliver(self, messages: Sequence[Notification]) -> None:
        async with self._turn:
            await self._sink.deliver(messages)

    # --- anchors -----------------------------------------------------------------------

    async def anchor(self, head: Callable[[], Awaitable[Anchor]], every: float = HOUR) -> None:
        """Offer the head of the log now, and every hour if it has moved, for ever."""
        told = Anchor(0, b"")
        while ANCHOR not in self._muted:
            pause = every
            try:
                newest = await head()
                if newest.position and newest != told:
                    await self._deliver([anchored(newest)])
                    told = newest
            except (Refused, EntrepotError, OSError, TimeoutError) as error:
                pause = min(every, _AGAIN)
                log.warning("anchor_not_taken", reason=str(error), retry_in=pause)
            await asyncio.sleep(pause)


def anchored(anchor: Anchor) -> Notification:
    """The message that carries an anchor, in the form that `entrepot audit --against` reads."""
    return Notification(
        id=uuid5(_ANCHORS, str(anchor)),
        event_type=ANCHOR,
        priority="INFO",
        payload={"position": anchor.position, "hash": anchor.hash.hex(), "anchor": str(anchor)},
        at=datetime.now(UTC),
        position=anchor.position,
        stream=_ANCHORS,
    )
