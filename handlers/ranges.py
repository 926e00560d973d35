"""Byte ranges of downloads: one range, answered to the letter of the contract.  Pure."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from handlers.errors import HttpError

_RANGE: Final = re.compile(r"bytes=\s*+([0-9]*+)\s*+-\s*+([0-9]*+)\s*+")
_CONTENT_RANGE: Final = re.compile(r"bytes\s+([0-9]+)-([0-9]+)/([0-9]+|\*)\s*")

_ENDLESS: Final = 1 << 62
"""More bytes than there are; stands for every number that is longer still."""


def count(digits: str) -> int:
    """The number that decimal digits stand for, however many a client sends."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 18 else _ENDLESS


class Span(Struct, frozen=True):
    """Bytes `first` to `last`, both included, of `size`."""

    first: int
    last: int
    size: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1

    @property
    def header(self) -> str:
        return f"bytes {self.first}-{self.last}/{self.size}"


def requested(range_header: str | None, content_range: str | None, size: int) -> Span | None:
    """What part a client wants; None is everything.  416 for what cannot be had, 400 for several ranges."""
    if range_header is not None:
        return _range(range_header, size)
    if content_range is not None:
        return _content_range(content_range, size)
    return None


def _range(header: str, size: int) -> Span:
    if "," in header:
        raise HttpError(400, "Only one range can be asked for at a time")
    match = _RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        raise _unsatisfiable(size)
    first, last = match.groups()
    if not first:
        length = count(last)
        if length == 0:
            raise _unsatisfiable(size)
        return _span(max(size - length, 0), size - 1, size)
    return _span(count(first), min(count(last), size - 1) if last else size - 1, size)


def _content_range(header: str, size: int) -> Span:
    """What old clients send instead of Range."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        raise _unsatisfiable(size)
    first, last = count(match[1]), count(match[2])
    if match[3] == "*" and last >= size:
        raise _unsatisfiable(size)
    return _span(first, min(last, size - 1), size)


def _span(first: int, last: int, size: int) -> Span:
    if first >= size or first > last:
        raise _unsatisfiable(size)
    return Span(first, last, size)


def _unsatisfiable(size: int) -> HttpError:
    return HttpError(416, "The requested range cannot be served", {"Content-Range": f"bytes */{size}"})
