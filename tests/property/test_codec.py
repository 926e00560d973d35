"""Whatever an event may hold comes back from the log as it went in."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.codec import decode, decode_meta, encode, type_of
from kernel.events import EVENTS, Event
from kernel.recorded import Meta
from tests.support.strategies import of

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@FEW
@given(data=st.data())
def test_every_event_survives_the_log(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(of(kind))
    raw = encode(event)
    again = decode(type_of(event), 1, raw)
    assert again == event
    assert encode(again) == raw


@FEW
@given(of(Meta))
def test_the_circumstances_survive_the_log(meta: Meta) -> None:
    assert decode_meta(encode(meta)) == meta
