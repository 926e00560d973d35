"""What the suites of import plugins share: how an import with them ends, and the example package of a stranger's."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.running import Site
from tests.support.standing import objects

EXAMPLE = Path(__file__).with_name("taskflow_plugin")
STORES = ("file", "fast", "cheap", "reliable")
NOTHING = ("size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value")


async def imported(
    site: Site, data: bytes, *, who: str | dict[str, str] = "A", seconds: float = 20, **attributes: Any
) -> dict[str, Any]:
    """The image after staging these bytes and importing them, whatever came of it."""
    response = await site.call(
        "POST", "/images", who, json={"name": "n", "disk_format": "raw", "container_format": "bare", **attributes}
    )
    assert response.status == 201, await response.text()
    image = str((await response.json())["id"])
    staged = await site.call(
        "PUT",
        f"/images/{image}/stage",
        who,
        data=io.BytesIO(data),
        headers={"Content-Type": "application/octet-stream"},
    )
    assert staged.status == 204, await staged.text()
    asked = await site.call("POST", f"/images/{image}/import", who, json={"method": {"name": "glance-direct"}})
    assert asked.status == 202, await asked.text()
    return await site.ended(image, seconds)


def content(site: Site, shown: dict[str, Any], store: str = "file") -> bytes:
    """The bytes that a store holds of an image, all of its copies being one."""
    (data,) = objects(site, store, shown["id"])
    return data


async def refused(site: Site, shown: dict[str, Any], plugin: str, **kept: Any) -> str:
    """The end of an import that a plugin failed: as if never staged.  Returns the message of its task."""
    assert shown["status"] == "queued"
    assert {name: shown[name] for name in NOTHING} == dict.fromkeys(NOTHING)
    assert {name: shown.get(name) for name in kept} == kept
    assert "stores" not in shown
    assert "os_glance_import_task" not in shown
    if site.service.site.multi:
        assert shown["os_glance_importing_to_stores"] == ""
        assert shown["os_glance_failed_import"] == "fast"
    for store in ("staging", *STORES):
        assert not list((site.directory / store).rglob(f"*{shown['id']}*"))
    task = (await site.tasks(shown["id"]))[-1]
    assert (task["status"], task["result"]) == ("failure", None)
    message = str(task["message"])
    assert f"The plugin {plugin} failed: " in message
    assert str(site.directory) not in message
    return message


def install_example(target: Path) -> None:
    """Have pip install the example package into a directory; without network, from a copy, for pip builds in it."""
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copytree(EXAMPLE, Path(place) / "package")
        command = [
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
        ]
        subprocess.run([sys.executable, "-m", "pip", *command, "--target", target, copy], check=True)
