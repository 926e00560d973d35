"""`entrepot audit`: is the log what was once written?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer

from kernel.audit import Anchor, Audit, head, verify_chain
from kernel.errors import ConfigError, Invalid
from ops.commands import terminal, units
from ops.commands.attached import attached
from ops.commands.options import DIFFERENCE, EXIT_CODES, AsJson, ConfigFiles, Dsn, State

app = typer.Typer(add_completion=False)


@app.command("audit", epilog=EXIT_CODES)
def audit_command(
    anchor: Annotated[
        bool, typer.Option("--anchor", help="Only print position:hash of the newest event, to be kept elsewhere.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|POSITION:HASH",
            help="Prove that the log still contains this anchor, or those in a file: a tail that was cut off shows.",
        ),
    ] = None,
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Verify the hash chain of the whole log, and name the first position where it breaks.

    What was changed, removed or swapped breaks the chain.  A tail that was cut off does not: keep anchors
    (`entrepot audit --anchor >> anchors` now and then, on another machine) and check --against them.
    """
    if anchor and against:
        raise typer.BadParameter("--anchor and --against exclude each other")
    anchors = _anchors(against) if against else []
    with attached(config_file, database, state) as dsn:
        if anchor:
            _print_anchor(asyncio.run(head(dsn)), as_json=as_json)
            return
        with terminal.bar("following the chain") as progress:
            audit = asyncio.run(verify_chain(dsn, progress, anchors))
    _show(audit, as_json=as_json)
    if not audit.intact:
        raise typer.Exit(DIFFERENCE)


def _anchors(text: str) -> list[Anchor]:
    """An anchor as written, or those of a file: a line each, as text or as JSON."""
    path = Path(text)
    if not path.exists():
        try:
            return [Anchor.parse(text)]
        except Invalid as error:
            raise ConfigError(f"{error}, and no such file exists") from None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    found = [Anchor.parse(_unwrapped(line)) for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigError(f"{path} holds no anchor")
    return found


def _unwrapped(line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        document = orjson.loads(line)
        return f"{document['position']}:{document['hash']}"
    except (orjson.JSONDecodeError, KeyError):
        return line


def _print_anchor(anchor: Anchor, *, as_json: bool) -> None:
    if as_json:
        terminal.line({"position": anchor.position, "hash": anchor.hash.hex()})
    else:
        terminal.say(str(anchor))


def _show(audit: Audit, *, as_json: bool) -> None:
    if as_json:
        broken = audit.broken
        terminal.document(
            {
                "intact": audit.intact,
                "events": audit.events,
                "head": str(audit.head),
                "seconds": round(audit.seconds, 3),
                "rate": round(audit.rate),
                "broken": {"position": broken.position, "kind": broken.kind, "detail": broken.detail}
                if broken
                else None,
                "anchors": [{"anchor": str(held.anchor), "fault": held.fault} for held in audit.anchors],
            }
        )
        return
    terminal.say(
        f"{units.count(audit.events, 'event')} verified in {units.span(audit.seconds)}, {audit.rate:,.0f} events/s"
    )
    if audit.broken is not None:
        broken = audit.broken
        terminal.say(f"broken at position {broken.position} ({broken.kind}): {units.plain(broken.detail)}", style="red")
    else:
        terminal.say(f"the chain is whole; head {audit.head}" if audit.events else "the log is empty", style="green")
    for held in audit.anchors:
        if held.fault:
            terminal.say(f"anchor {held.anchor}: {held.fault}", style="red")
        else:
            terminal.say(f"anchor {held.anchor}: contained", style="green")
