"""Unpacks one archive into one file; run as a script, confined, by `image_decompression`.

    python -I _unpack.py KIND SOURCE OUTPUT MOST

OUTPUT exists and is empty; MOST bytes may be written to it.  Standard output carries
lines: `at N`, the bytes of SOURCE consumed so far, and in the end `done N`, the bytes
written, or `failed REASON WORDS`.  The file stands alone, so that little code is in
reach of what it unpacks.  Names inside archives are never looked at.
"""

import bz2
import errno
import io
import lzma
import os
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

PIECE = 1 << 20
"""Bytes unpacked at a time."""
SIP = 1 << 18
"""Bytes read at a time: what is left of them is copied with every member."""
HOLE = 1 << 16
"""Stretches of this many zeros are left out of the file: a bomb of zeros takes no room on the disk."""
EVERY = 0.2
"""Seconds between two reports."""

_PADDING, _GZIP = b"\0", b"\x1f\x8b"


class Refused(Exception):
    """The archive cannot be taken: a reason for the caller and words for people."""

    def __init__(self, reason: str, words: str) -> None:
        super().__init__(words)
        self.reason = reason


class Engine(Protocol):
    """What zlib, and what is like it, unpacks one stream with."""

    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


Source = Callable[[int], bytes]
"""The next bytes, at most so many; none at the end."""


