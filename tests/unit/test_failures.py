"""What is told of a failure."""

from __future__ import annotations

from kernel.errors import Invalid
from kernel.failures import reason_of


def test_a_reason_can_be_recorded_whatever_it_repeats() -> None:
    assert reason_of(Invalid("a\0b\udcffc\x1bd\te")) == "a\ufffdb\ufffdc\ufffdd\te"
    assert len(reason_of(Invalid("x" * 10_000))) == 1001
    assert reason_of(RuntimeError("secret")) == "an unexpected error (RuntimeError)"
