"""Disks that tests need: a small one that fills up, and another one than the tests' own."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(at: Path, options: str = "size=2m") -> Iterator[Path]:
    """A file system of its own in memory, mounted at a directory; needs root."""
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@contextmanager
def another_disk(than: Path) -> Iterator[Path]:
    """A directory on a different file system than `than`."""
    for candidate in ("/dev/shm", "/run/shm", "/var/tmp", "/tmp", Path.home()):
        if os.access(candidate, os.W_OK) and os.stat(candidate).st_dev != os.stat(than).st_dev:
            with tempfile.TemporaryDirectory(dir=candidate) as directory:
                yield Path(directory)
                return
    raise AssertionError(f"this machine has no writable file system besides that of {than}")
