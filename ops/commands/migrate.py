"""`entrepot migrate`: the schema of this version."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from migrations.runner import migrate, migrations, pending
from ops.commands import terminal
from ops.commands.attached import attached, exists, home
from ops.commands.options import EXIT_CODES, AsJson, ConfigFiles, Dsn, State

app = typer.Typer(add_completion=False)


@app.command("migrate", epilog=EXIT_CODES)
def migrate_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be applied.")] = False,
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the schema of this version; `serve` does the same at its start."""
    if dry_run and database is None and not exists(home(config_file, state)):
        names = [migration.name for migration in migrations()]  # looking must not make a database
    else:
        with attached(config_file, database, state, make=True) as dsn:
            names = asyncio.run(pending(dsn) if dry_run else migrate(dsn))
    if as_json:
        terminal.document({"pending" if dry_run else "applied": names})
        return
    for name in names:
        terminal.say(f"{'would apply' if dry_run else 'applied'} {name}")
    if not names:
        terminal.say("the schema is up to date", style="green")
