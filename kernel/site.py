"""One installation brought to life: its stores, methods, steps and limits.

Built once from settings and registry, with every fault reported together;
everything that serves requests or works on imports is handed this value.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

from pydantic import BaseModel, ValidationError

from kernel.doubts import about_methods, about_plugins
from kernel.errors import ConfigError, EntrepotError
from kernel.extend import ImportMethod, ImportStep, KeyManager, KeySource, LocalFiles, Store, StoreDriver, StoreSite
from kernel.image import STAGING
from kernel.options import meant
from kernel.quotas import Quotas
from kernel.registry import Registry
from kernel.settings import Settings
from kernel.verdict import Rules

RESERVED_PREFIX = "os_glance_"

CONVERSION = "image_conversion"
TASK_CONVERSION = "conversion_format"
"""The step that converts, and its name where a task of the type `import` uses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A configured store with what clients and operators are told of it."""

    name: str
    driver: StoreDriver
    store: Store
    description: str | None = None
    weight: int = 0

    @property
    def read_only(self) -> bool:
        return self.driver.read_only


def several_stores(settings: Settings) -> bool:
    """Whether clients see several stores."""
    return bool(settings.default.enabled_backends) and settings.default.api_version_profile == "current"


async def no_secrets(stream: UUID) -> Mapping[str, str]:
    """For sites without a vault."""
    return {}


@dataclass(slots=True, kw_only=True)
class Site:
    """What is configured, live."""

    settings: Settings
    registry: Registry
    deployment: UUID
    node: str
    backends: dict[str, Backend]
    default: str
    multi: bool
    """Whether clients see several stores."""
    staging: Store
    methods: dict[str, ImportMethod]
    steps: dict[str, ImportStep]
    task_steps: dict[str, ImportStep] = field(default_factory=dict)
    """What tasks of the type `import` run instead of `steps`."""
    configs: dict[str, BaseModel] = field(default_factory=dict)
    """Extension kind and name -> its validated options, such as `step:no_op`."""
    warnings: list[str] = field(default_factory=list)
    """What is allowed but probably not meant, for the log of the start."""
    quotas: Quotas = field(default_factory=Quotas)
    keys: KeySource | None = None
    """Where certificates of signed images come from; None: signed images are refused."""
    secrets: Callable[[UUID], Awaitable[Mapping[str, str]]] = no_secrets
    """Credentials kept for the import that holds a stream."""

    @property
    def rules(self) -> Rules:
        formats = self.settings.image_format
        return Rules(
            require_match=formats.require_image_format_match,
            vmdk_types=frozenset(name.lower() for name in formats.vmdk_allowed_types),
            nonfatal=frozenset(formats.gpt_safety_checks_nonfatal),
            disk_formats=frozenset(formats.disk_formats),
        )

    @property
    def patience(self) -> float:
        """Seconds for which a store may keep a reader waiting: less than a writer waits for what is read."""
        return self.settings.import_worker.store_stall_timeout * 0.8

    @property
    def stores(self) -> dict[str, Store]:
        """All stores by name, staging included."""
        return {STAGING: self.staging, **{name: backend.store for name, backend in self.backends.items()}}

    def store(self, name: str) -> Store | None:
        """A store by name; None if it is configured no more."""
        if name == STAGING:
            return self.staging
        backend = self.backends.get(name)
        return backend.store if backend else None

    @property
    def reading_order(self) -> tuple[str, ...]:
        """All stores in the order in which data is read."""
        return tuple(self.by_weight(self.backends))

    def by_weight(self, names: Iterable[str]) -> list[str]:
        """Store names in the order in which data is read: heaviest first, then by name."""
        return sorted(names, key=lambda name: (-(self.backends[name].weight if name in self.backends else 0), name))

    async def close(self) -> None:
        closing = [self.staging.close(), *(backend.store.close() for backend in self.backends.values())]
        if self.keys is not None:
            closing.append(self.keys.close())
        await asyncio.gather(*closing, return_exceptions=True)


async def build_site(settings: Settings, registry: Registry, deployment: UUID, node: str) -> Site:
    """Connect what the settings name; `ConfigError` listing everything that is wrong."""
    faults: list[str] = []
    configs: dict[str, BaseModel] = {}
    backends = await _backends(settings, registry, deployment, faults)
    default = _default(settings, backends, faults)
    staging = await _staging(settings, registry, deployment, faults)
    _apart(backends, staging, faults)
    methods = _methods(settings, registry, configs, faults)
    steps = _steps(settings, registry, configs, faults)
    keys, doubts = await _keys(settings, registry, faults)
    task_steps = _task_steps(settings, registry, configs, faults)
    if faults or staging is None:
        raise ConfigError("The configuration is wrong:\n  " + "\n  ".join(located(fault, settings) for fault in faults))
    return Site(
        settings=settings,
        registry=registry,
        deployment=deployment,
        node=node,
        backends=backends,
        default=default,
        multi=several_stores(settings),
        staging=staging,
        methods=methods,
        steps=steps,
        task_steps=task_steps,
        configs=configs,
        keys=keys,
        warnings=[*about_plugins(steps, registry), *about_methods(methods, configs), *doubts],
    )


async def _backends(settings: Settings, registry: Registry, deployment: UUID, faults: list[str]) -> dict[str, Backend]:
    enabled, option = dict(settings.default.enabled_backends), "[DEFAULT] enabled_backends"
    section_of = {name: name for name in enabled}
    if not enabled:
        only, option = settings.glance_store.default_store, "[glance_store] default_store"
        enabled, section_of = {only: only}, {only: "glance_store"}
    backends: dict[str, Backend] = {}
    for name, driver_name in enabled.items():
        if name.startswith(RESERVED_PREFIX):
            faults.append(
                f"[DEFAULT] enabled_backends: '{name}' is reserved; names may not begin with {RESERVED_PREFIX}"
            )
            continue
        driver = registry.stores.get(driver_name)
        if driver is None:
            known = ", ".join(sorted(registry.stores))
            faults.append(f"{option}: unknown driver '{driver_name}' of store {name} (known: {known})")
            continue
        options = settings.section(section_of[name])
        if driver.unavailable:
            faults.append(f"{option}: the driver {driver.name} of store {name} cannot be used: {driver.unavailable}")
            continue
        store = await _connect(driver, name, section_of[name], options, settings, deployment, faults)
        weight = _weight(options.get("weight") or "0", name, faults)
        if store is not None:
            backends[name] = Backend(
                name=name,
                driver=driver,
                store=store,
                description=options.get("store_description"),
                weight=weight,
            )
    return backends


def _apart(backends: Mapping[str, Backend], staging: Store | None, faults: list[str]) -> None:
    """Two stores in one directory would sweep each other's names."""
    stores = {name: backend.store for name, backend in backends.items()}
    if staging is not None:
        stores[STAGING] = staging
    places: dict[str, str] = {}
    for name, store in stores.items():
        place = store.properties.get("data_dir")
        if place is None:
            continue
        resolved = os.path.realpath(str(place))
        if resolved in places:
            faults.append(f"[{name}] filesystem_store_datadir: {place} is the directory of {places[resolved]} already")
        places.setdefault(resolved, name)


