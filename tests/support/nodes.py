"""Real nodes: `entrepot serve` as processes of their own, to be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp


def free_port() -> int:
    """A port that nobody uses right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Node:
    """One serving process on a port of its own."""

    def __init__(
        self,
        directory: Path,
        name: str,
        config: Path,
        dsn: str | None,
        *,
        role: str = "all",
        processes: int = 1,
        drill: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"{name}.log"
        self._command = [
            *(sys.executable, "-m", "ops.cli", "serve", "--config-file", str(config)),
            *("--state", str(state or directory / "state"), "--listen", f"127.0.0.1:{self.port}"),
            *("--role", role, "--processes", str(processes)),
            *(("--database", dsn) if dsn else ()),
        ]
        self._environment = {**os.environ, **({"ENTREPOT_DRILL": str(drill)} if drill else {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; `ready` waits until it serves."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=Path(__file__).parents[2],
            )

    async def ready(self, seconds: float = 30) -> None:
        """Wait until the node answers."""
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            return
                if self._process is not None and self._process.poll() is not None:
                    raise AssertionError(f"{self.name} ended with {self._process.returncode}: {self.tail()}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} does not answer: {self.tail()}")
                await asyncio.sleep(0.05)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether the process is suspended (SIGSTOP)."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def terminate(self, seconds: float = 40) -> int:
        """SIGTERM, and wait for the graceful end; returns the exit code."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop in {seconds} s: {self.tail()}") from None

    def tail(self, characters: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""
