"""Import plugins through the API: scenarios IM74 to IM85 (import.md 11)."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from kernel.errors import ConfigError
from tests.support.archives import bomb, encrypted, zipped
from tests.support.formats import ISO, RAW1K
from tests.support.notes import of_job, upload
from tests.support.plugging import content, imported, refused
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, objects, one_store, passing, somebody, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
MD5 = hashlib.md5(RAW1K).hexdigest()
INJECT = 'ignore_user_roles = admin,Ops\ninject = "property1":"value1","property2":"value2"'


def plugins(*names: str) -> str:
    return f"image_import_plugins = [{', '.join(names)}]"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def injecting(postgres: Server) -> AsyncIterator[Site]:
    """M4 whose operator marks what ordinary users import."""
    config = four_stores(image_import_opts=plugins("inject_image_metadata"), inject_metadata_properties=INJECT)
    async with standing(postgres, config, rules={"copy_image": ""}) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unpacking(postgres: Server) -> AsyncIterator[Site]:
    filters = "allowed_ports = []\ndisallowed_networks = []"
    config = four_stores(image_import_opts=plugins("image_decompression"), import_filtering_opts=filters)
    async with standing(postgres, config) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def converting(postgres: Server) -> AsyncIterator[Site]:
    config = four_stores(image_import_opts=plugins("image_decompression", "image_conversion"))
    async with standing(postgres, config) as site:
        yield site


@pytest.fixture(scope="module")
def qreal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A qcow2 image of 1 MiB of zeros."""
    path = tmp_path_factory.mktemp("qreal") / "q"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path.read_bytes()


# --- injection ---------------------------------------------------------------------------


@pytest.mark.requirement("REQ-020", "REQ-021", "REQ-023", "REQ-037")
async def test_IM74_no_op_and_injection_in_turn(postgres: Server) -> None:
    async with passing(postgres, one_store(image_import_opts=plugins("no_op"))) as site:
        assert (await imported(site, RAW1K))["status"] == "active"
    several = "image_import_plugins = ['no_op', 'inject_image_metadata']"
    config = one_store(image_import_opts=several, inject_metadata_properties="inject = a:1")
    async with passing(postgres, config) as site:
        shown = await imported(site, RAW1K)
        assert (shown["status"], shown["a"]) == ("active", "1")


@pytest.mark.requirement("REQ-024", "REQ-027", "REQ-028")
async def test_IM75_ordinary_users_get_the_properties(injecting: Site) -> None:
    shown = await imported(injecting, RAW1K, property1="mine")
    assert (shown["status"], shown["property1"], shown["property2"]) == ("active", "value1", "value2")
    updates = [note for note in injecting.notes.of(shown["id"]) if note.event_type == "image.update"]
    assert sum(note.payload["properties"].get("property2") == "value2" for note in updates) >= 2  # type: ignore[index]


@pytest.mark.parametrize("who", ["ADM", "member,reader,OPS"])
@pytest.mark.requirement("REQ-026")
async def test_IM75_some_roles_are_left_alone(injecting: Site, who: str) -> None:
    shown = await imported(injecting, RAW1K, who=somebody(who) if "," in who else who)
    assert shown["status"] == "active"
    assert not {"property1", "property2"} & set(shown)


@pytest.mark.requirement("REQ-029")
async def test_IM75_an_upload_is_no_import(injecting: Site) -> None:
    image = await injecting.image()
    assert await injecting.upload(image, RAW1K) == 204
    assert "property1" not in await injecting.show(image)


@pytest.mark.parametrize("who", ["ADM", "A"])
async def test_IM76_copies_run_no_plugins(injecting: Site, who: str) -> None:
    image = await injecting.image()
    assert await injecting.upload(image, RAW1K) == 204
    assert await injecting.do_import(image, who, method={"name": "copy-image"}, stores=["cheap"]) == 202
    shown = await injecting.ended(image)
    assert shown["stores"] == "cheap,fast"
    assert not {"property1", "property2"} & set(shown)


