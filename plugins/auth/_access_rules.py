"""Access rules of application credentials: which requests a token was made for.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache


def permits(rules: Sequence[Mapping[str, str]] | None, service: str, method: str, path: str) -> bool:
    """Whether a request is covered; without rules everything is."""
    if rules is None:
        return True
    return any(
        rule.get("service") == service
        and rule.get("method", "").upper() == method.upper()
        and _pattern(rule.get("path", "")).fullmatch(path) is not None
        for rule in rules
    )


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    """`**` is anything, `*` and `{name}` are one segment, the rest is literal."""
    parts = re.split(r"(\*\*|\*|\{[^}]*\})", text)
    return re.compile("".join(".*" if part == "**" else r"[^/]+" if _wild(part) else re.escape(part) for part in parts))


def _wild(part: str) -> bool:
    return part == "*" or (part.startswith("{") and part.endswith("}"))
