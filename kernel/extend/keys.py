"""Key sources: certificates, with which signatures of images are verified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from kernel.context import Actor


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
