"""Fixtures of the whole suite: a database, a service, and which machines lack what."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import services
from tests.support.postgres import Server, docker_answers, server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The Postgres of this run."""
    with server() as found:
        yield found


@pytest.fixture
async def dsn(postgres: Server) -> AsyncIterator[str]:
    """A database of the test's own, with the schema of this version."""
    made = await postgres.fresh()
    yield made
    await postgres.drop(made)


@pytest.fixture
async def empty_dsn(postgres: Server) -> AsyncIterator[str]:
    """A database of the test's own with nothing in it."""
    made = await postgres.empty()
    yield made
    await postgres.drop(made)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for stores and staging, on the same file system throughout."""
    path = Path(tempfile.mkdtemp(prefix="entrepot-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


# --- what a machine lacks ----------------------------------------------------------------


def _amqp_answers() -> bool:
    if os.environ.get("ENTREPOT_TEST_AMQP_URL"):
        return True

    async def knock() -> bool:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", 5672), 2)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return asyncio.run(knock())


LACKS = {
    "qemu": (lambda: shutil.which("qemu-img") is not None, "qemu-img is not installed"),
    "root": (lambda: os.geteuid() == 0, "not running as root"),
    "docker": (docker_answers, "no Docker engine answers"),
    "amqp": (_amqp_answers, "no RabbitMQ answers on localhost:5672"),
}
"""Marker -> whether this machine can, and why not."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, never skip, what this machine cannot run; say how many and why.  What takes long comes first,
    so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    left_out: dict[str, int] = {}
    kept, deselected = [], []
    able: dict[str, bool] = {}
    for item in items:
        marks = [name for name in LACKS if item.get_closest_marker(name)]
        for name in marks:
            if name not in able:
                able[name] = LACKS[name][0]()
        missing = next((name for name in marks if not able[name]), None)
        if missing is None:
            kept.append(item)
        else:
            deselected.append(item)
            left_out[missing] = left_out.get(missing, 0) + 1
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept
    config.stash[_LEFT_OUT] = left_out


_LEFT_OUT = pytest.StashKey[dict[str, int]]()


class Reports:
    """Where several processes run the tests: what one of them deselected comes here with its other results."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reports())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, count in sorted(config.stash.get(_LEFT_OUT, {}).items()):
        terminalreporter.write_line(f"deselected: {count} tests marked '{name}': {LACKS[name][1]}")
        if name != "docker" and os.environ.get("ENTREPOT_TEST_ALL"):
            terminalreporter.write_line(f"ENTREPOT_TEST_ALL is set: lacking '{name}' is a failure", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything is demanded (CI, after ops/provision), only Docker may be missing."""
    left_out = session.config.stash.get(_LEFT_OUT, {})
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = left_out
    elif os.environ.get("ENTREPOT_TEST_ALL") and any(name != "docker" for name in left_out):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    services.stop()
