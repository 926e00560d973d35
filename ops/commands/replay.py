"""`entrepot replay`: folding the log before the operator's eyes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from msgspec import Struct, to_builtins
from rich.text import Text

from kernel import replay
from kernel.errors import NotFound
from kernel.evolve import NOTHING, evolve
from kernel.image import Image
from kernel.recorded import IMAGE, Recorded
from ops.commands import event_json, terminal, units
from ops.commands.attached import attached, reading, story, stream
from ops.commands.history import event_name
from ops.commands.options import DIFFERENCE, EXIT_CODES, AsJson, ConfigFiles, Dsn, State
from ops.commands.summaries import summary

app = typer.Typer(add_completion=False)

Change = tuple[str, Any, Any]
"""Path of a field, its former value, its new one."""

_BOOKKEEPING: Final = frozenset({"version", "at", "updated_at"})
"""Fields that change with nearly every event."""


@app.command("replay", epilog=EXIT_CODES)
def replay_command(
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="Id of an image to fold step by step.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fold the whole log and compare it with the read models.")
    ] = False,
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Fold the log again: one image step by step, or with --check all of it, against the read models."""
    if (image is None) == (not check):
        raise typer.BadParameter("name an IMAGE, or say --check, but not both")
    if image is not None:
        wanted = stream(image)
        with attached(config_file, database, state) as dsn:
            steps, found = asyncio.run(_fold(dsn, image, wanted))
        same = _show_steps(steps, found, as_json=as_json)
    else:
        with attached(config_file, database, state) as dsn, terminal.bar("folding the log") as progress:
            report = asyncio.run(replay.check(dsn, progress))
        same = _show_report(report, as_json=as_json)
    if not same:
        raise typer.Exit(DIFFERENCE)


# --- one image ---------------------------------------------------------------------------


async def _fold(dsn: str, image_id: str, wanted: UUID) -> tuple[list[tuple[Recorded, Image]], Image]:
    """Each event with the state after it, and the state that the database holds."""
    async with reading(dsn) as (_, log):
        found = (await log.load(wanted)).image
        events = [item for item in await story(log, wanted) if item.category == IMAGE]
    if not events:
        raise NotFound(f"The log holds nothing of an image {image_id}")
    steps, state = [], NOTHING
    for item in events:
        state = evolve(state, item.event, item.meta)
        steps.append((item, state))
    return steps, found


def _show_steps(steps: list[tuple[Recorded, Image]], found: Image, *, as_json: bool) -> bool:
    shown, before = [], NOTHING
    for item, after in steps:
        changes = [change for change in differences(before, after) if change[0] not in _BOOKKEEPING]
        shown.append((item, changes))
        before = after
    at_row = next((state for _, state in steps if state.version == found.version), before)
    wrong = differences(found, at_row)
    if as_json:
        entries = [{**event_json.document(item), "changes": _as_json(changes)} for item, changes in shown]
        state = to_builtins(before)
        terminal.document({"events": entries, "state": state, "same": not wrong, "differences": _as_json(wrong)})
        return not wrong
    for item, changes in shown:
        terminal.out.print(
            Text.assemble((f"{item.version:>4}  ", "bold"), event_name(item), (f"  {summary(item.event)}", "dim")),
            soft_wrap=True,
        )
        for path, old, new in changes:
            terminal.say(
                f"        {path}: {units.short(_value(old), 160)} → {units.short(_value(new), 160)}", style="cyan"
            )
    if not wrong:
        terminal.say("the database holds the same state", style="green")
    for path, stored, folded in wrong:
        terminal.say(f"{path}: the database says {_value(stored)}, the log says {_value(folded)}", style="red")
    return not wrong


def differences(before: Image, after: Image) -> list[Change]:
    """Fields that differ between two states, nested ones by their paths."""
    return list(_differences("", before, after))


def _differences(path: str, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    dot = f"{path}." if path else ""
    if isinstance(old, Struct) and isinstance(new, Struct):
        for name in old.__struct_fields__:
            yield from _differences(f"{dot}{name}", getattr(old, name), getattr(new, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _differences(f"{dot}{name}", old.get(name), new.get(name))
    else:
        yield path, to_builtins(old), to_builtins(new)


def _value(value: Any) -> str:
    match value:
        case None | "":
            return "nothing"
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{name}: {_value(item)}' for name, item in value.items())}}}"
        case _:
            return units.short(value, 100)


def _as_json(changes: list[Change]) -> list[dict[str, Any]]:
    return [{"field": path, "before": old, "after": new} for path, old, new in changes]


# --- all of it ---------------------------------------------------------------------------


def _show_report(report: replay.Report, *, as_json: bool) -> bool:
    if as_json:
        terminal.document({**to_builtins(report), "rate": round(report.rate), "same": not report.differences})
        return not report.differences
    terminal.say(
        f"{units.count(report.events, 'event')}, {units.count(report.images, 'image')}, "
        f"{units.span(report.seconds)}, {report.rate:,.0f} events/s"
    )
    for difference in report.differences:
        terminal.say(units.plain(difference), style="red")
    if not report.differences:
        terminal.say("the read models say the same as the log", style="green")
    return not report.differences
