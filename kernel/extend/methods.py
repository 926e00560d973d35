"""Import methods: ways for bytes to come in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from pydantic import BaseModel

from kernel.context import Actor
from kernel.extend.options import NoConfig
from kernel.extend.stores import Store

if TYPE_CHECKING:
    from kernel.image import Image


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
