"""`entrepot config`: are the settings right, and which are they?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, get_args
from urllib.parse import urlsplit, urlunsplit

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from rich.text import Text

from kernel.errors import ConfigError
from kernel.registry import Registry, discover
from kernel.settings import SECTIONS, Settings
from ops import reference
from ops.commands import terminal, units
from ops.commands.faults import doubts, faults, listed
from ops.commands.options import EXIT_CODES, TROUBLE, AsJson, ConfigFiles, State
from ops.config import extension_sections, load, unused

app = typer.Typer(
    add_completion=False, help="Check the settings, or show them.", no_args_is_help=True, epilog=EXIT_CODES
)

_SECRET: Final = re.compile(r"password|passwd|secret|token|access_key|private_key", re.IGNORECASE)
_HIDDEN: Final = "***"
_OUR_CHOICE: Final = "chosen by entrepot"


@app.command("check", epilog=EXIT_CODES)
def check_command(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to check; else those that `serve` reads.")] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with the settings at once, what of them is doubtful, and what has no effect."""
    found, doubtful, without_effect = _checked(files, state)
    if as_json:
        terminal.document({"faults": found, "doubts": doubtful, "unused": without_effect})
    else:
        for fault in found:
            terminal.say(f"fail  {units.plain(fault)}", style="red")
        for doubt in doubtful:
            terminal.say(f"warn  {units.plain(doubt)}", style="yellow")
        for option in without_effect:
            terminal.say(f"warn  {units.plain(option)} has no effect here", style="yellow")
        if not found:
            terminal.say("the settings are valid", style="green")
    if found:
        raise typer.Exit(TROUBLE)


def _checked(files: list[Path] | None, state: Path | None) -> tuple[list[str], list[str], list[str]]:
    """Faults, doubts, and options without effect."""
    try:
        registry = discover()
        settings = load(files or (), registry=registry, state=state)
    except ConfigError as error:
        return listed(error), [], []
    found = faults(settings, registry)
    return found, [] if found else doubts(settings, registry), unused(settings, registry)


@app.command("reference", epilog=EXIT_CODES)
def reference_command() -> None:
    """Print what every option means: the reference, in Markdown."""
    print(reference.markdown(discover()), end="")


@app.command("sample", epilog=EXIT_CODES)
def sample_command(
    name: Annotated[str | None, typer.Argument(help=f"One of {', '.join(reference.SAMPLES)}.")] = None,
    into: Annotated[Path | None, typer.Option("--into", help="Write all of them into this directory.")] = None,
) -> None:
    """Print a sample of a file; or write samples of all, replacing none that is there."""
    if (name is None) == (into is None):
        raise typer.BadParameter("name a file, or a directory with --into")
    if into is None:
        if name not in reference.SAMPLES:
            raise typer.BadParameter(f"{name} is none of {', '.join(reference.SAMPLES)}")
        print(reference.sample(name, discover()), end="")
        return
    registry = discover()
    try:
        into.mkdir(parents=True, exist_ok=True)
        for file in reference.SAMPLES:
            with (into / file).open("x", encoding="utf-8") as sample:
                sample.write(reference.sample(file, registry))
            terminal.say(f"wrote {into / file}")
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}") from None


@app.command("show", epilog=EXIT_CODES)
def show_command(
    config_file: ConfigFiles = None,
    state: State = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the settings in effect, and where those come from that are not defaults."""
    registry = discover()
    settings = load(config_file or (), registry=registry, state=state)
    sections: dict[str, dict[str, Any]] = {}
    for section, name, option in _options(settings, registry):
        if option["origin"] or not changed:
            sections.setdefault(section, {})[name] = option
    if as_json:
        terminal.document(sections)
        return
    table = terminal.table("section", "option", "from", "value", loose="value")
    for section, options in sections.items():
        for number, (name, option) in enumerate(options.items()):
            style = "bold" if option["origin"] else "dim"
            table.add_row(
                f"[{units.plain(section)}]" if number == 0 else "",
                Text(units.plain(name), style=style),
                units.plain(option["origin"] or ""),
                Text(_written(option["value"]), style=style),
            )
    terminal.out.print(table)


def _options(settings: Settings, registry: Registry) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Section, name, and value with origin, of every option that means something here."""
    seen: set[tuple[str, str]] = set()
    for section, model in SECTIONS.items():
        values: BaseModel = getattr(settings, section.lower())
        for name in model.model_fields:
            seen.add((section, name))
            yield section, name, _option(settings, section, name, getattr(values, name))
    for section, extension in extension_sections(settings, registry):
        written = settings.section(section)
        for name, field in extension.model_fields.items():
            handed_over = field.description is None or field.exclude
            told_anyway = field.is_required() and name not in written
            if (section, name) not in seen and not told_anyway and not (handed_over and name not in written):
                seen.add((section, name))
                default = None if field.is_required() else field.get_default(call_default_factory=True)
                value = written.get(name, default)
                yield section, name, _option(settings, section, name, _HIDDEN if value and _secret(field) else value)


def _secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def _option(settings: Settings, section: str, name: str, value: Any) -> dict[str, Any]:
    written = name in settings.raw.get(section, {})
    origin = settings.origin.get((section, name), _OUR_CHOICE) if written else None
    return {"value": _shown(name, value), "origin": origin}


def _shown(name: str, value: Any) -> Any:
    """A value without anything secret in it."""
    match value:
        case None | bool() | int() | float():
            return value
        case str() if value and _SECRET.search(name):
            return _HIDDEN
        case dict():
            return {key: _shown(key, item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_shown(name, item) for item in value]
        case _:
            return _without_password(str(value))


def _without_password(text: str) -> str:
    if "://" not in text or "@" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return _HIDDEN
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}")) if "@" in parts.netloc else text


def _written(value: Any) -> str:
    match value:
        case None:
            return "(unset)"
        case bool():
            return str(value).lower()
        case list():
            return units.plain(", ".join(map(str, value)))
        case dict():
            return units.plain(", ".join(f"{key}:{item}" for key, item in value.items()))
        case _:
            return units.plain(value)
