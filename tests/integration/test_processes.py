"""Several serving processes on one port, and the one that looks after them."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.support.installation import configured
from tests.support.nodes import Node

DEADLINE = 40.0
"""Seconds after which a process that should have ended has not."""


async def test_processes_end_with_their_supervisor(dsn: str, directory: Path) -> None:
    """Killed or not: what nobody looks after any more must not hold the port."""
    node = Node(directory, "node", configured(directory), dsn, processes=2)
    node.start()
    await node.ready()
    children = psutil.Process(node.pid).children()
    assert len(children) == 2
    node.kill()
    _, alive = psutil.wait_procs(children, timeout=DEADLINE)
    assert not alive
