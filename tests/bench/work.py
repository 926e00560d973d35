"""What is measured over HTTP: each piece of work is a function from a server to figures."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.clients import Server, hammer, transfer

Figures = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    mib: int
    """Size of a large image."""
    seconds: float
    """Length of a load of small requests."""
    small: int
    """Number of small imports."""
    stores: tuple[str, ...]
    large: Path
    little: Path
    source: str | None = None
    """URL of a server that serves the large file as `/large`."""


def prepare(directory: Path, mib: int) -> tuple[Path, Path]:
    """A large and a small file of random bytes."""
    large, little = directory / "large", directory / "little"
    with large.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    little.write_bytes(os.urandom(64 << 10))
    return large, little


def create(server: Server, size: Size) -> Figures:
    document = {"name": "bench", "disk_format": "raw", "container_format": "bare", "os_distro": "debian"}
    rate = hammer(server, "/v2/images", 16, size.seconds, document)
    return {"create, 16 clients: /s": rate.per_second, "create, 16 clients: p99 ms": rate.p99}


def show(server: Server, size: Size) -> Figures:
    rate = hammer(server, f"/v2/images/{server.create()}", 16, size.seconds)
    return {"show, 16 clients: /s": rate.per_second, "show, 16 clients: p99 ms": rate.p99}


def index(server: Server, size: Size) -> Figures:
    rate = hammer(server, "/v2/images?limit=25", 16, size.seconds)
    return {"list 25, 16 clients: /s": rate.per_second, "list 25, 16 clients: p99 ms": rate.p99}


def upload(server: Server, size: Size) -> Figures:
    image = server.create()
    up = transfer(server, "PUT", f"/v2/images/{image}/file", size.large)
    down = transfer(server, "GET", f"/v2/images/{image}/file")
    server.call("DELETE", f"/v2/images/{image}")
    return {"PUT file: MiB/s": size.mib / up, "download: MiB/s": size.mib / down}


def to_one(server: Server, size: Size) -> Figures:
    return _staged(server, size, 1)


def to_three(server: Server, size: Size) -> Figures:
    figures = _staged(server, size, 3)
    return {name: value for name, value in figures.items() if name.startswith("import")}


def _staged(server: Server, size: Size, count: int) -> Figures:
    image = server.create()
    staged = transfer(server, "PUT", f"/v2/images/{image}/stage", size.large)
    began = time.perf_counter()
    body = {"method": {"name": "glance-direct"}, "stores": size.stores[:count], "all_stores_must_succeed": True}
    server.call("POST", f"/v2/images/{image}/import", body)
    server.wait(image, count)
    took = time.perf_counter() - began
    server.call("DELETE", f"/v2/images/{image}")
    return {
        "PUT stage: MiB/s": size.mib / staged,
        f"import of staged data to {count} store{'s' * (count > 1)}: MiB/s": size.mib / took,
        "stage and import to 1 store: s": staged + took,
    }


def download(server: Server, size: Size) -> Figures:
    assert size.source is not None
    image = server.create()
    began = time.perf_counter()
    method = {"name": "web-download", "uri": f"{size.source}/large"}
    server.call("POST", f"/v2/images/{image}/import", {"method": method})
    server.wait(image)
    took = time.perf_counter() - began
    server.call("DELETE", f"/v2/images/{image}")
    return {"web-download: MiB/s": size.mib / took}


def copy(server: Server, size: Size) -> Figures:
    image = server.create()
    transfer(server, "PUT", f"/v2/images/{image}/file", size.large)
    began = time.perf_counter()
    server.call("POST", f"/v2/images/{image}/import", {"method": {"name": "copy-image"}, "stores": size.stores[1:]})
    server.wait(image, len(size.stores))
    took = time.perf_counter() - began
    server.call("DELETE", f"/v2/images/{image}")
    return {"copy-image to 2 stores: MiB/s": 2 * size.mib / took}


def small(server: Server, size: Size) -> Figures:
    """Small images through create, stage and import, 8 at once: the cost of the machinery, not of the bytes."""
    data, images, faults = size.little.read_bytes(), [], []
    todo = list(range(size.small))

    def one() -> None:
        connection = server.connect()
        try:
            while todo:
                todo.pop()
                image = server.create(connection)
                server.call("PUT", f"/v2/images/{image}/stage", data=data, over=connection)
                server.call(
                    "POST", f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}}, over=connection
                )
                images.append(image)
        except (RuntimeError, OSError) as fault:
            faults.append(fault)
        except IndexError:  # somebody else took the last one
            pass

    began = time.perf_counter()
    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    for image in images:
        server.wait(image)
    took = time.perf_counter() - began
    for image in images:
        server.call("DELETE", f"/v2/images/{image}")
    return {"imports of 64 KiB, 8 at once: images/s": len(images) / took}


WORK: Final[dict[str, Callable[[Server, Size], Figures]]] = {
    "create": create,
    "show": show,
    "list": index,
    "upload": upload,
    "import1": to_one,
    "import3": to_three,
    "web": download,
    "copy": copy,
    "small": small,
}
