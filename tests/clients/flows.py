"""What people and services do with images through each client, one flow after another.

Flows of a client share an image, and come in the order of its life.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.clients.shells import Cloud

Flow = tuple[str, Callable[[], Any]]

_DATA = bytes(range(256)) * 4096
_PATIENCE = 60


def flows(cloud: Cloud, directory: Path) -> Iterator[Flow]:
    """All flows; the first word says whose."""
    source = directory / "source.raw"
    source.write_bytes(_DATA)
    yield from _openstackclient(cloud, directory, source)
    yield from _glanceclient(cloud, directory, source)
    yield from _sdk(cloud, source)


def _openstackclient(cloud: Cloud, directory: Path, source: Path) -> Iterator[Flow]:
    run, name, saved = cloud.openstack, f"osc-{uuid4().hex[:8]}", directory / "osc.raw"
    bare = ("--disk-format", "raw", "--container-format", "bare")

    def create() -> None:
        made = run("image", "create", *bare, "--file", str(source), "--property", "rack=7", "--tag", "one", name)
        assert (made["status"], made["size"]) == ("active", len(_DATA)), made

    def imported() -> None:
        made = run("image", "create", *bare, "--import", "--file", str(source), f"{name}-i")
        _until(lambda: run("image", "show", made["id"])["status"] == "active")
        run("image", "delete", f"{name}-i", parsed=False)

    def listed() -> None:
        assert name in {row["Name"] for row in run("image", "list")}
        assert [row["Name"] for row in run("image", "list", "--name", name, "--tag", "one")] == [name]

    def sets() -> None:
        run("image", "set", "--property", "rack=8", "--min-ram", "3", "--tag", "two", name, parsed=False)
        shown = run("image", "show", name)
        assert (shown["min_ram"], set(shown["tags"])) == (3, {"one", "two"}), shown
        assert shown["properties"]["rack"] == "8", shown

    def unsets() -> None:
        run("image", "unset", "--property", "rack", "--tag", "two", name, parsed=False)
        shown = run("image", "show", name)
        assert (shown["tags"], "rack" in shown["properties"]) == (["one"], False), shown

    def save() -> None:
        run("image", "save", "--file", str(saved), name, parsed=False)
        assert saved.read_bytes() == _DATA

    def deactivate() -> None:
        for option, status in (("--deactivate", "deactivated"), ("--activate", "active")):
            run("image", "set", option, name, parsed=False)
            assert run("image", "show", name)["status"] == status

    def shared() -> None:
        run("image", "add", "project", name, cloud.project(), parsed=False)
        assert [row["Status"] for row in run("image", "member", "list", name)] == ["pending"]
        cloud.elsewhere("image", "set", "--accept", run("image", "show", name)["id"])
        assert name in cloud.elsewhere("image", "list", "--shared")
        run("image", "remove", "project", name, cloud.project(), parsed=False)

    def deleted() -> None:
        run("image", "delete", name, parsed=False)
        assert not run("image", "list", "--name", name)

    yield "openstack image create --file", create
    yield "openstack image create --import", imported
    yield "openstack image list, by name and tag", listed
    yield "openstack image show NAME", lambda: run("image", "show", name)
    yield "openstack image set", sets
    yield "openstack image unset", unsets
    yield "openstack image save", save
    yield "openstack image set --deactivate, --activate", deactivate
    if cloud.other:
        yield "openstack image add project, set --accept, remove project", shared
    yield "openstack image stores list", lambda: run("image", "stores", "list")
    yield "openstack image import info", lambda: run("image", "import", "info")
    yield "openstack image delete", deleted


def _glanceclient(cloud: Cloud, directory: Path, source: Path) -> Iterator[Flow]:
    run, name, saved = cloud.glance, f"glance-{uuid4().hex[:8]}", directory / "glance.raw"
    image = str(uuid4())
    bare = ("--disk-format", "raw", "--container-format", "bare")
    other, admin = cloud.project(), cloud.administered

    def shows(*texts: str) -> None:
        shown = run("image-show", image)
        for text in texts:
            assert text in shown, (text, shown)

    def create() -> None:
        run("image-create", *bare, "--name", name, "--id", image, "--file", str(source), "--property", "rack=7")
        shows("active", name, "rack")

    def imported() -> None:
        made = str(uuid4())
        run("image-create-via-import", *bare, "--name", f"{name}-i", "--id", made, "--file", str(source))
        _until(lambda: "active" in run("image-show", made))
        assert "success" in run("image-tasks", made)
        run("image-delete", made)

    def copied() -> None:
        assert admin is not None
        told = admin.sdk().image.get("/info/stores").json()["stores"]
        stores = [store["id"] for store in told if "read-only" not in store]
        admin.glance("image-import", image, "--import-method", "copy-image", "--stores", stores[-1])
        _until(lambda: stores[-1] in _row(run("image-show", image), "stores"))

    def members() -> None:
        assert other in run("member-create", image, other)
        assert "accepted" in run("member-update", image, other, "accepted")
        assert other in run("member-list", "--image-id", image)
        run("member-delete", image, other)

    def tags() -> None:
        run("image-tag-update", image, "blue")
        shows("blue")
        run("image-tag-delete", image, "blue")

    def download() -> None:
        run("image-download", "--file", str(saved), image)
        assert saved.read_bytes() == _DATA

    def update() -> None:
        run("image-update", image, "--name", f"{name}-n", "--property", "rack=8", "--min-disk", "4")
        shows(f"{name}-n", "8", "4")
        run("image-update", image, "--remove-property", "rack")
        assert "rack" not in run("image-show", image)

    def deactivate() -> None:
        run("image-deactivate", image)
        shows("deactivated")
        run("image-reactivate", image)

    yield "glance image-create --file", create
    yield "glance image-create-via-import, image-tasks", imported
    yield "glance image-list", lambda: _holds(run("image-list", "--limit", "1000"), image)
    yield "glance image-show", lambda: shows(name)
    yield "glance image-update", update
    yield "glance image-tag-update, image-tag-delete", tags
    if not cloud.name:  # an owner cannot accept for others, so with Keystone openstackclient shows it
        yield "glance member-create, member-update, member-list, member-delete", members
    yield "glance image-download", download
    yield "glance image-deactivate, image-reactivate", deactivate
    yield "glance import-info, stores-info", lambda: (run("import-info"), run("stores-info"))
    if admin is not None:
        yield "glance image-import --import-method copy-image", copied
    yield "glance image-delete", lambda: run("image-delete", image)


def _sdk(cloud: Cloud, source: Path) -> Iterator[Flow]:
    connection, name = cloud.sdk(), f"sdk-{uuid4().hex[:8]}"
    client = connection.image

    def find() -> Any:
        found = client.find_image(name)
        assert found is not None
        return found

    def create() -> None:
        made = connection.create_image(
            name, filename=str(source), disk_format="raw", container_format="bare", wait=True
        )
        assert made.status == "active"

    def imported() -> None:
        made = client.create_image(
            name=f"{name}-i",
            filename=str(source),
            disk_format="raw",
            container_format="bare",
            use_import=True,
            wait=True,
        )
        _until(lambda: client.get_image(made.id).status == "active")
        client.delete_image(made.id)

    def pages() -> None:
        found = {image.name for image in client.images(limit=2)}
        assert name in found

    def members() -> None:
        image = find()
        client.add_member(image, member_id=cloud.project())
        assert [member.status for member in client.members(image)] == ["pending"]
        client.remove_member(cloud.project(), image)

    def update() -> None:
        client.update_image(find().id, min_ram=7, color="blue")
        assert (find().min_ram, find().properties["color"]) == (7, "blue")

    def tags() -> None:
        client.add_tag(find(), "red")
        assert find().tags == ["red"]
        client.remove_tag(find(), "red")

    def download() -> None:
        digest = hashlib.sha256(client.download_image(find()).content).hexdigest()
        assert digest == hashlib.sha256(_DATA).hexdigest()

    def deactivate() -> None:
        client.deactivate_image(find().id)
        assert find().status == "deactivated"
        client.reactivate_image(find().id)

    def delete() -> None:
        assert connection.delete_image(name)
        assert client.find_image(name) is None

    yield "openstacksdk create_image(filename)", create
    yield "openstacksdk create_image(use_import)", imported
    yield "openstacksdk find_image by name", find
    yield "openstacksdk images() over pages", pages
    yield "openstacksdk update_image", update
    yield "openstacksdk add_tag, remove_tag", tags
    yield "openstacksdk add_member, members, remove_member", members
    yield "openstacksdk download_image", download
    yield "openstacksdk deactivate_image, reactivate_image", deactivate
    yield "openstacksdk stores, get_import_info", lambda: (list(client.stores()), client.get_import_info())
    yield "openstacksdk delete_image", delete


def _row(table: str, name: str) -> str:
    """The value of a row in a client's table."""
    rows = (line.split("|") for line in table.splitlines() if "|" in line)
    return next((cells[2].strip() for cells in rows if cells[1].strip() == name), "")


def _holds(text: str, part: str) -> None:
    assert part in text, text


def _until(condition: Callable[[], bool]) -> None:
    """Wait, as people do who ask again and again."""
    deadline = time.monotonic() + float(os.environ.get("CLIENT_PATIENCE", _PATIENCE))
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.2)
