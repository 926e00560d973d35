"""Unpacking one archive into one file: every kind, good, broken and hostile; here within the test's own process."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
import tempfile
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.steps import _unpack
from plugins.steps.image_decompression import DecompressionConfig, kind_of, most_bytes
from tests.support import archives
from tests.support.archives import PACKERS, zipped

MIB = 1 << 20
TEXT = b"".join(b"line %d of an image\n" % number for number in range(60_000))
SPARSE = b"begin" + bytes(8 * MIB) + b"end"
ALL = ("xz", "zstd", "bz2")


def unpack(kind: str, data: bytes, most: int = 1 << 30) -> tuple[str, bytes]:
    """What is said in the end, and what is in the file then."""
    with tempfile.TemporaryDirectory() as directory:
        source, output = Path(directory, "source"), Path(directory, "output")
        source.write_bytes(data)
        output.touch()
        said = _unpack.unpack(kind, str(source), str(output), most)
        assert sorted(os.listdir(directory)) == ["output", "source"]
        return said, output.read_bytes()


def refused(kind: str, data: bytes, reason: str, words: str = "", most: int = 1 << 30) -> None:
    said, _ = unpack(kind, data, most)
    assert said.startswith(f"failed {reason} "), said
    assert words in said


# --- recognising -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKERS)
def test_archives_are_recognised_by_how_they_begin(kind: str) -> None:
    head = PACKERS[kind](TEXT)[:16]
    assert kind_of(head, ALL) == kind
    assert kind_of(head) == (kind if kind in ("gzip", "zip", "lha") else None)


@pytest.mark.parametrize(
    "head", [b"", b"P", b"PK\5\6", b"BZh9 is how a text may begin", b"\x1f\x8b\x07", bytes(16), b"QFI\xfb"]
)
def test_anything_else_is_left_alone(head: bytes) -> None:
    assert kind_of(head[:16], ALL) is None


def test_three_letters_at_the_third_byte_are_lha() -> None:
    assert kind_of(b"\0\0-lh") == "lha"


@pytest.mark.parametrize(
    ("packed", "cap", "most"),
    [(1, 1 << 40, 256 * MIB), (MIB, 1 << 40, 2000 * MIB), (MIB, 5, 5), (1 << 40, 1 << 40, 1 << 40)],
)
def test_little_may_become_much_but_not_anything(packed: int, cap: int, most: int) -> None:
    assert most_bytes(packed, cap, 2000) == most


def test_the_options() -> None:
    assert DecompressionConfig.model_validate({"additional_formats": "[xz, 'zstd']"}).additional_formats == (
        "xz",
        "zstd",
    )
    assert DecompressionConfig().additional_formats == ()
    with pytest.raises(ValueError, match="additional_formats"):
        DecompressionConfig.model_validate({"additional_formats": "rar"})


# --- unpacking ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [TEXT, SPARSE, b"", b"x", bytes(3 * MIB)], ids=["text", "sparse", "none", "x", "zeros"]
)
@pytest.mark.parametrize("kind", PACKERS)
def test_every_kind_gives_back_what_was_packed(kind: str, data: bytes) -> None:
    assert unpack(kind, PACKERS[kind](data)) == (f"done {len(data)}", data)


@pytest.mark.parametrize("fast", [True, False], ids=["isal", "zlib"])
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=4), padding=st.integers(0, 9))
def test_gzip_members_are_one(fast: bool, data: bytes, cuts: list[int], padding: int) -> None:
    """However many, however small, with zeros behind them."""
    places = [0, *sorted(cuts), len(data)]
    members = [gzip.compress(data[begin:end]) for begin, end in pairwise(places)]
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(_unpack, "fast_zlib", lambda: zlib)
        assert unpack("gzip", b"".join(members) + bytes(padding)) == (f"done {len(data)}", data)


@given(data=st.binary(max_size=3000), sip=st.integers(1, 700), piece=st.integers(1, 700))
def test_the_size_of_the_pieces_does_not_matter(data: bytes, sip: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_unpack, "SIP", sip)
        patch.setattr(_unpack, "PIECE", piece)
        for kind in ("gzip", "zip"):
            assert unpack(kind, PACKERS[kind](data)) == (f"done {len(data)}", data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_zip(method: int) -> None:
    assert unpack("zip", zipped(("x.img", TEXT), method=method)) == (f"done {len(TEXT)}", TEXT)


def test_packed_lha() -> None:
    assert unpack("lha", archives.lha_of_one_letter(65, 200_000)) == ("done 200000", b"A" * 200_000)


def test_streams_of_the_others_are_one_too() -> None:
    assert unpack("xz", lzma.compress(b"a") + lzma.compress(b"b"))[1] == b"ab"
    assert unpack("bz2", bz2.compress(b"a") + bz2.compress(b"b"))[1] == b"ab"
    zstd = archives.zstd()
    assert unpack("zstd", zstd.compress(b"a") + zstd.compress(b"b"))[1] == b"ab"


def test_zeros_take_no_room_on_the_disk(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_bytes(gzip.compress(SPARSE))
    output.touch()
    assert _unpack.unpack("gzip", str(source), str(output), 1 << 30).startswith("done")
    assert output.stat().st_size == len(SPARSE)
    assert output.stat().st_blocks * 512 < MIB


# --- broken ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_archives_are_refused(kind: str, share: float) -> None:
    whole = PACKERS[kind](TEXT)
    said, _ = unpack(kind, whole[: int(len(whole) * share)])
    assert said.startswith(("failed truncated ", "failed broken ")), said


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged_archives_are_refused(kind: str) -> None:
    """A byte in the middle is not what it was: the checksum notices, if nothing else does."""
    whole = bytearray(PACKERS[kind](TEXT))
    whole[len(whole) // 2] ^= 0x55
    said, _ = unpack(kind, bytes(whole))
    assert said.startswith(("failed broken ", "failed truncated ")), said


@given(data=st.binary(min_size=1, max_size=300), kind=st.sampled_from(sorted(PACKERS)))
def test_rubbish_is_refused(data: bytes, kind: str) -> None:
    """Whatever a parser makes of it, it ends in words."""
    head = PACKERS[kind](b"some data")[:10]
    for rubbish in (data, head + data):
        said, _ = unpack(kind, rubbish)
        assert said.startswith(("failed ", "done ")), said
        assert "\n" not in said


def test_something_else_behind_gzip_data_is_refused() -> None:
    refused("gzip", gzip.compress(TEXT) + b"something else", "broken", "follows")


# --- hostile -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKERS)
def test_no_more_comes_out_than_allowed(kind: str) -> None:
    """Not a byte: neither of data nor of zeros."""
    for data in (TEXT, SPARSE):
        packed = PACKERS[kind](data)
        assert unpack(kind, packed, len(data))[0] == f"done {len(data)}"
        said, left = unpack(kind, packed, len(data) - 1)
        assert said == f"failed large more than {len(data) - 1} bytes come out of it"
        assert len(left) < len(data)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/b/c", "x" * 3000, "C:\\x"])
def test_names_inside_archives_mean_nothing(name: str) -> None:
    assert unpack("zip", zipped((name, TEXT))) == (f"done {len(TEXT)}", TEXT)
    assert unpack("lha", archives.lha_stored((name.encode()[:90], TEXT))) == (f"done {len(TEXT)}", TEXT)


def test_exactly_one_member_is_wanted() -> None:
    refused("zip", zipped(("a", TEXT), ("b", b"")), "members", "2 members")
    refused("zip", zipped(), "members", "0 members")
    refused("zip", zipped(("a/", b"")), "members", "directory")
    refused("lha", archives.lha_stored((b"a", TEXT), (b"b", TEXT)), "members", "2 members")


def test_encrypted_zips_are_refused() -> None:
    refused("zip", archives.encrypted(TEXT), "encrypted")


def test_zips_that_lie_are_refused() -> None:
    refused("zip", archives.astray(TEXT), "broken", "astray")
    refused("zip", archives.boasting(TEXT, 5), "broken", "were announced")
    refused("zip", archives.boasting(TEXT, 1 << 31), "large")


def test_a_zip_inside_a_zip_stays_one() -> None:
    inner = zipped(("x.img", TEXT))
    assert unpack("zip", zipped(("inner.zip", inner)))[1] == inner


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhafile", None)
    packed = PACKERS["zstd"](TEXT)
    home = "compression" if sys.version_info >= (3, 14) else "backports"
    monkeypatch.setitem(sys.modules, f"{home}.zstd", None)
    monkeypatch.delattr(sys.modules[home], "zstd")
    refused("lha", archives.lha_stored((b"a", TEXT)), "missing", "lhafile")
    refused("zstd", packed, "missing", "zstd")


def test_a_full_disk_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_unpack.os, "pwrite", full)
    refused("gzip", gzip.compress(TEXT), "full", "no space")


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_unpack, "EVERY", 0)
    packed = gzip.compress(TEXT)
    unpack("gzip", packed)
    places = [int(line.removeprefix("at ")) for line in capsys.readouterr().out.splitlines()]
    assert places == sorted(places)
    assert places[-1] == len(packed)
