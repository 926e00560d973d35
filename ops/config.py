"""Reading operators' files: what they wrote for Glance loads as it is, what is ours comes beside it.

Order, later wins: `glance-image-import.conf`, `glance-api.conf`, its drop-in
directory, `entrepot.conf`, environment variables `ENTREPOT_<SECTION>__<OPTION>`.
Wrong values are refused all at once, each with file, section, option and reason.
Options that mean nothing here are collected, to be named once at start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any, Final

from oslo_config import iniparser
from pydantic import BaseModel, BeforeValidator, ValidationError

from kernel.errors import ConfigError
from kernel.image import STAGING
from kernel.options import meant, to_lines
from kernel.registry import Registry
from kernel.settings import SECTIONS, Cors, Settings
from kernel.site import describe, key_manager
from ops.former import FORMER
from plugins.limits.keystone import LimitsConfig

MAIN: Final = "glance-api.conf"
IMPORT: Final = "glance-image-import.conf"
OURS: Final = "entrepot.conf"

TASKS_STORE: Final = "os_glance_tasks_store"

_PLACES: Final = ("/etc/entrepot", "/etc/glance")
_ENVIRONMENT: Final = re.compile(r"ENTREPOT_([A-Z0-9_]+?)__([A-Z0-9_]+)")
_DELIMITER: Final = re.compile("[:=]")
_STORE_OPTIONS: Final = frozenset({"store_description", "weight"})

Raw = dict[str, dict[str, str]]


def _repeatable() -> frozenset[tuple[str, str]]:
    """Section and option of those that may be written several times, and then mean all that was written."""
    present = {
        (section, name)
        for section, model in SECTIONS.items()
        for name, field in model.model_fields.items()
        if any(isinstance(item, BeforeValidator) and item.func is to_lines for item in field.metadata)
    }
    return frozenset(present | {former for former, option in FORMER.items() if option in present})


_REPEATABLE: Final = _repeatable()


class _Reader(iniparser.BaseParser):
    """Collects what a file assigns; a section may come several times."""

    def __init__(self) -> None:
        super().__init__()
        self.section = "DEFAULT"
        self.found: Raw = {}

    def _split_key_value(self, line: str) -> tuple[str, list[str]]:
        """The parser drops quotes around a value; those of `"a":"b","c":"d"` are not around it."""
        key, (value,) = super()._split_key_value(line)
        written = _DELIMITER.split(line, maxsplit=1)[1].strip()
        if value != written and re.search(rf"{written[0]}\s*[,:]", value):
            value = written
        return key, [value]

    def new_section(self, section: str) -> None:
        self.section = section
        self.found.setdefault(section, {})

    def assignment(self, key: str, value: list[str]) -> None:
        text = " ".join(line.strip() for line in value).strip()
        _take(self.found, self.section, {key: text})


def _take(raw: Raw, section: str, options: Mapping[str, str]) -> None:
    """Over what was there before; options that may be repeated add up, a line each time."""
    known = raw.setdefault(section, {})
    for name, value in options.items():
        repeated = name in known and (section, name) in _REPEATABLE
        known[name] = f"{known[name]}\n{value}" if repeated else value


def load(
    files: Iterable[Path] = (),
    *,
    registry: Registry,
    state: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Settings from files and environment; `ConfigError` listing everything that is wrong."""
    named = [Path(file) for file in files]
    paths = _beside(named) if named else _usual(environment)
    raw: Raw = {}
    origin: dict[tuple[str, str], str] = {}
    for path in paths:
        found = read(path)
        former = _renamed(found)
        for section, options in found.items():
            _take(raw, section, options)
            for option in options:
                written = former.get((section, option))
                origin[section, option] = f"{path} ({written})" if written else str(path)
    for section, option, value in _from_environment(environment):
        raw.setdefault(section, {})[option] = value
        origin[section, option] = "the environment"
    raw = _substitute(raw, origin)
    directory = state or _state(raw, environment)
    _fill_in(raw, directory, configured=bool(paths))
    return _validated(raw, origin, directory, paths, registry)


