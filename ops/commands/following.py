"""An import as it goes on: asked for now and then, shown by stage and store until it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.progress import TaskID

from kernel.errors import NotFound, Unavailable
from ops.commands import terminal, units
from ops.commands.image_api import ImageApi, Refused
from ops.commands.options import DIFFERENCE, INTERRUPTED

FINAL: Final = ("success", "failure")

_QUICK: Final = 0.1
_SLOW: Final = 0.5
"""Seconds between two questions, at first and later."""

_PATIENCE: Final = 60.0
"""Seconds for which a service that went away may stay away: imports survive that."""

Seen = Callable[[dict[str, Any]], None]
"""Shown the task every time it was asked for."""


# --- asking ------------------------------------------------------------------------------


async def newest(api: ImageApi, image_id: str) -> dict[str, Any]:
    """The newest task of an image."""
    tasks = await api.tasks(image_id)
    if not tasks:
        raise NotFound(f"Image {image_id} has no import to follow")
    return tasks[-1]


async def followed(api: ImageApi, image_id: str, seen: Seen) -> dict[str, Any]:
    """The newest task of an image, once it is over; rides out a restart of the service."""
    began = answered = time.monotonic()
    while True:
        try:
            task = await newest(api, image_id)
        except Unavailable as error:
            if time.monotonic() - answered > _PATIENCE:
                raise Unavailable(f"{error}; the import goes on: entrepot watch {image_id}") from error
        except Refused as error:
            if error.status != 404:
                raise
            return {"status": "failure", "message": "The image has been deleted"}
        else:
            answered = time.monotonic()
            seen(task)
            if task["status"] in FINAL:
                return task
        await asyncio.sleep(_QUICK if time.monotonic() - began < 5 else _SLOW)


# --- showing -----------------------------------------------------------------------------


@contextmanager
def display() -> Iterator[Seen]:
    """Shows a task while it runs: bars on a terminal, a line for every stage elsewhere."""
    if terminal.err.is_terminal:
        with terminal.bars() as bars:
            known: dict[tuple[str, str], TaskID] = {}
            waiting = bars.add_task("waiting for a worker", total=None)

            def draw(task: dict[str, Any]) -> None:
                now = task.get("progress")
                bars.update(waiting, description=_state(task), visible=now is None and task["status"] not in FINAL)
                if now is None:
                    return
                key = now["stage"], now["store"] or ""
                if key not in known:
                    known[key] = bars.add_task(_what(now), total=now["total"])
                bars.update(known[key], completed=now["done"], total=now["total"], rate=now["rate"])

            yield draw
        return
    said: list[str] = []

    def tell(task: dict[str, Any]) -> None:
        now = task.get("progress")
        line = _what(now) if now else _state(task)
        if line not in said and task["status"] not in FINAL:
            said.append(line)
            terminal.note(line)

    yield tell


def _what(now: dict[str, Any]) -> str:
    return units.short(f"{now['stage']} to {now['store']}" if now["store"] else now["stage"], 40)


def _state(task: dict[str, Any]) -> str:
    match task["status"]:
        case "pending":
            return "waiting for a worker"
        case "processing":
            return "a worker is at it"
        case other:
            return str(other)


# --- the outcome -------------------------------------------------------------------------


def outcome(image: dict[str, Any], task: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What became of an import, as scripts read it."""
    return {
        "id": image.get("id"),
        "name": image.get("name"),
        "status": image.get("status"),
        "size": image.get("size"),
        "checksum": image.get("checksum"),
        "os_hash_algo": image.get("os_hash_algo"),
        "os_hash_value": image.get("os_hash_value"),
        "stores": _names(image.get("stores")),
        "failed_stores": _names(image.get("os_glance_failed_import")),
        "task": {"id": task.get("id"), "status": task["status"], "message": task.get("message") or ""},
        "seconds": round(seconds, 3),
    }


async def ended(api: ImageApi, image_id: str, task: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The outcome of an import that is over."""
    try:
        image = await api.show(image_id)
    except Refused as error:
        if error.status != 404:
            raise
        image = {"id": image_id, "status": "deleted"}
    return outcome(image, task, seconds)


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Print an outcome; exits with the code for a failed import if it was one."""
    failed = result["task"]["status"] != "success"
    if as_json:
        terminal.document(result)
    else:
        terminal.facts(*rows(result))
    if result["failed_stores"] and not failed:
        terminal.note(
            f"not in {', '.join(map(units.plain, result['failed_stores']))}: the import failed there", "yellow"
        )
    if failed:
        where = f" (failed stores: {', '.join(result['failed_stores'])})" if result["failed_stores"] else ""
        terminal.note(
            f"entrepot: The import failed: {units.plain(result['task']['message'] or 'no reason given')}"
            f"{units.plain(where)}",
            "red",
        )
        raise typer.Exit(DIFFERENCE)


def rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """An outcome as people read it."""
    yield "image", str(result["id"])
    yield "status", str(result["status"])
    if result["size"] is not None:
        yield "size", units.size(result["size"])
    if result["checksum"]:
        yield "checksum", str(result["checksum"])
    if result["os_hash_algo"]:
        yield str(result["os_hash_algo"]), str(result["os_hash_value"])
    if result["stores"]:
        yield "stores", ", ".join(result["stores"])
    yield "seconds", f"{result['seconds']:.2f}"


def _names(text: str | None) -> list[str]:
    return [name for name in (text or "").split(",") if name]


def interrupted(image_id: str) -> typer.Exit:
    """What Ctrl-C means to somebody who only watches."""
    terminal.note(f"The import of image {image_id} goes on without you: entrepot watch {image_id}", None)
    return typer.Exit(INTERRUPTED)
