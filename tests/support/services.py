"""Servers that drivers are tested against: started when first asked for, stopped when the run ends.

A driver says by `selftest_needs` which one its selftest wants, and that finds the
address in the environment: `ENTREPOT_TEST_<NAME>`.  Where the variable is set
beforehand, the tests use that server.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Final

from tests.support import s3_server

_STARTERS: Final[dict[str, Callable[[], AbstractContextManager[str]]]] = {"s3": s3_server.running}
_running = ExitStack()


def provide(name: str) -> str:
    """Address of a service; it runs from now on."""
    variable = f"ENTREPOT_TEST_{name.upper()}"
    if variable not in os.environ:
        os.environ[variable] = _running.enter_context(_STARTERS[name]())
        _running.callback(os.environ.pop, variable)
    return os.environ[variable]


def stop() -> None:
    """Stop whatever was started."""
    _running.close()