def _weight(text: str, name: str, faults: list[str]) -> int:
    try:
        return int(text)
    except ValueError:
        faults.append(f"[{name}] weight: '{text}' is no integer")
        return 0


async def _connect(
    driver: StoreDriver,
    name: str,
    section: str,
    options: Mapping[str, Any],
    settings: Settings,
    deployment: UUID,
    faults: list[str],
) -> Store | None:
    config = _validated(driver.config, options, section, faults)
    if config is None:
        return None
    site = StoreSite(name=name, deployment=deployment, fsync=settings.import_worker.fsync)
    try:
        return await driver.connect(config, site)
    except EntrepotError as error:
        faults.append(f"[{section}] {error}")
        return None


def _validated(model: type[BaseModel], options: Mapping[str, Any], section: str, faults: list[str]) -> BaseModel | None:
    try:
        return model.model_validate(meant(model, options))
    except ValidationError as error:
        faults += [describe(section, item) for item in error.errors()]
        return None


def describe(section: str, item: Any) -> str:
    """One fault that pydantic found, in an operator's words."""
    option = ".".join(str(part) for part in item["loc"]) or "(section)"
    reason = str(item["msg"]).removeprefix("Value error, ")
    return f"[{section}] {option}: {reason}"


_DIRECTORY: Final = "filesystem_store_datadir"
_FAULT: Final = re.compile(r"\[([^\]]+)\] (\w+)")


def located(fault: str, settings: Settings) -> str:
    """A fault, `[section] option: reason`, with the file that the option was set in."""
    option = _FAULT.match(fault)
    file = settings.origin.get((option[1], option[2])) if option else None
    return f"{file}: {fault}" if file else fault


def _default(settings: Settings, backends: Mapping[str, Backend], faults: list[str]) -> str:
    enabled = settings.default.enabled_backends
    if not enabled:
        return settings.glance_store.default_store
    default = settings.glance_store.default_backend
    if default is None:
        faults.append("[glance_store] default_backend: must be set when enabled_backends is")
        return next(iter(enabled))
    if default not in enabled:
        faults.append(f"[glance_store] default_backend: '{default}' is not one of enabled_backends")
    elif default in backends and backends[default].read_only:
        faults.append(f"[glance_store] default_backend: '{default}' is read-only")
    return default


