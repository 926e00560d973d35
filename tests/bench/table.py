"""The table that is printed: medians, ratios pair by pair, and whether a budget is kept."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Final

AT_LEAST: Final = {
    "create, 16 clients: /s": 20.0,
    "show, 16 clients: /s": 8.0,
    "list 25, 16 clients: /s": 10.0,
    "PUT file: MiB/s": 2.0,
    "PUT stage: MiB/s": 1.5,
    "import of staged data to 1 store: MiB/s": 20.0,
    "import of staged data to 3 stores: MiB/s": 10.0,
    "web-download: MiB/s": 4.0,
    "copy-image to 2 stores: MiB/s": 1.0,
    "imports of 64 KiB, 8 at once: images/s": 15.0,
    "download: MiB/s": 1.0,
}
"""Figure -> how many times the peer's it must be."""

AT_MOST: Final = {"stage and import to 1 store: s": 0.25}

OWN: Final = {
    "create, 16 clients: p99 ms": (None, 30.0),
    "peak memory of our processes: MiB": (None, 200.0),
    "append beside plain inserts: x": (2.0, None),
    "replay, from the database to the state: events/s": (200_000.0, None),
    "going on after kill -9: p95 s": (None, 10.0),
}
"""Figure -> least and most that ours may be."""

Measured = Mapping[str, Mapping[str, list[float]]]
"""Figure -> server -> one value a round."""


def lines(measured: Measured, ours: str, peer: str | None) -> list[str]:
    """The table as Markdown."""
    head = f"| figure | {peer} | {ours} | ratio | budget | kept |" if peer else f"| figure | {ours} | budget | kept |"
    rows = [head, "|" + "---|" * (head.count("|") - 1)]
    for figure, by_server in measured.items():
        own = by_server.get(ours, [])
        mine = statistics.median(own) if own else None
        theirs = by_server.get(peer, []) if peer else []
        pairs = [a / b for a, b in zip(own, theirs, strict=False) if b]
        ratio = statistics.median(pairs) if pairs else None
        budget, kept = _judged(figure, mine, ratio)
        cells = [figure, *([_number(statistics.median(theirs) if theirs else None)] if peer else []), _number(mine)]
        cells += [*([_number(ratio)] if peer else []), budget, kept]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _judged(figure: str, mine: float | None, ratio: float | None) -> tuple[str, str]:
    """The budget in words, and whether it is kept."""
    if figure in AT_LEAST:
        return f"{AT_LEAST[figure]:g} x", "" if ratio is None else _yes(ratio >= AT_LEAST[figure])
    if figure in AT_MOST:
        return f"{AT_MOST[figure]:g} x", "" if ratio is None else _yes(ratio <= AT_MOST[figure])
    if figure in OWN and mine is not None:
        least, most = OWN[figure]
        if least is not None:
            return f"at least {least:g}", _yes(mine >= least)
        assert most is not None
        return f"at most {most:g}", _yes(mine <= most)
    return "", ""


def _yes(kept: bool) -> str:
    return "yes" if kept else "**no**"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
