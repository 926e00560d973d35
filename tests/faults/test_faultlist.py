"""The fault list of imports: its quick part.  `ops/soak faultlist` goes through all of it."""

from __future__ import annotations

import pytest

from tests.faults import faultlist
from tests.faults.faultlist import CELLS, FAULTS, STEPS
from tests.support.postgres import Server

pytestmark = pytest.mark.slow

SOME = [
    *((step, "exception") for step in STEPS if not any(word in step for word in ("image_", "shout", "enough"))),
    ("acquire web-download", "store full"),
    ("acquire web-download", "store hanging"),
    ("acquire web-download", "source hanging"),
    ("store 2", "store hanging"),
]


def test_every_step_meets_every_fault() -> None:
    assert set(CELLS) == {(step, fault) for step in STEPS for fault in FAULTS}


async def test_faults_end_as_the_contract_says(postgres: Server) -> None:
    found = await faultlist.run(postgres, SOME)
    assert not faultlist.wrong(found)
    assert len(found) == len(SOME)
