"""Every fact the log can hold: frozen, past tense, one fact each.

An event says what happened, completely: stores, plugins, limits and who asked
are resolved before it is recorded, so that folding it never needs today's
configuration.  Secrets never appear here.  The class name is the type in the
log; old shapes stay readable through the upcasters in `kernel/codec.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType

# --- values that events and state share -------------------------------------------


class Value(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the plain values inside events."""


class Digests(Value, frozen=True, kw_only=True):
    """Hashes of one blob, lower-case hex; `algo` names the one in `value`."""

    md5: str
    algo: str
    value: str


class Format(Value, frozen=True, kw_only=True):
    """One disk format that the inspector recognised in the bytes."""

    name: str
    virtual_size: int | None = None
    unsafe: dict[str, str] = {}
    """Safety checks that failed: name of the check -> what it found."""
    variant: str | None = None
    """vmdk: the create-type, lower case."""


class Facts(Value, frozen=True, kw_only=True):
    """What inspection saw while the bytes went by; judged later, by `kernel/verdict.py`."""

    formats: tuple[Format, ...] = ()


class Identity(Value, frozen=True, kw_only=True):
    """A local file as it was when its digests were taken; any difference means: hash again."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class Blob(Value, frozen=True, kw_only=True):
    """Bytes at a name of ours in a store (staging is one)."""

    store: str
    name: str
    url: str
    size: int
    digests: Digests
    facts: Facts | None = None
    identity: Identity | None = None
    node: str | None = None
    """The node that alone can reach it, where staging is not shared."""


class Location(Value, frozen=True, kw_only=True):
    """One committed copy of an image's data."""

    store: str
    url: str
    """What the store driver needs to find the bytes again."""
    name: str | None = None
    """The name of ours behind the URL; None for bytes that somebody else put there."""
    size: int | None = None
    metadata: dict[str, Any] = {}


class Sweep(Value, frozen=True, kw_only=True):
    """Names of ours below an epoch that a dead or failed writer may have left in a store."""

    store: str
    below: int
    due: datetime | None = None
    """Not before this; None is at once."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all events."""


# --- the image and its metadata ----------------------------------------------------


class ImageCreated(Event, frozen=True, kw_only=True):
    image_id: str
    owner: str | None = None
    name: str | None = None
    visibility: str = "shared"
    protected: bool = False
    hidden: bool = False
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    tags: tuple[str, ...] = ()
    properties: dict[str, str | None] = {}


class ImageExpected(Event, frozen=True, kw_only=True):
    """An image was asked for that its import is to make; until it has appeared there is none for anybody to see."""

    image: ImageCreated


class ImageAppeared(Event, frozen=True, kw_only=True):
    """The expected image is there, for everybody to see: `active` once its import is done, `queued` before that."""


class ImageUpdated(Event, frozen=True, kw_only=True):
    """Attributes that a PATCH, a plugin or a copy from elsewhere set; absent means untouched."""

    name: str | UnsetType | None = UNSET
    owner: str | UnsetType | None = UNSET
    visibility: str | UnsetType = UNSET
    protected: bool | UnsetType = UNSET
    hidden: bool | UnsetType = UNSET
    disk_format: str | UnsetType | None = UNSET
    container_format: str | UnsetType | None = UNSET
    min_disk: int | UnsetType = UNSET
    min_ram: int | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    properties_set: dict[str, str | None] = {}
    properties_removed: tuple[str, ...] = ()


class TagAdded(Event, frozen=True, kw_only=True):
    tag: str


class TagRemoved(Event, frozen=True, kw_only=True):
    tag: str


class MemberAdded(Event, frozen=True, kw_only=True):
    member: str


class MemberStatusChanged(Event, frozen=True, kw_only=True):
    member: str
    status: str


class MemberRemoved(Event, frozen=True, kw_only=True):
    member: str


class ImageDeactivated(Event, frozen=True, kw_only=True):
    pass


class ImageReactivated(Event, frozen=True, kw_only=True):
    pass


class DeletionScheduled(Event, frozen=True, kw_only=True):
    """The image is gone for its users; its bytes are kept until `scrub_at`."""

    scrub_at: datetime


class ImageDeleted(Event, frozen=True, kw_only=True):
    pass


# --- bytes coming in ---------------------------------------------------------------


class StagingStarted(Event, frozen=True, kw_only=True):
    """A client began to stage data; `transfer` names this attempt."""

    transfer: str
    declared_size: int | None = None


class DataStaged(Event, frozen=True, kw_only=True):
    transfer: str
    blob: Blob


class StagingFailed(Event, frozen=True, kw_only=True):
    transfer: str
    reason: str


class UploadStarted(Event, frozen=True, kw_only=True):
    """A client began to send data straight into a store."""

    transfer: str
    store: str
    multi: bool = False
    """Whether the site had several stores, so that the image shows which one holds it."""
    declared_size: int | None = None


class DataUploaded(Event, frozen=True, kw_only=True):
    transfer: str
    location: Location
    digests: Digests
    virtual_size: int | None = None


class UploadFailed(Event, frozen=True, kw_only=True):
    transfer: str
    store: str
    reason: str
    kind: str = "internal"
    """One of `kernel.failures.KINDS`; decides the text consumers are told."""


# --- imports -----------------------------------------------------------------------