async def test_IM76_nor_do_copies_of_what_others_own(injecting: Site) -> None:
    image = await injecting.image("ADM", visibility="public")
    assert await injecting.upload(image, RAW1K, "ADM") == 204
    assert await injecting.do_import(image, "B", method={"name": "copy-image"}, stores=["reliable"]) == 202
    shown = await injecting.ended(image)
    assert shown["stores"] == "fast,reliable"
    assert not {"property1", "property2"} & set(shown)


@pytest.mark.requirement("REQ-025")
async def test_settings_of_a_plugin_that_is_not_listed_do_nothing(postgres: Server) -> None:
    config = one_store(image_import_opts=plugins("no_op"), inject_metadata_properties=INJECT)
    async with passing(postgres, config) as site:
        shown = await imported(site, RAW1K)
        assert shown["status"] == "active"
        assert not {"property1", "property2"} & set(shown)


@pytest.mark.requirement("REQ-029", "REQ-030")
async def test_closing_uploads_makes_users_import(postgres: Server) -> None:
    """By default everybody may upload, past the plugins; who may not is left with import."""
    config = one_store(image_import_opts=plugins("inject_image_metadata"), inject_metadata_properties=INJECT)
    async with passing(postgres, config, rules={"upload_image": "role:admin"}) as site:
        assert await site.upload(await site.image(), RAW1K) == 403
        assert await site.upload(await site.image("ADM"), RAW1K, "ADM") == 204
        assert (await imported(site, RAW1K))["property1"] == "value1"


PROTECTION = """
[^property1$]
create = admin,service_role
read = admin,service_role,member,_member_
update = admin
delete = admin
[.*]
create = @
read = @
update = @
delete = @
"""


@pytest.mark.requirement("REQ-032", "REQ-033")
async def test_an_injected_property_is_the_operators(postgres: Server) -> None:
    """The service writes what the user may neither make, change nor remove; the user sees it."""
    listed, where = plugins("inject_image_metadata"), "property_protection_file = protection.conf"

    def config(directory: Path) -> str:
        (directory / "protection.conf").write_text(PROTECTION)
        return one_store(DEFAULT=where, image_import_opts=listed, inject_metadata_properties=INJECT)(directory)

    async with passing(postgres, config) as site:
        shown = await imported(site, RAW1K)
        image = shown["id"]
        assert (await site.show(image, "A"))["property1"] == "value1"
        body = {"name": "n", "disk_format": "raw", "container_format": "bare", "property1": "mine"}
        assert (await site.call("POST", "/images", json=body)).status == 403
        headers = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        for verb in ("replace", "remove"):
            patch = [{"op": verb, "path": "/property1", "value": "mine"}]
            assert (await site.call("PATCH", f"/images/{image}", json=patch, headers=headers)).status == 403
        assert (await site.show(image, "A"))["property1"] == "value1"
        patch = [{"op": "replace", "path": "/property1", "value": "another"}]
        assert (await site.call("PATCH", f"/images/{image}", "ADM", json=patch, headers=headers)).status == 200


# --- decompression -----------------------------------------------------------------------


@pytest.mark.parametrize("data", [gzip.compress(RAW1K), zipped(("x.img", RAW1K)), RAW1K], ids=["gzip", "zip", "raw"])
@pytest.mark.requirement("REQ-080", "REQ-117")
async def test_IM77_archives_are_unpacked(unpacking: Site, data: bytes) -> None:
    shown = await imported(unpacking, data)
    assert (shown["status"], shown["size"], shown["virtual_size"]) == ("active", 1024, 1024)
    assert (shown["checksum"], shown["disk_format"], shown["container_format"]) == (MD5, "raw", "bare")
    await unpacking.settled()
    assert content(unpacking, shown, "fast") == RAW1K
    assert not objects(unpacking, "staging", shown["id"])
    assert of_job(unpacking.notes.of(shown["id"]))[-3:] == [
        upload("active", "fast", [], []),
        "image.activate",
        "task.success",
    ]