def fast_zlib() -> Any:
    """ISA-L, about twice as fast, where it is installed; zlib otherwise."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


class Output:
    """The file being made: sparse, counted, never larger than allowed."""

    def __init__(self, path: str, most: int, packed: io.FileIO) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        self._most = most
        self._packed = packed
        self._reported = time.monotonic()
        self._zeros = bytes(HOLE)
        self.size = 0

    def write(self, data: bytes) -> int:
        if self.size + len(data) > self._most:
            self.too_large()
        view = memoryview(data)
        for begin, end in self._solid(data):
            while begin < end:
                begin += os.pwrite(self._fd, view[begin:end], self.size + begin)
        self.size += len(data)
        if time.monotonic() - self._reported >= EVERY:
            self._reported = time.monotonic()
            say(f"at {self._packed.tell()}")
        return len(data)

    def announce(self, size: int) -> None:
        """What an archive claims to hold: no need to begin with what is too large anyway."""
        if size > self._most:
            self.too_large()

    def close(self) -> None:
        os.ftruncate(self._fd, self.size)
        os.close(self._fd)

    def too_large(self) -> None:
        raise Refused("large", f"more than {self._most} bytes come out of it")

    def _solid(self, data: bytes) -> Iterator[tuple[int, int]]:
        """The stretches that are more than zeros."""
        begin = 0
        for at in range(0, len(data), HOLE):
            if self._zeros.startswith(data[at : at + HOLE]):
                if begin < at:
                    yield begin, at
                begin = at + HOLE
        if begin < len(data):
            yield begin, len(data)


def inflate(read: Source, data: bytes, engine: Engine, out: Output, crc: Callable[[bytes, int], int]) -> Any:
    """Unpack one stream that begins with `data`; returns what follows it, and the checksum of what came out."""
    checksum = 0
    while True:
        piece = engine.decompress(data, PIECE)
        checksum = crc(piece, checksum)
        out.write(piece)
        if engine.eof:
            return engine.unused_data, checksum
        data = engine.unconsumed_tail or read(SIP)
        if not data and not piece:
            raise EOFError


def gzip(packed: io.FileIO, out: Output) -> None:
    """All members, one after the other, as one; zeros behind the last are padding."""
    library = fast_zlib()
    rest = read_some(packed, SIP)
    while rest:
        if not _GZIP.startswith(rest[: len(_GZIP)]):
            raise Refused("broken", "something else follows it")
        rest, _ = inflate(packed_reader(packed), rest, library.decompressobj(31), out, lambda data, value: 0)
        while not (rest := rest.lstrip(_PADDING)) and (more := read_some(packed, SIP)):
            rest = more


def zip_(packed: io.FileIO, out: Output) -> None:
    with zipfile.ZipFile(packed) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise Refused("members", f"it holds {len(members)} members instead of one")
        (member,) = members
        if member.flag_bits & 0x2041:  # encrypted, strongly encrypted, with a hidden directory
            raise Refused("encrypted", "it is encrypted")
        if member.is_dir():
            raise Refused("members", "it holds a directory instead of a file")
        out.announce(member.file_size)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            _deflated(packed, member, out)
        else:
            with archive.open(member) as content:
                copy(content.read, out)
        if out.size != member.file_size:
            raise Refused("broken", f"{member.file_size} bytes were announced and {out.size} came out of it")


def _deflated(packed: io.FileIO, member: zipfile.ZipInfo, out: Output) -> None:
    """The common kind, without zipfile's detours: half the time."""
    library = fast_zlib()
    packed.seek(member.header_offset)
    header = read_some(packed, 30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise Refused("broken", "its directory points astray")
    name, extra = struct.unpack("<HH", header[26:30])
    packed.seek(name + extra, io.SEEK_CUR)
    read = packed_reader(packed, member.compress_size)
    rest, checksum = inflate(read, read(SIP), library.decompressobj(-15), out, library.crc32)
    if rest or checksum != member.CRC:
        raise Refused("broken", "its checksum is wrong")


def lha(packed: io.FileIO, out: Output) -> None:
    try:
        import lhafile
        import lzhlib
    except ImportError:
        raise Refused("missing", "unpacking lha needs the library lhafile, which is not installed") from None
    try:
        members = lhafile.Lhafile(packed).infolist()
    except Exception as error:  # whatever its parser stumbles over
        raise Refused("broken", f"it cannot be read ({error})") from error
    if len(members) != 1:
        raise Refused("members", f"it holds {len(members)} members instead of one")
    (member,) = members
    if member.compress_type == b"-lhd-":
        raise Refused("members", "it holds a directory instead of a file")
    out.announce(member.file_size)
    packed.seek(member.file_offset)
    session = lzhlib.LZHDecodeSession(_Section(packed_reader(packed, member.compress_size)), out, member)
    try:
        while not session.do_next():
            pass
    except (Refused, OSError, MemoryError):
        raise
    except Exception as error:
        raise Refused("broken", f"it cannot be unpacked ({error})") from error
    if out.size != member.file_size or session.crc16 != member.CRC:
        raise Refused("broken", "its checksum is wrong")


class _Section:
    """Part of a file, as a file."""

    def __init__(self, read: Source) -> None:
        self.read = read


def xz(packed: io.FileIO, out: Output) -> None:
    with lzma.LZMAFile(packed, format=lzma.FORMAT_XZ) as content:
        copy(content.read, out)


def bzip2(packed: io.FileIO, out: Output) -> None:
    with bz2.BZ2File(packed) as content:
        copy(content.read, out)


def zstd(packed: io.FileIO, out: Output) -> None:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd as library
        else:
            from backports import zstd as library
    except ImportError:
        raise Refused("missing", "unpacking zstd needs the library backports.zstd, which is not installed") from None
    try:
        with library.ZstdFile(packed) as content:
            copy(content.read, out)
    except library.ZstdError as error:
        raise Refused("broken", f"it cannot be read ({error})") from error


KINDS: dict[str, Callable[[io.FileIO, Output], None]] = {
    "zip": zip_,
    "lha": lha,
    "gzip": gzip,
    "xz": xz,
    "zstd": zstd,
    "bz2": bzip2,
}


# --- pieces ------------------------------------------------------------------------------


def read_some(packed: io.FileIO, count: int) -> bytes:
    return packed.read(count) or b""


def packed_reader(packed: io.FileIO, left: int | None = None) -> Source:
    """Reads on from where the file stands, `left` bytes at most."""

    def read(count: int = SIP) -> bytes:
        nonlocal left
        data = read_some(packed, count if left is None else min(count, left))
        if left is not None:
            left -= len(data)
        return data

    return read


def copy(read: Source, out: Output) -> None:
    while data := read(PIECE):
        out.write(data)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def unpack(kind: str, source: str, output: str, most: int) -> str:
    """Do it; returns the last line to say."""
    try:
        with open(source, "rb", buffering=0) as packed:
            out = Output(output, most, packed)
            KINDS[kind](packed, out)
            out.close()
            return f"done {out.size}"
    except Refused as refused:
        return f"failed {refused.reason} {refused}"
    except EOFError:
        return "failed truncated it ends in the middle"
    except MemoryError:
        return "failed memory unpacking it takes more memory than allowed"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "failed full there is no space left"
        if error.errno == errno.EFBIG:
            return f"failed large more than {most} bytes come out of it"
        return f"failed broken it cannot be read ({error.strerror or error})"
    except Exception as error:  # hostile data makes parsers raise all sorts of things
        return f"failed broken it cannot be read ({str(error)[:200] or type(error).__name__})"


if __name__ == "__main__":
    say(unpack(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
