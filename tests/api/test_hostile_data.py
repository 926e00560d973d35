"""Archives and images that mean harm, through the API: each is refused for what it is, and nothing of it stays."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from kernel.extend import StepRequest, StepResult
from tests.support import archives, disk_images
from tests.support.archives import PACKERS, bomb, zipped
from tests.support.disk_images import MIB, good
from tests.support.formats import ISO, RAW1K
from tests.support.notes import of_job
from tests.support.plugging import content, imported, refused
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, standing
from tests.support.step_bench import programs

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAP = 8 * MIB
TEXT = b"".join(b"line %d\n" % number for number in range(30_000))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unpacking(postgres: Server) -> AsyncIterator[Site]:
    """M4 with small images that unpacks whatever it can."""
    config = four_stores(
        DEFAULT=f"image_size_cap = {CAP}",
        image_import_opts="image_import_plugins = [image_decompression]",
        image_decompression="additional_formats = [xz, zstd, bz2]",
    )
    async with standing(postgres, config) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def converting(postgres: Server) -> AsyncIterator[Site]:
    config = four_stores(
        DEFAULT="image_size_cap = 1099511627776", image_import_opts="image_import_plugins = [image_conversion]"
    )
    async with standing(postgres, config) as site:
        yield site


# --- archives ----------------------------------------------------------------------------

ZEROS = bytes(64 * MIB)

ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip bomb": (lambda: bomb(64), f"more than {CAP} bytes"),
    "gzip bomb in many members": (lambda: gzip.compress(bytes(MIB)) * 64, f"more than {CAP} bytes"),
    "zip bomb": (lambda: zipped(("x.img", ZEROS)), f"more than {CAP} bytes"),
    "zip bomb that plays it down": (lambda: archives.boasting(zipped_zeros(), 5), ""),
    "lha bomb": (lambda: archives.lha_of_one_letter(0, 32 * MIB), f"more than {CAP} bytes"),
    "xz bomb": (lambda: lzma.compress(ZEROS), f"more than {CAP} bytes"),
    "zstd bomb": (lambda: PACKERS["zstd"](ZEROS), f"more than {CAP} bytes"),
    "bz2 bomb": (lambda: PACKERS["bz2"](ZEROS), f"more than {CAP} bytes"),
    "encrypted zip": (lambda: archives.encrypted(TEXT), "encrypted"),
    "zip with two members": (lambda: zipped(("a", TEXT), ("../b", TEXT)), "2 members"),
    "zip that points astray": (lambda: archives.astray(TEXT), "astray"),
    "lha with two members": (lambda: archives.lha_stored((b"a", TEXT), (b"b", TEXT)), "2 members"),
    "gzip and something else": (lambda: gzip.compress(TEXT) + b"something else", "follows"),
    **{
        f"half a {kind}": (lambda pack=pack: pack(TEXT)[:-40], "")  # type: ignore[misc]
        for kind, pack in PACKERS.items()
    },
}


def zipped_zeros() -> bytes:
    return zipped(("x.img", ZEROS))


@pytest.mark.parametrize("name", ARCHIVES)
async def test_hostile_archives_are_refused(unpacking: Site, name: str) -> None:
    make, words = ARCHIVES[name]
    shown = await imported(unpacking, make())
    assert words in await refused(unpacking, shown, "image_decompression")
    assert programs() == set()
    await unpacking.settled()
    assert of_job(unpacking.notes.of(shown["id"])) == ["task.create", "task.processing", "task.failure"]


@pytest.mark.parametrize("name", ["../../../../tmp/entrepot-was-here", "/tmp/entrepot-was-here"])
async def test_names_inside_archives_become_no_files(unpacking: Site, name: str) -> None:
    for pack in (zipped((name, RAW1K)), archives.lha_stored((name.encode(), RAW1K))):
        shown = await imported(unpacking, pack)
        assert (shown["status"], shown["size"]) == ("active", 1024)
        await unpacking.settled()
        assert content(unpacking, shown, "fast") == RAW1K
        assert not Path("/tmp/entrepot-was-here").exists()
        assert unpacking.files("staging") == []


async def test_the_name_of_another_image_harms_it_not(unpacking: Site) -> None:
    """A member called like somebody else's staged file leaves that file alone."""
    victim = await unpacking.image("B")
    assert await unpacking.stage(victim, TEXT, "B") == 204
    (staged,) = (path for path in unpacking.files("staging") if path.name.startswith(victim))
    for name in (victim, staged.name, f"../{staged.parent.name}/{staged.name}"):
        assert (await imported(unpacking, zipped((name, RAW1K))))["status"] == "active"
    assert await unpacking.do_import(victim, "B") == 202
    shown = await unpacking.ended(victim)
    assert (shown["status"], shown["size"]) == ("active", len(TEXT))


