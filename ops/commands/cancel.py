"""`entrepot cancel`: call an import off."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from ops.commands import terminal
from ops.commands.attached import task_id
from ops.commands.image_api import ImageApi
from ops.commands.options import EXIT_CODES, HERE, AsJson, Token, Url

app = typer.Typer(add_completion=False)


@app.command("cancel", epilog=EXIT_CODES)
def cancel_command(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Id of the import's task.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; the task's message will say so.")] = "",
    url: Url = HERE,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Call an import off that waits or runs: it stops, and everything it has done is taken back."""
    task_id(task)
    result = asyncio.run(_cancel(url, token, task, reason))
    if as_json:
        terminal.document(result)
    else:
        terminal.facts(("task", result["task"]), ("image", result["image_id"]), ("message", result["message"]))
        terminal.note(f"It is being taken back: entrepot explain {result['task']}")


async def _cancel(url: str, token: str | None, task: str, reason: str) -> dict[str, Any]:
    async with ImageApi(url, token) as api:
        return await api.cancel(task, reason)
