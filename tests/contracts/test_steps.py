"""What every import step promises.  A step with a `selftest` is held to it without being named here."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from kernel.errors import PluginFailed
from kernel.events import StepCompleted
from kernel.extend import LocalFiles
from kernel.image import STAGING
from tests.support.step_bench import Bench, discovered, programs, trial
from tests.support.stores import turns, within

STEPS = discovered()


@pytest.fixture(params=STEPS, ids=lambda step: step.name)
async def tried(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Every step, with something to do."""
    made = await trial(tmp_path, request.param)
    yield made
    await made.site.close()


def test_every_step_in_the_box_is_held_to_the_contract() -> None:
    assert {"no_op", "inject_image_metadata", "image_decompression"} <= {step.name for step in STEPS}


@pytest.mark.qemu
def test_so_is_conversion() -> None:
    assert "image_conversion" in {step.name for step in STEPS}


async def test_it_does_something_or_nothing_and_says_which(tried: Bench) -> None:
    """Output is sealed: under its final name, read-only, with digests, facts and identity of just these bytes."""
    before = await tried.content(tried.staged)
    completed = await tried.run()
    assert completed.step == tried.step.name
    assert await tried.content(tried.staged) == before
    if completed.blob is None:
        assert tried.untouched
        return
    blob, staging = completed.blob, tried.site.staging
    assert isinstance(staging, LocalFiles)
    path = staging.path(blob.url)
    data = await tried.content(blob)
    assert tried.files == sorted([staging.path(tried.staged.url), path])
    assert not stat.S_IMODE(path.stat().st_mode) & 0o222
    assert (blob.store, blob.size) == (STAGING, len(data))
    assert blob.digests.value == hashlib.sha512(data).hexdigest()
    assert blob.facts is not None
    assert blob.identity == await staging.identify(blob.url)
    assert programs() == set()


async def test_it_can_be_run_again_under_a_higher_epoch(tried: Bench) -> None:
    """A worker that takes over may find the output of its predecessor beside its own."""
    first, second = await tried.run(epoch=1), await tried.run(epoch=2)
    assert (first.blob is None) == (second.blob is None)
    if first.blob is not None and second.blob is not None:
        assert first.blob.name != second.blob.name
        assert await tried.content(first.blob) == await tried.content(second.blob)


async def test_being_cancelled_at_any_moment_leaves_nothing(tried: Bench) -> None:
    """After one turn of the event loop, after two, and so on until it is done before."""
    for count in range(0, 4000, 7):
        running = asyncio.create_task(tried.run(epoch=count + 1))
        await turns(count)
        if count > 100:  # by now a program runs; let it get somewhere
            await asyncio.wait({running}, timeout=(count - 100) / 2000)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await within(running)
            break
        assert tried.untouched
        assert programs() == set()


async def test_failing_leaves_nothing(tried: Bench) -> None:
    """What it would make is larger than allowed."""
    tried.site.settings = tried.site.settings.model_copy(
        update={"default": tried.site.settings.default.model_copy(update={"image_size_cap": 1})}
    )
    (outcome,) = await asyncio.gather(tried.run(), return_exceptions=True)
    if isinstance(outcome, StepCompleted):
        assert outcome.blob is None
    else:
        assert isinstance(outcome, PluginFailed)
        assert tried.step.name in str(outcome)
        assert str(tried.files[0].parents[1]) not in str(outcome)
    assert tried.untouched
    assert programs() == set()
