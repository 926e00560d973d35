"""Operators' own import plugins, written for Glance, run as they are.

They are the entry points of the group `glance.image_import.plugins`: `get_flow(**kwargs)`
returns a Taskflow task, usually in a linear flow.  Each becomes a step of its name.  It
runs in a process of its own, on a private copy of the staged file; it trusts its
operator, so it has the network and the service's environment, but it is killed with
the import.  Its `revert` is called when it fails itself; what later steps fail on is
taken back by the service.

A step of ours with the same name wins: Glance's own plugins, where Glance is installed
beside us, are such.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from pydantic import BaseModel, ConfigDict, Field

from kernel.confined import Bounds, run
from kernel.errors import EntrepotError
from kernel.extend import ImportStep, StepRequest, StepResult
from kernel.image import Image, Task
from kernel.masking import mask_url

GROUP: Final = "glance.image_import.plugins"
_SHOWN: Final = (
    *("id", "name", "status", "visibility", "owner", "protected", "min_disk", "min_ram", "checksum", "tags"),
    *("disk_format", "container_format", "size", "virtual_size", "properties", "created_at", "updated_at"),
)
"""What plugins see of an image."""
_SAID: Final = 4000
"""Characters of a plugin's own log that go into ours."""
_REASON: Final = 500

log = structlog.get_logger(__name__)


class TaskflowConfig(BaseModel):
    """[taskflow_plugins] (ours)"""

    model_config = ConfigDict(extra="ignore")

    timeout: float = Field(3600.0, gt=0, description="Seconds that one plugin may take.")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the plugin's process says in the end."""

    error: str | None = None
    disk_format: str | None = None
    container_format: str | None = None
    virtual_size: int | None = None
    properties: dict[str, str] = {}
    removed: tuple[str, ...] = ()


async def run_plugin(point: EntryPoint, request: StepRequest) -> StepResult:
    """Run one plugin; whatever it raises becomes an error with its words."""
    scratch = await request.scratch()
    output = await request.output()
    asked = _asked(point, request, scratch / request.image.id, output)
    ended = await run(
        [sys.executable, "-P", "-m", "plugins.steps._taskflow_run"],
        Bounds(seconds=request.settings.timeout, offline=False, family=True),
        feed=msgspec.json.encode(asked),
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if ended.err:
        log.info("plugin_said", plugin=point.name, image_id=request.image.id, text=ended.err[-_SAID:])
    try:
        answer = msgspec.json.decode(ended.out, type=Answer)
    except msgspec.ValidationError as error:
        raise EntrepotError(f"it sets something to what it cannot be: {error}") from error
    except msgspec.DecodeError as error:
        raise EntrepotError(ended.trouble or f"it ended with code {ended.code} and without a result") from error
    if answer.error is not None:
        raise EntrepotError(_words(answer.error, scratch, output, request.path))
    return StepResult(
        replaced=True,  # a copy that a stranger had in hand is always hashed again
        disk_format=answer.disk_format,
        container_format=answer.container_format,
        virtual_size=answer.virtual_size,
        properties=answer.properties,
        removed=answer.removed,
    )


def _words(error: str, *places: Path) -> str:
    """Its own words, without places and credentials."""
    for place in places:
        error = error.replace(str(place), "…")
    return mask_url(error)[:_REASON]


def _asked(point: EntryPoint, request: StepRequest, work: Path, output: Path) -> dict[str, Any]:
    task = request.image.task
    assert task is not None
    stores: Sequence[str | None] = task.stores if task.multi else (None,)
    return {
        "plugin": {"name": point.name, "value": point.value, "group": point.group},
        "source": str(request.path),
        "work": str(work),
        "output": str(output),
        "config_dirs": [str(directory) for directory in request.config_dirs],
        "image": _image(request.image),
        "backend": stores,
        "task": {
            "id": request.task_id,
            "type": task.type,
            "status": task.status,
            "owner": task.owner,
            "user_id": task.user_id,
            "request_id": task.request_id,
            "image_id": request.image.id,
            "input": {"image_id": request.image.id, "import_req": dict(request.request), "backend": stores},
        },
        "context": _context(request, task),
    }


def _image(image: Image) -> dict[str, Any]:
    return {name: getattr(image, name) for name in _SHOWN}


def _context(request: StepRequest, task: Task) -> dict[str, Any]:
    return {
        "user_id": request.actor.user_id,
        "project_id": request.actor.project_id,
        "roles": sorted(request.actor.roles),
        "request_id": task.request_id,
    }


def unavailable() -> str | None:
    if importlib.util.find_spec("taskflow") is None:
        return "it is a Taskflow plugin and taskflow is not installed (pip install 'entrepot[taskflow]')"
    return None


def adapted(point: EntryPoint) -> ImportStep:
    """A step that runs the plugin behind an entry point."""
    return ImportStep(
        name=point.name,
        run=partial(run_plugin, point),
        config=TaskflowConfig,
        section="taskflow_plugins",
        unavailable=unavailable,
        origin=f"the Taskflow plugin {point.value}",
        yields=True,
    )


def _installed() -> list[ImportStep]:
    return [adapted(point) for point in entry_points(group=GROUP)]


EXTENSIONS: Final = _installed
