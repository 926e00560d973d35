"""The doors: what a file in `stores/` or `plugins/` may export as `EXTENSION`.

Each door is a frozen value with a config model, a way to bring the thing to
life and a `selftest` that makes the contract suites cover it.  What ships in
the box comes in through the same doors as a stranger's package.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import UUID

from msgspec import Struct
from pydantic import BaseModel, ConfigDict

from kernel.context import Actor
from kernel.events import Blob, Identity
from kernel.verdict import Rules

if TYPE_CHECKING:
    from kernel.image import Image
    from kernel.notifications import Notification


class NoConfig(BaseModel):
    """For extensions without options."""

    model_config = ConfigDict(extra="ignore")


# --- stores ------------------------------------------------------------------------------


class Stored(Struct, frozen=True, kw_only=True):
    """What a store reports after a write."""

    url: str
    """Finds the bytes again, as long as the image lives."""
    size: int
    md5: str | None = None
    """Hash that the store took itself, where it does."""


class Leftover(Struct, frozen=True):
    """A name of ours found in a store, whole or half written."""

    name: str
    epoch: int


class Store(Protocol):
    """Keeps bytes under names of ours: `<image>/<attempt>/<step>.<epoch>`.

    Names are unique: nobody writes one twice on purpose, and no write may
    replace another.  Drivers raise `kernel.errors.StoreError` and its kin only.
    """

    async def put(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> Stored:
        """Write all chunks, durably, or leave nothing behind: not on failure of the source, not on cancellation.

        A source that turns out longer or shorter than `size` is `Corrupt`; a name that is taken, `BlobExists`.
        """
        ...

    def read(self, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `offset`, at most `length` of them; `BlobMissing` when they are gone."""
        ...

    async def size(self, url: str) -> int:
        """Length in bytes; `BlobMissing` when they are gone."""
        ...

    async def delete(self, url: str) -> None:
        """Remove the bytes; quiet when they are gone already."""
        ...

    async def leftovers(self, prefix: str) -> Sequence[Leftover]:
        """Names of ours that begin with `prefix`, the half-written ones included."""
        ...

    async def remove(self, name: str) -> None:
        """Remove whatever lies under a name of ours, half-written or whole; quiet when there is nothing."""
        ...

    async def close(self) -> None:
        """Give connections and threads back."""
        ...

    @property
    def properties(self) -> Mapping[str, Any]:
        """What `stores/detail` tells operators; never a secret."""
        ...


@runtime_checkable
class AdoptsFiles(Protocol):
    """A store that can take a local file over without the bytes passing through this process."""

    async def adopt(self, name: str, path: Path, identity: Identity) -> Stored | None:
        """Make the file's bytes this store's, the file itself staying where it is.

        None when this file cannot be adopted (another disk): the caller then uses `put`.
        `Corrupt` when the file is not the one that `identity` describes.
        """
        ...


@runtime_checkable
class LocalFiles(Protocol):
    """A store whose objects are local files; staging has to be one."""

    def path(self, url: str) -> Path:
        """The file behind a URL."""
        ...

    def partial(self, name: str) -> Path:
        """Where the bytes of a name lie while it is being written; the file may not exist."""
        ...

    async def reserve(self, name: str) -> Path:
        """A path for a writer of ours, a subprocess say, to create; `seal` makes a file there an object.

        A directory may be made there instead: it lasts until `remove`, which takes all that is in it too.
        """
        ...

    async def seal(self, name: str) -> tuple[Stored, Identity]:
        """Make a reserved file durable and read-only."""
        ...

    async def identify(self, url: str) -> Identity:
        """The file as it is now."""
        ...

    async def untouched(self, seconds: float) -> Sequence[str]:
        """Names of ours, the half-written ones included, that nobody has written to for so long."""
        ...


@runtime_checkable
class Retains(Protocol):
    """A store on whose bytes others may depend: snapshots, clones, whoever has them open.

    It is asked before a deletion is recorded, so that the caller can be refused while the
    image is still whole.  Whoever begins to depend on the bytes after that makes `delete`
    raise the same; it is then tried again until the bytes are let go.
    """

    async def release(self, url: str) -> None:
        """Quiet if the bytes could be deleted now, or are gone; `BlobInUse` saying who depends on them if not."""
        ...