class ImportRequested(Event, frozen=True, kw_only=True):
    """An import was accepted, with everything it needs resolved."""

    task_id: str
    method: str
    request: dict[str, Any]
    """The body as the client sent it, credentials masked."""
    options: dict[str, Any] = {}
    """What the method needs, validated; credentials are kept elsewhere."""
    stores: tuple[str, ...] = ()
    multi: bool = False
    must_succeed: bool = True
    parallel: int = 1
    """How many stores may be written at once."""
    steps: tuple[str, ...] = ()
    fetches: bool = False
    """Whether the method has to bring the bytes into staging first."""
    copies: bool = False
    """Whether the image stays active and keeps its data: a copy to further stores."""
    inspects: bool = True
    describes: bool = False
    """Whether the method first takes formats and properties over from elsewhere."""
    secret: bool = False
    """Whether credentials are kept for it elsewhere."""
    task_ttl: int = 172800
    """Seconds for which the finished task stays readable."""
    type: str = "api_image_import"
    """The kind of its public record; `import` and `image_import` make the image that they import,
    `location_import` takes over what lies somewhere already."""
    flaw: str | None = None
    """Why it cannot succeed, known already, but to be told by the task only."""


class ImportStarted(Event, frozen=True, kw_only=True):
    """A worker took the import up for the first time."""


class MetadataCopied(Event, frozen=True, kw_only=True):
    """Formats and properties were taken over from the image this one is a copy of."""

    disk_format: str | None = None
    container_format: str | None = None
    properties: dict[str, str | None] = {}
    size: int | None = None


class FetchStarted(Event, frozen=True, kw_only=True):
    """The source answered; with a validator an interrupted fetch can go on where it stopped.

    `boot` names the running system: only under the same one is a half-written file of a
    killed process known to hold what was written to it.
    """

    name: str
    total: int | None = None
    validator: str | None = None
    boot: str | None = None


class DataFetched(Event, frozen=True, kw_only=True):
    blob: Blob


class StepCompleted(Event, frozen=True, kw_only=True):
    """A plugin finished; what it changed, if anything."""

    step: str
    blob: Blob | None = None
    disk_format: str | UnsetType = UNSET
    container_format: str | UnsetType = UNSET
    virtual_size: int | UnsetType = UNSET
    properties_set: dict[str, str | None] = {}
    properties_removed: tuple[str, ...] = ()


class DataInspected(Event, frozen=True, kw_only=True):
    """The bytes passed: they are what they are declared to be, and safe."""

    detected: tuple[str, ...] = ()
    virtual_size: int | None = None
    disk_format: str | UnsetType = UNSET
    """What an image whose format nobody had declared turned out to be."""


class StepFailed(Event, frozen=True, kw_only=True):
    """Something before the stores went wrong; the import is to be taken back."""

    step: str
    reason: str
    kind: str = "internal"
    inspection: bool = False
    """Whether the data itself was refused (consumers are told by an ERROR)."""


class StoreStarted(Event, frozen=True, kw_only=True):
    store: str
    name: str
    """The name of ours under which the bytes will appear in the store."""


class StoreSucceeded(Event, frozen=True, kw_only=True):
    store: str
    location: Location
    digests: Digests


class StoreFailed(Event, frozen=True, kw_only=True):
    store: str
    reason: str
    kind: str = "internal"


class StagingCleared(Event, frozen=True, kw_only=True):
    """The staged bytes of a finished import are gone, except those that could not be removed yet."""

    kept: tuple[str, ...] = ()


class ImportCompleted(Event, frozen=True, kw_only=True):
    task_id: str


class ImportFailed(Event, frozen=True, kw_only=True):
    """Everything the import did has been taken back, or is noted as still to be removed."""

    task_id: str
    reason: str


class ImportCancelled(Event, frozen=True, kw_only=True):
    """Somebody asked to stop the import; it ends as a failure once everything is taken back."""

    task_id: str
    reason: str


class ImportPreempted(Event, frozen=True, kw_only=True):
    """A new import took the image over from one that nobody had touched for so long that its lock had expired."""

    task_id: str


class ImageImportExpired(Event, frozen=True, kw_only=True):
    """The record of a finished image import is not to be shown any more."""

    task_id: str


# --- locations -----------------------------------------------------------------------


class LocationAdded(Event, frozen=True, kw_only=True):
    location: Location
    size: int | None = None
    digests: Digests | None = None
    index: int | None = None


class DataHashed(Event, frozen=True, kw_only=True):
    """What lies at a registered location was read, and has these hashes."""

    digests: Digests


class LocationsReplaced(Event, frozen=True, kw_only=True):
    locations: tuple[Location, ...]


class LocationRemoved(Event, frozen=True, kw_only=True):
    url: str
    store: str
    metadata: dict[str, Any] = {}


# --- work and clean-up ---------------------------------------------------------------


class LeaseTakenOver(Event, frozen=True, kw_only=True):
    """Another worker goes on where the former one stopped.

    `sweep_at` is when names left by the former worker are looked for once more, in
    case it was only stopped and wakes up late; None when it handed the work over.
    """

    sweep_at: datetime | None = None


class BytesPurged(Event, frozen=True, kw_only=True):
    """Bytes that no image needs any more were removed, or found gone."""

    blobs: tuple[tuple[str, str], ...] = ()
    """Pairs of store and location or name."""
    sweeps: tuple[Sweep, ...] = ()
    """Searches for leftovers of this image that were carried out."""


# --- reads that must be audited (a side stream) ----------------------------------------


class ImageSent(Event, frozen=True, kw_only=True):
    """A download ended; short of `asked`, it broke off."""

    image_id: str
    owner: str | None
    sent: int
    """Bytes."""
    asked: int
    receiver_project: str | None = None
    receiver_user: str | None = None


class Unrecognised(Struct, frozen=True):
    """Stands for an event that only a newer version knows; never written."""

    type: str
    v: int


EVENTS: tuple[type[Event], ...] = tuple(
    cls for cls in list(globals().values()) if isinstance(cls, type) and issubclass(cls, Event) and cls is not Event
)
