"""What `entrepot doctor` looks at on this machine: Python, settings, stores, tools."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from pydantic import ValidationError

from kernel.errors import ConfigError
from kernel.options import meant
from kernel.registry import Registry, discover
from kernel.settings import Settings
from ops.commands import units
from ops.commands.faults import faults, listed
from ops.config import load, unused
from stores.file import FileConfig

Status = Literal["ok", "warn", "fail"]

_LITTLE_SPACE: Final = 10 << 30
_LITTLE_SHARE: Final = 0.05


class Finding(Struct, frozen=True):
    """One line of the doctor's."""

    check: str
    status: Status
    found: str
    advice: str = ""
    """What to do about it."""


def python() -> Iterator[Finding]:
    """The interpreter, and the faster event loop where there is one."""
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if importlib.util.find_spec("uvloop") is None:
        yield Finding("python", "warn", f"{found} without uvloop", "install uvloop: the service is faster with it")
    else:
        yield Finding("python", "ok", f"{found} with uvloop")


def settings(files: list[Path], state: Path | None, out: list[tuple[Settings, Registry]]) -> Iterator[Finding]:
    """Whether the settings are valid; those that can be read at all go into `out`."""
    try:
        registry = discover()
        loaded = load(files, registry=registry, state=state)
    except ConfigError as error:
        yield from (Finding("settings", "fail", fault, "correct this option") for fault in listed(error))
        return
    out.append((loaded, registry))
    wrong = faults(loaded, registry)
    yield from (Finding("settings", "fail", fault, "correct this option") for fault in wrong)
    if not wrong:
        where = ", ".join(sorted(set(loaded.origin.values()))) or "defaults only"
        yield Finding("settings", "ok", f"valid ({where})")
    for option in unused(loaded, registry):
        yield Finding("settings", "warn", f"{option} has no effect", "remove it, or look for a typing error")


def stores(loaded: Settings, registry: Registry) -> Iterator[Finding]:
    """Whether stores and staging can be written, have room, and share a disk."""
    staging = _staging(loaded)
    if staging is not None:
        yield _directory("staging", staging)
    for name, driver, options in _backends(loaded):
        kind = registry.stores.get(driver)
        if kind is None or kind.unavailable:
            continue  # said with the settings
        if kind.read_only:
            yield Finding(f"store {name}", "ok", f"{driver}, read-only")
            continue
        if kind.config is not FileConfig:
            yield Finding(f"store {name}", "ok", f"{driver}: not looked into; `entrepot serve` connects to it")
            continue
        try:
            place = FileConfig.model_validate(meant(FileConfig, options)).filesystem_store_datadir
        except ValidationError:
            continue  # said with the settings
        yield _directory(f"store {name}", place)
        if staging is not None:
            yield _adoption(name, place, staging)


def tools(loaded: Settings) -> Iterator[Finding]:
    """Programs that some steps need."""
    needed = "image_conversion" in loaded.image_import_opts.image_import_plugins
    program = shutil.which("qemu-img")
    if program is not None:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
        yield Finding("qemu-img", "ok", (said.splitlines() or [program])[0])
    elif needed:
        yield Finding("qemu-img", "fail", "not installed, and image_conversion needs it", "install qemu-utils")
    else:
        yield Finding("qemu-img", "warn", "not installed", "install qemu-utils before you enable image_conversion")


# --- directories -------------------------------------------------------------------------


def _staging(loaded: Settings) -> Path | None:
    uri = urlsplit(loaded.default.node_staging_uri or "")
    own = loaded.section("os_glance_staging_store").get("filesystem_store_datadir")
    if loaded.default.enabled_backends and own:
        return Path(own)
    return Path(unquote(uri.path)) if uri.scheme in ("file", "filesystem") and uri.path else None


def _backends(loaded: Settings) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Name, driver and options of every store."""
    enabled = loaded.default.enabled_backends
    if not enabled:
        only = loaded.glance_store.default_store
        yield only, only, loaded.section("glance_store")
    for name, driver in enabled.items():
        yield name, driver, loaded.section(name)


def _there(path: Path) -> Path:
    """The directory itself, or the nearest one above that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _directory(check: str, path: Path) -> Finding:
    place = _there(path)
    try:
        tempfile.TemporaryFile(dir=place).close()
        room = os.statvfs(place)
    except OSError as error:
        return Finding(check, "fail", f"{path}: {error.strerror}", "let the service's account write there")
    free, whole = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    found = f"{path}, {units.size(free)} free of {units.size(whole)}"
    if place != path.absolute():
        found += " (to be made)"
    if free < _LITTLE_SPACE or free < whole * _LITTLE_SHARE:
        return Finding(check, "warn", found, "make room, or choose a larger disk")
    return Finding(check, "ok", found)


def _adoption(name: str, place: Path, staging: Path) -> Finding:
    """Whether imports of staged data need to copy bytes."""
    if _there(place).stat().st_dev == _there(staging).stat().st_dev:
        return Finding(f"adoption {name}", "ok", "on the disk of the staging area: imports move no bytes")
    return Finding(
        f"adoption {name}",
        "warn",
        "not on the disk of the staging area: imports copy every byte",
        "put node_staging_uri on the disk of this store if you can",
    )
