"""Archives, good and hostile, made by hand where no library would make them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import sys
import zipfile
import zlib
from typing import Any


def zstd() -> Any:
    """The zstd library of this Python."""
    if sys.version_info >= (3, 14):
        from compression import zstd as library
    else:
        from backports import zstd as library
    return library


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of these members."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return whole.getvalue()


def encrypted(data: bytes) -> bytes:
    """A zip archive that says of its one member that it is encrypted."""
    archive = bytearray(zipped(("x.img", data)))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        archive[archive.index(signature) + offset] |= 1
    return bytes(archive)


def astray(data: bytes) -> bytes:
    """A zip archive whose directory points at something that is no member."""
    archive = bytearray(zipped(("x.img", data)))
    place = archive.index(b"PK\1\2") + 42
    archive[place : place + 4] = struct.pack("<I", 5)
    return bytes(archive)


def boasting(data: bytes, claim: int) -> bytes:
    """A zip archive that announces more, or less, than it holds."""
    archive = bytearray(zipped(("x.img", data)))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = archive.index(signature) + offset
        archive[place : place + 4] = struct.pack("<I", claim)
    return bytes(archive)


def bomb(mebibytes: int) -> bytes:
    """A gzip file of so many MiB of zeros, made without ever holding them."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(mebibytes)]
    return b"".join([*parts, packer.flush()])


# --- lha -----------------------------------------------------------------------------------


def lha_member(name: bytes, packed: bytes, size: int, method: bytes, crc: int) -> bytes:
    """One member with a level 0 header."""
    body = method + struct.pack("<II", len(packed), size) + bytes(4) + b"\x20\0" + bytes([len(name)]) + name
    body += struct.pack("<H", crc)
    return bytes([len(body), sum(body) & 0xFF]) + body + packed


def lha_stored(*members: tuple[bytes, bytes]) -> bytes:
    """An lha archive whose members are not compressed."""
    made = [lha_member(name, data, len(data), b"-lh0-", crc16(data)) for name, data in members]
    return b"".join(made) + b"\0"


def lha_of_one_letter(letter: int, count: int) -> bytes:
    """`count` times the same byte as -lh5-: blocks whose tables hold one symbol only, 52 bits each."""
    bits = ""
    for start in range(0, count, 0xFFFF):
        length = min(0xFFFF, count - start)
        bits += f"{length:016b}" + "00000" + "00000" + "000000000" + f"{letter:09b}" + "0000" + "0000"
    packed = int(bits.ljust(-len(bits) // 8 * -8, "0"), 2).to_bytes(-(-len(bits) // 8))
    member = lha_member(b"x.img", packed, count, b"-lh5-", crc16(bytes([letter]) * count))
    return member + b"\0"


def crc16(data: bytes) -> int:
    """The checksum of lha: CRC-16/ARC."""
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0xA001 if number & 1 else 0)
        table.append(number)
    value = 0
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value


PACKERS = {
    "gzip": gzip.compress,
    "zip": lambda data: zipped(("x.img", data)),
    "lha": lambda data: lha_stored((b"x.img", data)),
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zstd": lambda data: bytes(zstd().compress(data, options={zstd().CompressionParameter.checksum_flag: 1})),
}
"""Kind -> how to pack one image that way."""
