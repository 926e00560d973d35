"""Notifications from the log to one sink, in order for each image, at least once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from kernel.consumers import Parked
from kernel.errors import UnknownEvent
from kernel.extend import Refused, Sink
from kernel.log import EventLog
from kernel.notifications import Notification, notifications
from kernel.recorded import Recorded
from kernel.states import States


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
        self._log = log
        self._muted = muted
        self._states = States(log)

    async def reset(self) -> None:
        self._states = States(self._log)

    async def apply(self, events: Sequence[Recorded]) -> None:
        messages, parked = await self._derive(events)
        try:
            if messages:
                await self._sink.deliver(messages)
        except Refused as refused:
            await self._around(messages, refused, parked)
        if parked:
            raise Parked(parked)

    async def _derive(self, events: Sequence[Recorded]) -> tuple[list[Notification], dict[UUID, str]]:
        messages: list[Notification] = []
        parked: dict[UUID, str] = {}
        for item in events:
            if item.stream in parked:
                continue
            try:
                before, after = await self._states.around(item)
            except UnknownEvent as unknown:
                parked[item.stream] = str(unknown)
                continue
            messages += [m for m in notifications(item, before, after) if m.event_type not in self._muted]
        return messages, parked

    async def _around(self, messages: Sequence[Notification], refused: Refused, parked: dict[UUID, str]) -> None:
        """The sink took what came before the refused message; go on without its image."""
        left = list(messages)
        while True:
            index = next(i for i, message in enumerate(left) if message.id == refused.message_id)
            parked[left[index].stream] = str(refused)
            left = [message for message in left[index:] if message.stream not in parked]
            if not left:
                return
            try:
                await self._sink.deliver(left)
            except Refused as another:
                refused = another
            else:
                return
