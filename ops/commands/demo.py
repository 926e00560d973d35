"""`entrepot demo`: the whole way of one image, from nothing, on this machine.

    service on an embedded Postgres ─▶ sample image ─▶ import into three stores ─▶ download, compare ─▶ timeline

Everything lives in one directory, which vanishes in the end unless it was named.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from kernel.errors import ConfigError, Unavailable
from kernel.events import Digests
from kernel.streams import digest
from ops.commands import event_json, following, history, import_, terminal, units
from ops.commands.attached import attached, stream
from ops.commands.demo_service import STORES, DemoService
from ops.commands.image_api import ImageApi
from ops.commands.options import DIFFERENCE, EXIT_CODES, INTERRUPTED, AsJson

app = typer.Typer(add_completion=False)

_PIECE: Final = 1 << 20
_ALGORITHM: Final = "sha512"


@app.command("demo", epilog=EXIT_CODES)
def demo_command(
    state: Annotated[
        Path | None, typer.Option(help="Keep everything in this directory.", show_default="a temporary one")
    ] = None,
    size: Annotated[int, typer.Option(min=1, metavar="MIB", help="Size of the sample image.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Start a service, import a sample image into three stores, download and compare it, show its timeline.

    Needs nothing but a free port, and about four times the size of the image in free space.  Exits with 0 only if
    the image is active and what was downloaded is what was imported.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _directory(state) as directory:
            ended = _demonstrate(directory, size << 20, as_json=as_json)
    except KeyboardInterrupt:
        terminal.note("interrupted", None)
        raise typer.Exit(INTERRUPTED) from None
    if not ended:
        raise typer.Exit(DIFFERENCE)


@contextlib.contextmanager
def _directory(state: Path | None) -> Iterator[Path]:
    if state is not None:
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{state} cannot be made: {error.strerror}") from None
        yield state.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix="entrepot-demo-"))
    made.chmod(0o711)  # as root, Postgres runs under another account, which has to get through
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _demonstrate(directory: Path, size: int, *, as_json: bool) -> bool:
    """All of it; returns whether the bytes that came out are those that went in."""
    began = time.monotonic()
    with DemoService(directory) as service:
        _step(f"entrepot serve --config-file {service.config} --state {directory} --listen 127.0.0.1:{service.port}")
        sample = _sample(directory, size)
        try:
            service.wait()
            _step(f"entrepot import {sample} --all-stores --url {service.url}")
            result = asyncio.run(_import(service.url, sample))
            if not as_json:
                terminal.facts(*following.rows(result))
            image_id = result["id"]
            _step(f"curl {service.url}/v2/images/{image_id}/file | md5sum")
            sent, got = asyncio.run(_digests(service.url, image_id, sample))
        finally:
            sample.unlink()
        _step(f"entrepot history {image_id} --state {directory}")
        with attached(None, None, directory) as dsn:
            events, image, _ = asyncio.run(history.read(dsn, image_id, stream(image_id)))
    matches = result["status"] == "active" and len({sent, got, _recorded(result)}) == 1
    if as_json:
        timeline = [event_json.document(item) for item in events]
        terminal.document({"matches": matches, "image": result, "downloaded": _as_json(got), "timeline": timeline})
        return matches
    history.show(events, image)
    terminal.say()
    took = f"{units.span(time.monotonic() - began)} from nothing to here"
    if matches:
        terminal.say(f"active in {', '.join(result['stores'])}; the download has the same digests; {took}", "green")
    else:
        terminal.say(f"the image is {result['status']}, and what was downloaded is not what was sent", "red")
    return matches


def _step(command: str) -> None:
    """What one would type to do the same."""
    terminal.note(f"$ {command}", "bold")


# --- the image ---------------------------------------------------------------------------


def _sample(directory: Path, size: int) -> Path:
    """A disk image full of noise: qcow2 where qemu-img is installed, else raw."""
    raw = directory / "sample.raw"
    with terminal.bar("making a sample image", bytes_=True) as progress, raw.open("wb") as file:
        for done in range(_PIECE, size + 1, _PIECE):
            file.write(os.urandom(_PIECE))
            progress(done, size)
    program = shutil.which("qemu-img")
    if program is None:
        return raw
    image = directory / "sample.qcow2"
    made = subprocess.run([program, "convert", "-f", "raw", "-O", "qcow2", raw, image], capture_output=True, text=True)
    if made.returncode != 0:
        image.unlink(missing_ok=True)
        return raw
    raw.unlink()
    return image


async def _import(url: str, sample: Path) -> dict[str, Any]:
    """The outcome of importing the sample into every store."""
    attributes = {"name": "demo", "disk_format": import_.guess(sample), "container_format": "bare"}
    wish = import_.Wish(file=sample, uri=None, attributes=attributes, all_stores=True)
    result = await import_.run(ImageApi(url), wish, begun=[])
    if set(result["stores"]) != set(STORES):
        raise Unavailable(f"The import ended as {result['status']}: {result['task']['message']}")
    return result


async def _digests(url: str, image_id: str, sample: Path) -> tuple[Digests, Digests]:
    """Of what was sent, and of what comes back."""
    async with ImageApi(url) as api:
        (_, sent, _), (_, got, _) = await asyncio.gather(
            digest(_bytes(sample), _ALGORITHM), digest(api.download(image_id), _ALGORITHM)
        )
    return sent, got


async def _bytes(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as source:
        while piece := await asyncio.to_thread(source.read, _PIECE):
            yield piece


def _recorded(result: dict[str, Any]) -> Digests:
    """What the service says of the image."""
    return Digests(md5=result["checksum"], algo=result["os_hash_algo"], value=result["os_hash_value"])


def _as_json(digests: Digests) -> dict[str, str]:
    return {"md5": digests.md5, digests.algo: digests.value}
