"""Events to JSON and back, old shapes included."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from kernel import codec
from kernel import events as e
from kernel.codec import decode, decode_meta, encode, type_of, version_of
from kernel.recorded import By, Meta
from tests.support.builders import at, blob


def test_absent_fields_take_no_room() -> None:
    assert encode(e.ImageUpdated(name="x")) == b'{"name":"x"}'
    assert encode(e.ImageUpdated(name=None)) == b'{"name":null}'
    assert encode(e.ImportStarted()) == b"{}"


def test_an_event_is_recorded_under_the_name_of_its_class() -> None:
    assert type_of(e.StoreFailed(store="a", reason="full")) == "StoreFailed"


def test_absent_and_null_are_different_things_after_a_round_trip() -> None:
    for event in (e.ImageUpdated(), e.ImageUpdated(name=None), e.ImageUpdated(name="x")):
        assert decode("ImageUpdated", 1, encode(event)) == event


def test_fields_that_a_newer_version_added_are_passed_over() -> None:
    assert decode("TagAdded", 1, b'{"tag":"t","colour":"red"}') == e.TagAdded(tag="t")


def test_an_event_of_an_unknown_type_or_a_newer_shape_is_a_placeholder() -> None:
    assert decode("Frobnicated", 1, b'{"x":1}') == e.Unrecognised("Frobnicated", 1)
    assert decode("TagAdded", 2, b'{"label":"t"}') == e.Unrecognised("TagAdded", 2)


def test_what_is_no_such_event_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode("TagAdded", 1, b'{"tag":7}')


def test_circumstances_come_back_as_they_went() -> None:
    full = Meta(
        at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        by=By(user="u", project="p", roles=("admin", "member")),
        request="req-1",
        correlation=UUID(int=1),
        causation=UUID(int=2),
        worker=UUID(int=3),
        epoch=7,
        v=2,
    )
    for meta in (full, Meta(at=at())):
        assert decode_meta(encode(meta)) == meta
    assert encode(Meta(at=at())) == b'{"at":"2026-01-02T03:04:05Z"}'


# --- old shapes ------------------------------------------------------------------------


@pytest.fixture
def reshaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `StoreFailed` had once had a `backend`, then a `store` with its reason in a list."""

    def rename(old: dict[str, Any]) -> dict[str, Any]:
        return {"store": old["backend"], "reasons": old["reasons"]}

    def join(old: dict[str, Any]) -> dict[str, Any]:
        return {"store": old["store"], "reason": "; ".join(old["reasons"])}

    monkeypatch.setitem(codec.VERSIONS, "StoreFailed", 3)
    monkeypatch.setitem(codec.UPCASTERS, ("StoreFailed", 1), rename)
    monkeypatch.setitem(codec.UPCASTERS, ("StoreFailed", 2), join)


@pytest.mark.usefixtures("reshaped")
@pytest.mark.parametrize(
    ("version", "raw"),
    [
        (1, b'{"backend":"a","reasons":["full","slow"]}'),
        (2, b'{"store":"a","reasons":["full","slow"]}'),
        (3, b'{"store":"a","reason":"full; slow"}'),
    ],
)
def test_old_shapes_are_lifted_step_by_step(version: int, raw: bytes) -> None:
    assert decode("StoreFailed", version, raw) == e.StoreFailed(store="a", reason="full; slow")


@pytest.mark.usefixtures("reshaped")
def test_an_event_is_written_in_the_newest_shape() -> None:
    assert version_of("StoreFailed") == 3
    assert version_of("StoreStarted") == 1
    assert decode("StoreFailed", 4, b"{}") == e.Unrecognised("StoreFailed", 4)


def test_what_was_lifted_may_hold_times_ids_and_bytes_of_structs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec.VERSIONS, "LeaseTakenOver", 2)
    monkeypatch.setitem(codec.UPCASTERS, ("LeaseTakenOver", 1), lambda old: {"sweep_at": old["again_at"]})
    lifted = decode("LeaseTakenOver", 1, b'{"again_at":"2026-01-02T03:04:05Z"}')
    assert lifted == e.LeaseTakenOver(sweep_at=at())
    monkeypatch.setitem(codec.VERSIONS, "DataFetched", 2)
    monkeypatch.setitem(codec.UPCASTERS, ("DataFetched", 1), lambda old: {"blob": old["data"]})
    raw = encode({"data": msgspec.to_builtins(blob())})
    assert decode("DataFetched", 1, raw) == e.DataFetched(blob=blob())


def test_every_old_shape_can_be_lifted() -> None:
    for name, current in codec.VERSIONS.items():
        for version in range(1, current):
            assert (name, version) in codec.UPCASTERS
    for name, version in codec.UPCASTERS:
        assert version < version_of(name)
