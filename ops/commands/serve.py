"""`entrepot serve`: the service itself."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from kernel.registry import discover
from kernel.service import Role
from ops import logs
from ops.commands.options import EXIT_CODES, ConfigFiles, Dsn, State
from ops.config import load
from ops.server import Options, serve

app = typer.Typer(add_completion=False)

_LEVELS: Final = ("debug", "info", "warning", "error")


@app.command("serve", epilog=EXIT_CODES)
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
    if log_level not in _LEVELS:
        raise typer.BadParameter(f"must be one of {', '.join(_LEVELS)}", param_hint="--log-level")
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
