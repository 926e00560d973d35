"""What still has to happen for an image: pure, from its state alone.

Events wake the reactor; this function decides.  A start-up, a missed
notification, a duplicate and an expired lease are therefore all the same case:
look at the state, do what is outstanding, record it, look again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

from kernel.image import Image, Job

Kind = Literal[
    "discard",  # a client's transfer whose process is gone: back to queued
    "begin",
    "describe",  # take formats and properties over from elsewhere
    "register",  # find out whose a location is and how much lies there
    "hash",  # read what lies there
    "fetch",  # bring the bytes into staging
    "step",  # run the next plugin
    "inspect",
    "store",  # write to the next store
    "clear",  # drop the staged bytes and complete
    "undo",  # take a failed import back
    "purge",  # remove bytes that nobody needs
    "expire",  # let the record of a finished image import go
]


class Work(Struct, frozen=True):
    """One piece of outstanding work.  `key` is the same for as long as it is the same piece."""

    kind: Kind
    key: str
    subject: str | None = None
    due: datetime | None = None


def outstanding(image: Image) -> Work | None:
    """The next thing to do for `image`, or None."""
    if image.transfer is not None:
        return Work("discard", f"discard:{image.transfer.id}")
    if image.job is not None:
        return _next_step(image.job)
    if image.garbage:
        return Work("purge", f"purge:{image.version}")
    waiting = [sweep.due for sweep in image.sweeps]
    if image.status == "pending_delete":
        waiting.append(image.scrub_at)
    due = None if None in waiting else min((at for at in waiting if at), default=None)
    if image.expiring is not None:
        expires = image.expiring.expires_at
        if not waiting or (due is not None and expires is not None and expires < due):
            return Work("expire", f"expire:{image.expiring.id}", due=expires)
    return Work("purge", f"purge:{image.version}", due=due) if waiting else None


def bound_to(image: Image) -> str | None:
    """The only node that can do what is outstanding: the one whose staging area holds the bytes."""
    if image.job is not None:
        return image.job.data.node if image.job.data is not None else None
    nodes = {item.node for item in image.garbage}
    return nodes.pop() if len(nodes) == 1 else None


def _next_step(job: Job) -> Work:
    task = job.task_id
    if job.failure is not None:
        return Work("undo", f"undo:{task}")
    if not job.started:
        return Work("begin", f"begin:{task}")
    if job.registers:
        kind: Kind = "hash" if job.registered else "register"
        return Work(kind, f"{kind}:{task}")
    if job.describes and not job.described:
        return Work("describe", f"describe:{task}")
    if job.fetches and job.data is None and not job.done and not job.failed:
        return Work("fetch", f"fetch:{task}")
    if job.steps_done < len(job.steps):
        step = job.steps[job.steps_done]
        return Work("step", f"step:{task}:{job.steps_done}", step)
    if job.inspects and not job.inspected:
        return Work("inspect", f"inspect:{task}")
    if job.todo:
        return Work("store", f"store:{task}:{job.todo[0]}", job.todo[0])
    return Work("clear", f"clear:{task}")


def interrupts(before: Image, after: Image) -> bool:
    """Whether the change means that whoever works on the image must look up from its work."""
    was, now = before.job, after.job
    if was is not None and (now is None or now.task_id != was.task_id or (now.failure and not was.failure)):
        return True
    return before.transfer is not None and after.transfer is None
