"""The state of one image: what folding its stream gives.

Everything an image is or has under way is in here, so that `decide`,
`outstanding` and the API all answer from this one value.  It is stored as the
image's row by the very call that appends the events (`kernel/rows.py`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

from kernel.events import Blob, Location, Sweep

FOLD: Final = 3
"""Version of the fold: raised whenever `evolve` gives another state from the same
events.  A row made by another version is not trusted; the stream is folded instead."""

STAGING: Final = "os_glance_staging_store"
"""Name of the store that staged bytes live in; never shown to clients."""

Status = Literal[
    "expected",
    "queued",
    "saving",
    "uploading",
    "importing",
    "active",
    "deactivated",
    "pending_delete",
    "deleted",
    "killed",
]
"""`expected` is ours: an image that its import is still to make.  No request ever sees it."""

TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    "expected": frozenset({"queued", "active", "deleted"}),
    "queued": frozenset({"saving", "uploading", "importing", "active", "deleted"}),
    "saving": frozenset({"active", "queued", "deleted"}),
    "uploading": frozenset({"importing", "queued", "deleted"}),
    "importing": frozenset({"active", "queued", "deleted"}),
    "active": frozenset({"deactivated", "pending_delete", "deleted"}),
    "deactivated": frozenset({"active", "pending_delete", "deleted"}),
    "pending_delete": frozenset({"active", "deleted"}),
    "killed": frozenset({"deleted"}),
    "deleted": frozenset(),
}
"""Which statuses may follow which; a property test holds every fold to it."""

GONE: Final = frozenset({"expected", "deleted", "pending_delete"})
"""Statuses of images that no request can see: those that are no more, and those that are not yet."""

WITHOUT_DATA: Final = frozenset({"expected", "queued", "importing"})
"""Statuses in which an image that is being imported, not copied, has no data that anybody could read."""

IMPORT: Final = "import"
"""Type of the tasks that download a new image, which is there for all to see while they do."""

IMAGE_IMPORT: Final = "image_import"
"""Type of the records of `/v2/image-imports`, whose image appears with their success."""


LOCATION_IMPORT: Final = "location_import"
"""Type of the tasks that register and hash what lies somewhere already."""


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the values inside the state."""


class Member(State, frozen=True, kw_only=True):
    status: str
    created_at: datetime
    updated_at: datetime
    removed: bool = False


class Transfer(State, frozen=True, kw_only=True):
    """A client sending bytes right now, into staging or straight into a store."""

    id: str
    store: str
    epoch: int
    declared_size: int | None = None
    multi: bool = False


class Failure(State, frozen=True, kw_only=True):
    """Why an import is being taken back."""

    reason: str
    kind: str = "internal"
    blame_all: bool = False
    """Whether every requested store counts as failed, rather than those that were tried."""
    from_outside: bool = False
    """Whether somebody else than the worker turned the import round, perhaps while it was writing."""


class Change(State, frozen=True, kw_only=True):
    """What was there before steps changed an attribute or property, so that it can be put back."""

    old: str | None = None
    was_absent: bool = False


class Fetch(State, frozen=True, kw_only=True):
    """A download that began, and what it takes to go on with it."""

    name: str
    total: int | None = None
    validator: str | None = None
    boot: str | None = None


class Job(State, frozen=True, kw_only=True):
    """The import that holds the image."""

    task_id: str
    method: str
    options: dict[str, Any] = {}
    stores: tuple[str, ...] = ()
    todo: tuple[str, ...] = ()
    """Stores not handled yet, in order."""
    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    writing: dict[str, str] = {}
    """Stores being written -> the name under which the bytes will appear."""
    multi: bool = False
    must_succeed: bool = True
    parallel: int = 1
    steps: tuple[str, ...] = ()
    steps_done: int = 0
    fetches: bool = False
    secret: bool = False
    copies: bool = False
    inspects: bool = True
    describes: bool = False
    described: bool = False
    expected_size: int | None = None
    """Bytes that the image this one is copied from has."""
    makes: bool = False
    """Whether it makes the image that it imports, so that the image goes if the import fails."""
    registers: bool = False
    """Whether it takes over what lies somewhere already; it writes nothing."""
    registered: bool = False
    flaw: str | None = None
    started: bool = False
    inspected: bool = False
    fetch: Fetch | None = None
    data: Blob | None = None
    """The staged bytes as they are after the last step."""
    virtual_size: int | None = None
    format_changes: dict[str, Change] = {}
    property_changes: dict[str, Change] = {}
    """By name; what somebody else has changed since is theirs, and not in here."""
    failure: Failure | None = None
    cleared: bool = False
    take_overs: int = 0


