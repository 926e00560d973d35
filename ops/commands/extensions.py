"""`entrepot extensions`: what is installed, and what of it cannot be used here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from rich.text import Text

from kernel.extend import ImportStep
from kernel.registry import Registry, discover
from ops.commands import terminal, units
from ops.commands.options import EXIT_CODES, AsJson

app = typer.Typer(add_completion=False)


@app.command("extensions", epilog=EXIT_CODES)
def extensions_command(as_json: AsJson = False) -> None:
    """List stores, import methods, steps, sinks, auth backends and key sources; say why some cannot be used."""
    rows = list(_rows(discover()))
    if as_json:
        terminal.document(rows)
        return
    table = terminal.table("kind", "name", "from", "usable", "about", loose="about")
    for row in rows:
        usable = Text("no", style="red") if row["unavailable"] else Text("yes", style="green")
        about = [row["unavailable"]] if row["unavailable"] else row["remarks"]
        table.add_row(row["kind"], row["name"], row["origin"], usable, units.plain("; ".join(about)))
    terminal.out.print(table)


def _rows(registry: Registry) -> Iterator[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {
        "store": registry.stores,
        "method": registry.methods,
        "step": registry.steps,
        "sink": registry.sinks,
        "auth": registry.auth,
        "keys": registry.keys,
    }
    for kind, found in kinds.items():
        for name, extension in sorted(found.items()):
            yield {
                "kind": kind,
                "name": name,
                "origin": registry.origins[id(extension)],
                "section": getattr(extension, "section", None),
                "options": sorted(extension.config.model_fields),
                "unavailable": _unavailable(extension),
                "remarks": _remarks(extension),
            }


def _unavailable(extension: Any) -> str | None:
    """Why it cannot be used; methods always can."""
    if isinstance(extension, ImportStep):
        return extension.unavailable()
    reason: str | None = getattr(extension, "unavailable", None)
    return reason


def _remarks(extension: Any) -> list[str]:
    """What sets it apart from its kind."""
    remarks = []
    if getattr(extension, "schemes", None):
        remarks.append(f"URLs: {', '.join(sorted(extension.schemes))}")
    if getattr(extension, "read_only", False):
        remarks.append("read-only")
    if getattr(extension, "default", True) is False:
        remarks.append("only when enabled_import_methods names it")
    if getattr(extension, "loopback_only", False):
        remarks.append("trusts everybody: loopback only")
    if isinstance(extension, ImportStep):
        remarks += extension.warnings()
    return remarks
