"""`entrepot history`: the timeline of one image."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.text import Text

from kernel.errors import NotFound
from kernel.image import Image
from kernel.leases import Progress
from kernel.queries import Queries, TaskRecord
from kernel.recorded import Meta, Recorded
from ops.commands import event_json, terminal, units
from ops.commands.attached import attached, reading, story, stream
from ops.commands.options import EXIT_CODES, AsJson, ConfigFiles, Dsn, State
from ops.commands.summaries import summary

app = typer.Typer(add_completion=False)

_STYLES: Final = {
    "Failed": "red",
    "Cancelled": "red",
    "Deleted": "red",
    "TakenOver": "yellow",
    "Succeeded": "green",
    "Completed": "green",
}
"""How the name of an event ends -> how it looks."""


@app.command("history", epilog=EXIT_CODES)
def history_command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Id of the image.")],
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show the timeline of an image, downloads included, while the service runs or rests.

    Deleted images have one too.  `+elapsed` is the time since the event before; --json prints the events as they are.
    """
    wanted = stream(image)
    with attached(config_file, database, state) as dsn:
        events, found, tasks = asyncio.run(read(dsn, image, wanted))
    if as_json:
        terminal.document([event_json.document(item) for item in events])
    else:
        show(events, found, tasks)


async def read(dsn: str, image_id: str, wanted: UUID) -> tuple[list[Recorded], Image, list[TaskRecord]]:
    """An image's events, how it is now, and its tasks; `NotFound` if there never was one."""
    async with reading(dsn) as (database, log):
        events = await story(log, wanted)
        if not events:
            raise NotFound(f"The log holds nothing of an image {image_id}")
        image = (await log.load(wanted)).image
        return events, image, await Queries(database, log).tasks_of(wanted, None)


def show(events: Sequence[Recorded], image: Image, tasks: Sequence[TaskRecord] = ()) -> None:
    """The timeline as a table, and how the image is now."""
    one_day = len({item.meta.at.date() for item in events}) == 1
    if one_day:
        terminal.say(f"{events[0].meta.at.date()}", style="bold")
    table = terminal.table(
        "time (UTC)", "+elapsed", "event", "who", "worker/epoch", "what", right=("+elapsed",), loose="what"
    )
    elapsed = ["", *(units.span((item.meta.at - before.meta.at).total_seconds()) for before, item in pairwise(events))]
    for item, passed in zip(events, elapsed, strict=True):
        table.add_row(
            Text(units.moment(item.meta.at)[11 if one_day else 0 :], style="dim"),
            passed,
            event_name(item),
            who(item.meta),
            Text(worker(item.meta), style="dim"),
            summary(item.event),
        )
    terminal.out.print(table)
    if image.exists:
        size = f", {units.size(image.size)}" if image.size is not None else ""
        stores = f", in {', '.join(image.stores)}" if image.stores else ""
        terminal.say(f"now {image.status}{size}{stores}", style="bold")
    for record in tasks:
        if record.progress is not None:
            terminal.say(f"{record.task.method} is {progress(record.progress)}", style="cyan")


def event_name(item: Recorded) -> Text:
    """The type of an event, in the colour of good or bad news."""
    name = units.plain(event_json.type_name(item))
    return Text(name, style=next((style for ending, style in _STYLES.items() if name.endswith(ending)), ""))


def who(meta: Meta) -> str:
    """Who caused an event."""
    user, project = meta.by.user, meta.by.project
    return units.short(f"{user or '-'}@{project}" if project else user or "-", 32)


def worker(meta: Meta) -> str:
    """Which worker recorded an event, by the end of its id, and under which epoch."""
    if meta.worker is None:
        return ""
    return f"{meta.worker.hex[-6:]}/{meta.epoch if meta.epoch is not None else '-'}"


def progress(now: Progress) -> str:
    """What a worker is about: `storing to fast: 12.0 MiB of 256.0 MiB, 180.0 MiB/s`."""
    where = f" to {now.store}" if now.store else ""
    total = f" of {units.size(now.total)}" if now.total else ""
    speed = f", {units.rate(now.rate)}" if now.rate else ""
    return f"{now.stage}{where}: {units.size(now.done)}{total}{speed}"
