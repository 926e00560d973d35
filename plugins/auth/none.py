"""No authentication: every caller is the administrator.  For one machine and its demos."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from kernel.context import Actor
from kernel.extend import AuthBackend


class NoneConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")

    user: str = Field("admin", description="User id that callers act as.")
    project: str | None = Field(None, description="Project that callers act in; unset: none.")


class Everyone:
    """Lets everybody in."""

    challenge = None

    def __init__(self, config: NoneConfig) -> None:
        self._actor = Actor(
            user_id=config.user,
            project_id=config.project,
            roles=frozenset({"admin", "manager", "member", "reader"}),
        )

    @classmethod
    async def open(cls, config: NoneConfig) -> Everyone:
        return cls(config)

    async def identify(self, headers: Mapping[str, str], method: str, path: str) -> Actor:
        return self._actor

    async def close(self) -> None:
        return None


EXTENSION = AuthBackend(
    name="none",
    config=NoneConfig,
    connect=Everyone.open,
    section="auth_none",
    loopback_only=True,
    selftest=lambda tmp: NoneConfig(),
)