def read(path: Path) -> Raw:
    """One file as written."""
    reader = _Reader()
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader.parse(text.split("\n"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (iniparser.ParseError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no configuration file: {error}") from None
    if "\0" in text:
        raise ConfigError(f"{path} is no configuration file: it holds a NUL character")
    return reader.found


def unused(settings: Settings, registry: Registry) -> list[str]:
    """`[section] option` of everything that was set and means nothing here."""
    known = {name: set(model.model_fields) for name, model in SECTIONS.items()}
    for section, model in extension_sections(settings, registry):
        known.setdefault(section, set()).update(model.model_fields)
    for store in (*settings.default.enabled_backends, "glance_store"):
        known.setdefault(store, set()).update(_STORE_OPTIONS)
    known.update(dict.fromkeys(settings.more_cors, known["cors"]))
    chosen = key_manager(settings, registry)
    return [
        f"[{section}] {option}"
        for section, options in settings.raw.items()
        if chosen is None or section not in chosen.reads
        for option in options
        if option not in known.get(section, ())
    ]


def _renamed(found: Raw) -> dict[tuple[str, str], str]:
    """Give a file's options their present names; returns what those that had another are called in the file."""
    former = {}
    for (section, option), (present, name) in FORMER.items():
        value = found.get(section, {}).pop(option, None)
        if value is not None and name not in found.get(present, {}):
            found.setdefault(present, {})[name] = value
            former[present, name] = f"[{section}] {option}"
    return former


# --- where -------------------------------------------------------------------------------


def _beside(named: list[Path]) -> list[Path]:
    """The files named, with the import file and ours beside the main one, and the drop-ins of them all."""
    paths: list[Path] = []
    for path in named:
        before = after = None
        if path.name == MAIN:
            before, after = path.with_name(IMPORT), path.with_name(OURS)
        for file in (before, path, after):
            if file is path or (file is not None and file not in named and file.exists()):
                paths += [file, *_drop_ins(file)]
    return paths


def _usual(environment: Mapping[str, str]) -> list[Path]:
    """The first directory that holds a file of ours or Glance's."""
    chosen = environment.get("OS_GLANCE_CONFIG_DIR")
    if chosen and not any((Path(chosen) / name).exists() for name in (IMPORT, MAIN, OURS)):
        raise ConfigError(f"OS_GLANCE_CONFIG_DIR is {chosen}, where there is no {MAIN}")
    home = environment.get("XDG_CONFIG_HOME") or (f"{environment['HOME']}/.config" if environment.get("HOME") else "")
    for place in (chosen,) if chosen else (f"{home}/entrepot" if home else None, *_PLACES):
        if place is None:
            continue
        paths = [Path(place) / name for name in (IMPORT, MAIN, OURS)]
        found = [path for path in paths if path.exists()]
        if found:
            return [item for path in found for item in (path, *_drop_ins(path))]
    return []


def _drop_ins(path: Path) -> list[Path]:
    directory = path.with_name(f"{path.name}.d")
    return sorted(directory.glob("*.conf")) if directory.is_dir() else []


def _from_environment(environment: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    sections = {name.upper(): name for name in SECTIONS}
    for name, value in environment.items():
        match = _ENVIRONMENT.fullmatch(name)
        if match:
            yield sections.get(match[1], match[1].lower()), match[2].lower(), value


def _state(raw: Raw, environment: Mapping[str, str]) -> Path:
    """Where state lives: as set, else as the account's conventions have it."""
    named = raw.get("entrepot", {}).get("state_dir")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/entrepot")
    home = environment.get("XDG_STATE_HOME") or f"{environment.get('HOME', '/')}/.local/state"
    return Path(home) / "entrepot"


# --- what --------------------------------------------------------------------------------


class _Template(Template):
    idpattern = r"[_a-z][._a-z0-9]*"


class _References:
    """What `$option` and `$section.option` stand for: what is set, or else the default."""

    def __init__(self, raw: Raw, section: str, above: tuple[tuple[str, str], ...]) -> None:
        self._raw, self._section, self._above = raw, section, above

    def __getitem__(self, name: str) -> str:
        section, dot, option = name.partition(".")
        for place, item in ((section, option),) if dot else ((self._section, name), ("DEFAULT", name)):
            if item in self._raw.get(place, {}):
                return _resolved(self._raw, place, item, self._above)
            model = SECTIONS.get(place)
            if model is not None and item in model.model_fields:
                default = model.model_fields[item].get_default()
                return "" if default is None else str(default)
        raise KeyError(name)


class _Circle(Exception):
    """An option that refers back to itself."""


def _resolved(raw: Raw, section: str, option: str, above: tuple[tuple[str, str], ...] = ()) -> str:
    """An option's value with everything that it refers to; what stands for nothing is left as it is."""
    value = raw[section][option]
    if "$" not in value:
        return value
    if (section, option) in above:
        raise _Circle
    references: Any = _References(raw, section, (*above, (section, option)))
    return _Template(value.replace(r"\$", "$$")).safe_substitute(references)


def _substitute(raw: Raw, origin: Mapping[tuple[str, str], str]) -> Raw:
    """The same with all references followed."""
    resolved: Raw = {}
    for section, options in raw.items():
        found = resolved[section] = {}
        for name in options:
            try:
                found[name] = _resolved(raw, section, name)
            except _Circle:
                where = origin[section, name]
                raise ConfigError(f"{where}: [{section}] {name}: refers back to itself") from None
    return resolved


def _fill_in(raw: Raw, state: Path, *, configured: bool) -> None:
    """Places for data, where the operator named none."""
    default = raw.setdefault("DEFAULT", {})
    staging = "/tmp/staging/" if configured else str(state / "staging")  # noqa: S108  # Glance's default
    _unless_set(default, "node_staging_uri", f"file://{staging}")
    if not default.get("enabled_backends"):
        _unless_set(raw.setdefault("glance_store", {}), "filesystem_store_datadir", str(state / "images"))
    if default.get("api_version_profile") == "pike":
        _unless_set(default, "enable_image_import", "false")


def _unless_set(options: dict[str, str], name: str, value: str) -> None:
    options[name] = options.get(name) or value


def _validated(
    raw: Raw, origin: dict[tuple[str, str], str], state: Path, paths: list[Path], registry: Registry
) -> Settings:
    faults: list[str] = []
    sections: dict[str, Any] = {"more_cors": {}}
    for name, model, options in _sections(raw):
        try:
            section = model.model_validate(meant(model, options))
        except ValidationError as error:
            for item in error.errors():
                option = str(item["loc"][0]) if item["loc"] else ""
                if option in raw.get(name, {}) or name in SECTIONS:  # what was inherited is told of once
                    where = origin.get((name, option), "defaults")
                    faults.append(f"{where}: {describe(name, item)}")
            continue
        if name in SECTIONS:
            sections[name.lower()] = section
        else:
            sections["more_cors"][name] = section
    if faults:
        raise ConfigError("The configuration is wrong:\n  " + "\n  ".join(faults))
    return Settings(
        **sections,
        raw=raw,
        origin=origin,
        state_dir=state.absolute(),
        config_dirs=tuple(dict.fromkeys(path.parent for path in paths)),
    )


def _sections(raw: Raw) -> Iterable[tuple[str, type[BaseModel], Mapping[str, str]]]:
    """Name, model and options of every section of ours; each [cors.…] with origins begins as [cors] is."""
    for name, model in SECTIONS.items():
        yield name, model, raw.get(name, {})
    for name, options in raw.items():
        if name.startswith("cors.") and options.get("allowed_origin"):
            yield name, Cors, {**raw.get("cors", {}), **options}


def extension_sections(settings: Settings, registry: Registry) -> Iterable[tuple[str, type[BaseModel]]]:
    """Sections that belong to extensions, with the models of their options; one may come several times."""
    backends = settings.default.enabled_backends or {"glance_store": settings.glance_store.default_store}
    for name, driver in backends.items():
        if driver in registry.stores:
            yield name, registry.stores[driver].config
    local = [driver.config for driver in registry.stores.values() if driver.name == "file"]
    for section in (STAGING, TASKS_STORE):
        for config in local:
            yield section, config
    for extension in registry:
        if getattr(extension, "section", None):
            yield extension.section, extension.config
    yield "oslo_limit", LimitsConfig
