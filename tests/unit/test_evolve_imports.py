"""Folding imports: what is shown while they run, how each one ends (rows of the contract's 8.4), what is put back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from kernel import events as e
from kernel.evolve import evolve
from kernel.image import STAGING, Change, Garbage, Image, Job, Task
from kernel.recorded import Meta
from tests.support.builders import (
    ACTIVE,
    IMAGE,
    OWNER,
    STAGED,
    TASK,
    TRANSFER,
    at,
    blob,
    completed,
    copying,
    created,
    digests,
    downloading,
    failed,
    importing,
    inspected,
    location,
    name_in,
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
from tests.support.spec import given

Events = tuple[e.Event, ...]

STAGED_BYTES = Garbage(store=STAGING, url=blob().url)
FETCHED = e.DataFetched(blob=blob("fetched", size=5))


def state(*events: e.Event) -> Image:
    return given(*events).state


def job_of(*events: e.Event) -> Job:
    job = state(*events).job
    assert job is not None
    return job


def task_of(*events: e.Event) -> Task:
    task = state(*events).task
    assert task is not None
    return task


# --- acceptance ------------------------------------------------------------------------


def test_an_accepted_import_holds_the_image_and_its_staged_data() -> None:
    request = requested("b", "a", steps=("s",), must_succeed=False, parallel=2, options={"uri": "u"}, secret=True)
    image = state(*STAGED, request)
    assert image.status == "importing"
    assert image.staged is None
    assert image.size == 3
    assert image.job == Job(
        task_id=TASK,
        method="glance-direct",
        options={"uri": "u"},
        secret=True,
        stores=("b", "a"),
        todo=("b", "a"),
        multi=True,
        must_succeed=False,
        parallel=2,
        steps=("s",),
        data=blob(),
    )
    assert image.updated_at == at(3)


def test_an_accepted_import_has_a_task_of_its_own() -> None:
    body = {"method": {"name": "glance-direct"}, "stores": ["a"]}
    task = task_of(*STAGED, requested("a", request=body, task_ttl=60))
    assert task == Task(
        id=TASK,
        type="api_image_import",
        status="pending",
        method="glance-direct",
        owner=OWNER,
        user_id="uA",
        roles=("member", "reader"),
        request_id="req-1",
        request=body,
        stores=("a",),
        multi=True,
        created_at=at(3),
        updated_at=at(3),
        ttl=60,
    )
    assert not task.final


def test_a_method_that_fetches_begins_without_data() -> None:
    image = state(created(), downloading("a"))
    assert image.status == "importing"
    assert image.job is not None
    assert image.job.data is None


def test_a_copy_never_moves_the_status() -> None:
    assert state(*ACTIVE, copying("b")).status == "active"


def test_both_lists_are_there_after_any_import_and_sorted() -> None:
    assert (state(*STAGED).importing, state(*STAGED).failed) == (None, None)
    image = state(*STAGED, requested("c", "a", "b"))
    assert (image.importing, image.failed) == (("a", "b", "c"), ())


@pytest.mark.parametrize(
    "end", [(*stored("a"), *completed()), (*not_stored("a"), failed())], ids=["success", "failure"]
)
def test_both_lists_stay_empty_on_a_site_with_one_store(end: Events) -> None:
    for more in (), (e.ImportStarted(), inspected()), (e.ImportStarted(), inspected(), *end):
        image = state(*STAGED, requested("a", multi=False), *more)
        assert (image.importing, image.failed) == ((), ())


def test_the_lists_accumulate_across_imports() -> None:
    first = (
        *writing("a", "b", "c", must_succeed=False),
        *stored("a"),
        *not_stored("b"),
        *not_stored("c"),
        *completed(),
    )
    assert state(*first).failed == ("b", "c")
    again = (*first, copying("c", task_id="second"))
    assert (state(*again).importing, state(*again).failed) == (("c",), ("b",))
    done = (*again, e.ImportStarted(), *stored("c"), e.StagingCleared(), e.ImportCompleted(task_id="second"))
    assert (state(*done).importing, state(*done).failed) == ((), ("b",))


# --- progress --------------------------------------------------------------------------


def test_an_import_that_began_is_processing() -> None:
    image = state(*importing("a"))
    assert image.task is not None
    assert (image.task.status, image.task.updated_at) == ("processing", at(4))
    assert image.job is not None
    assert image.job.started


def test_fetched_data_gives_the_image_its_size() -> None:
    image = state(created(), downloading("a"), e.ImportStarted(), FETCHED)
    assert image.size == 5
    assert image.job is not None
    assert image.job.data == FETCHED.blob


def test_data_fetched_for_a_copy_leaves_the_size_alone() -> None:
    image = state(*ACTIVE, copying("b", fetches=True), e.ImportStarted(), FETCHED)
    assert image.size == 3
    assert image.job is not None
    assert image.job.data == FETCHED.blob


def test_how_a_fetch_can_go_on_is_remembered() -> None:
    started = e.FetchStarted(name="fetched", total=9, validator='"v1"', boot="boot-1")
    fetch = job_of(created(), downloading("a"), e.ImportStarted(), started).fetch
    assert fetch is not None
    assert (fetch.name, fetch.total, fetch.validator, fetch.boot) == ("fetched", 9, '"v1"', "boot-1")


def test_a_step_that_replaces_the_data_makes_the_former_garbage() -> None:
    image = state(*importing("a", steps=("s",)), e.StepCompleted(step="s", blob=blob("made", size=9)))
    assert image.size == 9
    assert image.garbage == (STAGED_BYTES,)
    assert image.job is not None
    assert (image.job.data, image.job.steps_done) == (blob("made", size=9), 1)


def test_a_step_that_changes_nothing_is_counted() -> None:
    image = state(*importing("a", steps=("s",)), e.StepCompleted(step="s"))
    assert image.job is not None
    assert (image.job.steps_done, image.job.data) == (1, blob())
    assert image.garbage == ()


def test_a_step_changes_formats_properties_and_the_virtual_size() -> None:
    event = e.StepCompleted(
        step="s",
        disk_format="qcow2",
        container_format="compressed",
        virtual_size=77,
        properties_set={"new": "1"},
        properties_removed=("old",),
    )
    image = state(created(properties={"old": "0", "kept": "x"}), *STAGED[1:], requested("a", steps=("s",)), event)
    assert (image.disk_format, image.container_format) == ("qcow2", "compressed")
    assert image.properties == {"kept": "x", "new": "1"}
    assert image.virtual_size is None  # until the first store has it
    assert image.job is not None
    assert image.job.virtual_size == 77


def test_inspection_is_noted() -> None:
    job = job_of(*writing("a"))
    assert (job.inspected, job.virtual_size) == (True, 3)


@pytest.mark.parametrize("event", [e.FetchStarted(name="fetched"), inspected(), store_started("a"), e.StagingCleared()])
def test_what_clients_cannot_see_does_not_touch_the_image(event: e.Event) -> None:
    before, after = state(*importing("a")), state(*importing("a"), event)
    assert after.updated_at == before.updated_at
    assert after.task is not None
    assert after.task.updated_at == after.at


def test_a_store_under_way_is_known_by_its_name() -> None:
    job = job_of(*writing("a", "b"), store_started("a"))
    assert job.writing == {"a": name_in("a")}
    assert job.todo == ("a", "b")


# --- when the image turns active (8.3) -------------------------------------------------


def test_if_all_must_succeed_the_last_store_makes_the_image_active() -> None:
    image = state(*writing("b", "a"), *stored("b"))
    assert (image.status, image.stores, image.importing) == ("importing", ("b",), ("a",))
    image = state(*writing("b", "a"), *stored("b"), *stored("a"))
    assert (image.status, image.stores, image.importing) == ("active", ("b", "a"), ())


def test_if_one_is_enough_the_first_store_makes_the_image_active() -> None:
    image = state(*writing("a", "b", must_succeed=False), *stored("a"))
    assert (image.status, image.stores, image.importing) == ("active", ("a",), ("b",))
    image = state(*writing("a", "b", must_succeed=False), *not_stored("a"), *stored("b"))
    assert (image.status, image.stores, image.failed) == ("active", ("b",), ("a",))


def test_the_first_store_publishes_size_and_hashes() -> None:
    image = state(*writing("a", "b"), *stored("a", size=5))
    assert (image.size, image.virtual_size) == (5, 3)
    assert (image.checksum, image.hash_algo, image.hash_value) == ("md5-d1", "sha512", "sha512-d1")


def test_a_store_leaves_the_work_when_it_is_done() -> None:
    job = job_of(*writing("a", "b"), *stored("a"))
    assert (job.todo, job.done, job.failed, job.writing) == (("b",), ("a",), (), {})
    job = job_of(*writing("a", "b", must_succeed=False), *not_stored("a"))
    assert (job.todo, job.done, job.failed, job.writing) == (("b",), (), ("a",), {})


def test_stores_may_end_in_any_order_when_several_are_written_at_once() -> None:
    started = (*writing("a", "b", parallel=2), store_started("a"), store_started("b"))
    image = state(*started, stored("b")[1])
    assert image.job is not None
    assert (image.job.todo, image.job.done, image.job.writing) == (("a",), ("b",), {"a": name_in("a")})
    assert state(*started, stored("b")[1], stored("a")[1]).stores == ("b", "a")


def test_a_store_that_comes_after_the_image_was_deactivated_does_not_reactivate_it() -> None:
    past = (*writing("a", "b", must_succeed=False), *stored("a"), e.ImageDeactivated())
    image = state(*past, *stored("b"))
    assert (image.status, image.stores) == ("deactivated", ("a", "b"))


def test_a_copy_leaves_what_the_image_is_alone() -> None:
    before = state(*ACTIVE)
    other = e.StoreSucceeded(store="b", location=location("b", size=99), digests=digests("other"))
    after = state(*ACTIVE, copying("b"), e.ImportStarted(), store_started("b"), other)
    for field in ("status", "size", "virtual_size", "checksum", "hash_algo", "hash_value"):
        assert getattr(after, field) == getattr(before, field)
    assert after.stores == ("a", "b")


# --- how imports end (8.4) -------------------------------------------------------------

DOWNLOAD = (created(), downloading("a", "b", steps=("s",)), e.ImportStarted())

BEFORE_ANY_STORE: dict[str, Events] = {
    "Q: quota": (*importing("a", "b"), step_failed("quota", reason="over")),
    "A: fetch": (*DOWNLOAD, step_failed("fetch", reason="over")),
    "M: remote metadata": (*DOWNLOAD, step_failed("describe", reason="over")),
    "P: plugin": (*DOWNLOAD, FETCHED, step_failed("s", reason="over")),
    "I: inspection": (*importing("a", "b"), step_failed("inspect", reason="over", inspection=True)),
    "the staged bytes are gone": (*writing("a", "b"), step_failed("verify", reason="over")),
}


def ended(past: Events, reason: str = "over") -> Image:
    """The image once a worker has taken the import back, found everything removable and looked round once more."""
    given_up = (*past, cleaned(state(*past)), failed(reason))
    return state(*given_up, cleaned(state(*given_up)))


def cleaned(image: Image) -> e.BytesPurged:
    """Everything that is left to clean up is done."""
    return e.BytesPurged(blobs=tuple((item.store, item.url) for item in image.garbage), sweeps=image.sweeps)


def assert_as_if_never_staged(image: Image) -> None:
    assert image.status == "queued"
    published = (image.size, image.virtual_size, image.checksum, image.hash_algo, image.hash_value)
    assert published == (None,) * 5
    assert (image.staged, image.job, image.locations) == (None, None, ())
    assert (image.garbage, image.sweeps) == ((), ())


def assert_failed(image: Image, reason: str = "over") -> None:
    assert image.task is not None
    assert (image.task.status, image.task.message) == ("failure", reason)
    assert image.task.final
    assert image.task.expires_at == image.task.updated_at + timedelta(seconds=172800)


@pytest.mark.parametrize("past", BEFORE_ANY_STORE.values(), ids=BEFORE_ANY_STORE)
def test_rows_q_a_m_p_i_what_fails_before_the_stores_blames_all_of_them(past: Events) -> None:
    image = ended(past)
    assert_as_if_never_staged(image)
    assert_failed(image)
    assert (image.importing, image.failed) == ((), ("a", "b"))
    assert image.updated_at == at(len(past) + 1)


@pytest.mark.parametrize("past", BEFORE_ANY_STORE.values(), ids=BEFORE_ANY_STORE)
def test_until_it_is_taken_back_a_failed_import_holds_the_image(past: Events) -> None:
    image = state(*past)
    assert image.status == "importing"
    assert image.job is not None
    assert image.job.failure is not None
    assert image.job.data is None
    assert not image.task or not image.task.final


def test_row_s_a_store_fails_and_all_must_succeed() -> None:
    past = (*writing("a", "b", "c"), *stored("a"), *not_stored("b", reason="over"))
    turned = state(*past)
    assert turned.status == "importing"
    assert turned.locations == ()  # what nobody may rely on is not shown
    assert turned.garbage == (Garbage(store="a", url="a://data"), STAGED_BYTES)
    assert turned.sweeps == (e.Sweep(store="b", below=2),)
    image = ended(past)
    assert_as_if_never_staged(image)
    assert_failed(image)
    assert (image.importing, image.failed) == ((), ("b",))


def test_row_s_with_stores_written_at_once_blames_only_the_one_that_failed() -> None:
    started = (*writing("a", "b", parallel=2), store_started("a"), store_started("b"))
    past = (*started, not_stored("b", reason="over")[1])
    assert set(state(*past).sweeps) == {e.Sweep(store="a", below=2), e.Sweep(store="b", below=2)}
    image = ended(past)
    assert_as_if_never_staged(image)
    assert image.failed == ("b",)


def test_row_f_some_stores_fail_and_one_is_enough() -> None:
    past = (*writing("a", "b", "c", must_succeed=False), *not_stored("a"), *stored("b"), *not_stored("c"))
    image = state(*past, *completed())
    assert (image.status, image.stores, image.job) == ("active", ("b",), None)
    assert (image.importing, image.failed) == ((), ("a", "c"))
    assert image.size == 3
    assert image.garbage == ()
    assert image.task is not None
    assert (image.task.status, image.task.message) == ("success", "")


def test_row_n_every_store_fails_though_one_were_enough() -> None:
    past = (*writing("a", "b", must_succeed=False), *not_stored("a"), *not_stored("b", reason="over"))
    turned = state(*past)
    assert turned.job is not None
    assert turned.job.failure is not None
    assert turned.job.failure.reason == "None of the uploads finished: over"
    image = ended(past, turned.job.failure.reason)
    assert_as_if_never_staged(image)
    assert_failed(image, "None of the uploads finished: over")
    assert (image.importing, image.failed) == ((), ("a", "b"))


COPY = (*ACTIVE, copying("b", "c"), e.ImportStarted())


def assert_as_before_the_copy(image: Image) -> None:
    before = state(*ACTIVE)
    same = ("status", "size", "virtual_size", "checksum", "hash_algo", "hash_value", "locations", "properties")
    assert {name: getattr(image, name) for name in same} == {name: getattr(before, name) for name in same}
    assert (image.job, image.garbage, image.sweeps) == (None, (), ())


@pytest.mark.parametrize(
    "past", [(*COPY, step_failed("quota", reason="over")), (*COPY, step_failed("verify", reason="over"))]
)
def test_row_ca_the_source_of_a_copy_is_unreadable(past: Events) -> None:
    image = ended(past)
    assert_as_before_the_copy(image)
    assert_failed(image)
    assert (image.importing, image.failed) == ((), ("b", "c"))


def test_row_cs_a_store_of_a_copy_fails_and_all_must_succeed() -> None:
    past = (*COPY, *stored("b"), *not_stored("c", reason="over"))
    assert Garbage(store="b", url="b://data") in state(*past).garbage
    assert Garbage(store="a", url="a://data") not in state(*past).garbage
    image = ended(past)
    assert_as_before_the_copy(image)
    assert_failed(image)
    assert (image.importing, image.failed) == ((), ("c",))


def test_row_cf_some_stores_of_a_copy_fail_and_one_is_enough() -> None:
    begun = (*ACTIVE, copying("b", "c", must_succeed=False), e.ImportStarted())
    image = state(*begun, *not_stored("b"), *stored("c"), *completed())
    assert (image.status, image.stores, image.failed) == ("active", ("a", "c"), ("b",))
    assert image.task is not None
    assert image.task.status == "success"


def test_row_cf_no_store_of_a_copy_succeeds() -> None:
    begun = (*ACTIVE, copying("b", "c", must_succeed=False), e.ImportStarted())
    past = (*begun, *not_stored("b"), *not_stored("c", reason="over"))
    image = ended(past, "None of the uploads finished: over")
    assert_as_before_the_copy(image)
    assert_failed(image, "None of the uploads finished: over")
    assert image.failed == ("b", "c")


@pytest.mark.parametrize("past", [writing("a", "b"), (*writing("a", "b"), *stored("a"), store_started("b"))])
def test_row_d_the_image_is_deleted_meanwhile(past: Events) -> None:
    image = state(*past, e.ImageDeleted())
    assert (image.status, image.job, image.staged, image.locations) == ("deleted", None, None, ())
    assert_failed(image, "The image has been deleted")
    searched = {sweep.store: sweep for sweep in image.sweeps}
    assert set(searched) == {STAGING, "a", "b"}
    assert all(sweep.due is None and sweep.below > 1 << 60 for sweep in searched.values())
    garbage = {item.store for item in image.garbage}
    assert garbage == {location.store for location in state(*past).locations}


def test_row_d_a_copy_goes_with_all_copies() -> None:
    image = state(*COPY, *stored("b"), e.ImageDeleted())
    assert {item.store for item in image.garbage} == {"a", "b"}
    assert {sweep.store for sweep in image.sweeps} == {STAGING, "b", "c"}


@pytest.mark.parametrize("past", [importing("a", "b"), (*writing("a", "b"), *stored("a"), store_started("b"))])
def test_a_cancelled_import_ends_like_a_failed_one_and_blames_nobody(past: Events) -> None:
    cancelled = (*past, e.ImportCancelled(task_id=TASK, reason="over"))
    image = ended(cancelled)
    assert_as_if_never_staged(image)
    assert_failed(image)
    assert (image.importing, image.failed) == ((), ())


def test_what_a_cancelled_worker_may_just_have_written_is_searched_for_once_it_has_stopped() -> None:
    cancelled = (*writing("a", "b"), *stored("a"), store_started("b"), e.ImportCancelled(task_id=TASK, reason="over"))
    before, after = state(*cancelled), state(*cancelled, failed())
    assert before.sweeps == ()
    assert set(after.sweeps) == {e.Sweep(store=STAGING, below=2), e.Sweep(store="b", below=2)}


def test_names_made_outside_any_lease_are_searched_for_too() -> None:
    unleased = Meta(at=at(99))
    past = state(*writing("a", "b", parallel=2), store_started("a"), store_started("b"))
    turned = evolve(past, not_stored("a")[1], unleased)
    assert set(turned.sweeps) == {e.Sweep(store="a", below=1), e.Sweep(store="b", below=1)}
    cancelled = evolve(past, e.ImportCancelled(task_id=TASK, reason="over"), unleased)
    assert {sweep.below for sweep in evolve(cancelled, failed(), unleased).sweeps} == {1}


def test_cancelling_an_import_that_made_the_image_active_leaves_it_active() -> None:
    past = (*writing("a", "b", must_succeed=False), *stored("a"), e.ImportCancelled(task_id=TASK, reason="over"))
    image = ended(past)
    assert (image.status, image.stores, image.size) == ("active", ("a",), 3)
    assert (image.importing, image.failed) == ((), ())
    assert image.garbage == ()
    assert_failed(image)


def test_an_image_deactivated_while_its_import_goes_on_keeps_its_data_when_that_fails() -> None:
    past = (*writing("a", "b", must_succeed=False), *stored("a"), e.ImageDeactivated())
    image = ended((*past, e.ImportCancelled(task_id=TASK, reason="over")))
    assert (image.status, image.stores, image.size) == ("deactivated", ("a",), 3)


def test_a_store_that_keeps_its_copy_is_not_blamed() -> None:
    past = (*writing("a", "b", must_succeed=False), *stored("a"), step_failed("verify", reason="over"))
    image = ended(past)
    assert (image.status, image.stores, image.failed) == ("active", ("a",), ("b",))


def test_the_first_failure_is_the_reason() -> None:
    job = job_of(*importing("a"), step_failed("x", reason="first"), step_failed("y", reason="second"))
    assert job.failure is not None
    assert job.failure.reason == "first"


def test_bytes_that_could_not_be_removed_stay_noted() -> None:
    past = (*writing("a", "b"), *stored("a"), *not_stored("b"))
    image = state(*past, failed())
    assert image.job is None
    assert image.garbage == (Garbage(store="a", url="a://data"), STAGED_BYTES)


def test_staged_bytes_that_could_not_be_removed_after_a_success_stay_noted() -> None:
    made = e.StepCompleted(step="s", blob=blob("made"))
    past = (*importing("a", steps=("s",)), made, inspected(), *stored("a"))
    assert state(*past, *completed()).garbage == ()
    kept = (e.StagingCleared(kept=(blob().url,)), completed()[1])
    assert state(*past, *kept).garbage == (STAGED_BYTES,)
    assert state(*past, *kept).status == "active"


def test_a_finished_import_lets_go_of_the_image() -> None:
    image = state(*writing("a"), *stored("a"), *completed())
    assert image.job is None
    assert image.task is not None
    assert (image.task.status, image.task.final) == ("success", True)
    assert image.task.expires_at == image.at + timedelta(seconds=172800)


def test_a_failed_import_can_be_followed_by_another() -> None:
    past = (*importing("a"), step_failed(), failed())
    again = e.StagingStarted(transfer="t2"), e.DataStaged(transfer="t2", blob=blob("again"))
    image = state(*past, *again, requested("a", task_id="second"))
    assert image.status == "importing"
    assert image.job is not None
    assert (image.job.task_id, image.job.data, image.job.failure) == ("second", blob("again"), None)
    assert image.failed == ()
    assert image.task is not None
    assert image.task.id == "second"


# --- what steps changed is put back ----------------------------------------------------

WITH = created(properties={"p": "old", "q": "kept"})


def undone(*events: e.Event, image: e.ImageCreated = WITH) -> Image:
    """The image after an import with these events has failed."""
    begun = (image, *STAGED[1:], requested("a", steps=("s1", "s2", "s3")), e.ImportStarted())
    return state(*begun, *events, step_failed("s3"), failed())


def changes(step: str = "s1", **fields: object) -> e.StepCompleted:
    return e.StepCompleted(step=step, **fields)  # type: ignore[arg-type]


def test_formats_that_steps_changed_are_put_back() -> None:
    image = undone(changes(disk_format="qcow2", container_format="compressed"), changes("s2", disk_format="vmdk"))
    assert (image.disk_format, image.container_format) == ("raw", "bare")


def test_formats_taken_over_from_elsewhere_are_put_back() -> None:
    copied = e.MetadataCopied(disk_format="qcow2", container_format="ovf", properties={"p": "new", "r": "x"})
    image = undone(copied)
    assert (image.disk_format, image.container_format) == ("raw", "bare")
    assert image.properties == {"p": "old", "q": "kept"}


def test_properties_that_steps_changed_are_put_back() -> None:
    image = undone(changes(properties_set={"p": "new", "r": "x"}, properties_removed=("q",)))
    assert image.properties == {"p": "old", "q": "kept"}


def test_what_several_steps_changed_goes_back_to_the_very_first() -> None:
    image = undone(
        changes(properties_set={"p": "1", "new": "1"}),
        changes("s2", properties_set={"p": "2"}, properties_removed=("new", "q")),
        changes("s3", properties_set={"q": "3", "new": "3"}),
    )
    assert image.properties == {"p": "old", "q": "kept"}


def test_a_users_own_later_change_survives() -> None:
    image = undone(
        changes(disk_format="qcow2", properties_set={"p": "new", "r": "x"}, properties_removed=("q",)),
        e.ImageUpdated(disk_format="vmdk", properties_set={"p": "mine", "q": "mine", "s": "mine"}),
        e.ImageUpdated(properties_removed=("r",)),
    )
    assert image.disk_format == "vmdk"
    assert image.properties == {"p": "mine", "q": "mine", "s": "mine"}


def test_a_users_change_between_two_steps_is_what_is_put_back() -> None:
    image = undone(
        changes(disk_format="qcow2", properties_set={"p": "1"}),
        e.ImageUpdated(disk_format="vdi", properties_set={"p": "mine"}),
        changes("s2", disk_format="vmdk", properties_set={"p": "2"}),
    )
    assert image.disk_format == "vdi"
    assert image.properties["p"] == "mine"


def test_a_property_that_the_user_removed_since_stays_away_even_if_it_was_null() -> None:
    image = undone(changes(properties_set={"p": None}), e.ImageUpdated(properties_removed=("p",)))
    assert "p" not in image.properties


def test_a_user_may_happen_to_leave_a_property_as_the_step_did() -> None:
    mine = (e.ImageUpdated(properties_set={"q": "mine"}), e.ImageUpdated(properties_removed=("q",)))
    assert "q" not in undone(changes(properties_removed=("q",)), *mine).properties
    assert undone(changes(disk_format="vdi"), e.ImageUpdated(disk_format="vdi")).disk_format == "vdi"


def test_a_property_named_like_a_format_is_another_thing() -> None:
    image = undone(changes(disk_format="vdi"), e.ImageUpdated(properties_set={"disk_format": "mine"}))
    assert (image.disk_format, image.properties["disk_format"]) == ("raw", "mine")


def test_a_property_that_was_null_is_null_again() -> None:
    image = undone(changes(properties_set={"p": "new"}), image=created(properties={"p": None}))
    assert image.properties == {"p": None}


def test_after_a_success_what_steps_changed_stays() -> None:
    past = (*importing("a", steps=("s1",)), changes(disk_format="qcow2", properties_set={"p": "new"}), inspected())
    image = state(*past, *stored("a"), *completed())
    assert (image.disk_format, image.properties) == ("qcow2", {"p": "new"})


def test_what_a_step_changed_is_remembered_with_what_was_before() -> None:
    job = job_of(*importing("a", steps=("s1",)), changes(disk_format="qcow2", properties_set={"p": "new"}))
    assert job.format_changes == {"disk_format": Change(old="raw")}
    assert job.property_changes == {"p": Change(was_absent=True)}


# --- changes while an import runs ------------------------------------------------------


def test_a_user_may_change_the_image_while_an_import_runs() -> None:
    past = (*writing("a"), e.ImageUpdated(name="other", properties_set={"p": "v"}), *stored("a"), *completed())
    image = state(*past)
    assert (image.name, image.properties, image.status) == ("other", {"p": "v"}, "active")


@pytest.mark.parametrize(
    "event",
    [
        e.ImportStarted(),
        e.MetadataCopied(disk_format="qcow2", properties={"p": "v"}),
        e.FetchStarted(name="fetched"),
        e.StepCompleted(step="s", disk_format="qcow2"),
        inspected(),
        step_failed(),
        *stored("a"),
        *not_stored("a"),
        failed(),
        e.ImportCancelled(task_id=TASK, reason="over"),
        e.DataFetched(blob=blob()),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_belongs_to_an_import_changes_nothing_without_one(event: e.Event) -> None:
    before = state(*ACTIVE)
    after = state(*ACTIVE, event)
    assert replace(after, version=before.version, at=before.at) == before


def test_an_upload_after_a_failed_import_is_a_fresh_start() -> None:
    image = state(*importing("a"), step_failed(), failed(), *uploaded("b"))
    assert (image.status, image.stores, image.failed) == ("active", ("b",), ("a",))
    assert image.id == IMAGE
    assert image.transfer is None
    assert TRANSFER


@pytest.mark.parametrize(("ttl", "days"), [(-1, 0), (0, 0), (86400, 1), (2**62, 36500)])
def test_a_task_lives_on_for_as_long_as_was_asked_within_reason(ttl: int, days: int) -> None:
    task = task_of(*importing("a", task_ttl=ttl), step_failed(), failed())
    assert task.expires_at == task.updated_at + timedelta(days=days)


# --- data that lies somewhere already ------------------------------------------------------


def test_registered_data_is_active_at_once_and_hashed_after_that() -> None:
    past = (created(), registering(), e.ImportStarted())
    assert state(*past).status == "queued"
    there = state(*past, theirs())
    assert (there.status, there.size, there.checksum) == ("active", 3, None)
    assert there.job is not None
    hashed = state(*past, theirs(), e.DataHashed(digests=digests()))
    assert (hashed.status, hashed.checksum, hashed.hash_value) == ("active", "md5-d1", "sha512-d1")
    done = state(*past, theirs(), e.DataHashed(digests=digests()), e.ImportCompleted(task_id=TASK))
    assert (done.job, done.importing, done.failed) == (None, None, None)


def test_registered_data_that_is_compared_is_active_only_then() -> None:
    past = (created(), registering(verify=True), e.ImportStarted(), theirs())
    assert state(*past).status == "importing"
    assert state(*past, e.DataHashed(digests=digests())).status == "active"


@pytest.mark.parametrize("leave", [True, False])
def test_registered_data_that_differs_is_not_the_images(leave: bool) -> None:
    """Nor is it garbage: it was never ours.  Where nothing can be deleted the image still tells of it."""
    past = (created(), registering(verify=True, leave=leave), e.ImportStarted(), theirs())
    image = state(*past, step_failed("hash"), failed())
    assert (image.status, image.size, image.garbage, image.job) == ("queued", None, (), None)
    assert image.stores == (("web",) if leave else ())
    assert (image.importing, image.failed) == (None, None)
    for again in ((e.StagingStarted(transfer="t"),), (registering(),), (theirs(),), *(((*uploaded("a"),),))):
        stores = state(*past, step_failed("hash"), failed(), *again).stores
        assert len(stores) <= 1
        assert stores in ((), ("a",), ("web",))


def test_data_that_could_not_be_hashed_stays() -> None:
    past = (created(), registering(), e.ImportStarted(), theirs())
    image = state(*past, step_failed("hash"), failed())
    assert (image.status, image.stores, image.checksum) == ("active", ("web",), None)


def test_a_registration_that_is_preempted_leaves_no_lists_either() -> None:
    """Images that were never imported have none, and what those of earlier imports say is none of its business."""
    preempted = state(created(), registering(), e.ImportPreempted(task_id=TASK))
    assert (preempted.importing, preempted.failed, preempted.status) == (None, None, "queued")
    again = state(created(), registering(), e.ImportPreempted(task_id=TASK), registering())
    assert (again.importing, again.failed) == (None, None)
    past = (*importing("a", "b"), step_failed(), failed())
    after = state(*past, registering(), e.ImportPreempted(task_id=TASK))
    assert (after.importing, after.failed) == ((), ("a", "b"))
