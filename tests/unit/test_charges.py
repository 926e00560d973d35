"""What an image costs its owner at every moment of its life."""

from __future__ import annotations

import pytest

from kernel import events as e
from kernel.charges import (
    COUNT_TOTAL,
    COUNT_UPLOADING,
    RESOURCES,
    SIZE_TOTAL,
    STAGE_TOTAL,
    charged,
    charges,
    delta,
    explained,
)
from kernel.errors import OverQuota
from kernel.evolve import NOTHING
from tests.support.builders import (
    ACTIVE,
    OWNER,
    STAGED,
    TRANSFER,
    blob,
    completed,
    copying,
    created,
    downloading,
    failed,
    importing,
    limited,
    location,
    not_stored,
    registering,
    step_failed,
    store_started,
    stored,
    theirs,
    uploaded,
    writing,
)
from tests.support.spec import given

Events = tuple[e.Event, ...]


def cost(*events: e.Event) -> tuple[int, int, int, int]:
    """Size, stage, count, uploading."""
    amounts = charges(given(*events).state)
    return tuple(amounts.get((OWNER, name), 0) for name in RESOURCES)  # type: ignore[return-value]


def test_every_resource_is_charged() -> None:
    assert set(charges(given(created()).state)) == {(OWNER, name) for name in RESOURCES}
    assert RESOURCES == (SIZE_TOTAL, STAGE_TOTAL, COUNT_TOTAL, COUNT_UPLOADING)


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        ((created(),), (0, 0, 1, 0)),
        ((created(), e.StagingStarted(transfer=TRANSFER)), (0, 0, 1, 1)),
        ((created(), e.StagingStarted(transfer=TRANSFER, declared_size=9)), (0, 9, 1, 1)),
        (STAGED, (0, 3, 1, 1)),
        ((created(), e.UploadStarted(transfer=TRANSFER, store="a")), (0, 0, 1, 1)),
        (ACTIVE, (3, 0, 1, 0)),
        ((*ACTIVE, e.ImageDeactivated()), (3, 0, 1, 0)),
        ((*ACTIVE, e.LocationAdded(location=location("b"))), (6, 0, 1, 0)),
        ((created(), registering(verify=True), e.ImportStarted(), theirs()), (3, 0, 1, 1)),
        (importing("a", "b"), (0, 3, 1, 1)),
        ((*writing("a", "b"), *stored("a")), (3, 3, 1, 1)),
        ((*writing("a", "b"), *stored("a"), *stored("b")), (6, 0, 1, 0)),
        ((*writing("a", "b"), *stored("a"), *stored("b"), *completed()), (6, 0, 1, 0)),
        ((*writing("a", "b"), *stored("a"), *not_stored("b"), failed()), (0, 0, 1, 0)),
        ((*importing("a"), step_failed(), failed()), (0, 0, 1, 0)),
        ((created(), downloading("a")), (0, 0, 1, 0)),
        ((created(), downloading("a"), e.ImportStarted()), (0, 0, 1, 1)),
        ((created(), downloading("a"), e.ImportStarted(), e.DataFetched(blob=blob(size=7))), (0, 7, 1, 1)),
        ((*ACTIVE, copying("b")), (3, 0, 1, 0)),
        ((*ACTIVE, copying("b"), e.ImportStarted()), (3, 3, 1, 1)),
        ((*ACTIVE, copying("b"), e.ImportStarted(), store_started("b")), (6, 3, 1, 1)),
        ((*writing("a", "b"), store_started("a"), store_started("b")), (6, 3, 1, 1)),
        ((created(), e.UploadStarted(transfer=TRANSFER, store="a", declared_size=9)), (9, 0, 1, 1)),
        ((*ACTIVE, copying("b"), e.ImportStarted(), *stored("b")), (6, 3, 1, 1)),
        ((*ACTIVE, e.ImageDeleted()), (0, 0, 0, 0)),
        ((*importing("a"), e.ImageDeleted()), (0, 0, 0, 0)),
        (tuple(created(owner=None) if event is STAGED[0] else event for event in STAGED), (0, 0, 0, 0)),
        ((), (0, 0, 0, 0)),
    ],
)
def test_what_an_image_costs(past: Events, expected: tuple[int, int, int, int]) -> None:
    assert cost(*past) == expected


