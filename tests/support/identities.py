"""The people of the scenarios, as trusted headers describe them."""

from __future__ import annotations

from collections.abc import Mapping

PEOPLE: dict[str, tuple[str, str]] = {
    "A": ("pA", "member,reader"),
    "AR": ("pA", "reader"),
    "B": ("pB", "member,reader"),
    "BR": ("pB", "reader"),
    "C": ("pC", "member,reader"),
    "ADM": ("pX", "admin,manager,member,reader"),
    "SVC": ("pS", "service"),
    "NR": ("pA", ""),
}
"""Name -> project, roles."""


def headers(who: str | Mapping[str, str] | None) -> dict[str, str]:
    """Identity headers of a person by name, of explicit headers, or of nobody."""
    if who is None or who == "-":
        return {}
    if not isinstance(who, str):
        return dict(who)
    project, roles = PEOPLE[who]
    return {
        "X-Identity-Status": "Confirmed",
        "X-User-Id": f"u{who}",
        "X-Project-Id": project,
        "X-Roles": roles,
    }
