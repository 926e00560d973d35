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


def boundless(name: str, directory: Path) -> bytes:
    """A header that tells of a disk larger than any number of ours."""
    begin, end = {"qcow2": (24, 32), "vmdk": (12, 20), "vhd": (40, 56), "vdi": (0x170, 0x178)}[name]
    image = bytearray(good("vmdk-sparse" if name == "vmdk" else name, directory))
    image[begin:end] = b"\xff" * (end - begin)
    return bytes(image)


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


def luks(version: int = 1) -> bytes:
    """The head of an encrypted disk: magic, version, cipher, mode, hash, where the payload begins."""
    head = struct.pack(">6sH32s32s32sI", b"LUKS\xba\xbe", version, b"aes", b"xts-plain64", b"sha256", 4096)
    return head + bytes(3 * MIB)


def first_qcow(directory: Path) -> bytes:
    """The first version of qcow, which nobody should use any more."""
    qemu_img("create", "-f", "qcow", "image", "4M", at=directory)
    return (directory / "image").read_bytes().ljust(MIB, b"\0")


def with_unknown_feature(directory: Path) -> bytes:
    """A qcow2 that says that nobody can read it who does not know bit 40."""
    image = bytearray(good("qcow2", directory))
    image[72:80] = struct.pack(">Q", 1 << 40)
    return bytes(image)


def fixed_vhd(directory: Path) -> bytes:
    """A vhd that is a raw disk with a footer, which only its end gives away."""
    (directory / "disk").write_bytes(CONTENT)
    options = ("-O", "vpc", "-o", "subformat=fixed,force_size=on")
    qemu_img("convert", "-f", "raw", *options, "disk", "image", at=directory)
    return (directory / "image").read_bytes()


def _descriptor(directory: Path, old: bytes, new: bytes) -> bytes:
    """A sparse vmdk with something else in its descriptor."""
    image = bytearray(good("vmdk-sparse", directory))
    begin = image.index(old)
    image[begin : begin + len(new)] = new
    return bytes(image)


def vmdk_of_another_type(directory: Path) -> bytes:
    return _descriptor(directory, b'createType="monolithicSparse"', b'createType="twoGbMaxExtent_"'.ljust(29))


def vmdk_with_a_line_nobody_knows(directory: Path) -> bytes:
    return _descriptor(directory, b"RW ", b"XX ")


def vmdk_without_extents(directory: Path) -> bytes:
    return _descriptor(directory, b"RW ", b"#W ")


def vmdk_with_footer(directory: Path, descriptor_at: int = 1) -> bytes:
    """A stream-optimised vmdk as others than qemu-img write it: what counts is a second header, at its end."""
    image = bytearray(good("vmdk-stream", directory))
    footer = bytearray(image[:512])
    footer[28:36] = struct.pack("<Q", descriptor_at)
    image[56:64] = b"\xff" * 8  # where the tables are, says the footer
    marker = struct.pack("<QII496s", 1, 0, 3, b"")
    return bytes(image) + marker + bytes(footer) + bytes(512)


def bare_descriptor(extent: str, ending: bytes = b"") -> bytes:
    """A vmdk that is nothing but words about other files."""
    lines = ("# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff", 'createType="monolithicFlat"')
    return "\n".join((*lines, f'RW 8192 FLAT "{extent}" 0', "")).encode() + ending


# --- disks with partitions ---------------------------------------------------------------


def entry(
    kind: int = 0x83, *, boot: int = 0, start: tuple[int, int, int] = (0, 2, 0), lba: int = 1, sectors: int = 4096
) -> bytes:
    """An entry of a partition table."""
    return struct.pack("<B3BB3BII", boot, *start, kind, 0xFF, 0xFF, 0xFF, lba, sectors)


def mbr(*entries: bytes) -> bytes:
    """A disk of 1 MiB that begins with this partition table."""
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa" + bytes(MIB - 512)


def fat() -> bytes:
    """A file system whose first sector looks like a partition table, and is none."""
    image = bytearray(mbr())
    image[0:3], image[0x10], image[0x15] = b"\xeb\x3c\x90", 2, 0xF8
    return bytes(image)


def real_iso() -> bytes:
    """The least that an ISO 9660 image of 64 KiB consists of: volume descriptors after 16 blank sectors."""
    volume, sector = bytearray(2048), 2048
    volume[0:7], volume[8:72] = b"\x01CD001\x01", b"ENTREPOT".ljust(64)
    volume[80:88] = struct.pack("<I", 32) + struct.pack(">I", 32)
    volume[128:132] = struct.pack("<H", sector) + struct.pack(">H", sector)
    last = b"\xffCD001\x01".ljust(sector, b"\0")
    return bytes(16 * sector) + bytes(volume) + last + bytes(14 * sector)


def hybrid_iso(iso: bytes) -> bytes:
    """An iso that also begins with a partition table."""
    return GPTOK[:512] + iso[512:]
