"""Folding never fails, whatever comes in whatever order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.events import EVENTS, Event
from kernel.evolve import NOTHING, evolve
from kernel.image import Image
from kernel.log_postgres import decode_image
from kernel.recorded import Meta
from kernel.rows import rows_between, state_row
from kernel.work import outstanding
from tests.support.builders import at, created, meta
from tests.support.spec import STREAM, told
from tests.support.strategies import WORDS, of

FEW = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

any_event = st.sampled_from(EVENTS).flatmap(lambda kind: of(kind, WORDS))
any_past = st.lists(any_event, max_size=25)


def folded(events: list[Event]) -> list[Image]:
    """The states after each of the events, the empty one first."""
    states = [NOTHING]
    for number, event in enumerate(events):
        states.append(evolve(states[-1], event, meta(number, epoch=number)))
    return states


@FEW
@given(any_past)
def test_any_event_can_follow_any_other(events: list[Event]) -> None:
    states = folded(events)
    for number, image in enumerate(states[1:], 1):
        assert image.version == number
        assert image.at == at(number - 1)


@FEW
@given(any_past, of(Meta))
def test_folding_depends_on_nothing_but_the_events(events: list[Event], other: Meta) -> None:
    first = folded([created(), *events])[-1]
    evolve(first, created(), other)  # a state is a value: what is done with it leaves it alone
    assert folded([created(), *events])[-1] == first


@FEW
@given(any_past)
def test_any_state_has_its_rows_and_comes_back_from_them(events: list[Event]) -> None:
    states = folded([created(), *events])
    for before, after in pairwise(states):
        rows_between(STREAM, before, after)
    assert decode_image(state_row(STREAM, states[-1]).state) == states[-1]


@FEW
@given(any_past)
def test_whatever_happened_consumers_can_be_told(events: list[Event]) -> None:
    for message in told(created(), *events):
        assert message.event_type
        assert isinstance(message.payload, str) is (message.priority == "ERROR" and message.event_type != "image.send")


@FEW
@given(any_past)
def test_whatever_happened_there_is_an_answer_to_what_is_outstanding(events: list[Event]) -> None:
    for image in folded(events):
        work = outstanding(image)
        assert work is None or work.key.startswith(work.kind)
