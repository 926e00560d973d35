"""Headers as long as they may be, made for patterns that try again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from handlers.call import _forwarded
from handlers.errors import HttpError
from handlers.ranges import requested

LONG = 60_000


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """Far above what it takes, and far below what trying again and again would."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("header", ["a" * LONG, "a " * LONG, 'a="' * LONG, '"' * LONG, "a=" * LONG, ", " * LONG])
def test_forwarded(header: str) -> None:
    assert _forwarded({"Forwarded": header}, "http", "h") == ("http", "h", "")


@pytest.mark.parametrize("asked", [f"bytes={' ' * LONG}x", f"bytes={'1' * LONG}x", f"bytes=-{' ' * LONG}x"])
def test_range(asked: str) -> None:
    with pytest.raises(HttpError):
        requested(asked, None, 5)


@pytest.mark.parametrize("asked", [f"bytes {' ' * LONG}x", f"bytes {'1' * LONG}x", f"bytes 1-{'1' * LONG}x"])
def test_content_range(asked: str) -> None:
    with pytest.raises(HttpError):
        requested(None, asked, 5)