@pytest.mark.requirement("REQ-042", "REQ-085")
async def test_IM77_downloaded_archives_are_unpacked_too(unpacking: Site) -> None:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(RAW1K), content_type="application/octet-stream")

    app = web.Application()
    app.router.add_get("/gz", serve)
    async with TestServer(app) as origin:
        image = await unpacking.image()
        method = {"name": "web-download", "uri": str(origin.make_url("/gz"))}
        assert await unpacking.do_import(image, method=method) == 202
        shown = await unpacking.ended(image)
    assert (shown["status"], shown["size"], shown["checksum"]) == ("active", 1024, MD5)


@pytest.mark.requirement("REQ-083")
async def test_IM78_a_compressed_container_is_left_packed(unpacking: Site) -> None:
    data = gzip.compress(RAW1K)
    shown = await imported(unpacking, data, container_format="compressed")
    assert (shown["status"], shown["size"]) == ("active", len(data))
    assert shown["checksum"] == hashlib.md5(data).hexdigest()


@pytest.mark.requirement("REQ-081")
async def test_IM79_one_layer_is_unpacked(unpacking: Site) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("../../x.img")
        member.size = len(RAW1K)
        archive.addfile(member, io.BytesIO(RAW1K))
    shown = await imported(unpacking, gzip.compress(packed.getvalue()))
    assert shown["status"] == "active"
    await unpacking.settled()
    assert content(unpacking, shown, "fast") == packed.getvalue()


