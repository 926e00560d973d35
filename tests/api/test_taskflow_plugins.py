"""Plugins that operators wrote for Glance, installed as a package of a stranger's, run as they are (import.md 11.1)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from kernel.registry import discover
from tests.support.notes import of_job
from tests.support.plugging import content, imported, install_example, refused
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import one_store, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOUD = b"HALLO" * 300
QUIET = b"hallo" * 300


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example package, installed by pip, where Python finds it for as long as these tests run."""
    target = tmp_path_factory.mktemp("site-packages")
    install_example(target)
    sys.path.append(str(target))
    importlib.invalidate_caches()
    yield target
    sys.path.remove(str(target))
    importlib.invalidate_caches()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(postgres: Server, installed: Path) -> AsyncIterator[Site]:
    """A site with the example's plugin between two of ours."""
    listed = "image_import_plugins = [no_op, shout, inject_image_metadata]"
    inject = "inject = who:the operator"
    config = one_store(image_import_opts=listed, inject_metadata_properties=inject, shouting="suffix = ?")
    async with standing(postgres, config) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusing(postgres: Server, installed: Path) -> AsyncIterator[Site]:
    async with standing(postgres, one_store(image_import_opts="image_import_plugins = [shout, refuse]")) as running:
        yield running


@pytest.mark.requirement("REQ-015", "REQ-017", "REQ-018")
async def test_they_are_offered_beside_ours() -> None:
    found = discover()
    assert {"shout", "refuse", "linger", "example_import_plugins", "image_conversion"} <= set(found.steps)
    assert found.origins[id(found.steps["shout"])] == "the Taskflow plugin example_import_plugins:get_flow"


async def test_ours_win_and_the_operator_is_told(postgres: Server) -> None:
    found = discover()
    assert found.origins[id(found.steps["no_op"])] == "plugins.steps.no_op"
    assert set(found.shadowed) == {"no_op"}
    async with standing(postgres, one_store(image_import_opts="image_import_plugins = [no_op]")) as running:
        (warning,) = (text for text in running.service.site.warnings if "no_op" in text)
        assert "no_op is that of plugins.steps.no_op" in warning
        assert "example_import_plugins:get_refusing_flow has the same name and is not used" in warning
        assert (await imported(running, QUIET))["status"] == "active"


@pytest.mark.requirement("REQ-015", "REQ-019", "REQ-114", "REQ-117")
async def test_bytes_and_properties_are_changed(site: Site) -> None:
    shown = await imported(site, QUIET, doomed="yes", kept="1")
    assert (shown["status"], shown["size"], shown["disk_format"]) == ("active", len(LOUD), "raw")
    assert (shown["voice"], shown["how"], shown["kept"]) == ("loud?", "glance-direct", "1")
    assert "doomed" not in shown
    await site.settled()
    assert content(site, shown) == LOUD
    assert site.files("staging") == []


@pytest.mark.requirement("REQ-021", "REQ-079")
async def test_they_run_in_the_listed_order(site: Site) -> None:
    """`shout` notes who imports; what we inject comes later and wins."""
    shown = await imported(site, QUIET)
    assert shown["who"] == "the operator"


async def test_one_that_raises_fails_the_import(refusing: Site) -> None:
    """With a message that names it and tells neither places nor credentials; what `shout` did is undone."""
    shown = await imported(refusing, QUIET, doomed="yes")
    message = await refused(refusing, shown, "refuse", doomed="yes")
    assert "RuntimeError: the scanner at http://user:***@scanner found a virus in file://…" in message
    assert not {"voice", "how", "never"} & set(shown)
    await refusing.settled()
    assert refusing.files("staging") == []
    assert of_job(refusing.notes.of(shown["id"])) == ["task.create", "task.processing", "task.failure"]


async def test_deleting_the_image_ends_the_plugin_and_its_programs(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    monkeypatch.setenv("LINGER_TOLD", str(told))
    async with standing(postgres, one_store(image_import_opts="image_import_plugins = [linger]")) as running:
        image = await running.image()
        assert await running.stage(image, QUIET) == 204
        assert await running.do_import(image) == 202
        await running.until(lambda: told.exists() and len(told.read_text().split()) == 2, 20)
        pids = [int(pid) for pid in told.read_text().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
        assert (await running.call("DELETE", f"/images/{image}")).status == 204
        await running.until(lambda: not any(alive(pid) for pid in pids))
        await running.settled()
        await running.until(lambda: running.files("staging") == [])


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has collected yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
