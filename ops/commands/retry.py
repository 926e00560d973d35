"""`entrepot retry`: fill the stores that an import did not."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from ops.commands import terminal
from ops.commands.attached import task_id
from ops.commands.image_api import ImageApi
from ops.commands.options import EXIT_CODES, HERE, AsJson, Token, Url

app = typer.Typer(add_completion=False)


@app.command("retry", epilog=EXIT_CODES)
def retry_command(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Id of the task of an import that is over.")],
    url: Url = HERE,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Copy an image to the stores in which its import failed, from those that hold it."""
    task_id(task)
    result = asyncio.run(_retry(url, token, task))
    if as_json:
        terminal.document(result)
    else:
        terminal.facts(("task", result["task"]), ("image", result["image_id"]), ("stores", ", ".join(result["stores"])))
        terminal.note(f"The copy goes on: entrepot watch {result['image_id']}")


async def _retry(url: str, token: str | None, task: str) -> dict[str, Any]:
    async with ImageApi(url, token) as api:
        return await api.retry(task)
