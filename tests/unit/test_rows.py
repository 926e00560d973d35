"""The rows that an append writes beside its events."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from kernel import events as e
from kernel.charges import COUNT_TOTAL, COUNT_UPLOADING, SIZE_TOTAL, STAGE_TOTAL, Limit
from kernel.evolve import NOTHING
from kernel.image import FOLD, Image
from kernel.log_postgres import decode_image
from kernel.queries import decode_task
from kernel.rows import (
    MemberRow,
    Rows,
    TaskRow,
    image_row,
    member_rows,
    rows_between,
    shown_properties,
    state_row,
    task_rows,
)
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
    created,
    downloading,
    failed,
    importing,
    requested,
    step_failed,
    store_started,
    stored,
    writing,
)
from tests.support.spec import STREAM, given

Events = tuple[e.Event, ...]


def state(*events: e.Event) -> Image:
    return given(*events).state


# --- the image -------------------------------------------------------------------------


def test_the_row_of_an_image_shows_what_lists_filter_and_sort_by() -> None:
    image = state(created(tags=("t", "u"), min_disk=1, min_ram=2, properties={"p": "v"}), *ACTIVE[1:])
    row = image_row(STREAM, image)
    expected = {
        "id": STREAM,
        "image_id": IMAGE,
        "version": 3,
        "owner": OWNER,
        "name": "n",
        "status": "active",
        "visibility": "shared",
        "hidden": False,
        "protected": False,
        "disk_format": "raw",
        "container_format": "bare",
        "min_disk": 1,
        "min_ram": 2,
        "size": 3,
        "virtual_size": 3,
        "checksum": "md5-d1",
        "os_hash_algo": "sha512",
        "os_hash_value": "sha512-d1",
        "tags": ("t", "u"),
        "properties": ["1:p=v"],
        "created_at": at(0),
        "updated_at": at(2),
        "work": None,
        "due_at": None,
        "node": None,
    }
    assert {name: getattr(row, name) for name in row.__struct_fields__} == expected


@pytest.mark.parametrize(
    "past", [(created(),), STAGED, ACTIVE, writing("a", "b"), (*writing("a"), *stored("a"), e.ImageDeleted())]
)
def test_the_row_of_a_state_holds_it_whole(past: Events) -> None:
    row = state_row(STREAM, state(*past))
    assert (row.id, row.version, row.fold, decode_image(row.state)) == (STREAM, len(past), FOLD, state(*past))


@pytest.mark.parametrize(
    ("past", "work"),
    [
        ((created(),), None),
        ((created(), e.StagingStarted(transfer=TRANSFER)), "discard"),
        ((*STAGED, requested("a")), "begin"),
        (writing("a"), "store"),
        ((*writing("a"), step_failed()), "undo"),
        ((*ACTIVE, e.ImageDeleted()), "purge"),
    ],
)
def test_work_that_is_outstanding_is_due_at_once(past: Events, work: str | None) -> None:
    image = state(*past)
    row = image_row(STREAM, image)
    assert row.work == work
    assert row.due_at == (image.at - timedelta(days=1) if work else None)


def test_work_for_later_is_due_then() -> None:
    past = (*ACTIVE, e.LeaseTakenOver(sweep_at=at(60)), e.ImageUpdated(name="x"))
    row = image_row(STREAM, state(*past))
    assert (row.work, row.due_at) == ("purge", at(60))


def test_work_on_bytes_that_one_node_alone_can_reach_names_the_node() -> None:
    here = e.DataStaged(transfer=TRANSFER, blob=blob(node="n1"))
    past = (created(), e.StagingStarted(transfer=TRANSFER), here)
    assert image_row(STREAM, state(*past)).node is None  # nothing to do with them yet
    assert image_row(STREAM, state(*past, requested("a"))).node == "n1"
    assert image_row(STREAM, state(*past, requested("a"), step_failed())).node is None  # anybody can take it back
    assert image_row(STREAM, state(*past, e.ImageDeleted())).node == "n1"


@pytest.mark.parametrize(
    ("past", "shown"),
    [
        ((created(properties={"p": "v", "null": None}),), {"p": "v", "null": None}),
        (
            (*STAGED, requested("b", "a")),
            {
                "os_glance_import_task": TASK,
                "os_glance_importing_to_stores": "a,b",
                "os_glance_failed_import": "",
            },
        ),
        (
            (*writing("a", "b"), step_failed(), failed()),
            {"os_glance_importing_to_stores": "", "os_glance_failed_import": "a,b"},
        ),
        (
            (*writing("a"), *stored("a"), *completed()),
            {"os_glance_importing_to_stores": "", "os_glance_failed_import": ""},
        ),
    ],
)
def test_the_services_own_properties_are_shown_beside_the_users(past: Events, shown: dict[str, str | None]) -> None:
    image = state(*past)
    assert shown_properties(image) == shown
    terms = [f"{len(name)}:{name}={value or ''}" for name, value in shown.items()]
    assert image_row(STREAM, image).properties == terms


def test_a_property_cannot_pretend_to_be_another() -> None:
    honest = image_row(STREAM, state(created(properties={"a": "b=c"}))).properties
    devious = image_row(STREAM, state(created(properties={"a=b": "c"}))).properties
    assert set(honest).isdisjoint(devious)


# --- tasks -----------------------------------------------------------------------------


def test_a_new_task_has_a_row() -> None:
    before, after = state(*STAGED), state(*STAGED, requested("a"))
    (row,) = task_rows(STREAM, before, after)
    assert isinstance(row, TaskRow)
    assert (row.id, row.image, row.image_id, row.type) == (TASK, STREAM, IMAGE, "api_image_import")
    assert (row.status, row.owner, row.created_at, row.updated_at) == ("pending", OWNER, at(3), at(3))
    assert row.expires_at is None
    assert decode_task(row.document) == after.task


@pytest.mark.parametrize("event", [e.ImportStarted(), failed(), e.ImageDeleted(), completed()[1]])
def test_a_task_that_changed_has_a_row(event: e.Event) -> None:
    before, after = state(*STAGED, requested("a")), state(*STAGED, requested("a"), event)
    (row,) = task_rows(STREAM, before, after)
    assert after.task is not None
    assert (row.status, row.expires_at) == (after.task.status, after.task.expires_at)


@pytest.mark.parametrize("event", [e.ImageUpdated(name="x"), e.MemberAdded(member="pB")])
def test_a_task_that_did_not_change_has_none(event: e.Event) -> None:
    for past in (created(),), importing("a"):
        assert task_rows(STREAM, state(*past), state(*past, event)) == ()


def test_the_next_task_leaves_the_row_of_the_former_alone() -> None:
    past = (*importing("a"), step_failed(), failed())
    (row,) = task_rows(STREAM, state(*past), state(*past, downloading("a", task_id="second")))
    assert row.id == "second"


# --- members ---------------------------------------------------------------------------

SHARED = (created(), e.MemberAdded(member="pB"), e.MemberAdded(member="pC"))


@pytest.mark.parametrize(
    ("event", "member", "status", "removed"),
    [
        (e.MemberAdded(member="pD"), "pD", "pending", False),
        (e.MemberStatusChanged(member="pB", status="accepted"), "pB", "accepted", False),
        (e.MemberRemoved(member="pC"), "pC", "pending", True),
    ],
)
def test_only_the_member_that_changed_has_a_row(event: e.Event, member: str, status: str, removed: bool) -> None:
    (row,) = member_rows(STREAM, state(*SHARED), state(*SHARED, event))
    assert isinstance(row, MemberRow)
    assert (row.image, row.member, row.status, row.removed) == (STREAM, member, status, removed)
    assert row.updated_at == at(3)


def test_members_that_did_not_change_have_none() -> None:
    before = state(*SHARED)
    assert member_rows(STREAM, before, state(*SHARED, e.ImageUpdated(name="x"))) == ()
    assert member_rows(STREAM, before, before) == ()


def test_members_are_compared_by_value_once_the_state_was_read_back() -> None:
    read = decode_image(state_row(STREAM, state(*SHARED)).state)
    (row,) = member_rows(STREAM, read, state(*SHARED, e.MemberRemoved(member="pB")))
    assert row.member == "pB"


# --- all together ----------------------------------------------------------------------


def test_a_change_writes_only_what_it_changes() -> None:
    image = state(created())
    rows = rows_between(STREAM, NOTHING, image)
    charges = ((OWNER, COUNT_TOTAL, 1, None),)
    assert rows == Rows(image=image_row(STREAM, image), state=state_row(STREAM, image), charges=charges)
    renamed = state(created(), e.ImageUpdated(name="x"))
    rows = rows_between(STREAM, image, renamed)
    assert rows == Rows(image=image_row(STREAM, renamed), state=state_row(STREAM, renamed))


def test_growing_usage_is_held_to_its_limit_and_shrinking_is_not() -> None:
    names = (COUNT_TOTAL, STAGE_TOTAL, SIZE_TOTAL, COUNT_UPLOADING)
    limits = {(OWNER, name): Limit(name=name, most=10) for name in names}
    rows = rows_between(STREAM, NOTHING, state(*STAGED), limits)
    assert set(rows.charges or ()) == {
        (OWNER, COUNT_TOTAL, 1, 10),
        (OWNER, STAGE_TOTAL, 3, 10),
        (OWNER, COUNT_UPLOADING, 1, 10),
    }
    rows = rows_between(STREAM, state(*STAGED), state(*STAGED, e.ImageDeleted()), limits)
    assert set(rows.charges or ()) == {
        (OWNER, COUNT_TOTAL, -1, None),
        (OWNER, STAGE_TOTAL, -3, None),
        (OWNER, COUNT_UPLOADING, -1, None),
    }


def test_limits_of_others_do_not_matter() -> None:
    rows = rows_between(STREAM, NOTHING, state(created()), {("pB", COUNT_TOTAL): Limit(name=COUNT_TOTAL, most=0)})
    assert rows.charges == ((OWNER, COUNT_TOTAL, 1, None),)


@pytest.mark.parametrize(
    ("event", "interrupts"), [(e.ImageDeleted(), True), (store_started("a"), False), (e.TagAdded(tag="t"), False)]
)
def test_whoever_works_on_the_image_is_told_to_look_up_when_it_must(event: e.Event, interrupts: bool) -> None:
    rows = rows_between(STREAM, state(*writing("a")), state(*writing("a"), event))
    assert (rows.interrupt is True) is interrupts


def test_more_can_be_asked_of_the_same_append() -> None:
    more: dict[str, Any] = {"release": True, "park": 3.0, "forget": True}
    rows = rows_between(STREAM, NOTHING, state(created()), None, **more)
    assert (rows.release, rows.park, rows.forget) == (True, 3.0, True)
    assert UUID(IMAGE) == STREAM


def test_credentials_go_with_the_job_that_needed_them() -> None:
    past = (created(), requested(secret=True, fetches=True))
    for end in (e.ImageDeleted(), e.ImportFailed(task_id=TASK, reason="x"), e.ImportCompleted(task_id=TASK)):
        assert rows_between(STREAM, state(*past), state(*past, end)).forget is True
    assert rows_between(STREAM, state(*past), state(*past, e.ImportStarted())).forget is False
    plain = (created(), requested(fetches=True))
    assert rows_between(STREAM, state(*plain), state(*plain, e.ImageDeleted())).forget is False


def test_a_task_that_ends_on_the_way_has_its_row_too() -> None:
    past = (created(), requested())
    preempted = state(*past, e.ImportPreempted(task_id=TASK))
    after = state(*past, e.ImportPreempted(task_id=TASK), requested(task_id="another"))
    rows = rows_between(STREAM, state(*past), after, between=[preempted])
    assert rows.tasks
    assert {row.id: row.status for row in rows.tasks} == {TASK: "failure", "another": "pending"}
