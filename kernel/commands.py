"""What can be asked of an image: imperatives, with every fact the decision needs.

Commands of users carry what the edge has resolved (which stores exist, what a
method needs); commands of workers carry what they found.  `kernel/decide/`
answers each with events or refuses.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from kernel import events as e
from kernel.locations import Given, Terms
from kernel.patch import Operation


class Command(Struct, frozen=True, kw_only=True):
    """Base of all commands."""


# --- metadata --------------------------------------------------------------------------


class CreateImage(Command, frozen=True, kw_only=True):
    image: e.ImageCreated


class PatchImage(Command, frozen=True, kw_only=True):
    """Change attributes and custom properties, in this order, all or nothing; negative quotas are no limit."""

    operations: tuple[Operation, ...]
    property_quota: int = -1
    tag_quota: int = -1


class AddTag(Command, frozen=True, kw_only=True):
    """Quiet if the image has it."""

    tag: str
    quota: int = -1


class RemoveTag(Command, frozen=True, kw_only=True):
    tag: str


class AddMember(Command, frozen=True, kw_only=True):
    member: str
    quota: int = -1


class SetMemberStatus(Command, frozen=True, kw_only=True):
    member: str
    status: str


class RemoveMember(Command, frozen=True, kw_only=True):
    member: str


class Deactivate(Command, frozen=True, kw_only=True):
    """Take the data out of reach; quiet if it is."""


class Reactivate(Command, frozen=True, kw_only=True):
    """Give it back; quiet if it is in reach."""


class ExpectImage(Command, frozen=True, kw_only=True):
    """Import what is to become a new image."""

    image: e.ImageCreated
    request: e.ImportRequested


class DeleteImage(Command, frozen=True, kw_only=True):
    scrub_at: datetime | None = None
    """When the bytes are to go, at a site that keeps them for a while."""


class ScrubImage(Command, frozen=True, kw_only=True):
    """The time of an image that was deleted but kept is over."""

    now: datetime


class RemoveCopy(Command, frozen=True, kw_only=True):
    """Take one store's copy away from an image that has another."""

    store: str


# --- locations that clients register -----------------------------------------------------


class AddLocation(Command, frozen=True, kw_only=True):
    given: Given
    at: int | None = None
    """Its place among the locations; by default the last."""
    terms: Terms


class RemoveLocation(Command, frozen=True, kw_only=True):
    index: int
    terms: Terms


class ReplaceLocations(Command, frozen=True, kw_only=True):
    given: tuple[Given, ...]
    terms: Terms


class RegisterLocation(Command, frozen=True, kw_only=True):
    """Have a worker take over what lies at a location."""

    request: e.ImportRequested


# --- bytes from clients ----------------------------------------------------------------


class StartStaging(Command, frozen=True, kw_only=True):
    transfer: str
    declared_size: int | None = None


class CompleteStaging(Command, frozen=True, kw_only=True):
    transfer: str
    blob: e.Blob


class StartUpload(Command, frozen=True, kw_only=True):
    transfer: str
    store: str
    multi: bool = False
    declared_size: int | None = None


class CompleteUpload(Command, frozen=True, kw_only=True):
    transfer: str
    location: e.Location
    digests: e.Digests
    virtual_size: int | None = None


class FailTransfer(Command, frozen=True, kw_only=True):
    """Give a stage or an upload up; quiet when there is nothing to give up."""

    transfer: str
    reason: str
    kind: str = "internal"


# --- imports ---------------------------------------------------------------------------


class RequestImport(Command, frozen=True, kw_only=True):
    needs: str
    """The status the method starts from."""
    request: e.ImportRequested


class WorkerCommand(Command, frozen=True, kw_only=True):
    """Base of what a worker says about the job it holds."""

    task_id: str


class BeginImport(WorkerCommand, frozen=True, kw_only=True):
    pass


class RecordMetadata(WorkerCommand, frozen=True, kw_only=True):
    copied: e.MetadataCopied


class RecordFetchStart(WorkerCommand, frozen=True, kw_only=True):
    started: e.FetchStarted


class RecordFetch(WorkerCommand, frozen=True, kw_only=True):
    blob: e.Blob


class RecordStep(WorkerCommand, frozen=True, kw_only=True):
    completed: e.StepCompleted


class RecordInspection(WorkerCommand, frozen=True, kw_only=True):
    detected: tuple[str, ...] = ()
    virtual_size: int | None = None
    disk_format: str | None = None
    """What to take an image for whose format nobody has declared."""


class RecordLocation(WorkerCommand, frozen=True, kw_only=True):
    location: e.Location
    digests: e.Digests | None = None
    """Hashes that nobody is going to verify."""


class RecordHash(WorkerCommand, frozen=True, kw_only=True):
    digests: e.Digests


class FailStep(WorkerCommand, frozen=True, kw_only=True):
    step: str
    reason: str
    kind: str = "internal"
    inspection: bool = False


class StartStore(WorkerCommand, frozen=True, kw_only=True):
    store: str
    name: str


class RecordStoreSuccess(WorkerCommand, frozen=True, kw_only=True):
    store: str
    location: e.Location
    digests: e.Digests


class RecordStoreFailure(WorkerCommand, frozen=True, kw_only=True):
    store: str
    reason: str
    kind: str = "internal"


class ClearStaging(WorkerCommand, frozen=True, kw_only=True):
    """The staged bytes are gone, except those `kept`; the import is complete with that."""

    kept: tuple[str, ...] = ()


class FinishUndo(WorkerCommand, frozen=True, kw_only=True):
    """Everything that could be taken back has been; what could not stays noted as garbage."""

    purged: tuple[tuple[str, str], ...] = ()
    swept: tuple[e.Sweep, ...] = ()


class CancelImport(Command, frozen=True, kw_only=True):
    task_id: str
    reason: str


class PreemptImport(Command, frozen=True, kw_only=True):
    """Make way for a new import, the lock of this one having expired; quiet if it has ended meanwhile."""

    task_id: str
    as_of: int
    """Version of the image at which the lock was found expired: whatever has happened since is a sign of life."""


class ExpireImageImport(Command, frozen=True, kw_only=True):
    """Let the record of a finished image import go; quiet when it has gone already."""

    task_id: str


# --- work and clean-up -----------------------------------------------------------------


class TakeOver(Command, frozen=True, kw_only=True):
    sweep_at: datetime | None = None


class RecordPurge(Command, frozen=True, kw_only=True):
    blobs: tuple[tuple[str, str], ...] = ()
    sweeps: tuple[e.Sweep, ...] = ()
