"""The service that the demo starts: a process of its own, on files of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

import aiohttp

from kernel.errors import ConfigError, Unavailable
from ops.commands.units import short

STORES: Final = ("fast", "cheap", "reliable")

_PATIENCE: Final = 60.0
_MARK: Final = "# Written by `entrepot demo`."


class DemoService:
    """`entrepot serve` with three file stores, for as long as the block lasts."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "glance-api.conf"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._log = directory / "service.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._configure()
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ENTREPOT_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "ops.cli", "serve"),
                    *("--config-file", str(self.config), "--state", str(self._directory)),
                    *("--listen", f"127.0.0.1:{self.port}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ours,
                start_new_session=True,  # Ctrl-C is for the demo; it stops the service itself
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self) -> None:
        """Until it serves; `Unavailable` with its own words if it cannot."""
        asyncio.run(self._ready())

    async def _ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                try:
                    async with session.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                if self._process.poll() is not None:
                    raise Unavailable(f"The service did not start: {self._last_words()}")
                if time.monotonic() > deadline:
                    raise Unavailable(f"The service does not answer: {self._last_words()}")
                await asyncio.sleep(0.05)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return short(lines[-1].removeprefix("entrepot: ") if lines else "it said nothing", 400)

    def _configure(self) -> None:
        """Write its configuration; one that somebody else wrote is left alone."""
        if self.config.exists() and not self.config.read_text(errors="replace").startswith(_MARK):
            raise ConfigError(f"{self.config} is there already, and not from a demo: choose another --state")
        lines = [
            _MARK,
            "[DEFAULT]",
            f"enabled_backends = {', '.join(f'{name}:file' for name in STORES)}",
            f"node_staging_uri = file://{self._directory}/staging",
            "[glance_store]",
            f"default_backend = {STORES[0]}",
        ]
        for name in STORES:
            lines += [f"[{name}]", f"filesystem_store_datadir = {self._directory}/stores/{name}"]
        self.config.write_text("\n".join(lines) + "\n")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
