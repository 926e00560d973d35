"""Authentication: who sends a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from kernel.context import Actor


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
