"""given / when / then for the decider: `given(events).when(command).then(events)`.

Events happen one second after another under the lease with epoch 1; each take-over
raises the epoch, as it does in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import pytest

from kernel.commands import Command
from kernel.decide import decide
from kernel.errors import EntrepotError
from kernel.events import Event, LeaseTakenOver
from kernel.evolve import NOTHING, evolve
from kernel.image import Image
from kernel.notifications import Notification, notifications
from kernel.recorded import IMAGE, Meta, Recorded
from tests.support import builders
from tests.support.builders import meta

STREAM = UUID(builders.IMAGE)


class Step(NamedTuple):
    """One event with the states around it."""

    event: Event
    before: Image
    after: Image
    meta: Meta


def steps(*events: Event) -> Iterator[Step]:
    """Fold events, state by state."""
    image, epoch = NOTHING, 1
    for seconds, event in enumerate(events):
        epoch += isinstance(event, LeaseTakenOver)
        circumstances = meta(seconds, epoch=epoch)
        after = evolve(image, event, circumstances)
        yield Step(event, image, after, circumstances)
        image = after


def recorded(*events: Event) -> list[Recorded]:
    """Events as the log would hold them, were they alone in it."""
    return [_recorded(step) for step in steps(*events)]


def told(*events: Event) -> list[Notification]:
    """Everything that consumers are told of these events, in order."""
    return [message for step in steps(*events) for message in notifications(_recorded(step), step.before, step.after)]


def _recorded(step: Step) -> Recorded:
    number = step.after.version
    return Recorded(
        position=number,
        category=IMAGE,
        stream=STREAM,
        version=number,
        event_id=uuid5(STREAM, str(number)),
        event=step.event,
        meta=step.meta,
    )


class Given:
    """An image with a past."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = tuple(events)
        self.state = NOTHING
        for step in steps(*events):
            self.state = step.after

    def when(self, command: Command) -> When:
        return When(self, command)


class When:
    """A command put to that image."""

    def __init__(self, given: Given, command: Command) -> None:
        self._given = given
        self._command = command

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(decide(self._command, self._given.state))

    def then(self, *expected: Event) -> Given:
        """It causes exactly these events (none at all, if none are named); goes on from there."""
        assert self.events == expected
        return Given((*self._given.events, *expected))

    def refuses(self, error: type[EntrepotError], text: str = "") -> None:
        """It is refused with this very error, whose message holds `text`."""
        with pytest.raises(error) as caught:
            decide(self._command, self._given.state)
        assert type(caught.value) is error
        assert text in str(caught.value)


def given(*events: Event) -> Given:
    """An image to which these events have happened."""
    return Given(events)


def changed(before: Image, after: Image) -> dict[str, Any]:
    """Fields that differ between two states, with their new values; place and time aside."""
    return {
        name: getattr(after, name)
        for name in after.__struct_fields__
        if name not in ("version", "at") and getattr(after, name) != getattr(before, name)
    }
