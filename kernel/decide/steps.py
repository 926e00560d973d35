"""What an import does to its bytes before any store gets them: describe, fetch, plugins, inspect."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from kernel import commands as c
from kernel import events as e
from kernel.decide.table import Table
from kernel.decide.turns import held_job, in_turn, turned_round
from kernel.errors import Fenced
from kernel.image import Fetch, Image

RULES = Table()
on = RULES.on


@on(c.RecordMetadata)
def _record_metadata(command: c.RecordMetadata, image: Image) -> Sequence[e.Event]:
    in_turn(image, command, "describe")
    return (command.copied,)


@on(c.RecordFetchStart)
def _record_fetch_start(command: c.RecordFetchStart, image: Image) -> Sequence[e.Event]:
    job, started = in_turn(image, command, "fetch"), command.started
    known = Fetch(name=started.name, total=started.total, validator=started.validator, boot=started.boot)
    return () if job.fetch == known else (started,)


@on(c.RecordFetch)
def _record_fetch(command: c.RecordFetch, image: Image) -> Sequence[e.Event]:
    in_turn(image, command, "fetch")
    return (e.DataFetched(blob=command.blob),)


@on(c.RecordStep)
def _record_step(command: c.RecordStep, image: Image) -> Sequence[e.Event]:
    job = in_turn(image, command, "step")
    if command.completed.step != job.steps[job.steps_done]:
        raise Fenced(f"It is not the turn of step {command.completed.step}")
    return (command.completed,)


@on(c.RecordInspection)
def _record_inspection(command: c.RecordInspection, image: Image) -> Sequence[e.Event]:
    in_turn(image, command, "inspect")
    found = UNSET if command.disk_format is None else command.disk_format
    return (e.DataInspected(detected=command.detected, virtual_size=command.virtual_size, disk_format=found),)


@on(c.FailStep)
def _fail_step(command: c.FailStep, image: Image) -> Sequence[e.Event]:
    job = held_job(image, command)
    if turned_round(image, command):
        return ()
    if job.done and not job.must_succeed:  # what is stored stays; it is the rest that cannot be had
        return tuple(e.StoreFailed(store=store, reason=command.reason, kind=command.kind) for store in job.todo)
    return (e.StepFailed(step=command.step, reason=command.reason, kind=command.kind, inspection=command.inspection),)
