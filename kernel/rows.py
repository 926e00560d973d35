"""What follows from a change of state: the rows that the appending call writes with the events.

Pure.  The state is both the snapshot that the next decision starts from and what the
API shows of an image; the image row is what lists are filtered and sorted by.
`rebuild` makes the same rows from the log alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from kernel.charges import Charge, Limits, charged, delta
from kernel.codec import encode
from kernel.image import FOLD, Image, Task
from kernel.listing import property_term
from kernel.work import bound_to, interrupts, outstanding

_AT_ONCE = timedelta(days=1)
"""Work that is due at once is dated back, so that no difference between clocks can hold it up."""


class ImageRow(Struct, frozen=True, kw_only=True):
    """The columns of `images`."""

    id: UUID
    image_id: str
    version: int
    owner: str | None
    name: str | None
    status: str
    visibility: str
    hidden: bool
    protected: bool
    disk_format: str | None
    container_format: str | None
    min_disk: int
    min_ram: int
    size: int | None
    virtual_size: int | None
    checksum: str | None
    os_hash_algo: str | None
    os_hash_value: str | None
    tags: tuple[str, ...]
    properties: list[str]
    created_at: datetime
    updated_at: datetime
    work: str | None
    due_at: datetime | None
    node: str | None


class StateRow(Struct, frozen=True, kw_only=True):
    """The columns of `states`."""

    id: UUID
    version: int
    fold: int
    state: msgspec.Raw


class TaskRow(Struct, frozen=True, kw_only=True):
    """The columns of `tasks`."""

    id: str
    image: UUID
    image_id: str
    type: str
    status: str
    owner: str | None
    document: msgspec.Raw
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


class MemberRow(Struct, frozen=True, kw_only=True):
    """The columns of `members`."""

    image: UUID
    member: str
    status: str
    removed: bool
    created_at: datetime
    updated_at: datetime


class Take(Struct, frozen=True, kw_only=True):
    """The lease to take with an append: refused as `held` while somebody else's is alive."""

    owner: UUID
    node: str
    epoch: int
    ttl: float
    """Seconds."""
    yielding: bool = False
    """Held for clean-up only: whoever has real work for the image may take it at once."""
    project: str | None = None
    resource: str | None = None


class Secret(Struct, frozen=True):
    name: str
    data: bytes
    """Encrypted."""


class Rows(Struct, frozen=True, kw_only=True):
    """Everything that the append writes beside the events, if it is accepted."""

    image: ImageRow | None = None
    state: StateRow | None = None
    tasks: tuple[TaskRow, ...] = ()
    members: tuple[MemberRow, ...] = ()
    charges: tuple[Charge, ...] = ()
    take: Take | None = None
    release: bool = False
    park: float | None = None
    """Give the lease back, but let nobody have it for so many seconds: a back-off."""
    secrets: tuple[Secret, ...] = ()
    forget: bool = False
    interrupt: bool = False


def image_row(stream: UUID, image: Image) -> ImageRow:
    """The row of an image."""
    work = outstanding(image)
    due = None if work is None else work.due or image.at - _AT_ONCE
    return ImageRow(
        id=stream,
        image_id=image.id,
        version=image.version,
        owner=image.owner,
        name=image.name,
        status=image.status,
        visibility=image.visibility,
        hidden=image.hidden,
        protected=image.protected,
        disk_format=image.disk_format,
        container_format=image.container_format,
        min_disk=image.min_disk,
        min_ram=image.min_ram,
        size=image.size,
        virtual_size=image.virtual_size,
        checksum=image.checksum,
        os_hash_algo=image.hash_algo,
        os_hash_value=image.hash_value,
        tags=image.tags,
        properties=[property_term(name, value) for name, value in shown_properties(image).items()],
        created_at=image.created_at,
        updated_at=image.updated_at,
        work=work.kind if work else None,
        due_at=due,
        node=bound_to(image),
    )


def state_row(stream: UUID, image: Image) -> StateRow:
    """The row of an image's state."""
    return StateRow(id=stream, version=image.version, fold=FOLD, state=msgspec.Raw(encode(image)))


def shown_properties(image: Image) -> dict[str, str | None]:
    """Custom properties and the service's own, as clients see and filter them."""
    if image.importing is None and image.job is None:
        return image.properties
    shown = dict(image.properties)
    if image.job is not None:
        shown["os_glance_import_task"] = image.job.task_id
    if image.importing is not None:
        shown["os_glance_importing_to_stores"] = ",".join(image.importing)
        shown["os_glance_failed_import"] = ",".join(image.failed or ())
    return shown


def task_row(stream: UUID, image_id: str, task: Task) -> TaskRow:
    """The row of a task."""
    return TaskRow(
        id=task.id,
        image=stream,
        image_id=image_id,
        type=task.type,
        status=task.status,
        owner=task.owner,
        document=msgspec.Raw(encode(task)),
        created_at=task.created_at,
        updated_at=task.updated_at,
        expires_at=task.expires_at,
    )


def task_rows(stream: UUID, before: Image, after: Image, between: Sequence[Image] = ()) -> tuple[TaskRow, ...]:
    """Rows of the tasks that the change touched, those included that ended on the way from one state to the other."""
    tasks = {image.task.id: image.task for image in (*between, after) if image.task is not None}
    return tuple(task_row(stream, after.id, task) for task in tasks.values() if task != before.task)


def member_rows(stream: UUID, before: Image, after: Image) -> tuple[MemberRow, ...]:
    """Rows of the members that the change touched."""
    if after.members is before.members:
        return ()
    return tuple(
        MemberRow(
            image=stream,
            member=name,
            status=member.status,
            removed=member.removed,
            created_at=member.created_at,
            updated_at=member.updated_at,
        )
        for name, member in after.members.items()
        if before.members.get(name) != member
    )


def rows_between(
    stream: UUID,
    before: Image,
    after: Image,
    limits: Limits | None = None,
    *,
    between: Sequence[Image] = (),
    forget: bool = False,
    **more: Any,
) -> Rows:
    """The rows that a change of state writes, with the limits that its charges are held to.

    between: the states on the way.
    """
    done_with_secrets = before.job is not None and bool(before.job.secret) and after.job is None
    return Rows(
        image=image_row(stream, after),
        state=state_row(stream, after),
        tasks=task_rows(stream, before, after, between),
        members=member_rows(stream, before, after),
        charges=charged(delta(before, after), limits or {}),
        forget=forget or done_with_secrets,
        interrupt=interrupts(before, after),
        **more,
    )
