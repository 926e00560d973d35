"""Unified limits: what Keystone says that a project may use, remembered for a short while.

The registered limits of the service hold for everybody; a project may have others.
Only the flat model is understood, in which no project counts against another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

import structlog
from pydantic import Field

from kernel.errors import ConfigError, Unavailable
from kernel.options import IniList
from plugins import _keystone

if _keystone.UNAVAILABLE is None:
    from keystoneauth1 import exceptions

log = structlog.get_logger(__name__)

_FRESH: Final = 10.0
"""Seconds for which a project's limits are believed."""
_SETTLED: Final = 300.0
"""Seconds for which the model and the endpoint, which hardly ever change, are."""
_TIMEOUT: Final = 10.0
_PATIENCE: Final = 15.0
"""Seconds for all that has to be asked."""
_MOST_KNOWN: Final = 4096


class LimitsConfig(_keystone.ServiceAccount):
    """[oslo_limit]"""

    endpoint_id: str | None = Field(
        None, description="Keystone's id of this service's endpoint. Unset: it is found by the next four options."
    )
    endpoint_service_type: str | None = Field(None, description="Type of this service in Keystone, such as image.")
    endpoint_service_name: str | None = Field(None, description="Name of this service in Keystone, such as glance.")
    endpoint_region_name: str | None = Field(None, description="Region of this service's endpoint; unset: any.")
    endpoint_interface: Literal["public", "publicURL", "internal", "internalURL", "admin", "adminURL"] = Field(
        "public", description="Interface of this service's endpoint."
    )
    valid_interfaces: IniList = Field(("public",), description="Interfaces of the identity endpoint, best first.")
    region_name: str | None = Field(None, description="Region of the identity endpoint.")
    endpoint_override: str | None = Field(None, description="URL of the identity endpoint, instead of the catalogue's.")


class UnifiedLimits:
    """Asked for a project, gives its limits by resource."""

    def __init__(self, config: LimitsConfig) -> None:
        if _keystone.UNAVAILABLE is not None:
            raise ConfigError(f"[DEFAULT] use_keystone_limits: {_keystone.UNAVAILABLE}")
        if not (config.endpoint_id or config.endpoint_service_type or config.endpoint_service_name):
            raise ConfigError(
                "[oslo_limit] endpoint_id: it, endpoint_service_type or endpoint_service_name"
                " must be set when use_keystone_limits is"
            )
        self._config = config
        self._session = _keystone.session(config, "oslo_limit", _TIMEOUT)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="limits")
        self._known: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._asking: dict[str, asyncio.Task[Mapping[str, int]]] = {}
        self._place: tuple[float, dict[str, str]] | None = None

    async def __call__(self, project: str) -> Mapping[str, int]:
        known = self._known.get(project)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        asking = self._asking.get(project)
        if asking is None:
            asking = self._asking[project] = asyncio.create_task(self._ask(project))
            asking.add_done_callback(lambda task: self._asked(project, task))
        return await asyncio.shield(asking)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _asked(self, project: str, task: asyncio.Task[Mapping[str, int]]) -> None:
        del self._asking[project]
        if not task.cancelled():
            task.exception()  # told to those who wait

    async def _ask(self, project: str) -> Mapping[str, int]:
        try:
            async with asyncio.timeout(_PATIENCE):
                limits = await asyncio.get_running_loop().run_in_executor(self._pool, self._fetch, project)
        except TimeoutError:
            raise Unavailable("Keystone does not answer") from None
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[project] = time.monotonic() + _FRESH, limits
        return limits

    # --- in threads --------------------------------------------------------------------

    def _fetch(self, project: str) -> Mapping[str, int]:
        try:
            place = self._where()
            registered = self._get("/registered_limits", place)["registered_limits"]
            own = self._get("/limits", {**place, "project_id": project})["limits"]
            return {
                **{str(item["resource_name"]): int(item["default_limit"]) for item in registered},
                **{str(item["resource_name"]): int(item["resource_limit"]) for item in own},
            }
        except exceptions.ClientException as error:
            log.warning("limits_not_known", error=str(error))
            raise Unavailable(f"Keystone cannot be asked for limits ({type(error).__name__})") from error
        except (ValueError, KeyError, TypeError) as error:
            log.warning("limits_unreadable", error=repr(error))
            raise Unavailable("Keystone's answer about limits cannot be read") from error

    def _where(self) -> dict[str, str]:
        """Service and region of our endpoint, by which limits are registered."""
        if self._place is not None and self._place[0] > time.monotonic():
            return self._place[1]
        model = self._get("/limits/model", {})["model"]["name"]
        if model != "flat":
            raise Unavailable(f"Keystone enforces limits by the model '{model}'; only 'flat' is supported")
        endpoint = self._endpoint()
        place = {"service_id": str(endpoint["service_id"])}
        if endpoint.get("region_id"):
            place["region_id"] = str(endpoint["region_id"])
        self._place = time.monotonic() + _SETTLED, place
        return place

    def _endpoint(self) -> Any:
        """Our endpoint as Keystone has it: the one that is named, or the only one that is described."""
        config = self._config
        if config.endpoint_id:
            return self._get(f"/endpoints/{config.endpoint_id}", {})["endpoint"]
        named = {"type": config.endpoint_service_type, "name": config.endpoint_service_name}
        place = {"service_id": str(self._only("services", named)["id"]), "region_id": config.endpoint_region_name}
        return self._only("endpoints", {**place, "interface": config.endpoint_interface.removesuffix("URL")})

    def _only(self, kind: str, wanted: Mapping[str, str | None]) -> Any:
        """The one and only service or endpoint that is like this."""
        query = {name: value for name, value in wanted.items() if value}
        found = self._get(f"/{kind}", query)[kind]
        if len(found) != 1:
            log.warning("limits_not_known", kind=kind, wanted=query, found=len(found))
            raise Unavailable(f"Keystone knows {len(found)} {kind} instead of one that limits could be registered for")
        return found[0]

    def _get(self, path: str, query: Mapping[str, str]) -> Any:
        response = self._session.get(
            path,
            params=dict(query),
            endpoint_filter={
                "service_type": "identity",
                "interface": list(self._config.valid_interfaces),
                "region_name": self._config.region_name,
                "version": (3, 0),
            },
            endpoint_override=self._config.endpoint_override,
            headers={"Accept": "application/json"},
            authenticated=True,
        )
        return response.json()
