"""What still has to happen, read off the state: whole lives as walks, and every detour."""

from __future__ import annotations

import pytest

from kernel import events as e
from kernel.image import STAGING
from kernel.work import Work, interrupts, outstanding
from tests.support.builders import (
    ACTIVE,
    STAGED,
    TASK,
    TRANSFER,
    at,
    blob,
    completed,
    copying,
    created,
    downloading,
    failed,
    importing,
    inspected,
    not_stored,
    registering,
    requested,
    step_failed,
    store_started,
    stored,
    theirs,
    uploaded,
    writing,
)
from tests.support.spec import given, steps

FETCHED = e.DataFetched(blob=blob("fetched"))
UNDO = Work("undo", f"undo:{TASK}")
CLEAR = Work("clear", f"clear:{TASK}")


def work(*events: e.Event) -> Work | None:
    return outstanding(given(*events).state)


def walk(*events: e.Event) -> list[str | None]:
    """What is outstanding after each event: its kind, with the step or store it is about."""
    kinds = []
    for step in steps(*events):
        found = outstanding(step.after)
        kinds.append(None if found is None else f"{found.kind} {found.subject}" if found.subject else found.kind)
    return kinds


# --- walks -----------------------------------------------------------------------------


def test_an_image_that_only_exists_needs_nothing() -> None:
    assert walk(created(), e.ImageUpdated(name="x"), e.MemberAdded(member="pB")) == [None] * 3


def test_the_life_of_an_import_of_staged_data() -> None:
    assert walk(*STAGED, requested("a", "b"), e.ImportStarted(), inspected()) == [
        None,
        "discard",  # should the client's process die
        None,
        "begin",
        "inspect",
        "store a",
    ]
    rest = (*stored("a"), *stored("b"), *completed())
    assert walk(*writing("a", "b"), *rest)[-6:] == ["store a", "store b", "store b", "clear", "clear", None]


def test_the_life_of_a_download_with_plugins_from_elsewhere() -> None:
    request = downloading("a", steps=("unpack", "convert"), describes=True)
    middle = (
        e.MetadataCopied(disk_format="raw", container_format="bare"),
        e.FetchStarted(name="fetched", total=3),
        FETCHED,
        e.StepCompleted(step="unpack"),
        e.StepCompleted(step="convert", blob=blob("converted")),
    )
    past = (created(), request, e.ImportStarted(), *middle, inspected(), *stored("a"), *completed())
    assert walk(*past) == [
        None,
        "begin",
        "describe",
        "fetch",
        "fetch",
        "step unpack",
        "step convert",
        "inspect",
        "store a",
        "store a",
        "clear",
        "clear",
        None,
    ]


def test_the_life_of_a_copy_is_nothing_but_its_stores() -> None:
    past = (*ACTIVE, copying("b", "c"), e.ImportStarted(), *stored("b"), *stored("c"), *completed())
    stores = ["store b", "store b", "store c", "store c"]
    assert walk(*past)[3:] == ["begin", *stores, "clear", "clear", None]


def test_the_life_of_an_upload() -> None:
    assert walk(created(), *uploaded("a")) == [None, "discard", None]


def test_the_life_of_an_import_that_fails() -> None:
    past = (*writing("a", "b"), *stored("a"), *not_stored("b"))
    assert walk(*past)[-2:] == ["store b", "undo"]
    state = given(*past).state
    purged = e.BytesPurged(blobs=tuple((item.store, item.url) for item in state.garbage), sweeps=state.sweeps)
    assert walk(*past, purged, failed())[-2:] == ["undo", None]


def test_stores_that_fail_are_passed_over_if_one_is_enough() -> None:
    past = (*writing("a", "b", must_succeed=False), *not_stored("a"), *stored("b"), *completed())
    assert walk(*past)[6:] == ["store a", "store b", "store b", "clear", "clear", "purge"]


# --- keys ------------------------------------------------------------------------------


