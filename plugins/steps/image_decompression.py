"""Unpacks staged archives that hold an image: zip, lha and gzip as Glance does, xz, zstd and bzip2 if asked to.

The unpacking itself is done by `_unpack.py` in a confined process of its own; here
is decided whether there is anything to unpack and how much may come out of it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kernel.confined import Bounds, Ended, run, walls
from kernel.errors import EntrepotError, Invalid, StoreFull, TooLarge
from kernel.extend import ImportStep, StepRequest, StepResult, Trial
from kernel.image import STAGING
from kernel.options import to_list

_WORKER: Final = Path(__file__).with_name("_unpack.py")

_SIGNATURES: Final = (
    ("zip", 0, b"PK\3\4"),
    ("lha", 2, b"-lh"),
    ("gzip", 0, b"\x1f\x8b\x08"),
    ("xz", 0, b"\xfd7zXZ\0"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("bz2", 0, b"BZh"),
)
"""Kind, offset, bytes."""
_BZIP2_BLOCKS: Final = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
"""What follows the level in a bzip2 file: three letters alone are too little to go by."""
_ALWAYS: Final = frozenset({"zip", "lha", "gzip"})

_INNOCENT: Final = 256 << 20
"""Bytes that may always come out, however little went in."""
_MEMORY: Final = 512 << 20
_LINE: Final = 4096
"""Bytes of a line that is believed."""


class DecompressionConfig(BaseModel):
    """[image_decompression] (ours: Glance has no options here)"""

    model_config = ConfigDict(extra="ignore")

    additional_formats: Annotated[tuple[Literal["xz", "zstd", "bz2"], ...], BeforeValidator(to_list)] = Field(
        (), description="Formats to unpack beside zip, lha and gzip: xz, zstd, bz2."
    )
    max_ratio: int = Field(
        2000, ge=1, description="Most times its own size that an archive may unpack to, beyond 256 MiB. Gzip has 1032."
    )
    timeout: float = Field(3600.0, gt=0, description="Seconds that unpacking one archive may take.")


def kind_of(head: bytes, additional: Sequence[str] = ()) -> str | None:
    """The kind of archive that begins with these 16 bytes, if it is one that is to be unpacked."""
    for kind, offset, signature in _SIGNATURES:
        if head[offset : offset + len(signature)] != signature:
            continue
        if kind == "bz2" and head[4:10] not in _BZIP2_BLOCKS:
            continue
        if kind in _ALWAYS or kind in additional:
            return kind
    return None


def most_bytes(packed: int, size_cap: int, max_ratio: int) -> int:
    """What may come out of an archive of `packed` bytes."""
    return min(size_cap, max(_INNOCENT, packed * max_ratio))


async def unpack(request: StepRequest) -> StepResult:
    settings: DecompressionConfig = request.settings
    if request.image.container_format == "compressed":
        return StepResult()
    kind = kind_of(await asyncio.to_thread(_head, request.path), settings.additional_formats)
    if kind is None:
        return StepResult()
    most = most_bytes(request.blob.size, request.limits.size_cap, settings.max_ratio)
    output = await request.output()
    bounds = Bounds(
        seconds=settings.timeout,
        cpu=int(settings.timeout) + 1,
        memory=_MEMORY,
        file=most,
        processes=1,
        reads=(request.path, _WORKER, *(Path(prefix) for prefix in {sys.prefix, sys.base_prefix})),
        makes=output,
    )
    report = _Report(request)
    command = [sys.executable, "-I", str(_WORKER), kind, str(request.path), str(output), str(most)]
    ended = await run(command, bounds, heard=report.hear)
    report.judge(kind, ended)
    return StepResult(replaced=True)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


class _Report:
    """What the unpacking process says of its progress and of how it ended."""

    def __init__(self, request: StepRequest) -> None:
        self._request = request
        self._line = b""
        self._last = ""

    def hear(self, piece: bytes) -> None:
        *lines, begun = (self._line + piece).split(b"\n")
        self._line = begun[-_LINE:]
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "at" and rest.isdigit():
                self._request.progress(int(rest), self._request.blob.size)
            else:
                self._last = f"{word} {rest}"

    def judge(self, kind: str, ended: Ended) -> None:
        """Raise unless it said that it was done."""
        word, _, rest = self._last.partition(" ")
        if word == "done" and ended.code == 0:
            return
        reason, _, words = rest.partition(" ")
        if word != "failed":
            raise EntrepotError(f"unpacking the {kind} data: {ended.trouble or 'it ended without a word'}")
        if reason == "full":
            raise StoreFull(STAGING)
        error = TooLarge if reason == "large" else Invalid
        raise error(f"the {kind} data cannot be unpacked: {words}")


def warnings() -> list[str]:
    found = []
    if importlib.util.find_spec("lhafile") is None:
        found.append("the library lhafile is not installed: imports of lha data will fail")
    if "network" not in walls():
        found.append("this machine has no network namespaces to unpack archives in")
    return found


def _trial(tmp: Path) -> Trial:
    import gzip

    return Trial(config=DecompressionConfig(), data=gzip.compress(bytes(range(256)) * 4096))


EXTENSION = ImportStep(
    name="image_decompression",
    since="Glance Ussuri",
    run=unpack,
    config=DecompressionConfig,
    section="image_decompression",
    warnings=warnings,
    selftest=_trial,
)
