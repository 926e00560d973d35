"""The command line: `entrepot serve`, and everything an operator asks of a running or resting installation.

A command's file is loaded when it is asked for, so that the quick ones are quick.
Whatever goes wrong is told in one line; `ENTREPOT_DEBUG=1` shows where it came from.
"""

from __future__ import annotations

import importlib
import os
import sys
from asyncio import CancelledError
from difflib import get_close_matches
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from kernel.errors import EntrepotError
from ops import logs
from ops.commands import options, units

COMMANDS: Final = {
    "serve": "serve",
    "demo": "demo",
    "import": "import_",
    "watch": "watch",
    "cancel": "cancel",
    "retry": "retry",
    "explain": "explain",
    "history": "history",
    "events": "events",
    "replay": "replay",
    "rebuild": "rebuild",
    "audit": "audit",
    "migrate": "migrate",
    "doctor": "doctor",
    "config": "config",
    "extensions": "extensions",
}
"""Name on the command line -> file in `ops/commands`."""


class Commands(TyperGroup):
    """Finds the commands in their files."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            module = importlib.import_module(f"ops.commands.{COMMANDS[cmd_name]}")
            command = typer.main.get_command(module.app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS)
            ctx.fail(f"No such command '{name}'{f', did you mean {near[0]}?' if near else ''}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="entrepot",
    epilog=options.EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"entrepot {version('entrepot')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", help="Tell the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The image import service: Glance's API v2 on an event log."""
    if context.invoked_subcommand != "serve":
        logs.quiet()


def main() -> None:
    """Run the command line and exit with a code that means something."""
    if os.environ.get("ENTREPOT_DEBUG"):
        app()
    try:
        code = app(standalone_mode=False, prog_name="entrepot")
    except Exception as error:
        code = _explain(error)
    except CancelledError:  # Ctrl-C in the very moment in which asyncio.run begins
        code = _complain("interrupted", options.INTERRUPTED)
    sys.stdout.flush()
    raise SystemExit(code if isinstance(code, int) else options.OK)


def _explain(error: Exception) -> int:
    """Say what went wrong; returns the exit code."""
    usage = typer.BadParameter.__bases__[0]
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error)
        return options.USAGE
    if isinstance(error, usage):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "entrepot"
        message = error.format_message()  # type: ignore[attr-defined]
        return _complain(f"{message.rstrip('.')} (see {command} --help)", options.USAGE)
    if isinstance(error, EntrepotError):
        return _complain(str(error), options.TROUBLE)
    if isinstance(error, typer.Abort):
        return _complain("interrupted", options.INTERRUPTED)
    if any(cls.__module__.startswith("asyncpg") for cls in type(error).__mro__):
        return _complain(f"The database refuses: {error}", options.TROUBLE)
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return _complain(f"{what} (ENTREPOT_DEBUG=1 shows where)", options.TROUBLE)
    return _complain(f"{type(error).__name__}: {error} (a bug; ENTREPOT_DEBUG=1 shows where)", options.TROUBLE)


def _complain(message: str, code: int) -> int:
    """One line on stderr; a list of faults follows on lines of its own."""
    first, *rest = message.strip().splitlines() or [""]
    if len(rest) == 1:
        first, rest = f"{first} {rest[0].strip()}", []
    print(f"entrepot: {units.plain(first)}", file=sys.stderr)
    for line in rest:
        print(f"  {units.plain(line.strip())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
