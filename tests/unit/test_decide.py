"""Every command: what it causes, and everything that refuses it."""

from __future__ import annotations

import pytest

from kernel import commands as c
from kernel import events as e
from kernel.commands import Command
from kernel.errors import Conflict, EntrepotError, Fenced, Forbidden, Gone, Invalid, NotFound
from kernel.image import STAGING
from tests.support.builders import (
    ACTIVE,
    IMAGE,
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
    fail_step,
    failed,
    importing,
    inspected,
    location,
    name_in,
    not_stored,
    record_failure,
    record_success,
    registering,
    request_import,
    requested,
    staged,
    step_failed,
    store_started,
    stored,
    theirs,
    uploaded,
    writing,
)
from tests.support.spec import given

STAGING_NOW = (created(), e.StagingStarted(transfer=TRANSFER))
UPLOADING_NOW = (created(), e.UploadStarted(transfer=TRANSFER, store="a"))
DELETED = (created(), e.ImageDeleted())
COPYING = (*ACTIVE, copying("b"), e.ImportStarted())
FAILED = (*writing("a"), *not_stored("a"))
"""An import that is being taken back."""

SUSPENDED = (*ACTIVE, e.ImageDeactivated())

BEGIN_STAGING = c.StartStaging(transfer="t2", declared_size=7)
COMPLETE_STAGING = c.CompleteStaging(transfer=TRANSFER, blob=blob())
BEGIN_UPLOAD = c.StartUpload(transfer="t2", store="a", multi=True, declared_size=7)
COMPLETE_UPLOAD = c.CompleteUpload(transfer=TRANSFER, location=location("a"), digests=digests(), virtual_size=3)


# --- creating and deleting -------------------------------------------------------------


def test_an_image_is_created_once() -> None:
    given().when(c.CreateImage(image=created())).then(created())


@pytest.mark.parametrize("past", [(created(),), DELETED])
def test_an_id_that_was_ever_used_is_taken(past: tuple[e.Event, ...]) -> None:
    given(*past).when(c.CreateImage(image=created())).refuses(Conflict, IMAGE)


@pytest.mark.parametrize(
    "past",
    [
        (created(),),
        STAGING_NOW,
        STAGED,
        UPLOADING_NOW,
        importing("a"),
        writing("a"),
        FAILED,
        ACTIVE,
        COPYING,
        SUSPENDED,
    ],
)
def test_an_image_can_be_deleted_at_any_moment(past: tuple[e.Event, ...]) -> None:
    given(*past).when(c.DeleteImage()).then(e.ImageDeleted())


def test_a_protected_image_cannot_be_deleted() -> None:
    given(created(protected=True), *staged()).when(c.DeleteImage()).refuses(Forbidden, "protected")


KEPT = (*ACTIVE, e.DeletionScheduled(scrub_at=at(60)))
"""Deleted at a site that keeps the bytes for a while."""


@pytest.mark.parametrize("past", [ACTIVE, COPYING, SUSPENDED])
def test_data_can_be_kept_for_a_while(past: tuple[e.Event, ...]) -> None:
    given(*past).when(c.DeleteImage(scrub_at=at(60))).then(e.DeletionScheduled(scrub_at=at(60)))


@pytest.mark.parametrize(
    "past",
    [
        (created(),),
        STAGED,
        writing("a"),
        (*writing("a", "b"), *stored("a")),
        (*writing("a", "b", must_succeed=False), *stored("a")),
    ],
)
def test_what_is_not_whole_is_not_kept(past: tuple[e.Event, ...]) -> None:
    given(*past).when(c.DeleteImage(scrub_at=at(60))).then(e.ImageDeleted())


def test_kept_data_goes_when_its_time_is_over() -> None:
    given(*KEPT).when(c.ScrubImage(now=at(59))).then()
    given(*KEPT).when(c.ScrubImage(now=at(60))).then(e.ImageDeleted())
    for past in (ACTIVE, (), (*KEPT, e.ImageDeleted())):
        given(*past).when(c.ScrubImage(now=at(60))).then()


