"""Access rules of application credentials: which requests a token was made for.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

_WILD: Final = re.compile(r"(\*\*|\*|\{[^}]*\})")
_LONGEST: Final = 2048
"""Characters of a path; nothing here has a longer one."""


def permits(rules: Sequence[Mapping[str, str]] | None, service: str, method: str, path: str) -> bool:
    """Whether a request is covered; without rules everything is."""
    if rules is None:
        return True
    return any(
        rule.get("service") == service
        and rule.get("method", "").upper() == method.upper()
        and _matches(rule.get("path", ""), path)
        for rule in rules
    )


def _matches(pattern: str, path: str) -> bool:
    """`**` is anything, `*` and `{name}` are one segment or a part of it, the rest is literal.

    Follows all ways to match at once, for whoever made the rule may send paths that have very many.
    """
    if len(path) > _LONGEST:
        return False
    reached = [0]
    for part in _parts(pattern):
        if not reached:
            return False
        if part == "**":
            reached = list(range(reached[0], len(path) + 1))
        elif _wild(part):
            reached = _within_segments(reached, path)
        else:
            reached = [start + len(part) for start in reached if path.startswith(part, start)]
    return bool(reached) and reached[-1] == len(path)


def _within_segments(starts: Sequence[int], path: str) -> list[int]:
    """Where one character or more of a segment end that begin at one of these places; in order, as they are."""
    ends: list[int] = []
    for start in starts:
        if ends and start < ends[-1]:  # all that begins here ends where something ends already
            continue
        slash = path.find("/", start)
        ends += range(start + 1, (slash if slash >= 0 else len(path)) + 1)
    return ends


@lru_cache(maxsize=1024)
def _parts(pattern: str) -> tuple[str, ...]:
    return tuple(part for part in _WILD.split(pattern) if part)


def _wild(part: str) -> bool:
    return part == "*" or (part.startswith("{") and part.endswith("}"))
