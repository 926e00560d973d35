"""A place to run one import step on, as an import would: a staging area with staged bytes and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psutil
from pydantic import BaseModel

import plugins.steps
from kernel.context import Actor
from kernel.events import Blob, StepCompleted
from kernel.extend import ImportStep, LocalFiles, Trial
from kernel.image import STAGING, Image
from kernel.registry import Registry
from kernel.settings import Default, Settings
from kernel.site import Site
from kernel.stepping import run_step
from kernel.streams import digest
from stores.file import EXTENSION as FILE
from tests.support.builders import importing
from tests.support.spec import Given
from tests.support.stores import a_name, chunks, connected, everything

USER = Actor(user_id="u", project_id="pA", roles=frozenset({"member", "reader"}))


def discovered() -> list[ImportStep]:
    """Every step in `plugins/steps/` that can test itself and that this machine can run."""
    found = []
    for module in pkgutil.iter_modules(plugins.steps.__path__):
        extension = getattr(importlib.import_module(f"plugins.steps.{module.name}"), "EXTENSION", None)
        if isinstance(extension, ImportStep) and extension.selftest and not extension.unavailable():
            found.append(extension)
    return found


@dataclass
class Bench:
    """Staged bytes of one image, and one step to run on them."""

    site: Site
    step: ImportStep
    image: Image
    staged: Blob
    reports: list[tuple[int, int | None]] = field(default_factory=list)
    on_report: Callable[[], None] = lambda: None

    async def run(self, actor: Actor = USER, epoch: int = 1) -> StepCompleted:
        """Run the step; what it made is in staging and in the event."""
        assert self.image.job is not None

        def report(done: int, total: int | None) -> None:
            self.reports.append((done, total))
            self.on_report()

        job = self.image.job
        return await run_step(self.site, self.image, job, self.step.name, actor=actor, epoch=epoch, report=report)

    async def content(self, blob: Blob) -> bytes:
        return await everything(self.site.staging.read(blob.url))

    @property
    def files(self) -> list[Path]:
        """Everything in staging but its directories of old."""
        assert isinstance(self.site.staging, LocalFiles)
        root = self.site.staging.path(self.staged.url).parents[1]
        return sorted(path for shard in root.iterdir() for path in shard.rglob("*"))

    @property
    def untouched(self) -> bool:
        """Whether staging holds the staged bytes and nothing beside them."""
        assert isinstance(self.site.staging, LocalFiles)
        return self.files == [self.site.staging.path(self.staged.url)]


async def bench(
    directory: Path,
    step: ImportStep,
    data: bytes | Path,
    config: BaseModel | None = None,
    *,
    cap: int = 1 << 40,
    rules: dict[str, Any] | None = None,
    **attributes: Any,
) -> Bench:
    """Stage the bytes, as an import of an image with these attributes finds them."""
    staging = await connected(FILE, directory)
    assert isinstance(staging, LocalFiles)
    held = data.read_bytes() if isinstance(data, Path) else data
    name = a_name(step="stage", image=None)
    stored = await staging.put(name, chunks(held))  # type: ignore[attr-defined]
    size, digests, facts = await digest(staging.read(stored.url), "sha512", inspect=True)  # type: ignore[attr-defined]
    identity = await staging.identify(stored.url)
    blob = Blob(store=STAGING, name=name, url=stored.url, size=size, digests=digests, facts=facts, identity=identity)
    image = Given(importing("a", steps=(step.name,))).state
    assert image.job is not None
    image = msgspec.structs.replace(image, **attributes, job=msgspec.structs.replace(image.job, data=blob))
    settings = Settings(default=Default(image_size_cap=cap))
    if rules:
        settings = settings.model_copy(update={"image_format": settings.image_format.model_copy(update=rules)})
    site = Site(
        settings=settings,
        registry=Registry(),
        deployment=uuid4(),
        node="n",
        backends={},
        default="",
        multi=False,
        staging=staging,  # type: ignore[arg-type]
        methods={},
        steps={step.name: step},
        configs={f"step:{step.name}": config or step.config()},
    )
    return Bench(site, step, image, blob)


async def trial(directory: Path, step: ImportStep, **more: Any) -> Bench:
    """The step on what it says it can be tried on."""
    assert step.selftest is not None
    tried: Trial = step.selftest(directory)
    formats = {"disk_format": tried.disk_format, "container_format": tried.container_format}
    return await bench(directory, step, tried.data, tried.config, **{**formats, **more})


def programs() -> set[int]:
    """Confined programs, and what they have started, that still run; their environment gives them away."""
    running = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and _confined(child):
                running.add(child.pid)
    return running


def _confined(process: psutil.Process) -> bool:
    try:
        return "MALLOC_ARENA_MAX" in process.environ()
    except psutil.AccessDenied:
        return True  # too well confined for us to look
