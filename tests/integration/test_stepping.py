"""What is made of a plugin's outcome: it is taken only if it can be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.errors import PluginFailed
from kernel.extend import ImportStep, StepRequest, StepResult
from tests.support.step_bench import bench

UNFIT: dict[str, tuple[StepResult, str]] = {
    "NUL in a value": (StepResult(properties={"a": "x\0y"}), r"property a cannot be kept: 'x\\x00y'"),
    "half a letter": (StepResult(properties={"a": "\ud800"}), "property a cannot be kept"),
    "a value without end": (StepResult(properties={"a": "x" * 65536}), "property a cannot be kept"),
    "NUL in a name": (StepResult(properties={"a\0b": "x"}), "whose name cannot be kept"),
    "no name": (StepResult(properties={"": "x"}), "whose name cannot be kept"),
    "a name without end": (StepResult(properties={"a" * 256: "x"}), "whose name cannot be kept"),
    "a disk too large to count": (StepResult(virtual_size=1 << 63), "sets virtual_size to 9223372036854775808"),
    "less than nothing": (StepResult(virtual_size=-1), "sets virtual_size to -1"),
    "a format that is no word": (StepResult(disk_format="f\0o"), "sets disk_format to what is no name"),
    "no format": (StepResult(container_format=""), "sets container_format to what is no name"),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_what_cannot_be_recorded_fails_the_step(tmp_path: Path, name: str) -> None:
    """Once, and in words; an append that the database refuses would be tried for ever."""
    result, words = UNFIT[name]

    async def run(request: StepRequest) -> StepResult:
        return result

    made = await bench(tmp_path, ImportStep(name="odd", run=run), b"data")
    with pytest.raises(PluginFailed, match=words):
        await made.run()
    assert made.untouched


async def test_what_can_be_recorded_is_taken(tmp_path: Path) -> None:
    result = StepResult(
        properties={"a" * 255: "ä" * 65535, "b": ""}, removed=("c",), virtual_size=(1 << 63) - 1, disk_format="raw"
    )

    async def run(request: StepRequest) -> StepResult:
        return result

    completed = await (await bench(tmp_path, ImportStep(name="odd", run=run), b"data")).run()
    assert (completed.properties_set, completed.properties_removed) == (result.properties, result.removed)
    assert (completed.virtual_size, completed.disk_format) == (result.virtual_size, "raw")


@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False)])
async def test_no_plugin_makes_more_than_an_image_may_hold(tmp_path: Path, size: int, fits: bool) -> None:
    async def run(request: StepRequest) -> StepResult:
        (await request.output()).write_bytes(bytes(size))
        return StepResult(replaced=True)

    made = await bench(tmp_path, ImportStep(name="odd", run=run), b"data", cap=100)
    if fits:
        completed = await made.run()
        assert completed.blob is not None
        assert completed.blob.size == size
        return
    with pytest.raises(PluginFailed, match="it made 101 bytes, 100 are allowed"):
        await made.run()
    assert made.untouched
