"""`entrepot rebuild`: read models made anew from the log."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from kernel.rebuild import names, rebuild
from ops.commands import terminal, units
from ops.commands.attached import attached
from ops.commands.options import EXIT_CODES, AsJson, ConfigFiles, Dsn, State

app = typer.Typer(add_completion=False)


@app.command("rebuild", epilog=EXIT_CODES)
def rebuild_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help=f"What to rebuild: {', '.join(names())}.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Rebuild them all.")] = False,
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild read models from the log, while the service runs or rests.

    `inline` is what requests are answered from (images, tasks, members, usage); the others may lag, and are
    filled again by the running service.
    """
    if (name is None) == (not everything):
        raise typer.BadParameter(f"name one of {', '.join(names())}, or say --all")
    if name is not None and name not in names():
        raise typer.BadParameter(f"'{name}' is none of {', '.join(names())}", param_hint="NAME")
    done: dict[str, Any] = {}
    with attached(config_file, database, state) as dsn:
        for each in names() if everything else (name,):
            assert each is not None
            done[each] = _rebuild(dsn, each)
    if as_json:
        terminal.document(done)
        return
    for each, result in done.items():
        if each == "inline":
            rows = ", ".join(f"{count:,} {table}" for table, count in result["rows"].items())
            terminal.say(f"inline: {units.count(result['events'], 'event')} folded in {units.span(result['seconds'])}")
            terminal.say(f"  {rows}", style="dim")
        else:
            terminal.say(f"{each}: emptied; the running service fills it again from the start of the log")


def _rebuild(dsn: str, name: str) -> dict[str, Any]:
    began = time.perf_counter()
    with terminal.bar(f"rebuilding {name}") as progress:
        result = asyncio.run(rebuild(dsn, name, progress))
    seconds = time.perf_counter() - began
    return {"events": result.events, "rows": result.rows, "seconds": round(seconds, 3)}
