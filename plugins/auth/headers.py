"""Identity from headers that a trusted proxy in front has set, or a test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import orjson
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field

from kernel.context import Actor
from kernel.errors import Unauthenticated
from kernel.extend import AuthBackend
from kernel.options import IniBool
from plugins._keystone import trimmed


class HeadersConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")

    allow_anonymous: IniBool = Field(
        False, description="Let requests without an identity read, as [DEFAULT] allow_anonymous_access does."
    )
    settings: Any = Field(None, exclude=True, description="The service's settings; not an option.")


_ANONYMOUS: Final = Actor(anonymous=True)

_TEXT: Final = {
    "user_id": ("X-User-Id",),
    "project_id": ("X-Project-Id", "X-Tenant-Id"),
    "user_domain_id": ("X-User-Domain-Id",),
    "project_domain_id": ("X-Project-Domain-Id",),
    "domain_id": ("X-Domain-Id",),
    "system_scope": ("OpenStack-System-Scope",),
}

_SERVICE: Final = {
    "service_user_id": ("X-Service-User-Id",),
    "service_project_id": ("X-Service-Project-Id",),
    "service_user_domain_id": ("X-Service-User-Domain-Id",),
    "service_project_domain_id": ("X-Service-Project-Domain-Id",),
    "token": ("X-Auth-Token",),
    "catalog": ("X-Service-Catalog",),
}


class TrustedHeaders:
    """Believes `X-Identity-Status: Confirmed` and what comes with it."""

    challenge = None

    def __init__(self, config: HeadersConfig) -> None:
        settings = config.settings
        self._anonymous = config.allow_anonymous or (settings is not None and settings.default.allow_anonymous_access)

    @classmethod
    async def open(cls, config: HeadersConfig) -> TrustedHeaders:
        return cls(config)

    async def identify(self, headers: Mapping[str, str], method: str, path: str) -> Actor:
        if headers.get("X-Identity-Status", "").lower() != "confirmed":
            if self._anonymous:
                return _ANONYMOUS
            raise Unauthenticated("The request carries no confirmed identity")
        return actor_of(headers)

    async def close(self) -> None:
        return None


def actor_of(headers: Mapping[str, str]) -> Actor:
    """The actor that identity headers describe."""
    names, service_roles = _TEXT, ""
    if headers.get("X-Service-Identity-Status", "confirmed").lower() == "confirmed":
        names, service_roles = {**_TEXT, **_SERVICE}, headers.get("X-Service-Roles", "")
    text = tuple((name, _first(headers, items)) for name, items in names.items())
    roles = headers.get("X-Roles", headers.get("X-Role", ""))
    actor = _actor(text, roles, service_roles, headers.get("X-Is-Admin-Project", "true"))
    token, catalog = headers.get("X-Auth-Token"), headers.get("X-Service-Catalog")
    return replace(actor, token=token, catalog=_catalog(catalog)) if token or catalog else actor


def _catalog(text: str | None) -> str:
    """What of a service catalogue matters here; one that cannot be read is none."""
    try:
        return orjson.dumps(trimmed(orjson.loads(text or "[]"))).decode()
    except orjson.JSONDecodeError:
        return ""


@lru_cache(maxsize=4096)
def _actor(text: tuple[tuple[str, str | None], ...], roles: str, service_roles: str, admin_project: str) -> Actor:
    return Actor(
        **{name: value for name, value in text if value},  # type: ignore[arg-type]
        roles=_roles(roles),
        service_roles=_roles(service_roles),
        is_admin_project=admin_project.strip().lower() != "false",
    )


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := headers.get(name))), None)


def _roles(text: str) -> frozenset[str]:
    return frozenset(role for item in text.split(",") if (role := item.strip().lower()))


EXTENSION = AuthBackend(
    name="headers",
    config=HeadersConfig,
    connect=TrustedHeaders.open,
    section="auth_headers",
    selftest=lambda tmp: HeadersConfig(),
)