async def test_one_layer_is_unpacked_and_no_more(unpacking: Site) -> None:
    inner = gzip.compress(RAW1K)
    shown = await imported(unpacking, gzip.compress(inner))
    assert (shown["status"], shown["size"]) == ("active", len(inner))


async def test_the_service_does_not_swell(unpacking: Site) -> None:
    """What an archive would become is never in its memory."""
    data = bomb(2000)
    await imported(unpacking, data)
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        await imported(unpacking, data)
    assert psutil.Process().memory_info().rss - before < 24 * MIB


# --- images ------------------------------------------------------------------------------

IMAGES: dict[str, tuple[Callable[[Path], bytes], str, str]] = {
    "qcow2 with a backing file": (disk_images.with_backing_file, "qcow2", "backing_file"),
    "qcow2 with a data file": (disk_images.with_data_file, "qcow2", "data_file"),
    "qcow2 with a data file, declared raw": (disk_images.with_data_file, "raw", "data_file"),
    "vmdk with a foreign extent": (disk_images.with_foreign_extent, "vmdk", "vmdk"),
    "flat vmdk": (disk_images.flat_vmdk, "vmdk", ""),
    "raw declared qcow2": (lambda tmp: RAW1K, "qcow2", "disk_format qcow2 does not match the data, which is raw"),
    "qcow2 declared raw": (lambda tmp: good("qcow2", tmp), "raw", "which is qcow2"),
    "vdi declared vhd": (lambda tmp: good("vdi", tmp), "vhd", "which is vdi"),
    "iso declared raw": (lambda tmp: ISO, "raw", "which is iso"),
    "hybrid iso": (lambda tmp: disk_images.hybrid_iso(ISO), "iso", "multiple formats"),
    "ami": (lambda tmp: RAW1K, "ami", "does not match"),
    "qed": (disk_images.qed, "raw", "qed is not allowed"),
    "luks declared raw": (lambda tmp: disk_images.luks(), "raw", "which is luks"),
    "torn qcow2": (disk_images.torn, "qcow2", "qemu-img cannot"),
    "larger than allowed": (disk_images.vast, "qcow2", "8796093022208 bytes large unpacked"),
    "qcow2 in a qcow2": (disk_images.nested, "qcow2", "the result is qcow2 instead of raw"),
}


@pytest.mark.qemu
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.requirement("REQ-077")
async def test_hostile_images_are_refused(converting: Site, name: str, tmp_path: Path) -> None:
    make, declared, words = IMAGES[name]
    shown = await imported(converting, make(tmp_path), disk_format=declared)
    assert words in await refused(converting, shown, "image_conversion", disk_format=declared, container_format="bare")
    assert programs() == set()


@pytest.mark.qemu
async def test_formats_are_restored_when_a_later_step_fails(postgres: Server, tmp_path: Path) -> None:
    """Converted, then refused: the image is again what it was declared to be."""
    config = four_stores(
        image_import_opts="image_import_plugins = [image_conversion, inject_image_metadata]",
        inject_metadata_properties="inject = a:1",
    )
    async with standing(postgres, config) as site:
        step = site.service.site.steps["inject_image_metadata"]
        site.service.site.steps[step.name] = replace(step, run=broken)
        shown = await imported(site, good("qcow2", tmp_path), disk_format="qcow2", container_format="ovf")
        message = await refused(site, shown, step.name, disk_format="qcow2", container_format="ovf")
        assert "unexpected error (ZeroDivisionError)" in message
        assert "a" not in shown


async def broken(request: StepRequest) -> StepResult:
    raise ZeroDivisionError