BROKEN = {
    "two members": (zipped(("a", RAW1K), ("b", RAW1K)), "2 members"),
    "half a gzip": (gzip.compress(bytes(range(256)) * 99)[:200], "ends in the middle"),
    "no lha": (b"\0\0-lh" + bytes(100), ""),
    "an encrypted zip": (encrypted(RAW1K), "encrypted"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_IM80_archives_that_cannot_be_taken(unpacking: Site, name: str) -> None:
    data, words = BROKEN[name]
    shown = await imported(unpacking, data)
    assert words in await refused(unpacking, shown, "image_decompression")
    await unpacking.settled()
    assert of_job(unpacking.notes.of(shown["id"])) == ["task.create", "task.processing", "task.failure"]
    again = await imported(unpacking, gzip.compress(RAW1K))
    assert again["status"] == "active"


async def test_IM81_what_comes_out_is_bounded(postgres: Server) -> None:
    """Neither is the disk filled meanwhile: nothing is ever larger than allowed."""
    config = four_stores(DEFAULT=f"image_size_cap = {MIB}", image_import_opts=plugins("image_decompression"))
    async with passing(postgres, config) as site:
        shown = await imported(site, bomb(10))
        assert f"more than {MIB} bytes" in await refused(site, shown, "image_decompression")


# --- what they are given -------------------------------------------------------------------


def _vanish(staged: Path) -> None:
    staged.unlink()


def _change(staged: Path) -> None:
    staged.chmod(0o600)
    staged.write_bytes(gzip.compress(b"what nobody staged"))


def _touch(staged: Path) -> None:
    os.utime(staged)


@pytest.mark.parametrize(
    ("happen", "words"),
    [(_vanish, "the object does not exist"), (_change, "the staged bytes have changed"), (_touch, "")],
    ids=["gone", "changed", "touched"],
)
async def test_plugins_are_given_what_was_staged(unpacking: Site, happen: Callable[[Path], None], words: str) -> None:
    """Or nothing: a file that is not as it was recorded is compared before the first of them, not after the last."""
    image = await unpacking.image()
    assert await unpacking.stage(image, gzip.compress(RAW1K)) == 204
    (staged,) = (path for path in unpacking.files("staging") if path.name.startswith(image))
    happen(staged)
    assert await unpacking.do_import(image) == 202
    shown = await unpacking.ended(image)
    message = (await unpacking.tasks(image))[-1]["message"]
    assert (shown["status"], shown["size"]) == (("queued", None) if words else ("active", 1024)), message
    assert words in message
    assert "plugin" not in message
    await unpacking.settled()
    assert not objects(unpacking, "staging", image)


# --- conversion --------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.requirement("REQ-075", "REQ-078", "REQ-117")
async def test_IM82_qcow2_becomes_raw(converting: Site, qreal: bytes) -> None:
    shown = await imported(converting, qreal, disk_format="qcow2")
    assert (shown["status"], shown["disk_format"], shown["container_format"]) == ("active", "raw", "bare")
    assert (shown["size"], shown["virtual_size"]) == (MIB, MIB)
    assert shown["checksum"] == "b6d81b360a5672d80c27430f39153e2c"
    await converting.settled()
    assert content(converting, shown, "fast") == bytes(MIB)
    assert not objects(converting, "staging", shown["id"])


@pytest.mark.qemu
@pytest.mark.requirement("REQ-076")
async def test_IM83_what_needs_no_conversion_stays_as_it_is(converting: Site, qreal: bytes) -> None:
    raw = await imported(converting, RAW1K)
    assert (raw["status"], raw["disk_format"], raw["checksum"]) == ("active", "raw", MD5)
    iso = await imported(converting, ISO, disk_format="iso")
    assert (iso["status"], iso["disk_format"], iso["checksum"]) == ("active", "iso", hashlib.md5(ISO).hexdigest())
    ovf = await imported(converting, qreal, disk_format="qcow2", container_format="ovf")
    assert (ovf["status"], ovf["disk_format"], ovf["container_format"]) == ("active", "raw", "bare")


@pytest.mark.qemu
@pytest.mark.requirement("REQ-021", "REQ-084")
async def test_IM84_first_unpacked_then_converted(converting: Site, qreal: bytes) -> None:
    shown = await imported(converting, gzip.compress(qreal), disk_format="qcow2")
    assert (shown["status"], shown["disk_format"], shown["size"]) == ("active", "raw", MIB)
    assert shown["checksum"] == "b6d81b360a5672d80c27430f39153e2c"


@pytest.mark.qemu
@pytest.mark.requirement("REQ-079", "REQ-087")
async def test_injection_and_conversion_in_one_list(postgres: Server, qreal: bytes) -> None:
    config = one_store(
        image_import_opts="image_import_plugins = ['inject_image_metadata', 'image_conversion']",
        inject_metadata_properties=INJECT,
    )
    async with passing(postgres, config) as site:
        shown = await imported(site, qreal, disk_format="qcow2")
        assert (shown["status"], shown["disk_format"], shown["property2"]) == ("active", "raw", "value2")


# --- configuration -----------------------------------------------------------------------


async def test_IM85_an_unknown_plugin_refuses_the_start(postgres: Server) -> None:
    with pytest.raises(ConfigError, match=r"image_import_plugins: unknown plugin 'fred_mertz'"):
        async with passing(postgres, one_store(image_import_opts="image_import_plugins = ['fred_mertz']")):
            pass


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"inject_metadata_properties": "inject = a:1,a:2"}, r"\[inject_metadata_properties\] inject: the key 'a'"),
        ({"image_decompression": "additional_formats = rar"}, r"\[image_decompression\] additional_formats"),
    ],
)
async def test_IM101_wrong_options_refuse_the_start(postgres: Server, sections: dict[str, str], words: str) -> None:
    listed = plugins("inject_image_metadata", "image_decompression")
    with pytest.raises(ConfigError, match=words):
        async with passing(postgres, one_store(image_import_opts=listed, **sections)):
            pass


async def test_conversion_without_qemu_img_refuses_the_start(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.steps.image_conversion.shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"'image_conversion' cannot be used: qemu-img is not installed"):
        async with passing(postgres, one_store(image_import_opts=plugins("image_conversion"))):
            pass


@pytest.mark.qemu
async def test_doubtful_settings_are_told_at_the_start(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhafile", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wrong_way_round = plugins("image_conversion", "image_decompression")
    async with passing(postgres, one_store(image_import_opts=wrong_way_round)) as site:
        warnings = "\n".join(site.service.site.warnings)
        assert "image_conversion is listed before image_decompression" in warnings
        assert "lhafile is not installed" in warnings


@pytest.mark.qemu
async def test_what_qemu_img_says_of_other_containers_is_kept(converting: Site) -> None:
    """Nobody looks into an ovf again, so that the plugin's word on its virtual size stands."""
    shown = await imported(converting, RAW1K, container_format="ovf")
    assert (shown["status"], shown["virtual_size"], shown["container_format"]) == ("active", 1024, "ovf")
