"""Import steps, which Glance calls import plugins: they look at staged data, and may change it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from pydantic import BaseModel

from kernel.context import Actor
from kernel.events import Blob
from kernel.extend.options import NoConfig
from kernel.verdict import Rules

if TYPE_CHECKING:
    from kernel.image import Image


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
