"""Real disk images, made by qemu-img, and what hostile people make of them."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from tests.support.formats import GPTOK

MIB = 1 << 20
CONTENT = b"".join(struct.pack(">Q", number) * 64 for number in range(2 * MIB // 512)) + bytes(2 * MIB)
"""4 MiB of a disk, half of them zeros."""

GOOD: dict[str, tuple[str, tuple[str, ...]]] = {
    "qcow2-old": ("qcow2", ("-O", "qcow2", "-o", "compat=0.10")),
    "qcow2": ("qcow2", ("-O", "qcow2", "-o", "compat=1.1")),
    "qcow2-packed": ("qcow2", ("-O", "qcow2", "-c")),
    "vmdk-sparse": ("vmdk", ("-O", "vmdk", "-o", "subformat=monolithicSparse")),
    "vmdk-stream": ("vmdk", ("-O", "vmdk", "-o", "subformat=streamOptimized")),
    "vdi": ("vdi", ("-O", "vdi")),
    "vhd": ("vhd", ("-O", "vpc", "-o", "subformat=dynamic,force_size=on")),
    "vhdx": ("vhdx", ("-O", "vhdx")),
    "raw": ("raw", ("-O", "raw")),
}
"""Name -> disk format, arguments of `qemu-img convert`."""


def qemu_img(*arguments: object, at: Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, cwd=at, stdout=subprocess.DEVNULL)


def content_of(path: Path, driver: str) -> bytes:
    """The disk inside an image."""
    qemu_img("convert", "-f", driver, "-O", "raw", path, path.with_suffix(".content"), at=path.parent)
    return path.with_suffix(".content").read_bytes()


def good(name: str, directory: Path, content: bytes = CONTENT) -> bytes:
    """An image of this kind with this disk inside."""
    (directory / "disk").write_bytes(content)
    qemu_img("convert", "-f", "raw", *GOOD[name][1], "disk", "image", at=directory)
    return (directory / "image").read_bytes()


def with_backing_file(directory: Path) -> bytes:
    (directory / "disk").write_bytes(CONTENT)
    qemu_img("create", "-f", "qcow2", "-b", "disk", "-F", "raw", "image", at=directory)
    return (directory / "image").read_bytes()


def with_data_file(directory: Path) -> bytes:
    """CVE-2024-32498."""
    qemu_img("create", "-f", "qcow2", "-o", "data_file=disk", "image", "4M", at=directory)
    return (directory / "image").read_bytes()


def with_foreign_extent(directory: Path) -> bytes:
    """CVE-2022-47951: a descriptor that names somebody else's file, inside a sparse vmdk."""
    image = bytearray(good("vmdk-sparse", directory))
    begin = image.index(b"RW ")
    end = image.index(b"\n", begin)
    foreign = b'RW 8192 FLAT "/etc/passwd" 0'
    image[begin:end] = foreign.ljust(end - begin)[: end - begin]
    return bytes(image)


def flat_vmdk(directory: Path) -> bytes:
    """The descriptor alone: the disk would be in a file beside it."""
    (directory / "disk").write_bytes(CONTENT)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", "disk", "image", at=directory)
    return (directory / "image").read_bytes()


def vast(directory: Path, size: str = "8T") -> bytes:
    """A few hundred kilobytes that claim to be a huge disk."""
    qemu_img("create", "-f", "qcow2", "image", size, at=directory)
    return (directory / "image").read_bytes()


def nested(directory: Path) -> bytes:
    """A qcow2 in a qcow2: what comes out of the conversion is no raw disk."""
    return good("qcow2", directory, good("qcow2", directory))


def partitioned(directory: Path) -> bytes:
    """A qcow2 whose disk has a partition table, as most have."""
    return good("qcow2", directory, GPTOK + bytes(MIB - len(GPTOK)))


def torn(directory: Path) -> bytes:
    """A qcow2 whose table of tables is somewhere else entirely.  (Of tables cut off, qemu-img makes zeros.)"""
    image = bytearray(good("qcow2", directory))
    image[40:48] = struct.pack(">Q", 0x123)
    return bytes(image)


def qed(directory: Path) -> bytes:
    qemu_img("create", "-f", "qed", "image", "4M", at=directory)
    return (directory / "image").read_bytes()


def luks() -> bytes:
    """The head of an encrypted disk: magic, version, cipher, mode, hash, where the payload begins."""
    head = struct.pack(">6sH32s32s32sI", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", 4096)
    return head + bytes(3 * MIB)


def hybrid_iso(iso: bytes) -> bytes:
    """An iso that also begins with a partition table."""
    return GPTOK[:512] + iso[512:]
