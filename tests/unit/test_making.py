"""Imports that make their image, and imports that give way: what is decided, folded and told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kernel import commands as c
from kernel import events as e
from kernel.charges import charges
from kernel.decide import lock_expired
from kernel.errors import Conflict, NotFound
from kernel.image import IMAGE_IMPORT, IMPORT, STAGING
from kernel.visibility import visible
from kernel.work import outstanding
from tests.support.builders import IMAGE, OWNER, TASK, at, blob, created, digests, location, requested
from tests.support.spec import given, told

EXPECTED = e.ImageExpected(image=created(disk_format=None))


def asked(kind: str, *stores: str, **more: Any) -> e.ImportRequested:
    return requested(*(stores or ("a",)), type=kind, method="web-download", fetches=True, **more)


def fetched(kind: str, *stores: str) -> tuple[e.Event, ...]:
    return EXPECTED, asked(kind, *stores), e.ImportStarted(), e.DataFetched(blob=blob())


STORED = e.StoreSucceeded(store="a", location=location(), digests=digests())
DONE = (e.StagingCleared(), e.ImageAppeared(), e.ImportCompleted(task_id=TASK))


# --- image imports -----------------------------------------------------------------------


def test_nobody_sees_what_is_only_expected() -> None:
    image = given(*fetched(IMAGE_IMPORT)).state
    assert (image.status, image.expected, image.gone) == ("expected", True, True)
    assert not visible(image, OWNER, True)
    assert charges(image) == {
        (OWNER, "image_count_total"): 1,
        (OWNER, "image_size_total"): 0,
        (OWNER, "image_stage_total"): 3,
        (OWNER, "image_count_uploading"): 1,
    }


def test_users_cannot_touch_it() -> None:
    past = given(*fetched(IMAGE_IMPORT))
    past.when(c.DeleteImage()).refuses(NotFound)
    past.when(c.StartStaging(transfer="t")).refuses(NotFound)
    past.when(c.RequestImport(needs="queued", request=requested())).refuses(NotFound)


def test_the_statuses_of_an_image_import() -> None:
    events = (*fetched(IMAGE_IMPORT), STORED, *DONE)
    seen = [given(*events[: number + 1]).state.task for number in range(len(events))]
    statuses = [task.status for task in seen if task is not None]
    assert list(dict.fromkeys(statuses)) == ["waiting", "uploading", "verifying", "success"]


def test_it_appears_with_its_success() -> None:
    past = given(*fetched(IMAGE_IMPORT), e.DataInspected(detected=("raw",), disk_format="raw"), STORED)
    assert past.state.expected
    done = past.when(c.ClearStaging(task_id=TASK)).then(*DONE)
    image = done.state
    assert (image.status, image.disk_format) == ("active", "raw")
    assert past.state.at < image.created_at <= image.updated_at
    assert image.expiring == image.task
    work = outstanding(image)
    assert work is not None
    assert (work.kind, work.due) == ("expire", image.task.expires_at if image.task else None)
    gone = done.when(c.ExpireImageImport(task_id=TASK)).then(e.ImageImportExpired(task_id=TASK))
    assert outstanding(gone.state) is None
    gone.when(c.ExpireImageImport(task_id=TASK)).then()


@pytest.mark.parametrize("kind", [IMPORT, IMAGE_IMPORT])
def test_a_failure_takes_it_away_for_good(kind: str) -> None:
    failed = e.StepFailed(step="fetch", reason="no")
    past = given(EXPECTED, asked(kind), e.ImportStarted(), failed).when(c.FinishUndo(task_id=TASK))
    image = past.then(e.ImportFailed(task_id=TASK, reason="no")).state
    assert (image.status, image.gone, image.job) == ("deleted", True, None)
    assert charges(image) == {}


def test_what_consumers_hear_of_an_image_import() -> None:
    success = told(*fetched(IMAGE_IMPORT), STORED, *DONE, e.ImageImportExpired(task_id=TASK))
    assert [message.event_type for message in success] == [
        *("image_import.create", "image_import.update", "image_import.update"),
        *("image.create", "image.upload", "image.activate"),
        *("image_import.update", "image_import.delete"),
    ]
    failure = told(
        *fetched(IMAGE_IMPORT),
        e.StoreFailed(store="a", reason="full"),
        e.ImportFailed(task_id=TASK, reason="full"),
    )
    assert {message.event_type for message in failure} == {"image_import.create", "image_import.update"}


# --- tasks of the type `import` ------------------------------------------------------------


def test_the_image_of_a_task_appears_when_work_on_it_begins() -> None:
    begun = given(EXPECTED, asked(IMPORT)).when(c.BeginImport(task_id=TASK)).then(e.ImportStarted(), e.ImageAppeared())
    assert begun.state.status == "queued"
    assert visible(begun.state, OWNER, False)
    begun.when(c.StartStaging(transfer="t")).refuses(Conflict)


def test_a_task_that_cannot_succeed_never_makes_an_image() -> None:
    events = (
        e.ImportStarted(),
        e.StepFailed(step="begin", reason="it lacks something", kind="bad_value"),
    )
    past = given(EXPECTED, asked(IMPORT, flaw="it lacks something")).when(c.BeginImport(task_id=TASK)).then(*events)
    assert past.state.expected
    end = past.when(c.FinishUndo(task_id=TASK)).then(e.ImportFailed(task_id=TASK, reason="it lacks something"))
    assert end.state.gone
    types = [message.event_type for message in told(*end.events)]
    assert types == ["task.create", "task.processing", "task.run", "task.failure"]


def test_what_consumers_hear_of_a_task_that_fails() -> None:
    events = told(
        EXPECTED,
        asked(IMPORT),
        e.ImportStarted(),
        e.ImageAppeared(),
        e.StepFailed(step="fetch", reason="no"),
        e.ImportFailed(task_id=TASK, reason="no"),
    )
    assert [message.event_type for message in events][-3:] == ["image.create", "image.delete", "task.failure"]


def test_what_is_stored_already_is_not_taken_back() -> None:
    """Called off when its only store had the data: the image stays, as with any import."""
    appeared = (EXPECTED, asked(IMPORT), e.ImportStarted(), e.ImageAppeared(), e.DataFetched(blob=blob()), STORED)
    past = given(*appeared, e.ImportCancelled(task_id=TASK, reason="enough"))
    image = past.when(c.FinishUndo(task_id=TASK)).then(e.ImportFailed(task_id=TASK, reason="enough")).state
    assert (image.status, image.stores) == ("active", ("a",))


# --- imports that give way -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "touched", "heartbeat", "expired"),
    [
        ("processing", 59, None, False),
        ("processing", 60, None, True),
        ("processing", 300, 59, False),
        ("processing", 300, 61, True),
        ("processing", 300, -1, False),
        ("pending", 60, None, False),
        ("pending", 119, None, False),
        ("pending", 120, None, True),
        ("pending", 300, 1, False),
    ],
)
def test_how_long_a_lock_protects(status: Any, touched: int, heartbeat: int | None, expired: bool) -> None:
    """Minutes since the task was touched, and since the last heartbeat."""
    begun = (e.ImportStarted(),) if status == "processing" else ()
    task = given(created(), requested(), *begun).state.task
    assert task is not None
    assert task.status == status
    now = task.updated_at + timedelta(minutes=touched)
    beat = None if heartbeat is None else now - timedelta(minutes=heartbeat)
    assert lock_expired(task, beat, now) is expired


def test_giving_way() -> None:
    copying = requested("b", "c", copies=True, inspects=False, must_succeed=False)
    past = given(
        created(),
        e.LocationAdded(location=location("a"), digests=digests(), size=3),
        copying,
        e.ImportStarted(),
        e.StoreStarted(store="b", name="n"),
        e.StoreSucceeded(store="b", location=location("b"), digests=digests()),
        e.StoreStarted(store="c", name="m"),
    )
    version = past.state.version
    past.when(c.PreemptImport(task_id=TASK, as_of=version - 1)).refuses(Conflict)
    past.when(c.PreemptImport(task_id=IMAGE, as_of=version)).refuses(Conflict)
    after = past.when(c.PreemptImport(task_id=TASK, as_of=version)).then(e.ImportPreempted(task_id=TASK)).state
    assert (after.job, after.status, after.stores) == (None, "active", ("a", "b"))
    assert (after.importing, after.failed) == ((), ())
    assert after.task is not None
    assert (after.task.status, after.task.message) == ("failure", "Expired lock preempted")
    assert {sweep.store for sweep in after.sweeps} == {STAGING, "b", "c"}
    assert at() < after.updated_at
