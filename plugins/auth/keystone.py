"""Identity from Keystone v3: tokens are validated there, and remembered here for a while.

    token ─▶ cache (by hash) ─▶ one validation at a time for each token, in a thread ─▶ actor

Expiry and access rules are looked at on every request, also when the answer comes from
the cache.  A Keystone that does not answer is a 503, never a 401, so that clients do
not throw good tokens away.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import structlog
from msgspec import Struct
from msgspec.structs import replace
from pydantic import Field

from kernel.context import Actor
from kernel.errors import Unauthenticated, Unavailable
from kernel.extend import AuthBackend
from kernel.options import IniBool, IniList
from plugins import _keystone
from plugins.auth._access_rules import permits

if _keystone.UNAVAILABLE is None:
    from keystoneauth1 import exceptions

log = structlog.get_logger(__name__)

_MOST_CACHED: Final = 20_000
_LONGEST_TOKEN: Final = 8192
_NEGATIVE: Final = 3.0
"""Seconds for which a token that Keystone does not know is not asked about again."""
_REST: Final = 1.0
"""Seconds for which a Keystone that cannot be reached is left alone: waiting for it would hold up everybody."""
_PATIENCE: Final = 1.5
"""Times the time-out of one attempt, after which a request is not held up any longer."""
_THREADS: Final = 8


class KeystoneConfig(_keystone.ServiceAccount):
    """[keystone_authtoken]"""

    www_authenticate_uri: str | None = Field(None, description="URL of Keystone as clients reach it.")
    interface: str = Field("internal", description="Interface of the identity endpoint.")
    region_name: str | None = Field(None, description="Region of the identity endpoint.")
    service_type: str = Field("image", description="What this service is called in access rules.")
    service_token_roles: IniList = Field(("service",), description="Roles that make a service token one.")
    service_token_roles_required: IniBool = Field(True, description="Whether a service token needs such a role.")
    include_service_catalog: IniBool = Field(True, description="Whether to ask for the caller's catalogue.")
    token_cache_time: int = Field(300, description="Seconds for which a validation is trusted; below 1 always asks.")
    http_connect_timeout: float = Field(10, gt=0, description="Seconds to wait for Keystone.")
    http_request_max_retries: int = Field(3, ge=0, description="How often Keystone is tried when it is not reached.")


class _Token(Struct, frozen=True):
    """A validated token, as far as requests need it."""

    actor: Actor
    expires_at: datetime
    access_rules: tuple[Mapping[str, str], ...] | None = None
    """None: no restriction."""
    services: frozenset[str] | None = None
    """Types of the services in its catalogue, if that was asked for."""


class Keystone:
    """Validates tokens and remembers the answers."""

    def __init__(self, config: KeystoneConfig) -> None:
        self._config = config
        self._session = _keystone.session(config, "keystone_authtoken", config.http_connect_timeout)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="keystone")
        self._cache: OrderedDict[bytes, tuple[float, _Token | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Token | None]] = {}
        self._away_until = 0.0
        self._service_roles = frozenset(role.lower() for role in config.service_token_roles)
        self._anonymous = bool(config.settings is not None and config.settings.default.allow_anonymous_access)
        self.challenge = f'Keystone uri="{config.www_authenticate_uri or config.auth_url}"'

    @classmethod
    async def open(cls, config: KeystoneConfig) -> Keystone:
        return await asyncio.to_thread(cls, config)

    async def identify(self, headers: Mapping[str, str], method: str, path: str) -> Actor:
        token = headers.get("X-Auth-Token", "").strip() or headers.get("X-Storage-Token", "").strip()
        if not token:
            if self._anonymous:
                return Actor(anonymous=True)
            raise Unauthenticated("The request carries no token")
        service = await self._service(headers.get("X-Service-Token", "").strip())
        known = await self._validated(token, allow_expired=service is not None)
        if known is None or (service is None and known.expires_at <= datetime.now(UTC)):
            raise Unauthenticated("The token is not valid")
        if service is None and not self._permits(known, method, path):
            raise Unauthenticated("The token's access rules do not permit this request")
        actor = replace(known.actor, token=token)
        return actor if service is None else _accompanied(actor, service)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- what a token allows -----------------------------------------------------------

    def _permits(self, token: _Token, method: str, path: str) -> bool:
        if token.access_rules is None:
            return True
        known = token.services is None or self._config.service_type in token.services
        return known and permits(token.access_rules, self._config.service_type, method, path)

    async def _service(self, token: str) -> Actor | None:
        """The service behind a service token; one that is not valid is as good as none."""
        if not token:
            return None
        known = await self._validated(token, allow_expired=False)
        if known is None or known.expires_at <= datetime.now(UTC):
            return None
        if self._config.service_token_roles_required and self._service_roles.isdisjoint(known.actor.roles):
            return None
        return known.actor

    # --- validation --------------------------------------------------------------------

    async def _validated(self, token: str, *, allow_expired: bool) -> _Token | None:
        """What Keystone says, now or a short while ago; whoever comes meanwhile waits for the same answer."""
        if len(token) > _LONGEST_TOKEN or not token.isascii() or not token.isprintable():
            return None
        key = hashlib.sha256(f"{allow_expired:d}{token}".encode()).digest()
        found = self._cache.get(key)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask(key, token, allow_expired))
            self._asking[key] = asking
            asking.add_done_callback(functools.partial(self._asked, key))
        return await asyncio.shield(asking)

    def _asked(self, key: bytes, task: asyncio.Task[_Token | None]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # it is told to those who wait; that nobody waits any more is no fault

    async def _ask(self, key: bytes, token: str, allow_expired: bool) -> _Token | None:
        if time.monotonic() < self._away_until:
            raise Unavailable("Keystone cannot be reached")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE * self._config.http_connect_timeout):
                answer = await loop.run_in_executor(self._pool, self._validate, token, allow_expired)
        except TimeoutError:  # the thread's own attempts, each with a time-out, add up to more than a client waits for
            self._away_until = time.monotonic() + _REST
            raise Unavailable("Keystone does not answer") from None
        lasts = float(self._config.token_cache_time) if answer is not None else _NEGATIVE
        if lasts > 0:
            self._cache.pop(key, None)
            self._cache[key] = time.monotonic() + lasts, answer
            if len(self._cache) > _MOST_CACHED:
                self._cache.popitem(last=False)
        return answer

    def _validate(self, token: str, allow_expired: bool) -> _Token | None:
        """Ask Keystone.  Blocking."""
        flags = (("allow_expired=1", allow_expired), ("nocatalog", not self._config.include_service_catalog))
        query = "&".join(name for name, wanted in flags if wanted)
        try:
            response = self._session.get(
                f"/auth/tokens?{query}" if query else "/auth/tokens",
                endpoint_filter={
                    "service_type": "identity",
                    "interface": self._config.interface,
                    "region_name": self._config.region_name,
                    "version": (3, 0),
                },
                headers={
                    "X-Subject-Token": token,
                    "OpenStack-Identity-Access-Rules": "1",
                    "Accept": "application/json",
                },
                authenticated=True,
                connect_retries=self._config.http_request_max_retries,
                log=False,
            )
        except exceptions.NotFound:
            return None
        except exceptions.ClientException as error:
            if isinstance(error, exceptions.ConnectFailure):
                self._away_until = time.monotonic() + _REST
            log.warning("keystone_failed", error=str(error))
            raise Unavailable(f"Keystone cannot be asked ({type(error).__name__})") from error
        try:
            return _token(response.json()["token"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("keystone_answer_unreadable", error=repr(error))
            raise Unavailable("Keystone's answer cannot be read") from error


def _token(body: Mapping[str, Any]) -> _Token:
    project, user = body.get("project") or {}, body["user"]
    catalog = body.get("catalog")
    rules = (body.get("application_credential") or {}).get("access_rules")
    image = _keystone.trimmed(catalog)
    actor = Actor(
        user_id=user["id"],
        project_id=project.get("id"),
        roles=frozenset(role["name"].lower() for role in body.get("roles", ())),
        user_domain_id=(user.get("domain") or {}).get("id"),
        project_domain_id=(project.get("domain") or {}).get("id"),
        domain_id=(body.get("domain") or {}).get("id"),
        system_scope="all" if (body.get("system") or {}).get("all") else None,
        is_admin_project=bool(body.get("is_admin_project", True)),
        catalog=orjson.dumps(image).decode() if image else "",
    )
    expires = datetime.fromisoformat(str(body["expires_at"]))
    if expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    services = frozenset(str(item.get("type")) for item in catalog) if catalog is not None else None
    return _Token(actor, expires, tuple(rules) if rules is not None else None, services)


def _accompanied(actor: Actor, service: Actor) -> Actor:
    """The caller together with the service that calls on his behalf."""
    return replace(
        actor,
        service_user_id=service.user_id,
        service_project_id=service.project_id,
        service_user_domain_id=service.user_domain_id,
        service_project_domain_id=service.project_domain_id,
        service_roles=service.roles,
    )


EXTENSION = AuthBackend(
    name="keystone",
    config=KeystoneConfig,
    connect=Keystone.open,
    section="keystone_authtoken",
    unavailable=_keystone.UNAVAILABLE,
)
