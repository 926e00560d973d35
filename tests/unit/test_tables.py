"""The tables of the core are held to the lists of events and commands: nothing can be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import commands, decide, evolve, notifications
from kernel.codec import version_of
from kernel.events import EVENTS, Event
from kernel.image import GONE, TRANSITIONS

GOLDEN = Path(__file__).parent.parent / "golden" / "events"


def _commands(base: type[commands.Command] = commands.Command) -> Iterator[type[commands.Command]]:
    for kind in base.__subclasses__():
        yield from _commands(kind)
        if kind is not commands.WorkerCommand and kind.__module__ == commands.__name__:
            yield kind


def test_every_event_is_listed() -> None:
    assert set(EVENTS) == {kind for kind in Event.__subclasses__() if kind.__module__ == "kernel.events"}
    assert len({kind.__name__ for kind in EVENTS}) == len(EVENTS)


def test_every_event_is_folded() -> None:
    assert set(evolve.RULES) == set(EVENTS)


def test_every_command_is_decided() -> None:
    assert set(decide.RULES) == set(_commands())


def test_every_event_is_told_to_consumers_or_silent_on_purpose() -> None:
    assert set(notifications.RULES).isdisjoint(notifications.SILENT)
    assert set(notifications.RULES) | notifications.SILENT == set(EVENTS)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_has_a_golden_file_of_every_shape_it_ever_had(kind: type[Event]) -> None:
    name = kind.__name__
    for version in range(1, version_of(name) + 1):
        assert (GOLDEN / f"{name}.v{version}.json").is_file(), "run tests/golden/make.py"


def test_every_golden_file_is_of_an_event() -> None:
    known = {
        f"{kind.__name__}.v{version}.json" for kind in EVENTS for version in range(1, 1 + version_of(kind.__name__))
    }
    assert {path.name for path in GOLDEN.iterdir()} == known


def test_statuses_lead_only_to_statuses() -> None:
    for following in TRANSITIONS.values():
        assert following <= set(TRANSITIONS)
    assert set(TRANSITIONS) >= GONE


def test_deletion_is_possible_from_everywhere_and_final() -> None:
    for status, following in TRANSITIONS.items():
        assert ("deleted" in following) is (status != "deleted")
    assert TRANSITIONS["deleted"] == frozenset()
