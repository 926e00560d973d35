"""Whatever happened to an import can be explained; what matters is named."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel import events as e
from kernel.events import EVENTS
from kernel.evolve import fold
from kernel.explain import explain, unserved
from tests.support.builders import TASK, created, digests, location, requested, staged
from tests.support.spec import recorded
from tests.support.strategies import WORDS, of

any_event = st.sampled_from(EVENTS).flatmap(lambda kind: of(kind, WORDS))

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def told(*events: e.Event) -> tuple[str, str | None]:
    """The ending, and the type of the event that decided it."""
    items = recorded(*events)
    image = fold(items)
    assert image.task is not None
    found = explain(items, image.task, image)
    assert found.summary
    assert all(found.advice)
    return found.ending, type(found.cause.event).__name__ if found.cause else None


PAST = (created(), *staged(), requested("a", "b"), e.ImportStarted())


@FEW
@given(st.lists(any_event, max_size=12))
def test_any_past_has_an_explanation(events: list[e.Event]) -> None:
    items = recorded(created(), *staged(), requested("a", "b"), *events)
    image = fold(items)
    if image.task is not None:
        found = explain(items, image.task, image)
        assert found.summary
        assert found.advice


def test_the_step_decides_what_is_said() -> None:
    for step, ending in (
        ("quota", "quota"),
        ("fetch", "source"),
        ("describe", "metadata"),
        ("verify", "staged data"),
        ("begin", "request"),
        ("image_conversion", "plugin"),
    ):
        failed = e.StepFailed(step=step, reason="x")
        assert told(*PAST, failed, e.ImportFailed(task_id=TASK, reason="x")) == (ending, "StepFailed")
    inspected = e.StepFailed(step="inspect", reason="x", inspection=True)
    assert told(*PAST, inspected) == ("inspection", "StepFailed")


def test_the_first_cause_counts() -> None:
    """What fails while the import is being taken back decided nothing."""
    cancelled = e.ImportCancelled(task_id=TASK, reason="enough")
    late = e.StoreFailed(store="a", reason="interrupted")
    assert told(*PAST, cancelled, late, e.ImportFailed(task_id=TASK, reason="enough")) == (
        "cancelled",
        "ImportCancelled",
    )


def test_only_the_import_asked_about_is_told() -> None:
    """Those before and after it are stories of their own."""
    first = (*PAST, e.StepFailed(step="fetch", reason="x"), e.ImportFailed(task_id=TASK, reason="x"))
    stored = e.StoreSucceeded(store="a", location=location(), digests=digests())
    second = (*staged(), requested("a", task_id="another"), e.ImportStarted(), stored)
    items = recorded(*first, *second, e.StagingCleared(), e.ImportCompleted(task_id="another"))
    image, former = fold(items), fold(items[: len(first)])
    assert image.task is not None
    assert former.task is not None
    assert explain(items, image.task, image).ending == "success"
    assert explain(items, former.task, image).ending == "source"
    assert [line.item.version for line in explain(items, former.task, image).lines] == [4, 5, 6, 7]


def test_events_of_a_newer_version_do_not_stop_it() -> None:
    items = recorded(*PAST, e.ImportFailed(task_id=TASK, reason="because"))
    image = fold(items)
    assert image.task is not None
    found = explain(items, image.task, image)
    assert found.ending in ("unknown", "running")


def test_which_stores_are_left() -> None:
    stored = e.StoreSucceeded(store="a", location=location(), digests=digests())
    image = fold(recorded(*PAST, stored))
    assert image.task is not None
    assert unserved(image.task, image) == ("b",)
