"""A large image, unpacked and converted on its way into two stores: the service stays small, and may die meanwhile.

`ops/soak conversion` does it with 1 GiB.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import conversion

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


@pytest.mark.requirement("REQ-075", "REQ-117")
async def test_a_node_that_dies_while_it_converts(dsn: str, directory: Path) -> None:
    found = await conversion.run(directory, dsn, 256 << 20)
    assert found["MiB of memory"] < 200
