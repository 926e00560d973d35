"""Sinks: they take notifications away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from pydantic import BaseModel

if TYPE_CHECKING:
    from kernel.notifications import Notification


class Refused(Exception):
    """The receiver will never take this message; those before it in the batch were delivered."""

    def __init__(self, message_id: UUID, reason: str) -> None:
        super().__init__(reason)
        self.message_id = message_id


class Sink(Protocol):
    """Takes notifications away.  May see one again after a crash, with the same id."""

    async def deliver(self, batch: Sequence[Notification]) -> None:
        """Hand all of them over, in order, durably.

        `Refused` for a message that is the trouble itself; anything else has the whole
        batch tried again.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationSink:
    name: str
    config: type[BaseModel]
    connect: Callable[[Any], Awaitable[Sink]]
    section: str | None = None
    unavailable: str | None = None
    selftest: Callable[[Path], BaseModel] | None = None
