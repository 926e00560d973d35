"""What of a conversion can be told without qemu-img."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kernel.confined import Ended
from kernel.errors import UnacceptableData
from kernel.verdict import Rules
from plugins.steps.image_conversion import (
    ConversionConfig,
    Info,
    _must_stand_alone,
    _options,
    _words,
    progress_of,
)

ALLOWED = Rules(vmdk_types=frozenset({"monolithicsparse", "streamoptimized"}))


def info(found: str = "qcow2", **more: object) -> Info:
    return msgspec.convert({"format": found, "virtual-size": 5, **more}, Info)


def test_progress_is_read_from_whatever_pieces_it_comes_in() -> None:
    shares: list[float] = []
    hear = progress_of(shares.append)
    for piece in (
        b"    (0.00/100%)\r    (1.",
        b"25/100%)\r",
        b"    (50/100%)\r    (99.50/100%)\r",
        b"noise",
        b"(100.00/100%)\n",
    ):
        hear(piece)
    assert shares[0] == 0
    assert sorted(set(shares)) == [0, 0.0125, 0.995, 1.0]
    assert shares == sorted(shares)


def test_progress_keeps_little_of_what_it_hears() -> None:
    hear = progress_of(lambda share: None)
    for _ in range(3):
        hear(b"x" * (1 << 20))
    (rest,) = (cell.cell_contents for cell in hear.__closure__ or () if isinstance(cell.cell_contents, bytes))
    assert len(rest) <= 64


def test_what_qemu_img_says_is_read() -> None:
    said = b'{"virtual-size": 1048576, "filename": "x", "format": "vmdk", "actual-size": 1, "dirty-flag": false,'
    said += b'"format-specific": {"type": "vmdk", "data": {"create-type": "streamOptimized", "extents": []}}}'
    read = msgspec.json.decode(said, type=Info)
    assert (read.format, read.virtual_size, read.detail("create-type")) == ("vmdk", 1 << 20, "streamOptimized")
    assert read.detail("data-file") is None
    assert info("raw").detail("anything") is None


@pytest.mark.parametrize(
    ("seen", "found", "words"),
    [
        (info(**{"backing-filename": "/etc/passwd"}), "qcow2", "backing file"),
        (info(**{"full-backing-filename": "/etc/passwd"}), "qcow2", "backing file"),
        (info(**{"format-specific": {"data": {"data-file": "x"}}}), "qcow2", "another file"),
        (info("vmdk", **{"format-specific": {"data": {"create-type": "monolithicFlat"}}}), "vmdk", "monolithicFlat"),
        (info("vmdk", **{"format-specific": {"data": {}}}), "vmdk", "missing"),
        (info("vmdk"), "vmdk", "missing"),
    ],
)
def test_images_that_need_other_files_are_refused(seen: Info, found: str, words: str) -> None:
    with pytest.raises(UnacceptableData, match=words):
        _must_stand_alone(seen, found, ALLOWED)


def test_images_that_stand_alone_pass() -> None:
    _must_stand_alone(info(), "qcow2", ALLOWED)
    _must_stand_alone(info("raw"), "raw", ALLOWED)
    sparse = info("vmdk", **{"format-specific": {"data": {"create-type": "monolithicSparse"}}})
    _must_stand_alone(sparse, "vmdk", ALLOWED)
    with pytest.raises(UnacceptableData):
        _must_stand_alone(sparse, "vmdk", Rules(vmdk_types=frozenset()))


@pytest.mark.parametrize(
    ("allowed", "kind"),
    [
        (("monolithicsparse", "streamoptimized"), "monolithicSparse"),
        (("streamoptimized",), "streamOptimized"),
        ((), "monolithicSparse"),
    ],
)
def test_a_vmdk_is_made_of_a_kind_that_is_allowed(allowed: tuple[str, ...], kind: str) -> None:
    assert _options("vmdk", Rules(vmdk_types=frozenset(allowed))) == ["-o", f"subformat={kind}"]
    assert _options("raw", Rules()) == []


def test_its_words_tell_no_places() -> None:
    ended = Ended(code=1, out=b"", err="qemu-img: Could not open '/staging/x.1': bad\nmagic")
    assert _words(ended, Path("/staging/x.1")) == "Could not open 'the image': bad; magic"
    assert _words(Ended(code=-25, out=b"", err="")) == "its output is larger than allowed"
    assert _words(Ended(code=1, out=b"", err="")) == "exit code 1"
    assert len(_words(Ended(code=1, out=b"", err="x" * 9999))) == 300


def test_the_target_is_one_of_three() -> None:
    assert ConversionConfig().output_format == "raw"
    with pytest.raises(ValueError, match="output_format"):
        ConversionConfig.model_validate({"output_format": "vhd"})
