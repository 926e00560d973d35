"""`entrepot explain`: what became of an import, and what to do next."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from ops.commands import terminal, units
from ops.commands.attached import task_id
from ops.commands.image_api import ImageApi
from ops.commands.options import DIFFERENCE, EXIT_CODES, HERE, AsJson, Token, Url

app = typer.Typer(add_completion=False)


@app.command("explain", epilog=EXIT_CODES)
def explain_command(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Id of the import's task.")],
    url: Url = HERE,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Tell in plain words what became of an import, which event decided it, and what to do next.

    The exit code is 3 if the import failed.
    """
    task_id(task)
    told = asyncio.run(_explain(url, token, task))
    if as_json:
        terminal.document(told)
    else:
        _show(told)
    if told["status"] == "failure":
        raise typer.Exit(DIFFERENCE)


async def _explain(url: str, token: str | None, task: str) -> dict[str, Any]:
    async with ImageApi(url, token) as api:
        return await api.explain(task)


def _show(told: dict[str, Any]) -> None:
    terminal.say(units.plain(told["summary"]), style="bold")
    for event in told["events"]:
        decisive = told["cause"] is not None and told["cause"]["position"] == event["position"]
        style = "red" if decisive else None
        terminal.say(units.plain(f"  {event['at'][11:19]}  {event['text']}  [{event['event']}]"), style=style)
    if told["next"]:
        terminal.say("What to do next", style="bold")
    for advice in told["next"]:
        terminal.say(units.plain(f"  - {advice}"))
