"""Everything that is wrong with a configuration, found without touching stores, database or network."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from handlers.image_schema import ImageSchema
from handlers.policy import Policy
from handlers.protection import Protection
from kernel.errors import ConfigError
from kernel.extend import LocalFiles, StoreDriver, StoreSite
from kernel.registry import Registry
from kernel.settings import Settings
from kernel.site import Site, build_site
from ops.server import auth_backend, chosen_sinks, doubtful_drivers, unified_limits


def listed(error: ConfigError) -> list[str]:
    """The faults that one error tells of."""
    first, *rest = str(error).splitlines()
    return [line.strip() for line in rest] if rest and first.endswith(":") else [str(error)]


def faults(settings: Settings, registry: Registry) -> list[str]:
    """What would keep the service from starting with these settings."""
    found: list[str] = []
    for check in (_site, _sinks, _auth, _rules, _schema, _limits):
        try:
            check(settings, registry)
        except ConfigError as error:
            found += listed(error)
    return found


def doubts(settings: Settings, registry: Registry) -> list[str]:
    """What of settings without faults is probably not meant."""
    site = asyncio.run(_site_of(settings, registry))
    return [*site.warnings, *Policy.of(settings).doubts(), *doubtful_drivers(settings)]


def _site(settings: Settings, registry: Registry) -> None:
    asyncio.run(_site_of(settings, registry))


async def _site_of(settings: Settings, registry: Registry) -> Site:
    return await build_site(settings, _unconnected(registry), UUID(int=0), "localhost")


def _sinks(settings: Settings, registry: Registry) -> None:
    chosen_sinks(settings, registry)


def _auth(settings: Settings, registry: Registry) -> None:
    auth_backend(settings, registry)


def _rules(settings: Settings, registry: Registry) -> None:
    """Files of rules: who may do what, and who may touch which property."""
    Protection.of(settings, Policy.of(settings))


def _schema(settings: Settings, registry: Registry) -> None:
    """The file that describes properties of images."""
    ImageSchema.of(settings)


def _limits(settings: Settings, registry: Registry) -> None:
    unified_limits(settings)


# --- stores that nobody connects -----------------------------------------------------------


class _Unconnected:
    """Stands for a store whose options are valid."""

    def __init__(self, config: Any) -> None:
        self.properties: Mapping[str, Any] = {"data_dir": getattr(config, "filesystem_store_datadir", None)}

    async def close(self) -> None:
        return None


async def _nothing(*_: Any) -> None:
    """What it would do if it were connected."""


_UnconnectedFiles: Any = type(
    "_UnconnectedFiles",
    (_Unconnected,),
    {"__doc__": LocalFiles.__doc__, **{name: _nothing for name in vars(LocalFiles) if not name.startswith("_")}},
)
"""Stands for one with local files, which staging must have."""


def _unconnected(registry: Registry) -> Registry:
    """The same extensions, but stores only look at their options."""
    stores = {name: dataclasses.replace(driver, connect=_stand_in(driver)) for name, driver in registry.stores.items()}
    return dataclasses.replace(registry, stores=stores)


def _stand_in(driver: StoreDriver) -> Callable[[Any, StoreSite], Awaitable[Any]]:
    async def connect(config: Any, site: StoreSite) -> Any:
        return _Unconnected(config) if driver.read_only else _UnconnectedFiles(config)

    return connect
