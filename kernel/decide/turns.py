"""Whose turn it is: a worker may record only what its import needs next, while it holds the image."""

from __future__ import annotations

from kernel import commands as c
from kernel.errors import Fenced
from kernel.image import Image, Job
from kernel.work import Kind, outstanding


def held_job(image: Image, command: c.WorkerCommand) -> Job:
    """The job, running or being taken back, if it is the one that the worker works for."""
    job = image.job
    if job is None or job.task_id != command.task_id:
        raise Fenced(f"Task {command.task_id} does not hold the image any more")
    return job


def running(image: Image, command: c.WorkerCommand) -> Job:
    """The job, if it has not failed."""
    job = held_job(image, command)
    if job.failure is not None:
        raise Fenced(f"Task {command.task_id} is being taken back: {job.failure.reason}")
    return job


def turned_round(image: Image, command: c.WorkerCommand) -> bool:
    """Whether the import is being taken back, so that how one of its steps ended matters to nobody any more."""
    return held_job(image, command).failure is not None


def in_turn(image: Image, command: c.WorkerCommand, kind: Kind) -> Job:
    """The running job, if this is what it needs next: nothing is recorded twice, nor out of order."""
    job, work = running(image, command), outstanding(image)
    if work is None or work.kind != kind:
        raise Fenced(f"Task {command.task_id} does not need '{kind}' now")
    return job
