"""`entrepot events`: the log, from any position on, and as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import typer
from msgspec import Struct
from rich.text import Text

from kernel.events import EVENTS
from kernel.feed import Feed
from kernel.log_postgres import PostgresLog
from kernel.recorded import Recorded
from ops.commands import event_json, terminal, units
from ops.commands.attached import attached, reading, story, stream
from ops.commands.history import event_name
from ops.commands.options import EXIT_CODES, AsJson, ConfigFiles, Dsn, State
from ops.commands.summaries import summary

app = typer.Typer(add_completion=False)

_PAGE = 1000


class _Wanted(Struct, frozen=True):
    after: int | None
    follow: bool
    image: UUID | None
    types: frozenset[str]

    def includes(self, item: Recorded) -> bool:
        ours = self.image is None or item.stream == self.image
        return ours and (not self.types or event_json.type_name(item) in self.types)


@app.command("events", epilog=EXIT_CODES)
def events_command(
    after: Annotated[
        int | None, typer.Option(min=0, help="Begin after this position.", show_default="the start")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as the log grows; without --after, from now on.")
    ] = False,
    image: Annotated[str | None, typer.Option(metavar="ID", help="Events of this image only.")] = None,
    types: Annotated[str | None, typer.Option("--type", metavar="T,…", help="Events of these types only.")] = None,
    config_file: ConfigFiles = None,
    database: Dsn = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Print the log, an event a line; with --json a JSON object a line."""
    wanted = _Wanted(after, follow, stream(image) if image else None, _known(types))
    with attached(config_file, database, state) as dsn:
        asyncio.run(_print(dsn, wanted, as_json))


def _known(text: str | None) -> frozenset[str]:
    names = frozenset(name.strip() for name in (text or "").split(",") if name.strip())
    known = sorted(cls.__name__ for cls in EVENTS)
    unknown = sorted(names.difference(known))
    if unknown:
        raise typer.BadParameter(
            f"no such type: {', '.join(unknown)} (there are {', '.join(known)})", param_hint="--type"
        )
    return names


async def _print(dsn: str, wanted: _Wanted, as_json: bool) -> None:
    async with reading(dsn) as (_, log):
        async for item in _matching(dsn, log, wanted):
            if as_json:
                terminal.line(event_json.document(item))
            else:
                _show(item, named=wanted.image is None)


async def _matching(dsn: str, log: PostgresLog, wanted: _Wanted) -> AsyncIterator[Recorded]:
    """What there is, then, if it is followed, what comes."""
    end = await log.head()
    start = wanted.after if wanted.after is not None else end if wanted.follow else 0
    if wanted.image is not None and start < end:
        past = [item for item in await story(log, wanted.image) if start < item.position <= end]
        for item in filter(wanted.includes, past):
            yield item
        start = end
    while start < end:
        page = await log.read_all(start, min(_PAGE, end - start))
        for item in filter(wanted.includes, page):
            yield item
        start = page[-1].position
    if wanted.follow:
        async for item in _coming(dsn, log, start):
            if wanted.includes(item):
                yield item


async def _coming(dsn: str, log: PostgresLog, position: int) -> AsyncIterator[Recorded]:
    feed = Feed(log, dsn)
    await feed.start()
    try:
        async for batch in feed.follow(position):
            for item in batch:
                yield item
    finally:
        await feed.stop()


def _show(item: Recorded, *, named: bool) -> None:
    name = event_name(item)
    name.pad_right(20 - len(name))
    line = Text.assemble(
        (f"{item.position:>8}  ", "bold"),
        (f"{units.moment(item.meta.at)}  ", "dim"),
        (f"{item.stream}  " if named else "", "dim"),
        name,
        f"  {summary(item.event)}",
    )
    terminal.out.print(line, soft_wrap=True)
