"""Cheap clients: `wrk` for small requests and `curl` for large bodies, so that the client costs little of the cores."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

OCTETS: Final = {"Content-Type": "application/octet-stream"}
_IN_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Server:
    """An Image API to measure."""

    name: str
    url: str
    pids: tuple[int, ...] = ()
    """Processes whose trees its memory is counted over."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=600)

    def call(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        data: bytes | None = None,
        over: http.client.HTTPConnection | None = None,
    ) -> Any:
        """One request; the JSON of its answer, if there is any."""
        connection = over or self.connect()
        body = json.dumps(document).encode() if document is not None else data
        kind = {"Content-Type": "application/json"} if document is not None else OCTETS
        connection.request(method, path, body, {"Accept": "application/json", **kind, **self.headers})
        response = connection.getresponse()
        raw = response.read()
        if over is None:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path} answered {response.status}: {raw[:200]!r}")
        return json.loads(raw) if raw[:1] == b"{" else None

    def create(self, over: http.client.HTTPConnection | None = None) -> str:
        """A queued raw image."""
        document = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
        return str(self.call("POST", "/v2/images", document, over=over)["id"])

    def wait(self, image: str, stores: int = 1, seconds: float = 600) -> None:
        """Until the image is active and in so many stores."""
        connection, began = self.connect(), time.perf_counter()
        while True:
            shown = self.call("GET", f"/v2/images/{image}", over=connection)
            held = [store for store in shown.get("stores", "").split(",") if store]
            if shown["status"] == "active" and not shown.get("os_glance_importing_to_stores") and len(held) >= stores:
                connection.close()
                return
            if shown.get("os_glance_failed_import") or time.perf_counter() - began > seconds:
                raise RuntimeError(f"{self.name}: the import of {image} ended as {shown['status']}")
            time.sleep(0.01)


def transfer(server: Server, method: str, path: str, file: Path | None = None) -> float:
    """Send a file, or fetch and drop one, with curl; returns the seconds it took."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{time_total}", "-X", method, "-H", "Expect:"]
    for name, value in {**OCTETS, **server.headers}.items():
        command += ["-H", f"{name}: {value}"]
    if file is not None:
        command += ["-T", str(file)]
    done = subprocess.run([*command, server.url + path], capture_output=True, text=True, check=False)
    status, seconds = (done.stdout or "0 0").split()
    if not 200 <= int(status) < 300:
        raise RuntimeError(f"{server.name}: {method} {path} answered {status} {done.stderr}")
    return float(seconds)


@dataclass(frozen=True)
class Rate:
    per_second: float
    p99: float
    """Milliseconds."""


def hammer(server: Server, path: str, clients: int, seconds: float, document: Any = None) -> Rate:
    """The same request, as fast as so many clients get answers."""
    if shutil.which("wrk"):
        return _wrk(server, path, clients, seconds, document)
    return _threads(server, path, clients, seconds, document)


def _wrk(server: Server, path: str, clients: int, seconds: float, document: Any) -> Rate:
    command = [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        "--timeout",
        "120s",
        "-H",
        "Accept: application/json",
    ]
    for name, value in server.headers.items():
        command += ["-H", f"{name}: {value}"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if document is not None:
            body = json.dumps(document)
            script.write(
                f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n"
            )
            script.flush()
            command += ["-s", script.name]
        said = subprocess.run([*command, server.url + path], capture_output=True, text=True, check=True).stdout
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)", said):
        raise RuntimeError(f"{server.name}: {bad[1]} bad answers on {path}")
    rate, tail = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate is not None
    assert tail is not None
    return Rate(float(rate[1]), float(tail[1]) * _IN_MS[tail[2]])


def _threads(server: Server, path: str, clients: int, seconds: float, document: Any) -> Rate:
    """Where there is no wrk: dearer, so that it flatters nobody."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    def one() -> None:
        connection = server.connect()
        while time.perf_counter() < end:
            began = time.perf_counter()
            server.call("POST" if document is not None else "GET", path, document, over=connection)
            took.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Rate(len(took) / seconds, sorted(took)[int(len(took) * 0.99)] * 1000)
