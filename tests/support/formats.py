"""Small data of many formats, as the scenarios describe them byte by byte."""

from __future__ import annotations

import struct

RAW1K = b"0" * 1024
EMPTY = b""
QCOW = b"QFI\xfb" + struct.pack(">IQIIQ", 3, 0, 0, 16, 1048576) + bytes(1000)
"""A qcow2 head of 1 MiB: 1032 bytes."""

QCOW_BACKED = b"QFI\xfb" + struct.pack(">IQIIQ", 3, 104, 8, 16, 1 << 20) + bytes(72) + b"/etc/pas" + bytes(1000)
"""A qcow2 that names another file as what is behind it."""


def _gpt(third: int) -> bytes:
    entry = bytes([0, 0, third, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0x64, 0, 0, 0])
    return bytes(446) + entry + bytes(48) + b"\x55\xaa" + bytes(1024)


GPTOK = _gpt(2)
GPTBAD = _gpt(3)
"""A protective partition that begins in the wrong place."""

ISO = (
    bytes(32768)
    + b"\x01CD001\x01"
    + bytes(73)
    + struct.pack("<I", 20)
    + bytes(44)
    + struct.pack("<H", 2048)
    + bytes(2000)
)
