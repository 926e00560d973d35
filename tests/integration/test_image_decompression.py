"""Unpacking in a process of its own: bounds, progress, cancellation, and a worker that misbehaves."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import lzma
from pathlib import Path

import pytest

from kernel.errors import PluginFailed
from kernel.extend import LocalFiles
from plugins.steps import image_decompression
from plugins.steps.image_decompression import EXTENSION, DecompressionConfig
from tests.support import archives
from tests.support.archives import PACKERS, bomb
from tests.support.step_bench import Bench, bench, programs
from tests.support.stores import within

MIB = 1 << 20
NOISE = hashlib.shake_128(b"seed").digest(MIB)
LARGE = gzip.compress(NOISE, 1) * 64
"""64 MiB in 64 members."""


async def of(tmp_path: Path, data: bytes, *, cap: int = 1 << 40, **options: object) -> Bench:
    config = DecompressionConfig.model_validate(options)
    return await bench(tmp_path, EXTENSION, data, config, cap=cap)


async def fails(made: Bench, words: str) -> None:
    with pytest.raises(PluginFailed, match=words):
        await made.run()
    assert made.untouched
    assert programs() == set()


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.requirement("REQ-080")
async def test_every_kind_is_unpacked(tmp_path: Path, kind: str) -> None:
    made = await of(tmp_path, PACKERS[kind](NOISE), additional_formats="xz, zstd, bz2")
    completed = await made.run()
    assert completed.blob is not None
    assert await made.content(completed.blob) == NOISE
    assert completed.blob.digests.md5 == hashlib.md5(NOISE).hexdigest()


@pytest.mark.parametrize("kind", ["xz", "zstd", "bz2"])
async def test_what_glance_does_not_unpack_stays_packed_unless_asked_for(tmp_path: Path, kind: str) -> None:
    made = await of(tmp_path, PACKERS[kind](NOISE))
    assert (await made.run()).blob is None
    assert made.untouched


async def test_progress_is_that_of_the_archive(tmp_path: Path) -> None:
    made = await of(tmp_path, LARGE * 4)
    completed = await made.run()
    assert completed.blob is not None
    assert completed.blob.size == 256 * MIB
    assert made.reports
    assert made.reports == sorted(made.reports)
    assert {total for _, total in made.reports} == {len(LARGE) * 4}


async def test_a_small_archive_cannot_become_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is innocent, the ratio counts."""
    monkeypatch.setattr(image_decompression, "_INNOCENT", MIB)
    packed = bomb(8)
    await fails(await of(tmp_path / "a", packed, max_ratio=500), "more than [0-9]+ bytes come out of it")
    completed = await (await of(tmp_path / "b", packed, max_ratio=1100)).run()
    assert completed.blob is not None
    assert completed.blob.size == 8 * MIB


async def test_zeros_take_no_room_in_staging(tmp_path: Path) -> None:
    made = await of(tmp_path, bomb(200))
    completed = await made.run()
    assert completed.blob is not None
    assert isinstance(made.site.staging, LocalFiles)
    found = made.site.staging.path(completed.blob.url).stat()
    assert found.st_size == 200 * MIB
    assert found.st_blocks * 512 < MIB


async def test_it_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    await fails(await of(tmp_path, LARGE, timeout=0.01), r"longer than 0\.01 seconds")


async def test_one_that_is_cancelled_in_the_middle_leaves_neither_file_nor_program(tmp_path: Path) -> None:
    made = await of(tmp_path, LARGE * 8)
    begun = asyncio.Event()
    made.on_report = begun.set
    running = asyncio.create_task(made.run())
    await within(begun.wait())
    assert programs()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(running)
    assert programs() == set()
    assert made.untouched


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("print('at 5'); raise SystemExit(1)", "it ended without a word"),
        ("import os; os.abort()", r"it crashed \(SIGABRT\)"),
        ("import os; os.kill(os.getpid(), 9)", "it was killed"),
        ("print('done'); raise SystemExit(1)", "it ended without a word"),
        ("print('failed full no space')", "there is no space left"),
        ("print('x' * 10_000_000, end='')", "it ended without a word"),
    ],
)
async def test_a_worker_that_misbehaves_fails_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(script)
    monkeypatch.setattr(image_decompression, "_WORKER", worker)
    await fails(await of(tmp_path / "staging", gzip.compress(NOISE)), words)


async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decompression, "_MEMORY", 60 * MIB)
    greedy = lzma.compress(NOISE, preset=9)  # whose dictionary is 64 MiB
    await fails(await of(tmp_path, greedy, additional_formats="xz"), "more memory than allowed")


def test_operators_are_told_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decompression.importlib.util, "find_spec", lambda name: None)
    assert "the library lhafile is not installed: imports of lha data will fail" in EXTENSION.warnings()


@pytest.mark.requirement("REQ-082")
async def test_lha_without_the_library_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else suffers."""
    worker = tmp_path / "worker.py"
    source = image_decompression._WORKER.read_text().replace("import lhafile", "import lhafile_is_not_here")
    worker.write_text(source)
    monkeypatch.setattr(image_decompression, "_WORKER", worker)
    await fails(await of(tmp_path / "a", archives.lha_stored((b"x", NOISE))), "needs the library lhafile")
    assert (await (await of(tmp_path / "b", gzip.compress(NOISE))).run()).blob is not None