def test_a_copy_can_be_taken_away_as_long_as_there_is_another() -> None:
    past = (*ACTIVE, copying("b"), *stored("b"), *completed())
    gone = e.LocationRemoved(url="b://data", store="b")
    given(*past).when(c.RemoveCopy(store="b")).then(gone)
    given(*past).when(c.RemoveCopy(store="c")).refuses(NotFound, "store c")
    for store in ("a", "b"):
        given(*past, gone).when(c.RemoveCopy(store=store)).refuses(Forbidden, "only store")
    given(*past, copying("c")).when(c.RemoveCopy(store="b")).refuses(Conflict, "active task")
    given(*past, e.ImageDeactivated()).when(c.RemoveCopy(store="b")).refuses(Conflict)


def test_two_locations_in_one_store_go_together() -> None:
    twin = location("b", url="b://twin", name=None, metadata={"k": "v"})
    past = (*ACTIVE, e.LocationAdded(location=location("b")), e.LocationAdded(location=twin))
    given(*past).when(c.RemoveCopy(store="b")).then(
        e.LocationRemoved(url="b://data", store="b"),
        e.LocationRemoved(url="b://twin", store="b", metadata={"k": "v"}),
    )


@pytest.mark.parametrize(
    "command",
    [
        c.DeleteImage(),
        c.RemoveCopy(store="a"),
        BEGIN_STAGING,
        BEGIN_UPLOAD,
        request_import("a"),
        request_import("a", needs="active"),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("past", [(), DELETED, KEPT], ids=["none", "deleted", "kept"])
def test_what_is_not_there_cannot_be_acted_on(command: Command, past: tuple[e.Event, ...]) -> None:
    given(*past).when(command).refuses(NotFound)


# --- data from clients -----------------------------------------------------------------


def test_a_queued_image_can_be_staged_whatever_formats_it_lacks() -> None:
    past = created(disk_format=None, container_format=None)
    given(past).when(BEGIN_STAGING).then(e.StagingStarted(transfer="t2", declared_size=7))


@pytest.mark.parametrize("past", [STAGING_NOW, STAGED, UPLOADING_NOW, ACTIVE, SUSPENDED])
def test_an_image_that_is_not_queued_cannot_be_staged(past: tuple[e.Event, ...]) -> None:
    given(*past).when(BEGIN_STAGING).refuses(Conflict, "to uploading is not allowed")


@pytest.mark.parametrize("command", [BEGIN_STAGING, BEGIN_UPLOAD], ids=["stage", "upload"])
@pytest.mark.parametrize("past", [importing("a"), FAILED, COPYING])
def test_no_client_sends_data_while_an_import_holds_the_image(command: Command, past: tuple[e.Event, ...]) -> None:
    given(*past).when(command).refuses(Conflict, f"active task {TASK}")


def test_staged_data_is_recorded_once() -> None:
    after = given(*STAGING_NOW).when(COMPLETE_STAGING).then(e.DataStaged(transfer=TRANSFER, blob=blob()))
    after.when(COMPLETE_STAGING).refuses(Fenced)


def test_a_queued_image_can_be_uploaded() -> None:
    started = e.UploadStarted(transfer="t2", store="a", multi=True, declared_size=7)
    given(created()).when(BEGIN_UPLOAD).then(started)


@pytest.mark.parametrize("past", [STAGING_NOW, STAGED, UPLOADING_NOW, ACTIVE, SUSPENDED])
def test_an_image_that_is_not_queued_cannot_be_uploaded(past: tuple[e.Event, ...]) -> None:
    given(*past).when(BEGIN_UPLOAD).refuses(Conflict, "to saving is not allowed")


@pytest.mark.parametrize("missing", ["disk_format", "container_format"])
def test_an_upload_needs_both_formats(missing: str) -> None:
    given(created(**{missing: None})).when(BEGIN_UPLOAD).refuses(Invalid, missing)


def test_uploaded_data_is_recorded_once() -> None:
    expected = e.DataUploaded(transfer=TRANSFER, location=location("a"), digests=digests(), virtual_size=3)
    given(*UPLOADING_NOW).when(COMPLETE_UPLOAD).then(expected).when(COMPLETE_UPLOAD).refuses(Fenced)


@pytest.mark.parametrize("command", [COMPLETE_STAGING, COMPLETE_UPLOAD], ids=["stage", "upload"])
def test_data_of_an_image_deleted_meanwhile_is_too_late(command: Command) -> None:
    given(*STAGING_NOW, e.ImageDeleted()).when(command).refuses(Gone)


@pytest.mark.parametrize("command", [COMPLETE_STAGING, COMPLETE_UPLOAD], ids=["stage", "upload"])
def test_data_of_a_transfer_that_was_given_up_is_too_late(command: Command) -> None:
    past = (*STAGING_NOW, e.StagingFailed(transfer=TRANSFER, reason="gone"), e.StagingStarted(transfer="other"))
    given(*past).when(command).refuses(Fenced, "given up")


def test_an_upload_cannot_end_as_staged_data_nor_the_other_way_round() -> None:
    given(*UPLOADING_NOW).when(COMPLETE_STAGING).refuses(Fenced)
    given(*STAGING_NOW).when(COMPLETE_UPLOAD).refuses(Fenced)


def test_giving_up_is_told_by_the_kind_of_transfer() -> None:
    give_up = c.FailTransfer(transfer=TRANSFER, reason="no space", kind="full")
    given(*STAGING_NOW).when(give_up).then(e.StagingFailed(transfer=TRANSFER, reason="no space"))
    upload_failed = e.UploadFailed(transfer=TRANSFER, store="a", reason="no space", kind="full")
    given(*UPLOADING_NOW).when(give_up).then(upload_failed)


@pytest.mark.parametrize(
    "past",
    [
        (created(),),
        STAGED,
        (*STAGING_NOW, e.ImageDeleted()),
        (created(), e.StagingStarted(transfer="other")),
        (created(), *uploaded("a")),
    ],
)
def test_giving_up_what_is_not_under_way_is_quiet(past: tuple[e.Event, ...]) -> None:
    given(*past).when(c.FailTransfer(transfer=TRANSFER, reason="gone")).then()


# --- asking for an import --------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "needs", "request_"),
    [
        (STAGED, "uploading", requested("a", "b")),
        ((created(),), "queued", downloading("a")),
        (ACTIVE, "active", copying("b")),
    ],
    ids=["staged", "queued", "active"],
)
def test_an_import_is_accepted_in_the_status_its_method_needs(
    past: tuple[e.Event, ...], needs: str, request_: e.ImportRequested
) -> None:
    given(*past).when(c.RequestImport(needs=needs, request=request_)).then(request_)


@pytest.mark.parametrize(
    ("past", "needs", "text"),
    [
        (ACTIVE, "uploading", "status active cannot be target for import"),
        (ACTIVE, "queued", "status active cannot be target for import"),
        (STAGED, "active", "Only images with status active"),
        (SUSPENDED, "active", "Only images with status active"),
        (STAGED, "queued", "needs to be in 'queued' state"),
        (SUSPENDED, "queued", "needs to be in 'queued' state"),
        ((created(),), "uploading", "needs to be staged"),
        (STAGING_NOW, "uploading", "needs to be staged"),
        (UPLOADING_NOW, "queued", "needs to be in 'queued' state"),
        (importing("a"), "uploading", "needs to be staged"),
        (importing("a"), "queued", "needs to be in 'queued' state"),
        (COPYING, "active", "prior operation is still in progress"),
    ],
)
def test_an_import_is_refused_in_any_other_status(past: tuple[e.Event, ...], needs: str, text: str) -> None:
    given(*past).when(request_import("b", needs=needs)).refuses(Conflict, text)


@pytest.mark.parametrize(
    ("lacks", "named"),
    [
        ({"container_format": None, "disk_format": None}, "container_format"),
        ({"container_format": None}, "container_format"),
        ({"disk_format": None}, "disk_format"),
    ],
)
def test_an_import_needs_both_formats_container_first(lacks: dict[str, None], named: str) -> None:
    given(created(**lacks), *staged()).when(request_import("a")).refuses(Conflict, f"'{named}' needs to be set")


def test_the_status_is_looked_at_before_the_formats() -> None:
    given(created(disk_format=None)).when(request_import("a")).refuses(Conflict, "needs to be staged")


def test_an_import_writes_at_least_one_store() -> None:
    nowhere = e.ImportRequested(task_id=TASK, method="glance-direct", request={})
    given(*STAGED).when(c.RequestImport(needs="uploading", request=nowhere)).refuses(Invalid, "store")


def test_a_copy_never_goes_where_the_image_already_is() -> None:
    given(*ACTIVE).when(c.RequestImport(needs="active", request=copying("b", "a"))).refuses(Invalid, "at store a")


def test_an_image_can_be_imported_again_after_a_failure() -> None:
    past = (*FAILED, failed(), e.StagingStarted(transfer="t2"), e.DataStaged(transfer="t2", blob=blob()))
    given(*past).when(request_import("a")).then(requested("a"))


# --- cancelling ------------------------------------------------------------------------

CANCEL = c.CancelImport(task_id=TASK, reason="enough")


@pytest.mark.parametrize("past", [(*STAGED, requested("a")), writing("a"), COPYING])
def test_an_import_can_be_cancelled_until_it_ends(past: tuple[e.Event, ...]) -> None:
    cancelled = e.ImportCancelled(task_id=TASK, reason="enough")
    given(*past).when(CANCEL).then(cancelled).when(CANCEL).refuses(Conflict, "being taken back")


def test_an_import_that_has_stored_everything_cannot_be_cancelled() -> None:
    """The image is active and would stay so; only its task would say that it had failed."""
    given(*writing("a"), *stored("a")).when(CANCEL).refuses(Conflict, "nothing left to call off")
    some = (*writing("a", "b", must_succeed=False), *stored("a"))
    given(*some).when(CANCEL).then(e.ImportCancelled(task_id=TASK, reason="enough"))
    given(*some, *not_stored("b")).when(CANCEL).refuses(Conflict, "nothing left to call off")
    for past in ((*COPYING, *stored("b")), (created(), registering(), e.ImportStarted(), theirs())):
        given(*past).when(CANCEL).then(e.ImportCancelled(task_id=TASK, reason="enough"))


@pytest.mark.parametrize("past", [(), STAGED, ACTIVE, (*writing("a"), e.ImageDeleted())])
def test_an_import_that_does_not_run_cannot_be_cancelled(past: tuple[e.Event, ...]) -> None:
    given(*past).when(CANCEL).refuses(Conflict, "not running")


def test_cancelling_names_the_very_task() -> None:
    given(*writing("a")).when(c.CancelImport(task_id="another", reason="enough")).refuses(Conflict, "another")


# --- what workers say ------------------------------------------------------------------

BEGUN = (created(), downloading("a", steps=("s1", "s2"), describes=True), e.ImportStarted())
COPIED = e.MetadataCopied(disk_format="qcow2", container_format="bare")
DESCRIBED = (*BEGUN, COPIED)
FETCH_STARTED = e.FetchStarted(name="fetched", total=3, validator='"v1"', boot="boot-1")
FETCHED = (*DESCRIBED, e.DataFetched(blob=blob("fetched")))
S1, S2 = e.StepCompleted(step="s1"), e.StepCompleted(step="s2")
STEPPED = (*FETCHED, S1, S2)
INSPECTED = (*STEPPED, inspected())

RECORD_METADATA = c.RecordMetadata(task_id=TASK, copied=COPIED)
RECORD_FETCH_START = c.RecordFetchStart(task_id=TASK, started=FETCH_STARTED)
RECORD_FETCH = c.RecordFetch(task_id=TASK, blob=blob("fetched"))
RECORD_STEP = c.RecordStep(task_id=TASK, completed=S1)
RECORD_INSPECTION = c.RecordInspection(task_id=TASK, detected=("raw",), virtual_size=3)
START_STORE = c.StartStore(task_id=TASK, store="a", name=name_in("a"))
CLEAR = c.ClearStaging(task_id=TASK, kept=("file:///staging/stuck",))
FINISH = c.FinishUndo(task_id=TASK)

OUTCOMES: dict[type[Command], tuple[tuple[e.Event, ...], Command, tuple[e.Event, ...]]] = {
    c.BeginImport: (BEGUN[:2], c.BeginImport(task_id=TASK), (e.ImportStarted(),)),
    c.RecordMetadata: (BEGUN, RECORD_METADATA, (COPIED,)),
    c.RecordFetchStart: (DESCRIBED, RECORD_FETCH_START, (FETCH_STARTED,)),
    c.RecordFetch: (DESCRIBED, RECORD_FETCH, (e.DataFetched(blob=blob("fetched")),)),
    c.RecordStep: (FETCHED, RECORD_STEP, (S1,)),
    c.RecordInspection: (STEPPED, RECORD_INSPECTION, (inspected(),)),
    c.FailStep: (DESCRIBED, fail_step(kind="http"), (step_failed(kind="http"),)),
    c.StartStore: (INSPECTED, START_STORE, (store_started("a"),)),
    c.RecordStoreSuccess: ((*INSPECTED, store_started("a")), record_success("a"), (stored("a")[1],)),
    c.RecordStoreFailure: ((*INSPECTED, store_started("a")), record_failure("a"), (not_stored("a")[1],)),
    c.ClearStaging: (
        (*INSPECTED, *stored("a")),
        CLEAR,
        (e.StagingCleared(kept=("file:///staging/stuck",)), e.ImportCompleted(task_id=TASK)),
    ),
    c.RecordLocation: (
        (created(), registering(), e.ImportStarted()),
        c.RecordLocation(task_id=TASK, location=theirs().location),
        (theirs(),),
    ),
    c.RecordHash: (
        (created(), registering(verify=True), e.ImportStarted(), theirs()),
        c.RecordHash(task_id=TASK, digests=digests()),
        (e.DataHashed(digests=digests()), e.ImportCompleted(task_id=TASK)),
    ),
    c.FinishUndo: (FAILED, FINISH, (failed("no space"),)),
}
"""Worker command -> what happened before it, the command, what it causes."""

CASES = [pytest.param(*case, id=kind.__name__) for kind, case in OUTCOMES.items()]


def test_every_worker_command_is_among_the_cases() -> None:
    assert set(OUTCOMES) == set(c.WorkerCommand.__subclasses__())


@pytest.mark.parametrize(("past", "command", "events"), CASES)
def test_an_outcome_is_recorded_in_its_turn(
    past: tuple[e.Event, ...], command: Command, events: tuple[e.Event, ...]
) -> None:
    given(*past).when(command).then(*events)


@pytest.mark.parametrize(("past", "command", "events"), CASES)
def test_a_repeated_outcome_changes_nothing(
    past: tuple[e.Event, ...], command: Command, events: tuple[e.Event, ...]
) -> None:
    after = given(*past).when(command).then(*events)
    try:
        again = after.when(command).events
    except Fenced:
        return
    assert again == ()


@pytest.mark.parametrize(("past", "command", "events"), CASES)
def test_an_outcome_of_another_task_is_refused(
    past: tuple[e.Event, ...], command: Command, events: tuple[e.Event, ...]
) -> None:
    another = downloading("a", task_id="another", steps=("s1", "s2"), describes=True)
    others = tuple(another if isinstance(event, e.ImportRequested) else event for event in past)
    given(*others).when(command).refuses(Fenced, "does not hold the image")


@pytest.mark.parametrize(("past", "command", "events"), CASES)
@pytest.mark.parametrize("end", [e.ImageDeleted(), failed()], ids=["deleted", "ended"])
def test_an_outcome_that_comes_after_the_end_is_refused(
    past: tuple[e.Event, ...], command: Command, events: tuple[e.Event, ...], end: e.Event
) -> None:
    given(*past, end).when(command).refuses(Fenced)


@pytest.mark.parametrize(
    ("past", "command"),
    [pytest.param(past, command, id=kind.__name__) for kind, (past, command, _) in OUTCOMES.items()],
)
def test_while_an_import_is_taken_back_only_its_end_is_recorded(past: tuple[e.Event, ...], command: Command) -> None:
    when = given(*past, e.ImportCancelled(task_id=TASK, reason="enough")).when(command)
    if isinstance(command, c.FinishUndo):
        assert when.events == (failed("no space"),)  # it had failed before it was cancelled
    elif isinstance(command, c.FailStep | c.RecordStoreSuccess | c.RecordStoreFailure):
        when.then()
    else:
        when.refuses(Fenced, "taken back")


@pytest.mark.parametrize(
    ("past", "command"),
    [
        (BEGUN[:2], RECORD_METADATA),
        (BEGUN, RECORD_FETCH),
        (BEGUN, RECORD_FETCH_START),
        (DESCRIBED, RECORD_STEP),
        (FETCHED, RECORD_FETCH_START),
        (FETCHED, c.RecordStep(task_id=TASK, completed=S2)),
        (FETCHED, RECORD_INSPECTION),
        ((*FETCHED, S1), RECORD_INSPECTION),
        ((*FETCHED, S1), START_STORE),
        (STEPPED, START_STORE),
        (STEPPED, record_success("a")),
        (INSPECTED, CLEAR),
        (INSPECTED, FINISH),
    ],
)
def test_an_outcome_out_of_turn_is_refused(past: tuple[e.Event, ...], command: Command) -> None:
    given(*past).when(command).refuses(Fenced)


def test_nothing_is_written_into_a_store_before_the_data_was_inspected() -> None:
    given(*importing("a")).when(START_STORE).refuses(Fenced)


def test_a_store_is_written_once() -> None:
    started = given(*writing("a", "b")).when(START_STORE).then(store_started("a"))
    started.when(c.StartStore(task_id=TASK, store="a", name=name_in("a", 2))).refuses(Fenced)
    done = started.when(record_success("a")).then(stored("a")[1])
    done.when(START_STORE).refuses(Fenced, "handled already")
    for command in (record_success("a"), record_failure("a")):
        done.when(command).then()
    given(*writing("a", "b", must_succeed=False), *not_stored("a")).when(record_success("a")).then()


def test_a_store_that_was_not_asked_for_is_not_written() -> None:
    given(*writing("a")).when(c.StartStore(task_id=TASK, store="x", name="x")).refuses(Fenced)
    given(*writing("a")).when(record_success("x")).refuses(Fenced)


def test_several_stores_can_be_under_way_at_once() -> None:
    past = (*writing("a", "b", parallel=2), store_started("a"), store_started("b"))
    given(*past).when(record_success("b")).then(stored("b")[1])


@pytest.mark.parametrize("command", [record_success("b"), record_failure("b")], ids=["success", "failure"])
def test_a_store_that_ends_together_with_one_that_failed_is_passed_over(command: Command) -> None:
    both = (*writing("a", "b", parallel=2), store_started("a"), store_started("b"))
    after = given(*both).when(record_failure("a")).then(not_stored("a")[1])
    after.when(command).then()
    assert e.Sweep(store="b", below=2) in after.state.sweeps
    assert after.state.failed == ("a",)


def test_staging_is_cleared_only_after_the_last_store() -> None:
    given(*writing("a", "b"), *stored("a")).when(CLEAR).refuses(Fenced)


def test_what_fails_before_the_stores_fails_the_import() -> None:
    refused = fail_step("inspect", inspection=True)
    given(*importing("a")).when(refused).then(step_failed("inspect", inspection=True))


def test_bytes_lost_between_stores_fail_only_the_remaining_ones_if_one_is_enough() -> None:
    past = (*writing("a", "b", "c", must_succeed=False), *stored("a"))
    expected = tuple(e.StoreFailed(store=store, reason="it failed", kind="internal") for store in ("b", "c"))
    given(*past).when(fail_step("verify")).then(*expected)


def test_bytes_lost_between_stores_fail_the_import_if_all_must_succeed() -> None:
    given(*writing("a", "b"), *stored("a")).when(fail_step("verify")).then(step_failed("verify"))


def test_the_end_of_an_undo_says_why_the_import_failed() -> None:
    past = (*importing("a"), step_failed("fetch", reason="HTTP 404"))
    given(*past).when(FINISH).then(failed("HTTP 404"))


def test_the_end_of_an_undo_records_what_it_removed() -> None:
    state = given(*FAILED).state
    garbage = tuple((item.store, item.url) for item in state.garbage)
    assert garbage
    assert state.sweeps
    finish = c.FinishUndo(task_id=TASK, purged=garbage, swept=state.sweeps)
    purged = e.BytesPurged(blobs=garbage, sweeps=state.sweeps)
    after = given(*FAILED).when(finish).then(purged, failed("no space")).state
    assert (after.garbage, after.sweeps) == ((), ())


# --- work and clean-up -----------------------------------------------------------------


@pytest.mark.parametrize("past", [(created(),), importing("a"), DELETED])
def test_work_can_be_taken_over_whatever_the_state(past: tuple[e.Event, ...]) -> None:
    given(*past).when(c.TakeOver(sweep_at=at(60))).then(e.LeaseTakenOver(sweep_at=at(60)))


@pytest.mark.parametrize("command", [c.TakeOver(), c.RecordPurge(blobs=(("a", "u"),))], ids=["take over", "purge"])
def test_there_is_no_work_for_an_image_that_never_was(command: Command) -> None:
    given().when(command).refuses(NotFound)


def test_a_purge_records_what_was_outstanding() -> None:
    past = (*ACTIVE, e.ImageDeleted())
    blobs = (("a", location("a").url),)
    purge = c.RecordPurge(blobs=blobs)
    after = given(*past).when(purge).then(e.BytesPurged(blobs=blobs))
    after.when(purge).then()


def test_a_purge_that_removed_nothing_outstanding_is_quiet() -> None:
    sweep = e.Sweep(store="a", below=2)
    given(*ACTIVE).when(c.RecordPurge(blobs=(("a", "elsewhere"),), sweeps=(sweep,))).then()
    given(*ACTIVE).when(c.RecordPurge()).then()


def test_purging_goes_on_after_deletion_and_beside_an_import() -> None:
    upload_failed = (*UPLOADING_NOW, e.UploadFailed(transfer=TRANSFER, store="a", reason="gone"))
    sweeps = given(*upload_failed).state.sweeps
    purge = c.RecordPurge(sweeps=sweeps)
    for more in ((), (e.ImageDeleted(),), (downloading("a"),)):
        given(*upload_failed, *more).when(purge).then(e.BytesPurged(sweeps=sweeps))


def test_a_transfer_into_staging_leaves_a_search_of_staging() -> None:
    past = (*STAGING_NOW, e.StagingFailed(transfer=TRANSFER, reason="gone"))
    assert given(*past).state.sweeps == (e.Sweep(store=STAGING, below=2),)


def test_refusals_are_of_the_services_own_kind() -> None:
    assert issubclass(Fenced, EntrepotError)
    assert completed()[1] == e.ImportCompleted(task_id=TASK)


# --- locations that are registered ---------------------------------------------------------


def test_data_is_registered_for_queued_images_with_formats() -> None:
    command = c.RegisterLocation(request=registering())
    given(created()).when(command).then(registering())
    for past in (STAGED, ACTIVE, SUSPENDED, writing("a")):
        given(*past).when(command).refuses(Conflict)
    given(created(disk_format=None)).when(command).refuses(Invalid, "disk_format")
    given(created(), registering()).when(command).refuses(Conflict, "active task")


def test_data_that_nobody_hashes_is_there_at_once() -> None:
    past = (created(), registering(hash=False), e.ImportStarted())
    command = c.RecordLocation(task_id=TASK, location=theirs().location)
    given(*past).when(command).then(theirs(), e.ImportCompleted(task_id=TASK))


def test_formats_that_were_taken_away_meanwhile_fail_the_registration() -> None:
    past = (created(), registering(), e.ImportStarted(), e.ImageUpdated(disk_format=None))
    after = given(*past).when(c.RecordLocation(task_id=TASK, location=theirs().location)).events
    assert [type(event) for event in after] == [e.StepFailed]