def test_what_changes_is_charged_and_nothing_else() -> None:
    staging = (created(), e.StagingStarted(transfer=TRANSFER, declared_size=9))
    assert delta(NOTHING, given(created()).state) == {(OWNER, COUNT_TOTAL): 1}
    assert delta(given(created()).state, given(*staging).state) == {
        (OWNER, STAGE_TOTAL): 9,
        (OWNER, COUNT_UPLOADING): 1,
    }
    renamed = given(created(), e.ImageUpdated(name="x")).state
    assert delta(given(created()).state, renamed) == {}


def test_a_new_owner_takes_the_whole_cost_over() -> None:
    before, after = given(*ACTIVE).state, given(*ACTIVE, e.ImageUpdated(owner="pB")).state
    assert delta(before, after) == {
        (OWNER, COUNT_TOTAL): -1,
        (OWNER, SIZE_TOTAL): -3,
        ("pB", COUNT_TOTAL): 1,
        ("pB", SIZE_TOTAL): 3,
    }


@pytest.mark.parametrize(
    "past",
    [STAGED, (created(), *uploaded("a"), e.LocationAdded(location=location("b"))), writing("a"), (*ACTIVE, copying())],
)
def test_deletion_gives_back_exactly_what_was_charged(past: Events) -> None:
    before, after = given(*past).state, given(*past, e.ImageDeleted()).state
    assert delta(before, after) == {key: -amount for key, amount in charges(before).items() if amount}


# --- limits ------------------------------------------------------------------------------

MIB = 1 << 20
KEY = (OWNER, SIZE_TOTAL)


def fits(used: int, growth: int, most: int, **how: object) -> bool:
    """What `append` makes of a limit."""
    changes = {KEY: growth} if growth else {}
    entries = charged(changes, limited(SIZE_TOTAL, most, **how))
    assert sum(amount for *_, amount, _ in entries) == growth
    return all(limit is None or used + amount <= limit for *_, amount, limit in entries)


@pytest.mark.parametrize(
    ("used", "growth", "most", "fit"),
    [
        (0, 5, 5, True),
        (1, 5, 5, False),
        (5, 0, 5, True),
        (9, 0, 5, True),
        (9, -3, 5, True),
        (0, 1, 0, False),
        (9, 9, -1, True),
    ],
)
def test_growth_must_fit(used: int, growth: int, most: int, fit: bool) -> None:
    assert fits(used, growth, most) is fit


@pytest.mark.parametrize(
    ("used", "growth", "most", "fit"),
    [
        (0, MIB, 1, True),
        (0, 2 * MIB - 1, 1, True),
        (0, 2 * MIB, 1, False),
        (MIB, MIB, 1, False),
        (MIB - 1, MIB, 1, True),
        (2 * MIB - 1, MIB - 1, 1, True),
        (2 * MIB, 1, 1, False),
        (0, 5, 0, True),
        (0, MIB, 0, False),
    ],
)
def test_units_are_rounded_down_on_both_sides(used: int, growth: int, most: int, fit: bool) -> None:
    assert fits(used, growth, most, unit=MIB) is fit
    assert (used // MIB + growth // MIB <= most) is fit


def test_usage_alone_may_be_too_much() -> None:
    assert fits(5, 0, 5, always=True)
    assert not fits(6, 0, 5, always=True)
    assert not fits(3, 0, 5, delta=3)
    assert fits(3, 99, 5, delta=0)
    assert not fits(6, 99, 5, delta=0)
    assert not fits(6, -1, 5, always=True)


def test_limits_beyond_all_numbers_do_no_harm() -> None:
    assert fits(5, 5, 10**30, unit=MIB)


def test_refusals_are_told_in_units() -> None:
    limits = limited(SIZE_TOTAL, 2, unit=MIB)
    refused = explained(OverQuota(SIZE_TOTAL, 0, 3 * MIB + 5, 7), {KEY: MIB + 9}, limits)
    assert str(refused) == "Resource image_size_total is over limit of 2 due to current usage 3 and delta 1"
