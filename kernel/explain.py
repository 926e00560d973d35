"""What became of an import, in plain words: a pure function of its events and of how the image is now.

explain(events of the stream, task, image) -> what happened, which event decided it, what to do next
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from kernel import events as e
from kernel.image import IMAGE_IMPORT, IMPORT, Image, Task
from kernel.recorded import Recorded

Ending = Literal[
    "waiting",
    "running",
    "success",
    "some stores failed",
    "quota",
    "source",
    "metadata",
    "plugin",
    "inspection",
    "staged data",
    "request",
    "store",
    "every store",
    "cancelled",
    "preempted",
    "deleted",
    "unknown",
]


class Line(Struct, frozen=True):
    """One event of the import, and what it means."""

    item: Recorded
    text: str


class Explanation(Struct, frozen=True, kw_only=True):
    """The story of one import."""

    ending: Ending
    summary: str
    lines: tuple[Line, ...]
    cause: Recorded | None
    """The event that decided how it ended, if it did not simply succeed."""
    advice: tuple[str, ...]


_ENDS: Final = (e.ImportCompleted, e.ImportFailed, e.ImportPreempted, e.ImageDeleted, e.DeletionScheduled)


def explain(items: Sequence[Recorded], task: Task, image: Image, *, at_work: bool = False) -> Explanation:
    """Explain the task whose events are among `items`.

    at_work: whether a worker holds the image right now.
    """
    own = _own(items, task.id)
    lines = tuple(Line(item, text) for item in own if (text := _text(item.event)) is not None)
    ending, cause = _ending(own, task)
    return Explanation(
        ending=ending,
        summary=_summary(ending, cause, task),
        lines=lines,
        cause=cause,
        advice=_advice(ending, cause, own, task, image, at_work),
    )


def _own(items: Sequence[Recorded], task_id: str) -> list[Recorded]:
    """From the request of this import to its end."""
    own: list[Recorded] = []
    for item in items:
        event = item.event
        if not own and not (isinstance(event, e.ImportRequested) and event.task_id == task_id):
            continue
        own.append(item)
        if isinstance(event, _ENDS):
            break
    return own


# --- what happened -----------------------------------------------------------------------


def _requested(event: e.ImportRequested) -> str:
    stores = ", ".join(event.stores)
    rule = ", each of which must take the data" if event.must_succeed and len(event.stores) > 1 else ""
    what = "A copy" if event.copies else "The import"
    return f"{what} by {event.method} into {stores}{rule} was accepted"


def _inspected(event: e.DataInspected) -> str:
    found = ", ".join(event.detected)
    return f"The data was inspected and found to be {found}" if found else "The data was accepted without a look inside"


def _fetch_started(event: e.FetchStarted) -> str:
    return "The source answered" + (f" and announced {event.total} bytes" if event.total is not None else "")


_TEXTS: Final[dict[type[e.Event], Callable[[Any], str]]] = {
    e.ImportRequested: _requested,
    e.ImportStarted: lambda event: "A worker took it up",
    e.LeaseTakenOver: lambda event: "Another worker went on where the one before had stopped",
    e.MetadataCopied: lambda event: "Formats and properties were taken over from the remote image",
    e.FetchStarted: _fetch_started,
    e.DataFetched: lambda event: f"All {event.blob.size} bytes have arrived in the staging area",
    e.StepCompleted: lambda event: f"The plugin {event.step} did its work",
    e.DataInspected: _inspected,
    e.StepFailed: lambda event: f"The step '{event.step}' failed: {event.reason}",
    e.StoreStarted: lambda event: f"Writing to the store {event.store} began",
    e.StoreSucceeded: lambda event: f"The store {event.store} has a complete copy",
    e.StoreFailed: lambda event: f"The store {event.store} failed: {event.reason}",
    e.ImageAppeared: lambda event: "The image appeared",
    e.ImportCancelled: lambda event: f"It was called off: {event.reason}",
    e.ImportPreempted: lambda event: "Nobody had touched it for so long that a new import took the image over",
    e.ImportCompleted: lambda event: "It is done",
    e.ImportFailed: lambda event: "Everything it had done was taken back",
    e.ImageDeleted: lambda event: "The image was deleted, which ended the import",
    e.DeletionScheduled: lambda event: "The image was deleted, which ended the import",
    e.LocationAdded: lambda event: f"What lies at the location, {event.size} bytes, became the image's",
    e.DataHashed: lambda event: "The data was read and hashed",
}


def _text(event: e.Event | e.Unrecognised) -> str | None:
    rule = _TEXTS.get(type(event))  # type: ignore[arg-type]  # a placeholder has no rule
    return rule(event) if rule is not None else None


# --- how it ended, and why ---------------------------------------------------------------

_STEPS: Final[dict[str, Ending]] = {
    "begin": "request",
    "quota": "quota",
    "describe": "metadata",
    "fetch": "source",
    "register": "source",
    "hash": "source",
    "inspect": "inspection",
    "verify": "staged data",
}


def _ending(own: Sequence[Recorded], task: Task) -> tuple[Ending, Recorded | None]:
    stores = [item for item in own if isinstance(item.event, e.StoreFailed)]
    if task.status == "success":
        return ("some stores failed", stores[-1]) if stores else ("success", None)
    for item in own:
        match item.event:
            case e.ImageDeleted() | e.DeletionScheduled():
                return "deleted", item
            case e.ImportCancelled():
                return "cancelled", item
            case e.ImportPreempted():
                return "preempted", item
            case e.StepFailed() as failed:
                return "inspection" if failed.inspection else _STEPS.get(failed.step, "plugin"), item
    if stores and task.status == "failure":
        return "every store" if _all_tried(own, len(stores)) else "store", stores[-1]
    if task.final:  # by events that only a newer version knows
        return "unknown", None
    started = any(isinstance(item.event, e.ImportStarted) for item in own)
    return ("running" if started else "waiting"), None


def _all_tried(own: Sequence[Recorded], failed: int) -> bool:
    request = own[0].event
    return isinstance(request, e.ImportRequested) and not request.must_succeed and failed == len(request.stores)


def _summary(ending: Ending, cause: Recorded | None, task: Task) -> str:
    match ending:
        case "waiting":
            return "The import waits for a worker."
        case "running":
            return "The import is under way."
        case "success":
            return "The import succeeded."
        case "some stores failed":
            return "The import succeeded, though not in every store."
        case "unknown":
            return f"The import failed. {task.message}"
    assert cause is not None
    if task.status not in ("success", "failure"):
        return f"The import failed and is being taken back. {_sentence(cause)}"
    return f"The import failed. {_sentence(cause)}"


def _sentence(cause: Recorded) -> str:
    return f"{(_text(cause.event) or '').rstrip('.')}."


# --- what to do next ---------------------------------------------------------------------

_STORE_TROUBLE: Final = {
    "full": "Make room in the store {store}, or choose another one.",
    "denied": "See that the service may write to the store {store}.",
    "forbidden": "See whether the store {store} may be written, and whether the project has room left in it.",
    "duplicate": "See what lies in the store {store} under the name of this image.",
    "http": "See whether the store {store} can be reached.",
}


def _advice(
    ending: Ending, cause: Recorded | None, own: Sequence[Recorded], task: Task, image: Image, at_work: bool
) -> tuple[str, ...]:
    event = cause.event if cause is not None else None
    match ending:
        case "waiting" | "running":
            if at_work:
                return ("Wait: a worker is at it.",)
            return ("No worker holds it at the moment. See that one runs; it takes the import up by itself.",)
        case "success":
            return ("Nothing is left to be done.",)
        case "preempted":
            return ("See what became of the import that took the image over, and that workers run.",)
        case "deleted":
            return ("Nothing of the image is left. Create a new one if it is still wanted.",)
        case "some stores failed":
            return (*_about_store(event), *_retry(task, image))
        case "store" | "every store":
            return (*_about_store(event), *_once_more(task, image))
        case "quota":
            return ("Delete images that are not needed, or have the limit raised.", *_once_more(task, image))
        case "source":
            advice = "See that the source can be reached from here and sends what it announces."
            return (advice, *_once_more(task, image))
        case "metadata":
            return ("See that the remote image is there, active and readable for you.", *_once_more(task, image))
        case "plugin":
            step = event.step if isinstance(event, e.StepFailed) else "the plugin"
            return (f"See whether the data is something that {step} can handle.", *_once_more(task, image))
        case "inspection":
            advice = "Correct disk_format and container_format if they are wrong, or the data if it is."
            return (advice, *_once_more(task, image))
        case "staged data":
            return ("The bytes to be stored were lost or had changed.", *_once_more(task, image))
        case "unknown":
            return _once_more(task, image)
        case "request":
            return ("Ask again with everything that the task needs.",)
        case "cancelled":
            return _retry(task, image) if _copied(own) else _once_more(task, image)


def _about_store(event: e.Event | e.Unrecognised | None) -> tuple[str, ...]:
    if not isinstance(event, e.StoreFailed):
        return ()
    advice = _STORE_TROUBLE.get(event.kind, "See what is wrong with the store {store}.")
    return (advice.format(store=event.store),)


def _copied(own: Sequence[Recorded]) -> bool:
    return bool(own) and isinstance(own[0].event, e.ImportRequested) and own[0].event.copies


def _once_more(task: Task, image: Image) -> tuple[str, ...]:
    if task.type in (IMPORT, IMAGE_IMPORT) and image.gone:
        return ("Nothing is left of it. Ask for the import again.",)
    if image.gone:
        return ("The image has been deleted since. Create a new one if it is still wanted.",)
    if image.job is not None and image.job.task_id != task.id:
        return ("Another import of the image is under way.",)
    if image.status == "active":
        return _retry(task, image)
    if image.status == "queued":
        return ("The image is as it was before: send or fetch the data again, and import it again.",)
    return (f"The image is {image.status} now.",)


def _retry(task: Task, image: Image) -> tuple[str, ...]:
    missing = unserved(task, image)
    if image.gone:
        return ("The image has been deleted since.",)
    if not missing:
        return ("All stores that were asked for hold the image by now.",)
    stores = ", ".join(missing)
    return (f"An operator can have the stores that lack it filled from the others ({stores}): retry this task.",)


def unserved(task: Task, image: Image) -> tuple[str, ...]:
    """Stores that a task was to fill and that do not hold the image."""
    return tuple(store for store in task.stores if store not in image.stores)