def test_a_piece_of_work_keeps_its_key_for_as_long_as_it_is_the_same() -> None:
    before = work(*writing("a"))
    assert before == Work("store", f"store:{TASK}:a", "a")
    for event in (store_started("a"), e.ImageUpdated(name="x"), e.LeaseTakenOver(), e.MemberAdded(member="pB")):
        assert work(*writing("a"), event) == before


def test_every_piece_of_an_import_has_a_key_of_its_own() -> None:
    request = downloading("a", "b", steps=("s1", "s2"), describes=True)
    middle = (e.MetadataCopied(), FETCHED, e.StepCompleted(step="s1"), e.StepCompleted(step="s2"), inspected())
    past = (created(), request, e.ImportStarted(), *middle, *stored("a"), *stored("b"))
    found = [outstanding(step.after) for step in steps(*past)]
    kinds = [item.kind for item in found if item is not None]
    assert set(kinds) == {"begin", "describe", "fetch", "step", "inspect", "store", "clear"}
    assert len({item.key for item in found if item is not None}) == len({(i.kind, i.subject) for i in found if i})


def test_the_same_step_of_another_import_is_other_work() -> None:
    second = (*importing("a"), step_failed(), failed(), downloading("a", task_id="second"))
    assert work(*importing("a")) != work(*second)
    assert work(*second) == Work("begin", "begin:second")


# --- detours ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "past",
    [(*STAGED, requested("a")), importing("a"), writing("a"), (*writing("a", "b"), *stored("a"), store_started("b"))],
)
def test_from_anywhere_in_an_import_a_cancellation_leads_to_undo(past: tuple[e.Event, ...]) -> None:
    assert work(*past, e.ImportCancelled(task_id=TASK, reason="enough")) == UNDO


@pytest.mark.parametrize("event", [step_failed("inspect", inspection=True), *not_stored("a")[1:]])
def test_what_goes_wrong_leads_to_undo(event: e.Event) -> None:
    assert work(*writing("a"), event) == UNDO


def test_a_store_that_was_begun_is_still_to_be_written() -> None:
    assert work(*writing("a"), store_started("a")) == Work("store", f"store:{TASK}:a", "a")


def test_data_that_was_fetched_is_not_fetched_again_after_a_take_over() -> None:
    past = (created(), downloading("a"), e.ImportStarted(), FETCHED, e.LeaseTakenOver())
    assert work(*past) == Work("inspect", f"inspect:{TASK}")


def test_a_deleted_image_needs_its_bytes_removed_and_then_nothing() -> None:
    past = (*ACTIVE, e.ImageDeleted())
    found = work(*past)
    assert found is not None
    assert (found.kind, found.due) == ("purge", None)
    assert work(*past, e.BytesPurged(blobs=(("a", "a://data"),))) is None


def test_kept_bytes_are_looked_at_when_their_time_is_over() -> None:
    past = (*ACTIVE, e.DeletionScheduled(scrub_at=at(60)))
    found = work(*past)
    assert found is not None
    assert (found.kind, found.due) == ("purge", at(60))
    swept_first = work(*ACTIVE, e.LeaseTakenOver(sweep_at=at(30)), past[-1])
    assert swept_first is not None
    assert swept_first.due == at(30)


def test_an_image_deleted_while_data_arrives_is_searched() -> None:
    found = work(created(), e.StagingStarted(transfer=TRANSFER), e.ImageDeleted())
    assert found is not None
    assert (found.kind, found.due) == ("purge", None)


def test_a_purge_that_achieved_something_is_other_work_than_before() -> None:
    past = (*ACTIVE, e.LocationAdded(location=e.Location(store="b", url="b://x")), e.ImageDeleted())
    before, after = work(*past), work(*past, e.BytesPurged(blobs=(("a", "a://data"),)))
    assert before is not None
    assert after is not None
    assert before.kind == after.kind == "purge"
    assert before.key != after.key


def test_a_live_import_comes_before_any_clean_up() -> None:
    past = (*importing("a", steps=("s",)), e.StepCompleted(step="s", blob=blob("made")))
    assert given(*past).state.garbage
    assert work(*past) == Work("inspect", f"inspect:{TASK}")


