"""The command line: `entrepot serve`, and everything an operator asks of a running or resting installation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kernel.errors import EntrepotError
from kernel.registry import discover
from kernel.service import Role
from ops import logs
from ops.config import load
from ops.server import Options, serve

app = typer.Typer(
    name="entrepot",
    help="The image import service: Glance's API v2 on an event log.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

@app.callback()
def root() -> None:
    """The image import service."""


ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config-file", help="Configuration file, such as glance-api.conf; may be repeated.", exists=True),
]
Dsn = Annotated[
    str | None, typer.Option("--database", envvar="ENTREPOT_DATABASE", help="DSN of a Postgres; else an embedded one.")
]
State = Annotated[
    Path | None, typer.Option("--state", envvar="ENTREPOT_STATE", help="Directory of the embedded database and keys.")
]


@app.command("serve")
def serve_command(
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    listen: Annotated[str, typer.Option(help="Address to listen on, HOST:PORT.")] = "127.0.0.1:9292",
    role: Annotated[str, typer.Option(help="What to run: all, api or worker.")] = "all",
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the port and the work.")] = 1,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve the Image API and work on imports until told to stop."""
    logs.configure(log_level)
    host, port = address(listen)
    registry = discover()
    settings = load(config_file or (), registry=registry, state=state)
    serve(
        Options(
            settings=settings,
            registry=registry,
            dsn=database,
            host=host,
            port=port,
            role=as_role(role),
            processes=processes,
        )
    )


def as_role(text: str) -> Role:
    """A role by its name."""
    match text:
        case "all" | "api" | "worker":
            return text
        case _:
            raise typer.BadParameter("must be all, api or worker", param_hint="--role")


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, IPv6 hosts in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"'{text}' is not HOST:PORT", param_hint="--listen")
    return host.strip("[]") or "127.0.0.1", int(port)


def main() -> None:
    """Run the command line; trouble is one line on stderr and exit code 1."""
    try:
        app()
    except EntrepotError as error:
        print(f"entrepot: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
