"""Converts staged images to the operator's disk format with qemu-img.

The rows of the contract (import 11.5), in order: our own inspector first, then
`qemu-img info`, then what neither may find, and only then the conversion.  The
driver is always named, so that qemu-img never guesses a format from hostile bytes,
and both calls are confined (`kernel/confined.py`).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from kernel.confined import Bounds, Ended, run, walls
from kernel.errors import EntrepotError, Invalid, StoreFull, TooLarge, UnacceptableData
from kernel.events import Facts
from kernel.extend import ImportStep, StepRequest, StepResult, Trial
from kernel.image import STAGING
from kernel.inspector import Inspector
from kernel.verdict import Rules, the_format

_DRIVERS: Final = {"vhd": "vpc"}
"""Disk format -> qemu's name for it, where it differs."""
_VMDK: Final = ("monolithicSparse", "streamOptimized")
"""Kinds of vmdk that consist of one file, best first."""
_GIB: Final = 1 << 30
_INFO: Final = Bounds(seconds=30, cpu=2, memory=_GIB)
_PERCENT: Final = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_PIECE: Final = 1 << 20


class ConversionConfig(BaseModel):
    """[image_conversion]"""

    model_config = ConfigDict(extra="ignore")

    output_format: Literal["raw", "qcow2", "vmdk"] = Field("raw", description="Disk format to convert images to.")
    timeout: float = Field(3600.0, gt=0, description="Seconds that converting one image may take. (ours)")


class Info(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What `qemu-img info` says, as far as it matters."""

    format: str
    virtual_size: int
    backing_filename: str | None = None
    full_backing_filename: str | None = None
    format_specific: dict[str, Any] = {}

    def detail(self, name: str) -> Any:
        """An item of what is said of this format only."""
        data = self.format_specific.get("data")
        return data.get(name) if isinstance(data, dict) else None


async def convert(request: StepRequest) -> StepResult:
    settings: ConversionConfig = request.settings
    target = settings.output_format
    found = the_format(await _facts(request), request.rules).name
    found = "raw" if found == "gpt" else found
    declared = request.image.disk_format or found  # an image import may leave it to the data
    if found == declared == "iso":
        return StepResult()
    if found != declared:
        raise Invalid(f"disk_format {declared} does not match the data, which is {found}")
    program = _program()
    driver = _DRIVERS.get(found, found)
    info = await _info(program, driver, request.path)
    _must_stand_alone(info, found, request.rules)
    if found == target:
        return StepResult(virtual_size=info.virtual_size)
    cap = request.limits.size_cap
    if info.virtual_size > cap:
        raise TooLarge(f"the image is {info.virtual_size} bytes large unpacked, {cap} are allowed")
    await _convert(program, driver, info.virtual_size, request, settings)
    return StepResult(
        replaced=True,
        expects=target,
        disk_format=target,
        container_format="bare",
        virtual_size=info.virtual_size,
    )


async def _facts(request: StepRequest) -> Facts:
    """What our inspector saw when the bytes were written, or sees now."""
    if request.blob.facts is not None:
        return request.blob.facts
    return await asyncio.to_thread(_inspect, request.path)


def _inspect(path: Path) -> Facts:
    inspector = Inspector()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            inspector.eat(piece)
    return inspector.finish()


# --- looking -----------------------------------------------------------------------------


async def _info(program: str, driver: str, path: Path) -> Info:
    command = [program, "info", "--output=json", "-f", driver, str(path)]
    ended = await run(command, msgspec.structs.replace(_INFO, reads=(path,)))
    if ended.code != 0 or ended.err:
        raise Invalid(f"qemu-img cannot read the image: {_words(ended, path)}")
    try:
        info = msgspec.json.decode(ended.out, type=Info)
    except msgspec.DecodeError as error:
        raise EntrepotError("qemu-img info said something that nobody understands") from error
    if info.format != driver:
        raise Invalid(f"qemu-img takes the image for {info.format}, not for {driver}")
    return info


def _must_stand_alone(info: Info, found: str, rules: Rules) -> None:
    """Nothing may be read that is not in the image itself."""
    if info.backing_filename is not None or info.full_backing_filename is not None:
        raise UnacceptableData("the image has a backing file")
    if info.detail("data-file") is not None:
        raise UnacceptableData("the image keeps its data in another file")
    if found == "vmdk":
        kind = info.detail("create-type")
        if not isinstance(kind, str) or kind.lower() not in rules.vmdk_types:
            raise UnacceptableData(f"vmdk create-type {kind or 'missing'} is not allowed")


# --- converting --------------------------------------------------------------------------


async def _convert(program: str, driver: str, size: int, request: StepRequest, settings: ConversionConfig) -> None:
    output = await request.output()
    bounds = Bounds(
        seconds=settings.timeout,
        cpu=int(settings.timeout) + 1,
        memory=_GIB,
        file=request.limits.size_cap,
        reads=(request.path,),
        makes=output,
    )
    command = [program, "convert", "-p", "-f", driver, "-O", settings.output_format]
    command += [*_options(settings.output_format, request.rules), str(request.path), str(output)]
    heard = progress_of(lambda share: request.progress(int(size * share), size))
    ended = await run(command, bounds, heard=heard)
    if "No space left on device" in ended.err:
        raise StoreFull(STAGING)
    if "File too large" in ended.err or ended.code == -signal.SIGXFSZ:  # whichever of its threads was told
        raise TooLarge(f"the converted image is larger than the {request.limits.size_cap} bytes that are allowed")
    if ended.code != 0 or ended.err:
        raise Invalid(f"qemu-img cannot convert the image: {_words(ended, request.path, output)}")


def _options(target: str, rules: Rules) -> list[str]:
    """A vmdk of a kind that the site would take back."""
    if target != "vmdk":
        return []
    kind = next((kind for kind in _VMDK if kind.lower() in rules.vmdk_types), _VMDK[0])
    return ["-o", f"subformat={kind}"]


def progress_of(tell: Callable[[float], None]) -> Callable[[bytes], None]:
    """Turns what `qemu-img convert -p` prints into shares of the whole."""
    rest = b""

    def hear(piece: bytes) -> None:
        nonlocal rest
        said = rest + piece
        shares = _PERCENT.findall(said)
        if shares:
            tell(min(float(shares[-1]) / 100, 1.0))
        rest = said[-64:]

    return hear


def _words(ended: Ended, *paths: Path) -> str:
    """Why it failed, without telling where our files lie."""
    words = ended.trouble or ended.err.replace("\n", "; ") or f"exit code {ended.code}"
    for path in paths:
        words = words.replace(str(path), "the image")
    return words.removeprefix("qemu-img: ")[:300]


# --- this machine ------------------------------------------------------------------------


def _program() -> str:
    program = shutil.which("qemu-img")
    if program is None:
        raise EntrepotError("qemu-img is not installed any more")
    return program


def unavailable() -> str | None:
    return None if shutil.which("qemu-img") else "qemu-img is not installed (Debian: qemu-utils)"


def warnings() -> list[str]:
    return [] if "network" in walls() else ["this machine has no network namespaces to run qemu-img in"]


EXTENSION = ImportStep(
    name="image_conversion",
    since="Glance Rocky",
    run=convert,
    config=ConversionConfig,
    section="image_conversion",
    unavailable=unavailable,
    warnings=warnings,
    after=frozenset({"image_decompression"}),
    selftest=lambda tmp: Trial(config=ConversionConfig(output_format="qcow2"), data=bytes(range(256)) * 4096),
)