def test_real_work_comes_before_searches_that_are_left() -> None:
    swept = (created(), e.StagingStarted(transfer="t"), e.StagingFailed(transfer="t", reason="gone"))
    assert given(*swept).state.sweeps
    assert work(*swept, downloading("a")) == Work("begin", f"begin:{TASK}")
    assert work(*swept, e.StagingStarted(transfer="t2")) == Work("discard", "discard:t2")


# --- searches for what a stopped worker may still write --------------------------------

STOPPED = (
    created(),
    e.StagingStarted(transfer=TRANSFER),
    e.LeaseTakenOver(sweep_at=at(60)),
    e.StagingFailed(transfer=TRANSFER, reason="gone"),
)


def test_a_search_at_once_comes_before_the_one_that_is_due_later() -> None:
    found = work(*STOPPED)
    assert found is not None
    assert (found.kind, found.due) == ("purge", None)
    now = e.Sweep(store=STAGING, below=2)
    later = work(*STOPPED, e.BytesPurged(sweeps=(now,)))
    assert later is not None
    assert (later.kind, later.due) == ("purge", at(60))


def test_the_earliest_search_is_the_one_that_is_waited_for() -> None:
    now = e.BytesPurged(sweeps=(e.Sweep(store=STAGING, below=2),))
    found = work(*STOPPED, now, e.LeaseTakenOver(sweep_at=at(30)), e.LeaseTakenOver(sweep_at=at(90)))
    assert found is not None
    assert found.due == at(30)


def test_garbage_waits_for_nobody() -> None:
    found = work(*ACTIVE, e.LeaseTakenOver(sweep_at=at(60)), e.ImageDeleted())
    assert found is not None
    assert (found.kind, found.due) == ("purge", None)


# --- who must look up ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "event"),
    [
        (writing("a"), e.ImageDeleted()),
        (writing("a"), e.ImportCancelled(task_id=TASK, reason="enough")),
        ((*writing("a"), *stored("a")), completed()[1]),
        ((created(), e.StagingStarted(transfer=TRANSFER)), e.ImageDeleted()),
        ((created(), e.StagingStarted(transfer=TRANSFER)), e.StagingFailed(transfer=TRANSFER, reason="gone")),
    ],
)
def test_a_worker_looks_up_when_what_it_works_on_ends(past: tuple[e.Event, ...], event: e.Event) -> None:
    assert interrupts(given(*past).state, given(*past, event).state)


@pytest.mark.parametrize(
    ("past", "event"),
    [
        ((created(),), e.ImageDeleted()),
        (STAGED, requested("a")),
        (writing("a"), e.ImageUpdated(name="x")),
        (writing("a"), store_started("a")),
        ((*writing("a"), step_failed()), e.ImportCancelled(task_id=TASK, reason="enough")),
        ((created(),), e.StagingStarted(transfer=TRANSFER)),
    ],
)
def test_a_worker_is_left_in_peace_by_anything_else(past: tuple[e.Event, ...], event: e.Event) -> None:
    assert not interrupts(given(*past).state, given(*past, event).state)


def test_a_finished_import_leaves_the_state_without_work() -> None:
    assert work(*writing("a"), *stored("a"), *completed()) is None
    assert work(*writing("a"), *stored("a")) == CLEAR


def test_data_that_lies_somewhere_is_registered_then_hashed() -> None:
    past = (created(), registering())
    assert work(*past) == Work("begin", f"begin:{TASK}")
    assert work(*past, e.ImportStarted()) == Work("register", f"register:{TASK}")
    assert work(*past, e.ImportStarted(), theirs()) == Work("hash", f"hash:{TASK}")
    assert work(*past, e.ImportStarted(), theirs(), e.LeaseTakenOver()) == Work("hash", f"hash:{TASK}")
    assert work(*past, e.ImportStarted(), step_failed("register")) == UNDO
