"""Finding, checking and holding extensions.

What ships is found by scanning `stores/` and `plugins/`; packages of others by the
entry-point group `entrepot.extensions`.  Every fault is collected, so that an
operator sees all of them at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from stevedore import ExtensionManager

from kernel.errors import ConfigError
from kernel.extend import AuthBackend, Extension, ImportMethod, ImportStep, KeyManager, NotificationSink, StoreDriver

GROUP: Final = "entrepot.extensions"
"""Entry-point group of packages that are not ours."""

_PACKAGES: Final = ("stores", "plugins")
_KINDS: Final = (StoreDriver, ImportMethod, ImportStep, NotificationSink, AuthBackend, KeyManager)

T = TypeVar("T", StoreDriver, ImportMethod, ImportStep, NotificationSink, AuthBackend, KeyManager)


@dataclass(frozen=True, slots=True)
class Registry:
    """All extensions of this installation, by kind and name."""

    stores: dict[str, StoreDriver] = field(default_factory=dict)
    methods: dict[str, ImportMethod] = field(default_factory=dict)
    steps: dict[str, ImportStep] = field(default_factory=dict)
    sinks: dict[str, NotificationSink] = field(default_factory=dict)
    auth: dict[str, AuthBackend] = field(default_factory=dict)
    keys: dict[str, KeyManager] = field(default_factory=dict)
    origins: dict[int, str] = field(default_factory=dict)
    shadowed: dict[str, str] = field(default_factory=dict)
    """Steps that gave way to another of their name, and where they come from."""

    def add(self, extension: Extension, origin: str) -> None:
        """Take one in; two of a kind under one name are a `ConfigError`, unless one of them yields."""
        table = self._table(extension)
        former = table.get(extension.name)
        if former is extension:
            return
        origin = getattr(extension, "origin", None) or origin
        if former is not None and getattr(extension, "yields", False):
            self.shadowed[extension.name] = origin
            return
        if former is not None and getattr(former, "yields", False):
            self.shadowed[extension.name] = self.origins.pop(id(former))
            former = None
        if former is not None:
            raise ConfigError(
                f"{type(extension).__name__} '{extension.name}' comes twice: "
                f"from {self.origins[id(former)]} and from {origin}"
            )
        table[extension.name] = extension
        self.origins[id(extension)] = origin

    def __iter__(self) -> Any:
        for table in (self.stores, self.methods, self.steps, self.sinks, self.auth, self.keys):
            yield from table.values()

    def _table(self, extension: Extension) -> dict[str, Any]:
        match extension:
            case StoreDriver():
                return self.stores
            case ImportMethod():
                return self.methods
            case ImportStep():
                return self.steps
            case NotificationSink():
                return self.sinks
            case AuthBackend():
                return self.auth
            case KeyManager():
                return self.keys


def discover(also: Iterable[Extension] = ()) -> Registry:
    """All extensions that are installed; `ConfigError` with every fault at once."""
    registry = Registry()
    faults: list[str] = []
    for origin, load in (*_shipped(), *_installed(faults)):
        try:
            found = load()
        except Exception as error:
            faults.append(f"{origin} cannot be loaded: {error}")
            continue
        for extension in found:
            if not isinstance(extension, _KINDS):
                faults.append(f"{origin}: EXTENSION is a {type(extension).__name__}, not one of kernel.extend's")
                continue
            try:
                registry.add(extension, origin)
            except ConfigError as error:
                faults.append(str(error))
    for extension in also:
        registry.add(extension, "the caller")
    if faults:
        raise ConfigError("; ".join(faults))
    return registry


def _shipped() -> list[tuple[str, Callable[[], Sequence[Extension]]]]:
    names: list[str] = []
    for package in _PACKAGES:
        parent = importlib.import_module(package)
        modules = pkgutil.walk_packages(parent.__path__, f"{package}.")
        names += [module.name for module in modules if not module.ispkg]
    return [(name, lambda name=name: _exported(importlib.import_module(name))) for name in names]  # type: ignore[misc]


def _exported(module: Any) -> Sequence[Extension]:
    """What a file exports: one `EXTENSION`, or what its `EXTENSIONS()` finds on this machine."""
    extension = getattr(module, "EXTENSION", None)
    several: Callable[[], Sequence[Extension]] | None = getattr(module, "EXTENSIONS", None)
    return (*(() if extension is None else (extension,)), *(several() if several else ()))


def _installed(faults: list[str]) -> list[tuple[str, Callable[[], Sequence[Extension]]]]:
    def failed(manager: Any, entry_point: Any, error: BaseException) -> None:
        faults.append(f"entry point {entry_point.name} of {GROUP} cannot be loaded: {error}")

    manager: ExtensionManager[Any] = ExtensionManager(GROUP, invoke_on_load=False, on_load_failure_callback=failed)
    return [
        (f"entry point {found.name}", lambda plugin=found.plugin: (plugin,))  # type: ignore[misc]
        for found in manager
    ]
