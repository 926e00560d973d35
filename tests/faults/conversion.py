"""A large image, unpacked and converted on its way into two stores, by a node that is killed in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.support.installation import configured
from tests.support.nodes import Node

MIB = 1 << 20
MOST = 200 * MIB
"""What the process of the service may need at its peak (PSS)."""
_PLUGINS = ("[image_import_opts]", "image_import_plugins = [image_decompression, image_conversion]")
_BLINK = 0.02


async def run(directory: Path, dsn: str, size: int) -> dict[str, Any]:
    """Import a qcow2 of this many bytes as raw into two stores, the node being killed while qemu-img converts."""
    directory.chmod(0o711)
    disk = await asyncio.to_thread(a_disk, directory, size)
    config = configured(directory, *_PLUGINS)
    began = time.monotonic()
    first, second = Node(directory, "first", config, dsn), Node(directory, "second", config, dsn)
    memory = Memory()
    first.start()
    try:
        with memory.watching(first):
            await first.ready()
            image = await _import(first, disk)
            await _strike(first, size)
        killed = time.monotonic()
        second.start()
        with memory.watching(second):
            await second.ready()
            shown = await _end(second, image)
        ended = time.monotonic()
        assert (shown["status"], shown["size"], shown["disk_format"]) == ("active", size, "raw"), shown
        assert shown["stores"] == "cheap,fast"
        assert shown["os_hash_value"] == await asyncio.to_thread(digest_of, directory / "disk", "sha512")
        assert [path for path in (directory / "staging").rglob("*") if path.is_file()] == []
        for store in ("fast", "cheap"):
            (stored,) = [path for path in (directory / store).rglob(f"{image}*") if path.is_file()]
            assert await asyncio.to_thread(digest_of, stored, "sha512") == shown["os_hash_value"]
    finally:
        for node in (first, second):
            if node.alive:
                node.terminate()
    assert memory.service < MOST, f"{memory.service // MIB} MiB"
    return {
        "MiB": size // MIB,
        "s": round(ended - began, 1),
        "s after the kill": round(ended - killed, 1),
        "MiB of memory": memory.service // MIB,
        "MiB of its programs": memory.programs // MIB,
    }


def a_disk(directory: Path, size: int) -> Path:
    """A qcow2 whose disk is three quarters full of what cannot be packed."""
    block = hashlib.shake_128(b"seed").digest(MIB)
    raw = directory / "disk"
    with raw.open("wb") as file:
        for number in range(size // MIB):
            if number % 4:
                file.seek(number * MIB)
                file.write(number.to_bytes(8, "big") + block[8:])
        file.truncate(size)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, directory / "image"], check=True)
    return directory / "image"


async def _import(node: Node, disk: Path) -> str:
    async with aiohttp.ClientSession(f"{node.url}/v2/") as session, asyncio.timeout(110):
        document = {"name": "large", "disk_format": "qcow2", "container_format": "bare"}
        async with session.post("images", json=document) as response:
            image = str((await response.json())["id"])
        with disk.open("rb") as data:
            headers = {"Content-Type": "application/octet-stream"}
            async with session.put(f"images/{image}/stage", data=data, headers=headers) as response:
                assert response.status == 204
        body = {"method": {"name": "glance-direct"}, "all_stores": True}
        async with session.post(f"images/{image}/import", json=body) as response:
            assert response.status == 202
    return image


async def _end(node: Node, image: str) -> dict[str, Any]:
    async with aiohttp.ClientSession(f"{node.url}/v2/") as session, asyncio.timeout(110):
        while True:
            async with session.get(f"images/{image}") as response:
                shown: dict[str, Any] = await response.json()
            if shown["status"] != "importing":
                return shown
            await asyncio.sleep(_BLINK)


async def _strike(node: Node, size: int) -> None:
    """Wait until a quarter is converted, hold qemu-img there, kill the node; nothing of it runs on.

    It is held whenever it is looked at: however long somebody else has the processors, it gets no further.
    """
    async with asyncio.timeout(110):
        while True:
            for program in _converting(node):
                with contextlib.suppress(psutil.NoSuchProcess):
                    program.suspend()
                    output = Path(program.cmdline()[-1])
                    if output.exists() and output.stat().st_blocks * 512 > size // 4:
                        node.kill()
                        await asyncio.to_thread(program.wait, 10)
                        return
                    program.resume()
            await asyncio.sleep(_BLINK / 10)


def _converting(node: Node) -> Iterator[psutil.Process]:
    for child in psutil.Process(node.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "qemu-img" and "convert" in child.cmdline():
                yield child


class Memory:
    """The most memory, by its share (PSS), that nodes held while somebody watched them."""

    def __init__(self) -> None:
        self.service = 0
        self.programs = 0

    @contextlib.contextmanager
    def watching(self, node: Node) -> Iterator[None]:
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(node.pid, over))
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, pid: int, over: threading.Event) -> None:
        process = psutil.Process(pid)
        while not over.wait(_BLINK):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.service = max(self.service, _pss(pid))
                self.programs = max(self.programs, sum(_pss(child.pid) for child in process.children(recursive=True)))


def _pss(pid: int) -> int:
    """Bytes that a process holds, what it shares with others being shared out; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def digest_of(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