@runtime_checkable
class TakesForeign(Protocol):
    """A store in which others put bytes too, and where clients may register those by their location."""

    def foreign(self, url: str) -> bool:
        """Whether the location is none of ours, neither of this service nor of another one like it."""
        ...

    async def delete_foreign(self, url: str) -> None:
        """Remove bytes that somebody else put here; quiet when they are gone already."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSite:
    """What a store is told about its place: its name, and what below its root is ours."""

    name: str
    deployment: UUID
    fsync: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDriver:
    """A kind of back end; every `name:driver` in the configuration makes a store of it."""

    name: str
    config: type[BaseModel]
    connect: Callable[[Any, StoreSite], Awaitable[Store]]
    schemes: frozenset[str] = frozenset()
    """URL schemes whose locations belong to stores of this kind."""
    read_only: bool = False
    unavailable: str | None = None
    """Why it cannot be used here (a missing library), if so."""
    selftest: Callable[[Path], BaseModel] | None = None
    selftest_needs: str | None = None
    """A service that the selftest finds running, `s3` say; `ENTREPOT_TEST_S3` in the environment tells it where."""


# --- import methods ----------------------------------------------------------------------


class Opened(Struct, frozen=True, kw_only=True):
    """A source that answered."""

    chunks: AsyncIterator[bytes]
    total: int | None = None
    """Length of the whole, if the source told."""
    offset: int = 0
    """Where `chunks` begins: what was asked for, or 0 when the source starts over."""
    validator: str | None = None
    """What identifies this very version of the bytes (a strong ETag), for going on later."""
    close: Callable[[], Awaitable[None]] | None = None
    """Lets go of the source, whether or not `chunks` was read; may be called twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """What a method is asked to bring in."""

    image: Image
    options: Mapping[str, Any]
    secrets: Mapping[str, str]
    settings: Any
    """The method's own configuration."""
    stores: Mapping[str, Store]
    size_cap: int
    offset: int = 0
    validator: str | None = None
    since: float = field(default_factory=time.monotonic)
    """When this worker's fetch began, by the monotonic clock, however often it was interrupted since."""


class Description(Struct, frozen=True, kw_only=True):
    """Formats and properties taken over from the image this one is a copy of."""

    disk_format: str | None
    container_format: str | None
    properties: dict[str, str | None]
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportMethod:
    """A way for bytes to come in; offered when `enabled_import_methods` names it."""

    name: str
    options: type[BaseModel]
    """Validates the members of `method` in the request; must ignore what it does not know."""
    needs: str
    """Status the image must have: queued, uploading or active."""
    rule: str = "modify_image"
    """Policy rule that the caller must pass."""
    config: type[BaseModel] = NoConfig
    section: str | None = None
    shares: tuple[str, ...] = ()
    """Further sections that its config is read from."""
    rank: int = 50
    """Order among the methods that are enabled by default."""
    default: bool = True
    """Whether it is offered when the configuration names no methods."""
    open: Callable[[FetchRequest], Awaitable[Opened]] | None = None
    """Opens the source; None when the bytes are staged already.  `Interrupted` from its chunks means that
    the line broke: asked again with offset and validator, it may go on where it stopped."""
    describe: Callable[[FetchRequest], Awaitable[Description]] | None = None
    check: Callable[[Any], None] | None = None
    """Checks the options once the image is known to be importable; raises `Invalid`."""
    admit: Callable[[Any, Any], Awaitable[None]] | None = None
    """Last check before acceptance (options, config): may resolve names; raises `Invalid`."""
    secrets: Callable[[Any, Actor], tuple[dict[str, Any], dict[str, str]]] | None = None
    """Splits options into what may be recorded and what must be kept secret."""
    warnings: Callable[[Any], Sequence[str]] = lambda config: ()
    """What an operator may have overlooked in its config."""
    copies: bool = False
    """Whether it copies an active image to further stores, which keeps its status and data."""
    selftest: Callable[[Path], Mapping[str, Any]] | None = None


# --- import steps ------------------------------------------------------------------------


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds on what a step may produce."""

    size_cap: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """What a step works on."""

    image: Image
    actor: Actor
    request: Mapping[str, Any]
    task_id: str
    path: Path
    """The staged file, read-only."""
    blob: Blob
    output: Callable[[], Awaitable[Path]]
    """A path for the file that replaces the staged one; asked for only when there will be one."""
    scratch: Callable[[], Awaitable[Path]]
    """An empty directory on the disk of `output`, gone with all that is in it when the step is over."""
    settings: Any
    limits: Limits
    rules: Rules
    """The site's strictness about formats."""
    config_dirs: tuple[Path, ...] = ()
    """Where the operator's files lie."""
    progress: Callable[[int, int | None], None] = lambda done, total: None


