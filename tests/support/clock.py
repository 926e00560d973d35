"""Time that stands still until a test moves it."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.support.builders import START


class ManualClock:
    """`kernel.clock.Clock` in the test's hands."""

    def __init__(self, now: datetime = START) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
