"""Real files of every kind through import and upload: what import.md 12.2 and 12.3 say becomes of each."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support import disk_images as made
from tests.support.disk_images import GOOD, MIB, entry, good, mbr
from tests.support.plugging import NOTHING, imported
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import objects, one_store, standing

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.qemu]

Make = Callable[[Path], bytes]
DISK = len(made.CONTENT)
BOOTABLE = mbr(entry(boot=0x80), entry(0x82, lba=8192))
PROTECTED = mbr(entry(0xEE))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, one_store()) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lenient(postgres: Server) -> AsyncIterator[Site]:
    """Where disk_format need not be right, and partition tables may be odd."""
    rules = "require_image_format_match = no\ngpt_safety_checks_nonfatal = mbr\nvmdk_allowed_types = streamOptimized"
    async with standing(postgres, one_store(image_format=rules)) as running:
        yield running


def of(name: str) -> Make:
    return lambda directory: good(name, directory)


async def both(site: Site, data: bytes, declared: str, container: str = "bare") -> tuple[dict[str, Any], int, str]:
    """The image after an import of the data; status of an upload of it, and what it was told."""
    formats = {"disk_format": declared, "container_format": container}
    shown, (uploaded, status, said) = await asyncio.gather(
        imported(site, data, **formats), _uploaded(site, data, formats)
    )
    if status == 204:
        assert (uploaded["status"], uploaded["virtual_size"]) == ("active", shown["virtual_size"])
    else:
        assert uploaded["status"] == "queued"
        await site.settled()
        assert not objects(site, "file", uploaded["id"])
    return shown, status, said


async def _uploaded(site: Site, data: bytes, formats: dict[str, str]) -> tuple[dict[str, Any], int, str]:
    image = await site.image(**formats)
    headers = {"Content-Type": "application/octet-stream"}
    response = await site.call("PUT", f"/images/{image}/file", data=io.BytesIO(data), headers=headers)
    said = "" if response.status == 204 else (await response.json())["message"]
    return await site.show(image), response.status, said


async def refused(site: Site, shown: dict[str, Any], words: str) -> None:
    assert shown["status"] == "queued"
    assert {name: shown[name] for name in NOTHING} == dict.fromkeys(NOTHING)
    message = (await site.tasks(shown["id"]))[-1]["message"]
    assert words in message
    assert str(site.directory) not in message
    for store in ("file", "staging"):
        assert not objects(site, store, shown["id"])
    told = [(note.event_type, note.priority) for note in site.notes.of(shown["id"])]
    assert told.count(("image.upload", "ERROR")) == 1
    assert "image.prepare" not in dict(told)


# --- what passes -------------------------------------------------------------------------

PASS: dict[str, tuple[Make, str, int | None]] = {
    **{f"{name} as itself": (of(name), disk_format, DISK) for name, (disk_format, _) in GOOD.items()},
    **{f"{name} as raw": (of(name), "raw", -1) for name in GOOD},
    "iso as itself": (lambda tmp: made.real_iso(), "iso", 65536),
    "iso as raw": (lambda tmp: made.real_iso(), "raw", -1),
    "hybrid iso as iso": (lambda tmp: made.hybrid_iso(made.real_iso()), "iso", 65536),
    "disk with a GPT": (lambda tmp: PROTECTED, "raw", -1),
    "disk with an MBR": (lambda tmp: BOOTABLE, "raw", -1),
    "FAT without a partition table": (lambda tmp: made.fat(), "raw", -1),
    "encrypted disk as raw": (lambda tmp: made.luks(), "raw", -1),
    "vmdk with a footer": (made.vmdk_with_footer, "vmdk", DISK),
    "fixed vhd as raw": (made.fixed_vhd, "raw", -1),
    **{f"raw as {name}": (lambda tmp: made.CONTENT, name, None) for name in ("ami", "ari", "aki", "ploop")},
}
"""Name -> data, disk_format, virtual size; -1 is the size of the file."""


@pytest.mark.parametrize("name", PASS)
@pytest.mark.requirement("REQ-014")
async def test_what_passes(site: Site, tmp_path: Path, name: str) -> None:
    make, declared, virtual_size = PASS[name]
    data = make(tmp_path)
    shown, status, said = await both(site, data, declared)
    assert (shown["status"], shown["size"], shown["disk_format"]) == ("active", len(data), declared)
    assert shown["virtual_size"] == (len(data) if virtual_size == -1 else virtual_size)
    assert status == 204, said


# --- what does not -----------------------------------------------------------------------

MISMATCH = "does not match stream data"
FAIL: dict[str, tuple[Make, str, str]] = {
    "qed as raw": (made.qed, "raw", "qed is not allowed"),
    "qed as qcow2": (made.qed, "qcow2", "qed is not allowed"),
    "hybrid iso as raw": (lambda tmp: made.hybrid_iso(made.real_iso()), "raw", "multiple formats detected: gpt, iso"),
    "hybrid iso as qcow2": (lambda tmp: made.hybrid_iso(made.real_iso()), "qcow2", "multiple formats detected"),
    "qcow2 with a partition table": (
        lambda tmp: good("qcow2", tmp)[:446] + PROTECTED[446:],
        "qcow2",
        "multiple formats",
    ),
    "qcow2 as ami": (of("qcow2"), "ami", f"disk_format ami {MISMATCH} qcow2"),
    "raw as qcow2": (of("raw"), "qcow2", f"disk_format qcow2 {MISMATCH} raw"),
    "vdi as vhd": (of("vdi"), "vhd", f"disk_format vhd {MISMATCH} vdi"),
    "vhdx as vhd": (of("vhdx"), "vhd", f"disk_format vhd {MISMATCH} vhdx"),
    "fixed vhd as vhd": (made.fixed_vhd, "vhd", f"disk_format vhd {MISMATCH} raw"),
    "disk with a GPT as qcow2": (lambda tmp: PROTECTED, "qcow2", f"disk_format qcow2 {MISMATCH} gpt"),
    "disk with a GPT as ploop": (lambda tmp: PROTECTED, "ploop", f"disk_format ploop {MISMATCH} gpt"),
    "iso as vmdk": (lambda tmp: made.real_iso(), "vmdk", f"disk_format vmdk {MISMATCH} iso"),
    "encrypted disk as qcow2": (lambda tmp: made.luks(), "qcow2", f"disk_format qcow2 {MISMATCH} luks"),
    # 12.3
    "qcow2 with a backing file": (made.with_backing_file, "qcow2", "backing_file"),
    "qcow2 with a backing file as raw": (made.with_backing_file, "raw", "backing_file"),
    "CVE-2024-32498": (made.with_data_file, "qcow2", "data_file"),
    "CVE-2024-32498 as raw": (made.with_data_file, "raw", "data_file"),
    "qcow2 of an unknown kind": (made.with_unknown_feature, "qcow2", "unknown_features"),
    "qcow2 of an unknown kind as raw": (made.with_unknown_feature, "raw", "unknown_features"),
    "qcow of the first version": (made.first_qcow, "qcow2", "Unsupported qcow2 version"),
    "qcow of the first version as raw": (made.first_qcow, "raw", "Unsupported qcow2 version"),
    "CVE-2022-47951": (made.with_foreign_extent, "vmdk", "Invalid extent filenames"),
    "CVE-2022-47951 as raw": (made.with_foreign_extent, "raw", "Invalid extent filenames"),
    "flat vmdk": (made.flat_vmdk, "vmdk", "create-type monolithicflat is not allowed"),
    "flat vmdk as raw": (made.flat_vmdk, "raw", "create-type monolithicflat is not allowed"),
    "vmdk of another type": (made.vmdk_of_another_type, "vmdk", "create-type twogbmaxextent_ is not allowed"),
    "vmdk with a line nobody knows": (made.vmdk_with_a_line_nobody_knows, "vmdk", "Invalid VMDK descriptor"),
    "vmdk without extents": (made.vmdk_without_extents, "vmdk", "No extents"),
    "vmdk with another footer": (lambda tmp: made.vmdk_with_footer(tmp, 77), "vmdk", "footer"),
    "CVE-2022-47951, words alone": (lambda tmp: made.bare_descriptor("/etc/passwd"), "vmdk", "monolithicflat"),
    "CVE-2022-47951, words alone as raw": (lambda tmp: made.bare_descriptor("/etc/passwd"), "raw", "monolithicflat"),
    "CVE-2022-47951, words and zeros": (
        lambda tmp: made.bare_descriptor("/etc/passwd", bytes(MIB)),
        "raw",
        "monolithicflat",
    ),
    **{
        f"{name} that claims more than can be counted": (
            lambda tmp, n=name: made.boundless(n, tmp),
            name,
            "claims a virtual size",
        )  # type: ignore[misc]
        for name in ("qcow2", "vmdk", "vhd", "vdi")
    },
    "qcow2 that claims more than can be counted, as raw": (
        lambda tmp: made.boundless("qcow2", tmp),
        "raw",
        "claims a virtual size of 18446744073709551615 bytes",
    ),
    "CVE-2022-47951, with a type that is no word": (
        lambda tmp: made.bare_descriptor("/etc/passwd", bytes(MIB)).replace(b"monolithicFlat", b"mono\0ithicFlat"),
        "vmdk",
        "create-type mono?ithicflat is not allowed",
    ),
    "encrypted disk of another version": (lambda tmp: made.luks(2), "raw", "LUKS version 2"),
    "MBR with an odd boot flag": (lambda tmp: mbr(entry(boot=0x81)), "raw", "mbr"),
    "MBR without partitions": (lambda tmp: mbr(), "raw", "mbr"),
    "GPT that is not alone": (lambda tmp: mbr(entry(0xEE), entry()), "raw", "mbr"),
    "GPT that is not first": (lambda tmp: mbr(bytes(16), entry(0xEE)), "raw", "mbr"),
    "GPT at another cylinder": (lambda tmp: mbr(entry(0xEE, start=(0, 3, 0))), "raw", "mbr"),
    "GPT at another sector": (lambda tmp: mbr(entry(0xEE, lba=2)), "raw", "mbr"),
}
"""Name -> data, disk_format, words of the refusal."""


@pytest.mark.parametrize("name", FAIL)
@pytest.mark.requirement("REQ-089", "REQ-091")
async def test_what_does_not_pass(site: Site, tmp_path: Path, name: str) -> None:
    make, declared, words = FAIL[name]
    shown, status, said = await both(site, make(tmp_path), declared)
    await refused(site, shown, words)
    assert status == 415
    assert words in said


# --- what is not looked at, and what is let pass -------------------------------------------


@pytest.mark.parametrize("container", ["ovf", "docker", "compressed"])
async def test_other_containers_are_stored_unseen(site: Site, tmp_path: Path, container: str) -> None:
    shown, status, _ = await both(site, made.with_backing_file(tmp_path), "raw", container)
    assert (shown["status"], shown["virtual_size"], status) == ("active", None, 204)


LENIENT: dict[str, tuple[Make, str]] = {
    "qcow2 as ami": (of("qcow2"), "ami"),
    "raw as qcow2": (of("raw"), "qcow2"),
    "an odd partition table as vdi": (lambda tmp: mbr(entry(boot=0x81)), "vdi"),
    "an odd partition table as ploop": (lambda tmp: mbr(entry(0xEE), entry()), "ploop"),
}


@pytest.mark.parametrize("name", LENIENT)
async def test_a_site_may_take_what_does_not_match(lenient: Site, tmp_path: Path, name: str) -> None:
    make, declared = LENIENT[name]
    shown, status, said = await both(lenient, make(tmp_path), declared)
    assert (shown["status"], shown["virtual_size"], status) == ("active", None, 204), said


async def test_an_odd_partition_table_may_be_tolerated(lenient: Site) -> None:
    shown, status, _ = await both(lenient, mbr(entry(boot=0x81)), "raw")
    assert (shown["status"], shown["virtual_size"], status) == ("active", MIB, 204)


@pytest.mark.parametrize(
    ("make", "declared", "words"),
    [
        (made.with_data_file, "ami", "data_file"),
        (made.with_backing_file, "vdi", "backing_file"),
        (made.qed, "ami", "qed"),
        (lambda tmp: made.hybrid_iso(made.real_iso()), "ami", "multiple formats"),
        (of("vmdk-sparse"), "vmdk", "create-type monolithicsparse is not allowed"),
    ],
    ids=["data file", "backing file", "qed", "hybrid", "vmdk type"],
)
async def test_safety_is_no_matter_of_taste(
    lenient: Site, tmp_path: Path, make: Make, declared: str, words: str
) -> None:
    shown, status, said = await both(lenient, make(tmp_path), declared)
    await refused(lenient, shown, words)
    assert (status, words in said) == (415, True)