async def _staging(settings: Settings, registry: Registry, deployment: UUID, faults: list[str]) -> Store | None:
    """Staging is a store whose objects are local files; its driver is the scheme of `node_staging_uri`."""
    options = settings.section(STAGING)
    uri = urlsplit(settings.default.node_staging_uri or "")
    driver = next((item for item in registry.stores.values() if uri.scheme in item.schemes), None)
    if driver is None:
        faults.append(f"[DEFAULT] node_staging_uri: no driver for '{settings.default.node_staging_uri}'")
        return None
    section, by_uri, found = STAGING, "[DEFAULT] node_staging_uri", list[str]()
    if not settings.default.enabled_backends or _DIRECTORY not in options:
        section, options = "DEFAULT", {_DIRECTORY: unquote(uri.path)}
    store = await _connect(driver, STAGING, section, options, settings, deployment, found)
    faults += [fault.replace(f"[DEFAULT] {_DIRECTORY}", by_uri) for fault in found]
    if store is not None and not isinstance(store, LocalFiles):
        faults.append(f"[{section}] staging needs a driver with local files, {driver.name} has none")
        return None
    return store


def _methods(
    settings: Settings, registry: Registry, configs: dict[str, BaseModel], faults: list[str]
) -> dict[str, ImportMethod]:
    named = settings.default.enabled_import_methods
    if named is None:
        ranked = sorted(registry.methods.values(), key=lambda method: method.rank)
        named = tuple(method.name for method in ranked if method.default)
        if settings.default.api_version_profile == "pike":
            named = named[:1]
    methods: dict[str, ImportMethod] = {}
    for name in dict.fromkeys(named):
        method = registry.methods.get(name)
        if method is None:
            known = ", ".join(sorted(registry.methods))
            faults.append(f"[DEFAULT] enabled_import_methods: unknown method '{name}' (known: {known})")
            continue
        methods[name] = method
    for name, method in registry.methods.items():  # an import that makes its image fetches by one that may be disabled
        sections = (*method.shares, method.section) if method.section else method.shares
        _configure(f"method:{name}", sections, method.config, settings, configs, faults if name in methods else [])
    return methods


def _steps(
    settings: Settings, registry: Registry, configs: dict[str, BaseModel], faults: list[str]
) -> dict[str, ImportStep]:
    steps: dict[str, ImportStep] = {}
    for name in settings.image_import_opts.image_import_plugins:
        step = registry.steps.get(name)
        if step is None:
            known = ", ".join(sorted(registry.steps))
            faults.append(f"[image_import_opts] image_import_plugins: unknown plugin '{name}' (known: {known})")
            continue
        reason = step.unavailable()
        if reason is not None:
            faults.append(f"[image_import_opts] image_import_plugins: '{name}' cannot be used: {reason}")
            continue
        _configure(f"step:{name}", (step.section,) if step.section else (), step.config, settings, configs, faults)
        steps[name] = step
    return steps


def key_manager(settings: Settings, registry: Registry) -> KeyManager | None:
    """The key source that the operator names, or means by what he has written."""
    named = settings.entrepot.key_source
    if named is not None:
        return registry.keys.get(named)
    return next((kind for kind in registry.keys.values() if kind.chosen_by(settings.raw)), None)


async def _keys(settings: Settings, registry: Registry, faults: list[str]) -> tuple[KeySource | None, Sequence[str]]:
    """The key source, connected; and what is doubtful about it."""
    kind, named = key_manager(settings, registry), settings.entrepot.key_source
    if kind is None:
        if named is not None:
            known = ", ".join(sorted(registry.keys))
            faults.append(f"[entrepot] key_source: unknown source '{named}' (known: {known})")
        return None, ()
    if kind.unavailable:
        if named is None:
            return None, (f"signed images will be refused: {kind.name} cannot be used: {kind.unavailable}",)
        faults.append(f"[entrepot] key_source: '{named}' cannot be used: {kind.unavailable}")
        return None, ()
    section = kind.section or kind.name
    config = _validated(kind.config, settings.section(section), section, faults)
    if config is None:
        return None, ()
    try:
        return await kind.connect(config, settings.raw), ()
    except EntrepotError as error:
        faults.append(f"[{section}] {error}")
        return None, ()


def _task_steps(
    settings: Settings, registry: Registry, configs: dict[str, BaseModel], faults: list[str]
) -> dict[str, ImportStep]:
    """The conversion that operators ask for with an option of its own, with that option as its format."""
    target = settings.taskflow_executor.conversion_format
    step = registry.steps.get(CONVERSION)
    if target is None:
        return {}
    option = "[taskflow_executor] conversion_format"
    reason = "there is no plugin that converts" if step is None else step.unavailable()
    if step is None or reason is not None:
        faults.append(f"{option}: {reason}")
        return {}
    options = {**settings.section(step.section or ""), "output_format": target}
    config = _validated(step.config, options, step.section or CONVERSION, faults)
    if config is not None:
        configs[f"step:{TASK_CONVERSION}"] = config
    return {TASK_CONVERSION: step}


def _configure(
    key: str,
    sections: Sequence[str],
    model: type[BaseModel],
    settings: Settings,
    configs: dict[str, BaseModel],
    faults: list[str],
) -> None:
    options: dict[str, Any] = {}
    for section in sections:
        options |= settings.section(section)
    config = _validated(model, options, sections[-1] if sections else key, faults)
    if config is not None:
        configs[key] = config
