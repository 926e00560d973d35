"""`entrepot watch`: follow an import that runs."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import typer

from ops.commands import following
from ops.commands.attached import stream
from ops.commands.image_api import ImageApi
from ops.commands.options import EXIT_CODES, HERE, AsJson, Token, Url

app = typer.Typer(add_completion=False)


@app.command("watch", epilog=EXIT_CODES)
def watch_command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Id of the image.")],
    url: Url = HERE,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Follow the newest import of an image until it is over; Ctrl-C leaves it running."""
    stream(image)
    try:
        result = asyncio.run(_watch(url, token, image))
    except KeyboardInterrupt:
        raise following.interrupted(image) from None
    following.show(result, as_json=as_json)


async def _watch(url: str, token: str | None, image_id: str) -> dict[str, Any]:
    async with ImageApi(url, token) as api:
        await following.newest(api, image_id)  # a service that never answered is no restart
        with following.display() as seen:
            task = await following.followed(api, image_id, seen)
        return await following.ended(api, image_id, task, _seconds(task))


def _seconds(task: dict[str, Any]) -> float:
    """From the request to the end."""
    times = [task.get(name) for name in ("created_at", "updated_at")]
    if None in times:
        return 0.0
    began, ended = (datetime.fromisoformat(str(at).removesuffix("Z")) for at in times)
    return (ended - began).total_seconds()
