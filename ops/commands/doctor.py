"""`entrepot doctor`: is everything as it should be, and if not, what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import typer
from msgspec import to_builtins
from rich.text import Text

from kernel.errors import EntrepotError
from kernel.registry import Registry
from kernel.settings import Settings
from ops.commands import checks, terminal, units
from ops.commands.attached import exists
from ops.commands.checks import Finding
from ops.commands.checks_database import database as database_checks
from ops.commands.options import EXIT_CODES, TROUBLE, AsJson, ConfigFiles, Dsn, State
from ops.database import Postgres

app = typer.Typer(add_completion=False)

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@app.command("doctor", epilog=EXIT_CODES)
def doctor_command(
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Look at settings, stores, tools and database; exits with 1 if something would keep the service from working."""
    findings: list[Finding] = []
    for finding in _examine(config_file or [], database, state):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        terminal.document(to_builtins(findings))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(TROUBLE)


def _examine(files: list[Path], database: str | None, state: Path | None) -> Iterator[Finding]:
    yield from checks.python()
    loaded: list[tuple[Settings, Registry]] = []
    yield from checks.settings(files, state, loaded)
    for settings, registry in loaded:
        yield from checks.stores(settings, registry)
        yield from checks.tools(settings)
    directory = state or (loaded[0][0].state_dir if loaded else None)
    yield from _database(database, directory)


def _database(database: str | None, directory: Path | None) -> Iterator[Finding]:
    if database is None and directory is None:
        return  # nobody knows where it would be
    if database is None and directory is not None and not exists(directory):
        yield Finding("postgres", "ok", f"none yet under {directory}: the first `entrepot serve` makes it")
        return
    postgres = Postgres(database, directory or Path())
    try:
        dsn = postgres.acquire()
    except EntrepotError as error:
        yield Finding("postgres", "fail", units.short(error, 400), "see the file `log` beside its data")
        return
    try:
        yield from asyncio.run(_all(dsn))
    finally:
        postgres.release()


async def _all(dsn: str) -> list[Finding]:
    return [finding async for finding in database_checks(dsn)]


def _show(finding: Finding) -> None:
    line = Text.assemble(
        (finding.status.ljust(6), _STYLES[finding.status]),
        (f"{units.plain(finding.check)}: ", "bold"),
        units.plain(finding.found),
    )
    if finding.advice:
        line.append(f" → {finding.advice}", style="dim")
    terminal.out.print(line, soft_wrap=True)