class StepResult(Struct, frozen=True, kw_only=True):
    """What a step did.  Absent means unchanged."""

    replaced: bool = False
    """Whether there is a file at `output`, written and closed."""
    expects: str | None = None
    """The one disk format that the new bytes must turn out to have; `raw` includes disks with partitions."""
    disk_format: str | None = None
    container_format: str | None = None
    virtual_size: int | None = None
    properties: dict[str, str] = {}
    removed: tuple[str, ...] = ()


class Trial(Struct, frozen=True, kw_only=True):
    """What a step can be tried on: options, and data with which it has something to do."""

    config: BaseModel
    data: bytes
    disk_format: str = "raw"
    container_format: str = "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportStep:
    """Looks at staged data before any store is written; runs when `image_import_plugins` names it.

    Whatever `run` raises fails the import, with a message that names the step.  What it had
    reserved is cleared away; being cancelled, it must end whatever it has started.
    """

    name: str
    run: Callable[[StepRequest], Awaitable[StepResult]]
    config: type[BaseModel] = NoConfig
    section: str | None = None
    unavailable: Callable[[], str | None] = lambda: None
    """Why it cannot be used here, if so."""
    warnings: Callable[[], Sequence[str]] = lambda: ()
    """What an operator who uses it should know about this machine."""
    after: frozenset[str] = frozenset()
    """Steps that make sense only before this one."""
    since: str = ""
    """Release that brought it: Glance's, where it is one of Glance's."""
    origin: str | None = None
    """Where it comes from, if not from the file that exports it."""
    yields: bool = False
    """Whether it gives way to another step of the same name."""
    selftest: Callable[[Path], Trial] | None = None


# --- notifications -----------------------------------------------------------------------


class Refused(Exception):
    """The receiver will never take this message; those before it in the batch were delivered."""

    def __init__(self, message_id: UUID, reason: str) -> None:
        super().__init__(reason)
        self.message_id = message_id


class Sink(Protocol):
    """Takes notifications away.  May see one again after a crash, with the same id."""

    async def deliver(self, batch: Sequence[Notification]) -> None:
        """Hand all of them over, in order, durably.

        `Refused` for a message that is the trouble itself; anything else has the whole
        batch tried again.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationSink:
    name: str
    config: type[BaseModel]
    connect: Callable[[Any], Awaitable[Sink]]
    section: str | None = None
    unavailable: str | None = None
    selftest: Callable[[Path], BaseModel] | None = None


# --- authentication ----------------------------------------------------------------------


class Authenticator(Protocol):
    """Tells who sends a request."""

    async def identify(self, headers: Mapping[str, str], method: str, path: str) -> Actor:
        """The caller; `Unauthenticated` when there is none, `Unavailable` when nobody can tell."""
        ...

    @property
    def challenge(self) -> str | None:
        """Value of `WWW-Authenticate` on a refusal."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthBackend:
    name: str
    config: type[BaseModel]
    connect: Callable[[Any], Awaitable[Authenticator]]
    section: str | None = None
    loopback_only: bool = False
    """Whether it trusts everybody, so that only this machine may reach it."""
    unavailable: str | None = None
    selftest: Callable[[Path], BaseModel] | None = None


# --- keys --------------------------------------------------------------------------------


class KeySource(Protocol):
    """Where certificates come from, with which signatures of images are verified."""

    async def certificate(self, key_id: str) -> bytes:
        """An X.509 certificate, PEM or DER; `NotFound` if none has this id, `Unavailable` if none can be had."""
        ...

    async def delete(self, key_id: str, actor: Actor) -> None:
        """Forget a key, if this caller may have it forgotten; a source that keeps no keys does nothing."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyManager:
    """A kind of key source; `[entrepot] key_source` names one, or the configuration gives it away."""

    name: str
    config: type[BaseModel]
    connect: Callable[[Any, Mapping[str, Mapping[str, str]]], Awaitable[KeySource]]
    """From its own options, and every section as written, which is for libraries that read their own."""
    chosen_by: Callable[[Mapping[str, Mapping[str, str]]], bool] = lambda sections: False
    """Whether an operator who names none, but has written these sections, means this one."""
    reads: frozenset[str] = frozenset()
    """Sections that its library reads as it pleases."""
    section: str | None = None
    unavailable: str | None = None


Extension = StoreDriver | ImportMethod | ImportStep | NotificationSink | AuthBackend | KeyManager