class Task(State, frozen=True, kw_only=True):
    """The public record of a job."""

    id: str
    type: str
    status: Literal["pending", "processing", "waiting", "uploading", "verifying", "success", "failure"]
    """In the words of its resource: an image import is waiting, uploading or verifying before it ends."""
    method: str
    owner: str | None = None
    user_id: str | None = None
    roles: tuple[str, ...] = ()
    correlation: UUID | None = None
    request_id: str | None = None
    request: dict[str, Any] = {}
    stores: tuple[str, ...] = ()
    multi: bool = False
    message: str = ""
    created_at: datetime
    updated_at: datetime
    ttl: int = 172800
    expires_at: datetime | None = None

    @property
    def final(self) -> bool:
        return self.status in ("success", "failure")


class Garbage(State, frozen=True, kw_only=True):
    """Bytes nobody needs any more, still to be removed."""

    store: str
    url: str
    node: str | None = None
    """The node that alone can reach them, where staging is not shared."""


class Image(State, frozen=True, kw_only=True):
    """One image.  `version` is the number of events folded; 0 is no image yet."""

    id: str = ""
    version: int = 0
    status: Status = "queued"
    owner: str | None = None
    name: str | None = None
    visibility: str = "shared"
    protected: bool = False
    hidden: bool = False
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    size: int | None = None
    virtual_size: int | None = None
    checksum: str | None = None
    hash_algo: str | None = None
    hash_value: str | None = None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    scrub_at: datetime | None = None
    """When the bytes of an image that waits for it (`pending_delete`) are to go."""
    at: datetime
    """When the newest event happened; the next one is no earlier."""
    tags: tuple[str, ...] = ()
    properties: dict[str, str | None] = {}
    members: dict[str, Member] = {}
    locations: tuple[Location, ...] = ()
    multi: bool = False
    """Whether its data was stored while the site had several stores."""

    transfer: Transfer | None = None
    staged: Blob | None = None
    job: Job | None = None
    task: Task | None = None
    """The newest task; older ones live on in their own rows."""
    expiring: Task | None = None
    """The record of the image import that made this image, until it has expired."""
    importing: tuple[str, ...] | None = None
    """Stores still to do, sorted; None before the first import."""
    failed: tuple[str, ...] | None = None
    garbage: tuple[Garbage, ...] = ()
    sweeps: tuple[Sweep, ...] = ()

    @property
    def exists(self) -> bool:
        return self.version > 0

    @property
    def gone(self) -> bool:
        return self.status in GONE

    @property
    def expected(self) -> bool:
        """Whether it is still to be made by its import."""
        return self.status == "expected"

    @property
    def stores(self) -> tuple[str, ...]:
        """Stores that hold committed data, in the order of the locations, each once."""
        return tuple(dict.fromkeys(location.store for location in self.locations))

    @property
    def removable(self) -> tuple[Location, ...]:
        """Copies that the running import made and that fall with it."""
        job = self.job
        if job is None:
            return ()
        return tuple(loc for loc in self.locations if loc.store in job.done)


def member_of(image: Image, project: str | None) -> Member | None:
    """The project's membership, if the image is shared with it."""
    if project is None or image.visibility != "shared":
        return None
    member = image.members.get(project)
    return member if member is not None and not member.removed else None
