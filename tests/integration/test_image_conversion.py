"""Converting with the real qemu-img: every format to every target, progress, sparseness, cancellation."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from kernel.confined import Bounds, Ended, run
from kernel.errors import PluginFailed
from kernel.extend import LocalFiles
from plugins.steps import image_conversion
from plugins.steps.image_conversion import EXTENSION, ConversionConfig
from tests.support import disk_images
from tests.support.disk_images import CONTENT, GOOD, MIB, content_of, good
from tests.support.formats import GPTOK
from tests.support.step_bench import Bench, bench, programs
from tests.support.stores import within

pytestmark = pytest.mark.qemu


async def of(tmp_path: Path, data: bytes | Path, target: str = "raw", **more: object) -> Bench:
    config = ConversionConfig.model_validate({"output_format": target})
    staging = tmp_path / "staging"
    return await bench(staging, EXTENSION, data, config, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["raw", "qcow2", "vmdk"])
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.requirement("REQ-076")
async def test_every_format_becomes_every_target(tmp_path: Path, name: str, target: str) -> None:
    source = GOOD[name][0]
    made = await of(tmp_path, good(name, tmp_path), target, disk_format=source, container_format="ovf")
    completed = await made.run()
    assert completed.virtual_size == len(CONTENT)
    if source == target:
        assert completed.blob is None
        assert made.untouched
        return
    assert (completed.disk_format, completed.container_format) == (target, "bare")
    assert completed.blob is not None
    result = tmp_path / "result"
    result.write_bytes(await made.content(completed.blob))
    assert content_of(result, target) == CONTENT
    assert completed.blob.facts is not None
    assert [found.name for found in completed.blob.facts.formats] == [target]


async def test_a_vmdk_is_made_that_the_site_would_take_back(tmp_path: Path) -> None:
    made = await of(tmp_path, CONTENT, "vmdk", disk_format="raw", rules={"vmdk_allowed_types": ("streamOptimized",)})
    completed = await made.run()
    assert completed.blob is not None
    assert completed.blob.facts is not None
    assert [found.variant for found in completed.blob.facts.formats] == ["streamoptimized"]


async def test_partitioned_disks_count_as_raw(tmp_path: Path) -> None:
    raw = await of(tmp_path / "a", GPTOK + bytes(MIB), disk_format="raw")
    assert (await raw.run()).blob is None
    completed = await (await of(tmp_path / "b", disk_images.partitioned(tmp_path), disk_format="qcow2")).run()
    assert completed.blob is not None
    assert completed.blob.facts is not None
    assert [found.name for found in completed.blob.facts.formats] == ["gpt"]


async def test_what_is_empty_stays_unwritten(tmp_path: Path) -> None:
    """A disk of 200 MiB of which 2 MiB are in use takes little more than those on the disk."""
    image = good("qcow2", tmp_path, CONTENT[: 2 * MIB] + bytes(198 * MIB))
    made = await of(tmp_path, image, disk_format="qcow2")
    completed = await made.run()
    assert completed.blob is not None
    assert isinstance(made.site.staging, LocalFiles)
    found = made.site.staging.path(completed.blob.url).stat()
    assert found.st_size == 200 * MIB
    assert found.st_blocks * 512 < 8 * MIB
    assert made.reports[-1] == (200 * MIB, 200 * MIB)
    assert made.reports == sorted(made.reports)


async def test_one_that_is_cancelled_in_the_middle_leaves_neither_file_nor_program(tmp_path: Path) -> None:
    image = good("qcow2", tmp_path, CONTENT * 32)
    made = await of(tmp_path, image, disk_format="qcow2")
    begun = asyncio.Event()
    made.on_report = begun.set
    running = asyncio.create_task(made.run())
    await within(begun.wait())
    assert "qemu-img" in {psutil.Process(pid).name() for pid in programs()}
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(running)
    assert programs() == set()
    assert made.untouched


async def test_an_image_is_never_larger_than_allowed(tmp_path: Path) -> None:
    """Refused before anything is converted; and qemu-img could not write more if it tried."""
    made = await of(tmp_path, good("qcow2", tmp_path), cap=len(CONTENT) - 1, disk_format="qcow2")
    with pytest.raises(PluginFailed, match=f"{len(CONTENT)} bytes large unpacked, {len(CONTENT) - 1} are allowed"):
        await made.run()
    assert made.reports == []
    assert made.untouched


async def test_what_it_writes_beyond_the_limit_is_cut_off(tmp_path: Path) -> None:
    """A qcow2 that, being full, is larger than the disk inside it."""
    content = hashlib.shake_128(b"seed").digest(4 * MIB)
    made = await of(tmp_path, content, "qcow2", cap=len(content), disk_format="raw")
    with pytest.raises(PluginFailed, match=f"larger than the {len(content)} bytes that are allowed"):
        await made.run()
    assert made.untouched


async def test_it_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    config = ConversionConfig(timeout=0.001)
    image = good("qcow2", tmp_path)
    made = await bench(tmp_path / "staging", EXTENSION, image, config, disk_format="qcow2")
    with pytest.raises(PluginFailed, match=r"longer than 0\.001 seconds"):
        await made.run()
    assert made.untouched
    assert programs() == set()


async def test_qemu_img_is_told_the_format_and_held_to_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], Bounds]] = []

    async def noted(command: list[str], bounds: Bounds, **more: Any) -> Ended:
        calls.append((command, bounds))
        return await run(command, bounds, **more)

    monkeypatch.setattr(image_conversion, "run", noted)
    made = await of(tmp_path, good("vhd", tmp_path), cap=1 << 30, disk_format="vhd")
    await made.run()
    (info, looking), (convert, converting) = calls
    assert info[1:5] == ["info", "--output=json", "-f", "vpc"]
    assert (looking.cpu, looking.memory, looking.offline) == (2, 1 << 30, True)
    assert convert[1:7] == ["convert", "-p", "-f", "vpc", "-O", "raw"]
    assert (converting.memory, converting.file, converting.offline) == (1 << 30, 1 << 30, True)
    assert isinstance(made.site.staging, LocalFiles)
    assert looking.reads == converting.reads == (made.site.staging.path(made.staged.url),)
    assert looking.makes is None


async def test_without_facts_it_looks_itself(tmp_path: Path) -> None:
    made = await of(tmp_path, good("qcow2", tmp_path), disk_format="qcow2")
    assert made.image.job is not None
    blind = msgspec.structs.replace(made.staged, facts=None)
    made.image = msgspec.structs.replace(made.image, job=msgspec.structs.replace(made.image.job, data=blind))
    assert (await made.run()).disk_format == "raw"


async def test_qemu_img_that_vanished_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await of(tmp_path, good("qcow2", tmp_path), disk_format="qcow2")
    monkeypatch.setattr(image_conversion.shutil, "which", lambda name: None)
    with pytest.raises(PluginFailed, match="qemu-img is not installed any more"):
        await made.run()
    assert EXTENSION.unavailable() == "qemu-img is not installed (Debian: qemu-utils)"
