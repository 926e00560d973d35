"""Folding what happens to an image outside imports: attributes, sharing, data from clients, locations, deletion."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import events as e
from kernel.errors import UnknownEvent
from kernel.evolve import NOTHING, evolve, fold
from kernel.image import STAGING, Garbage, Image, Member, Transfer, member_of
from kernel.recorded import Meta
from tests.support.builders import (
    ACTIVE,
    IMAGE,
    OWNER,
    STAGED,
    TRANSFER,
    at,
    blob,
    copying,
    created,
    digests,
    importing,
    location,
    meta,
    staged,
    store_started,
    stored,
    uploaded,
)
from tests.support.spec import changed, given, recorded, steps


def last(*events: e.Event) -> dict[str, Any]:
    """What the last of these events changed."""
    *_, step = steps(*events)
    return changed(step.before, step.after)


# --- an image and its attributes -------------------------------------------------------


def test_an_image_begins_queued_with_what_it_was_created_with() -> None:
    event = created(tags=("t",), properties={"p": "v"}, min_disk=1, min_ram=2, visibility="public", protected=True)
    state = given(event).state
    expected = Image(
        id=IMAGE,
        version=1,
        owner=OWNER,
        name="n",
        visibility="public",
        protected=True,
        disk_format="raw",
        container_format="bare",
        min_disk=1,
        min_ram=2,
        tags=("t",),
        properties={"p": "v"},
        created_at=at(),
        updated_at=at(),
        at=at(),
    )
    assert state == expected
    assert state.status == "queued"
    assert (state.importing, state.failed) == (None, None)


def test_nothing_is_no_image() -> None:
    assert not NOTHING.exists
    assert not NOTHING.gone
    assert NOTHING.version == 0


def test_every_event_counts_as_a_version_and_moves_the_time() -> None:
    for number, step in enumerate(steps(*importing("a")), 1):
        assert step.after.version == number
        assert step.after.at == step.meta.at


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "other"),
        ("name", None),
        ("owner", "pB"),
        ("visibility", "public"),
        ("protected", True),
        ("hidden", True),
        ("disk_format", "qcow2"),
        ("container_format", None),
        ("min_disk", 7),
        ("min_ram", 7),
        ("tags", ("x", "y")),
    ],
)
def test_an_update_changes_what_it_names_and_nothing_else(field: str, value: Any) -> None:
    update = e.ImageUpdated(**{field: value})
    assert last(created(properties={"p": "v"}), update) == {field: value, "updated_at": at(1)}


def test_an_update_that_names_nothing_is_still_an_update() -> None:
    assert last(created(), e.ImageUpdated()) == {"updated_at": at(1)}


def test_properties_are_set_and_removed() -> None:
    update = e.ImageUpdated(
        properties_set={"new": "1", "old": "2", "null": None}, properties_removed=("gone", "absent")
    )
    state = given(created(properties={"old": "0", "gone": "x", "kept": "y"}), update).state
    assert state.properties == {"old": "2", "kept": "y", "new": "1", "null": None}


def test_tags_come_and_go() -> None:
    state = given(created(tags=("a",)), e.TagAdded(tag="b"), e.TagAdded(tag="c"), e.TagRemoved(tag="a")).state
    assert state.tags == ("b", "c")
    assert state.updated_at == at(3)


def test_an_image_is_deactivated_and_reactivated() -> None:
    assert last(*ACTIVE, e.ImageDeactivated()) == {"status": "deactivated", "updated_at": at(3)}
    assert last(*ACTIVE, e.ImageDeactivated(), e.ImageReactivated()) == {"status": "active", "updated_at": at(4)}


# --- sharing ---------------------------------------------------------------------------


def test_sharing_does_not_touch_the_image() -> None:
    for event in (e.MemberAdded(member="pB"), e.MemberStatusChanged(member="pB", status="accepted")):
        assert "updated_at" not in last(created(), e.MemberAdded(member="pB"), event)


def test_only_so_many_former_members_are_remembered() -> None:
    """Those who left last; who has not left is never forgotten."""
    stays = e.MemberAdded(member="stays")
    come_and_go = [
        event
        for number in range(200)
        for event in (e.MemberAdded(member=f"p{number}"), e.MemberRemoved(member=f"p{number}"))
    ]
    members = given(created(), stays, *come_and_go).state.members
    assert list(members) == ["stays", *(f"p{number}" for number in range(72, 200))]


def test_a_member_is_pending_then_answers_then_leaves() -> None:
    accepted = (created(), e.MemberAdded(member="pB"), e.MemberStatusChanged(member="pB", status="accepted"))
    added = Member(status="pending", created_at=at(1), updated_at=at(1))
    assert given(*accepted[:2]).state.members == {"pB": added}
    assert given(*accepted).state.members == {"pB": Member(status="accepted", created_at=at(1), updated_at=at(2))}
    removed = given(*accepted, e.MemberRemoved(member="pB")).state
    assert removed.members == {"pB": Member(status="accepted", created_at=at(1), updated_at=at(3), removed=True)}
    assert member_of(removed, "pB") is None


def test_a_member_added_again_is_pending_with_its_old_creation_time() -> None:
    past = (created(), e.MemberAdded(member="pB"), e.MemberRemoved(member="pB"), e.MemberAdded(member="pB"))
    assert given(*past).state.members == {"pB": Member(status="pending", created_at=at(1), updated_at=at(3))}


@pytest.mark.parametrize("event", [e.MemberStatusChanged(member="pC", status="accepted"), e.MemberRemoved(member="pC")])
def test_what_happens_to_somebody_who_is_no_member_changes_nothing(event: e.Event) -> None:
    assert last(created(), e.MemberAdded(member="pB"), event) == {}


def test_membership_counts_while_the_image_is_shared() -> None:
    shared = given(created(), e.MemberAdded(member="pB")).state
    assert member_of(shared, "pB") is not None
    assert member_of(shared, "pC") is None
    assert member_of(shared, None) is None
    private = given(created(), e.MemberAdded(member="pB"), e.ImageUpdated(visibility="private")).state
    assert member_of(private, "pB") is None


# --- data from clients -----------------------------------------------------------------


def test_staging_goes_from_queued_to_uploading_with_the_size() -> None:
    begun = last(created(), e.StagingStarted(transfer=TRANSFER, declared_size=9))
    transfer = Transfer(id=TRANSFER, store=STAGING, epoch=1, declared_size=9)
    assert begun == {"status": "uploading", "transfer": transfer, "updated_at": at(1)}
    assert last(*STAGED) == {"transfer": None, "staged": blob(), "size": 3, "updated_at": at(2)}


def test_staging_nothing_is_staging_all_the_same() -> None:
    state = given(created(), *staged(size=0)).state
    assert state.size == 0
    assert state.staged == blob(size=0)


def test_staging_that_fails_goes_back_to_queued_and_is_searched_for_what_it_left() -> None:
    past = (created(), e.StagingStarted(transfer=TRANSFER), e.StagingFailed(transfer=TRANSFER, reason="gone"))
    state = given(*past).state
    assert (state.status, state.transfer, state.staged, state.size) == ("queued", None, None, None)
    assert state.sweeps == (e.Sweep(store=STAGING, below=2),)


@pytest.mark.parametrize("multi", [True, False])
def test_an_upload_goes_from_queued_to_saving_to_active(multi: bool) -> None:
    begun = last(created(), uploaded("a", multi=multi)[0])
    transfer = Transfer(id=TRANSFER, store="a", epoch=1, multi=multi)
    assert begun == {"status": "saving", "transfer": transfer, "updated_at": at(1)}
    state = given(created(), *uploaded("a", multi=multi)).state
    assert (state.status, state.transfer, state.multi) == ("active", None, multi)
    assert state.locations == (location("a"),)
    assert state.stores == ("a",)
    assert (state.size, state.virtual_size) == (3, 3)
    assert (state.checksum, state.hash_algo, state.hash_value) == ("md5-d1", "sha512", "sha512-d1")


def test_an_upload_that_fails_goes_back_to_queued_and_its_store_is_searched() -> None:
    past = (
        created(),
        e.UploadStarted(transfer=TRANSFER, store="a"),
        e.UploadFailed(transfer=TRANSFER, store="a", reason="full"),
    )
    state = given(*past).state
    assert (state.status, state.transfer, state.locations, state.size) == ("queued", None, (), None)
    assert state.sweeps == (e.Sweep(store="a", below=2),)


# --- locations -------------------------------------------------------------------------

FOREIGN = e.Location(store="web", url="http://x/1", size=5, metadata={"k": "v"})


def test_a_location_makes_a_queued_image_active() -> None:
    state = given(created(), e.LocationAdded(location=FOREIGN, size=5, digests=digests("x"))).state
    assert (state.status, state.size, state.locations, state.updated_at) == ("active", 5, (FOREIGN,), at(1))
    assert (state.checksum, state.hash_algo, state.hash_value) == ("md5-x", "sha512", "sha512-x")


def test_a_location_of_which_nothing_is_known_leaves_the_figures_empty() -> None:
    state = given(created(), e.LocationAdded(location=FOREIGN)).state
    assert (state.status, state.size, state.checksum) == ("active", None, None)
    nameless = e.Digests(md5="", algo="sha512", value="v")
    assert given(created(), e.LocationAdded(location=FOREIGN, digests=nameless)).state.checksum is None


@pytest.mark.parametrize(("index", "place"), [(None, 1), (0, 0), (1, 1), (99, 1)])
def test_a_further_location_stands_where_it_was_asked_for(index: int | None, place: int) -> None:
    state = given(*ACTIVE, e.LocationAdded(location=FOREIGN, size=99, index=index)).state
    assert state.locations[place] == FOREIGN
    assert len(state.locations) == 2
    assert state.size == 3  # that of the image's data


def test_locations_are_replaced_as_a_whole() -> None:
    renamed = e.Location(store="a", url="a://data", metadata={"k": "v"})
    assert last(*ACTIVE, e.LocationsReplaced(locations=(renamed,))) == {"locations": (renamed,), "updated_at": at(3)}


def removed(of: e.Location) -> e.LocationRemoved:
    return e.LocationRemoved(url=of.url, store=of.store, metadata=of.metadata)


def test_a_removed_location_is_garbage() -> None:
    state = given(*ACTIVE, e.LocationAdded(location=FOREIGN), removed(FOREIGN)).state
    assert state.locations == (location("a"),)
    assert state.garbage == (Garbage(store="web", url="http://x/1"),)


def test_bytes_that_another_location_names_too_stay() -> None:
    twin = e.Location(store="web", url=FOREIGN.url)
    past = (*ACTIVE, e.LocationAdded(location=FOREIGN), e.LocationAdded(location=twin))
    state = given(*past, removed(FOREIGN)).state
    assert state.locations == (location("a"), twin)
    assert state.garbage == ()


def test_only_one_of_two_equal_locations_is_removed() -> None:
    past = (*ACTIVE, e.LocationAdded(location=FOREIGN), e.LocationAdded(location=FOREIGN))
    assert given(*past, removed(FOREIGN)).state.locations == (location("a"), FOREIGN)


def test_removing_a_location_that_is_not_there_changes_nothing() -> None:
    assert last(*ACTIVE, removed(FOREIGN)) == {}


@pytest.mark.parametrize("again", [e.LocationAdded(location=FOREIGN), e.LocationsReplaced(locations=(FOREIGN,))])
def test_bytes_that_are_needed_again_are_no_garbage(again: e.Event) -> None:
    state = given(*ACTIVE, e.LocationAdded(location=FOREIGN), removed(FOREIGN), again).state
    assert state.garbage == ()


# --- deletion --------------------------------------------------------------------------


def test_a_deleted_image_keeps_its_figures_and_loses_its_data() -> None:
    state = given(*ACTIVE, e.ImageDeleted()).state
    assert (state.status, state.deleted_at, state.locations) == ("deleted", at(3), ())
    assert state.gone
    assert state.size == 3
    assert state.garbage == (Garbage(store="a", url="a://data"),)


def test_an_image_whose_bytes_are_kept_is_gone_with_all_its_data() -> None:
    kept = given(*ACTIVE, e.DeletionScheduled(scrub_at=at(60)))
    image = kept.state
    assert (image.status, image.deleted_at, image.scrub_at) == ("pending_delete", at(3), at(60))
    assert (image.gone, image.locations, image.garbage) == (True, (location("a"),), ())
    scrubbed = given(*kept.events, e.ImageDeleted()).state
    assert (scrubbed.status, scrubbed.deleted_at, scrubbed.scrub_at) == ("deleted", at(3), None)
    assert (scrubbed.locations, scrubbed.garbage) == ((), (Garbage(store="a", url="a://data"),))


def test_what_a_running_copy_has_made_is_not_kept() -> None:
    copy = (*ACTIVE, copying("b", "c"), *stored("b"))
    image = given(*copy, e.DeletionScheduled(scrub_at=at(60))).state
    assert (image.locations, image.garbage) == ((location("a"),), (Garbage(store="b", url="b://data"),))


def test_deleting_drops_what_was_staged() -> None:
    state = given(*STAGED, e.ImageDeleted()).state
    assert state.staged is None
    assert state.garbage == (Garbage(store=STAGING, url=blob().url),)


@pytest.mark.parametrize(
    ("begun", "store"),
    [(e.StagingStarted(transfer=TRANSFER), STAGING), (e.UploadStarted(transfer=TRANSFER, store="a"), "a")],
)
def test_deleting_while_data_arrives_leaves_a_search_for_it(begun: e.Event, store: str) -> None:
    state = given(created(), begun, e.ImageDeleted()).state
    assert state.transfer is None
    assert state.sweeps == (e.Sweep(store=store, below=2),)


# --- clean-up --------------------------------------------------------------------------


def test_purged_bytes_are_no_garbage_any_more() -> None:
    past = (*ACTIVE, e.LocationAdded(location=FOREIGN), e.ImageDeleted())
    first = given(*past, e.BytesPurged(blobs=(("a", "a://data"),)))
    assert first.state.garbage == (Garbage(store="web", url="http://x/1"),)
    assert given(*first.events, e.BytesPurged(blobs=(("web", "http://x/1"),))).state.garbage == ()


def test_the_same_url_in_another_store_is_something_else() -> None:
    state = given(*ACTIVE, e.ImageDeleted(), e.BytesPurged(blobs=(("b", "a://data"),))).state
    assert state.garbage == (Garbage(store="a", url="a://data"),)


LEFT = (
    created(),
    e.StagingStarted(transfer=TRANSFER),
    e.LeaseTakenOver(sweep_at=at(60)),
    e.StagingFailed(transfer=TRANSFER, reason="gone"),
)
"""A staging whose process stopped: to be searched for now, and once more later."""

NOW, LATER = e.Sweep(store=STAGING, below=2), e.Sweep(store=STAGING, below=2, due=at(60))


def test_only_the_searches_that_were_carried_out_are_done() -> None:
    assert set(given(*LEFT).state.sweeps) == {NOW, LATER}
    assert given(*LEFT, e.BytesPurged(sweeps=(NOW,))).state.sweeps == (LATER,)
    assert given(*LEFT, e.BytesPurged(sweeps=(LATER,))).state.sweeps == (NOW,)
    assert given(*LEFT, e.BytesPurged(sweeps=(NOW, LATER))).state.sweeps == ()


def test_a_search_that_fell_due_while_an_earlier_one_ran_is_still_to_do() -> None:
    """Which searches were carried out counts, not when that was recorded."""
    late = evolve(given(*LEFT).state, e.BytesPurged(sweeps=(NOW,)), meta(3600))
    assert late.sweeps == (LATER,)


def test_a_search_that_became_wider_meanwhile_is_still_to_do() -> None:
    past = (*LEFT, e.StagingStarted(transfer="t2"), e.StagingFailed(transfer="t2", reason="gone"))
    wide = e.Sweep(store=STAGING, below=3)
    assert set(given(*past).state.sweeps) == {wide, LATER}
    assert set(given(*past, e.BytesPurged(sweeps=(NOW,))).state.sweeps) == {wide, LATER}


def test_searches_of_one_store_become_the_widest() -> None:
    fails = (e.StagingStarted(transfer="t"), e.StagingFailed(transfer="t", reason="gone"))
    state = given(created(), *fails, e.LeaseTakenOver(), *fails).state
    assert state.sweeps == (e.Sweep(store=STAGING, below=3),)


def test_a_worker_that_only_stopped_is_looked_after_once_more_wherever_it_may_write() -> None:
    state = given(*importing("a", "b"), e.LeaseTakenOver(sweep_at=at(60))).state
    later = {e.Sweep(store=store, below=2, due=at(60)) for store in (STAGING, "a", "b")}
    assert set(state.sweeps) == {*later, e.Sweep(store=STAGING, below=2)}
    assert state.job is not None
    assert state.job.take_overs == 1


def test_writes_that_were_handed_over_begin_again_and_are_searched_for() -> None:
    past = (*importing("a", "b"), store_started("a"), e.LeaseTakenOver())
    state = given(*past).state
    assert state.job is not None
    assert state.job.writing == {}
    assert set(state.sweeps) == {e.Sweep(store="a", below=2), e.Sweep(store=STAGING, below=2)}


def test_a_clean_up_that_is_taken_over_leaves_nothing_to_search_for_unless_somebody_was_stopped() -> None:
    assert state_after_deletion(e.LeaseTakenOver()).sweeps == ()
    late = state_after_deletion(e.LeaseTakenOver(sweep_at=at(60))).sweeps
    assert late == (e.Sweep(store=STAGING, below=2, due=at(60)),)


def state_after_deletion(*events: e.Event) -> Image:
    return given(*ACTIVE, e.ImageDeleted(), *events).state


def test_who_reads_an_image_does_not_change_it() -> None:
    sent = e.ImageSent(image_id=IMAGE, owner=OWNER, sent=1, asked=3)
    assert last(*ACTIVE, sent) == {}


# --- events from the future ------------------------------------------------------------


def test_an_event_that_only_a_newer_version_knows_is_refused() -> None:
    with pytest.raises(UnknownEvent, match="Frobnicated v3"):
        evolve(given(created()).state, e.Unrecognised("Frobnicated", 3), meta(1))


def test_a_run_of_events_is_folded_in_order() -> None:
    items = recorded(*STAGED)
    assert fold(items) == given(*STAGED).state
    assert fold(items[1:], given(created()).state) == given(*STAGED).state


def test_an_event_outside_a_lease_counts_as_before_the_first_epoch() -> None:
    for event in (e.StagingStarted(transfer=TRANSFER), e.UploadStarted(transfer=TRANSFER, store="a")):
        state = evolve(given(created()).state, event, Meta(at=at(1)))
        assert state.transfer is not None
        assert state.transfer.epoch == 0
