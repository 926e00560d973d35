"""`entrepot import`: bring an image into a running service and see it through."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final
from urllib.parse import unquote, urlsplit

import typer
from msgspec import Struct

from kernel.errors import Invalid
from kernel.inspector import Inspector
from ops.commands import following, terminal, units
from ops.commands.image_api import ImageApi, Offer
from ops.commands.options import EXIT_CODES, HERE, INTERRUPTED, AsJson, Token, Url

app = typer.Typer(add_completion=False)

_PEEK: Final = 1 << 20
"""Bytes of a file that are looked at to guess its format."""

_FORMATS: Final = frozenset({"qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso"})
"""Disk formats that show in the first bytes, or in the ending of a name; everything else is raw."""


class Wish(Struct, frozen=True, kw_only=True):
    """What is to be imported, and where to."""

    file: Path | None
    uri: str | None
    attributes: dict[str, Any]
    stores: tuple[str, ...] = ()
    all_stores: bool = False
    allow_failure: bool = False

    @property
    def body(self) -> dict[str, Any]:
        """The import request."""
        method = {"name": "glance-direct"} if self.uri is None else {"name": "web-download", "uri": self.uri}
        body: dict[str, Any] = {"method": method}
        if self.all_stores:
            body["all_stores"] = True
        elif self.stores:
            body["stores"] = list(self.stores)
        if self.allow_failure:
            body["all_stores_must_succeed"] = False
        return body


@app.command("import", epilog=EXIT_CODES)
def import_command(
    source: Annotated[str, typer.Argument(metavar="FILE|URL", help="What to import.")],
    name: Annotated[str | None, typer.Option(help="Name of the image.", show_default="that of the file")] = None,
    disk_format: Annotated[
        str | None, typer.Option(help="Disk format.", show_default="by the file's first bytes, else raw")
    ] = None,
    container_format: Annotated[str, typer.Option(help="Container format.")] = "bare",
    stores: Annotated[
        str | None, typer.Option(metavar="A,B", help="Stores to import into.", show_default="the default store")
    ] = None,
    all_stores: Annotated[bool, typer.Option("--all-stores", help="Import into every store.")] = False,
    allow_failure: Annotated[
        bool, typer.Option("--allow-failure", help="Be content if one store gets the data.")
    ] = False,
    properties: Annotated[
        list[str] | None, typer.Option("--property", metavar="K=V", help="A property of the image; may be repeated.")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Follow the import until it is over.")] = True,
    url: Url = HERE,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Import a file, or what lies behind a URL, into a running service.

    Ctrl-C while the import is followed leaves it running; before that it leaves nothing behind.
    """
    if stores is not None and all_stores:
        raise typer.BadParameter("--stores and --all-stores exclude each other")
    wish = _wish(source, name, disk_format, container_format, stores, properties, all_stores, allow_failure)
    begun: list[str] = []
    try:
        result = asyncio.run(run(ImageApi(url, token), wish, watch=watch, begun=begun))
    except KeyboardInterrupt:
        if begun:
            raise following.interrupted(begun[0]) from None
        terminal.note("interrupted; nothing was imported", None)
        raise typer.Exit(INTERRUPTED) from None
    if watch:
        following.show(result, as_json=as_json)
    elif as_json:
        terminal.document(result)
    else:
        terminal.facts(("image", result["id"]), ("status", result["status"]))
        terminal.note(f"The import goes on: entrepot watch {result['id']}")


async def run(api: ImageApi, wish: Wish, *, watch: bool = True, begun: list[str]) -> dict[str, Any]:
    """Create, send, ask, follow; the id goes into `begun` once the service has taken the import on."""
    began = time.monotonic()
    async with api:
        image_id, offer = await api.create(wish.attributes)
        try:
            _must_be_offered(wish, offer)
            if wish.file is not None:
                with terminal.bar(f"sending {units.short(wish.file.name, 40)}", bytes_=True) as progress:
                    await api.stage(image_id, wish.file, progress)
            await api.import_image(image_id, wish.body)
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.shield(api.delete(image_id))
            raise
        begun.append(image_id)
        terminal.note(f"image {image_id}")
        if not watch:
            return following.outcome(await api.show(image_id), {"status": "pending"}, time.monotonic() - began)
        with following.display() as seen:
            task = await following.followed(api, image_id, seen)
        return await following.ended(api, image_id, task, time.monotonic() - began)


def _must_be_offered(wish: Wish, offer: Offer) -> None:
    """Find out before any byte is sent what would be refused afterwards."""
    method: str = wish.body["method"]["name"]
    if offer.methods is not None and method not in offer.methods:
        raise Invalid(f"The service does not offer {method} (it offers {', '.join(offer.methods) or 'no imports'})")
    unknown = [store for store in wish.stores if offer.stores is not None and store not in offer.stores]
    if unknown:
        raise Invalid(f"The service has no store {', '.join(unknown)} (it has {', '.join(offer.stores or ())})")


# --- what is asked for ---------------------------------------------------------------------


def _wish(
    source: str,
    name: str | None,
    disk_format: str | None,
    container_format: str,
    stores: str | None,
    properties: Sequence[str] | None,
    all_stores: bool,
    allow_failure: bool,
) -> Wish:
    scheme = source.partition(":")[0].lower() if "://" in source or source.lower().startswith("file:") else ""
    uri = source if scheme not in ("", "file") else None
    try:
        path = unquote(urlsplit(source).path) if scheme else source
    except ValueError as error:
        raise typer.BadParameter(f"{source} is no URL: {error}", param_hint="FILE|URL") from None
    file = None if uri else Path(path)
    if file is not None and not file.is_file():
        raise typer.BadParameter(f"there is no file {file}", param_hint="FILE|URL")
    ending = PurePosixPath(path).name
    guessed = disk_format or (guess(file) if file else _by_ending(ending))
    attributes = {
        "name": name or ending or source,
        "disk_format": guessed,
        "container_format": container_format,
        **dict(map(_property, properties or ())),
    }
    chosen = tuple(store for item in (stores or "").split(",") if (store := item.strip()))
    if stores is not None and not chosen:
        raise typer.BadParameter("names no store", param_hint="--stores")
    return Wish(
        file=file, uri=uri, attributes=attributes, stores=chosen, all_stores=all_stores, allow_failure=allow_failure
    )


def guess(file: Path) -> str:
    """The disk format by the first bytes of a file."""
    try:
        with file.open("rb") as source:
            head = source.read(_PEEK)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint="FILE|URL") from None
    inspector = Inspector()
    inspector.eat(head)
    found = [item.name for item in inspector.finish().formats if item.name in _FORMATS]
    return found[0] if len(found) == 1 else "raw"


def _by_ending(name: str) -> str:
    ending = name.rpartition(".")[2].lower()
    return ending if ending in _FORMATS else "raw"


def _property(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"'{text}' is not K=V", param_hint="--property")
    return name, value
