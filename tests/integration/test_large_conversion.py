"""A large image, unpacked and converted on its way into two stores: the service stays small."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.support.installation import configured
from tests.support.nodes import Node

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

MIB = 1 << 20
SIZE = int(os.environ.get("ENTREPOT_TEST_LARGE_MIB", "256")) * MIB
MOST = 200 * MIB
"""What the process of the service may need at its peak."""


@pytest.fixture
def disk(directory: Path) -> Path:
    """A qcow2 whose disk is three quarters full of what cannot be packed."""
    block = hashlib.shake_128(b"seed").digest(MIB)
    raw = directory / "disk"
    with raw.open("wb") as file:
        for number in range(SIZE // MIB):
            if number % 4:
                file.seek(number * MIB)
                file.write(number.to_bytes(8) + block[8:])
        file.truncate(SIZE)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, directory / "image"], check=True)
    return directory / "image"


async def test_the_service_stays_small(dsn: str, directory: Path, disk: Path) -> None:
    directory.chmod(0o711)
    more = ("[image_import_opts]", "image_import_plugins = [image_decompression, image_conversion]")
    node = Node(directory, "node", configured(directory, *more), dsn)
    node.start()
    try:
        await node.ready()
        shown = await imported(node, disk)
        assert (shown["status"], shown["size"], shown["disk_format"]) == ("active", SIZE, "raw")
        assert shown["stores"] == "cheap,fast"
        assert shown["os_hash_value"] == await asyncio.to_thread(digest_of, directory / "disk")
        assert peak(node) < MOST, f"{peak(node) // MIB} MiB"
        staged = [path for path in (directory / "staging").rglob("*") if path.is_file()]
        assert staged == []
    finally:
        node.terminate()


async def imported(node: Node, disk: Path) -> dict[str, object]:
    async with aiohttp.ClientSession(f"{node.url}/v2/") as session, asyncio.timeout(110):
        document = {"name": "large", "disk_format": "qcow2", "container_format": "bare"}
        async with session.post("images", json=document) as response:
            image = (await response.json())["id"]
        with disk.open("rb") as data:
            headers = {"Content-Type": "application/octet-stream"}
            async with session.put(f"images/{image}/stage", data=data, headers=headers) as response:
                assert response.status == 204
        body = {"method": {"name": "glance-direct"}, "all_stores": True}
        async with session.post(f"images/{image}/import", json=body) as response:
            assert response.status == 202
        while True:
            async with session.get(f"images/{image}") as response:
                shown: dict[str, object] = await response.json()
            if shown["status"] != "importing":
                return shown
            await asyncio.sleep(0.05)


def peak(node: Node) -> int:
    """Most bytes that the serving process ever held."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()
