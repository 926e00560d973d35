"""What the suites of import plugins share: how an import with them ends, and the example package of a stranger's."""

from __future__ import annotations

import io
import re
import shutil
import tomllib
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
    """What pip would make of the example package, without the network that its build would ask for."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    (module,) = EXAMPLE.glob("*.py")
    shutil.copy(module, target)
    information = target / f"{re.sub('[-.]+', '_', project['name'])}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
