"""Figures and foreign text as people read them.  Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_PREFIXES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """Bytes, in units of 1024."""
    order = 0
    while count >= 1024 and order < len(_PREFIXES) - 1:
        count, order = count / 1024, order + 1
    return f"{count:.{1 if order else 0}f} {_PREFIXES[order]}"


def rate(count: float) -> str:
    """Bytes a second."""
    return f"{size(count)}/s"


def span(seconds: float) -> str:
    """A length of time, as precise as is of interest."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 10:
        return f"{seconds:.3f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(at: datetime) -> str:
    """A point in time: UTC, milliseconds."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}Z"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 event`, `2 events`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def plain(text: object) -> str:
    """Text that others wrote, harmless to a terminal: on one line, control characters spelt out."""
    return "".join(char if char.isprintable() else _spelt(char) for char in str(text))


def short(text: object, most: int = 80) -> str:
    """`plain`, cut where it gets too long."""
    shown = plain(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
