"""Times and plans of image lists at growing sizes, as Markdown: `python -m tests.listing [IMAGES …]`."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from kernel.database import Database
from kernel.groups import grouped, page
from tests.listing.cases import ASKERS, NAMED, OTHERS, Case, cases, explained, places, touched
from tests.listing.filling import fill_rows
from tests.support.postgres import Server, server

_REPEATS = 15


async def measure(found: Server, sizes: Sequence[int]) -> None:
    times: dict[Case, list[float]] = {}
    pages: dict[Case, list[int]] = {}
    plans: dict[Case, str] = {}
    for images in sizes:
        dsn = await found.fresh()
        database = Database(dsn, size=1)
        try:
            print(f"filling: {images} images", file=sys.stderr)
            await fill_rows(dsn, images)
            await database.open()
            async with database.connection() as connection:
                await connection.execute("VACUUM ANALYZE")
            where = await places(database)
            for case in cases(NAMED | OTHERS):
                times.setdefault(case, []).append(await _median(database, case, where))
                found_plans = await explained(database, case, where)
                pages.setdefault(case, []).append(sum(map(touched, found_plans[: 1 if _plain(case, where) else None])))
                plans[case] = ", then ".join(dict.fromkeys(filter(None, map(_told, found_plans))))
        finally:
            await database.close()
            await found.drop(dsn)
    _print(sizes, times, pages, plans)


def _plain(case: Case, where: dict[str, Any]) -> bool:
    return case.built(where).plain


async def _median(database: Database, case: Case, where: dict[str, Any]) -> float:
    """Milliseconds until the rows are here."""
    listing, marker = case.asked(where)
    taken = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        if grouped(listing):
            async with database.snapshot() as connection:
                await page(connection.fetch, listing, marker)
        else:
            fetch = database.fetch if _plain(case, where) else database.fetch_planned
            await page(fetch, listing, marker)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def _told(plan: dict[str, Any]) -> str:
    """The ways by which a plan comes to rows."""
    name = plan.get("Index Name")
    mine = [f"{name}{_wanted(plan)}"] if name else ["all rows"] if plan["Node Type"] == "Seq Scan" else []
    return " + ".join(dict.fromkeys([*mine, *(told for part in plan.get("Plans", ()) if (told := _told(part)))]))


def _wanted(plan: dict[str, Any]) -> str:
    return " backward" if plan.get("Scan Direction") == "Backward" else ""


def _print(
    sizes: Sequence[int], times: dict[Case, list[float]], pages: dict[Case, list[int]], plans: dict[Case, str]
) -> None:
    at = f"at {', '.join(f'{size:,}' for size in sizes)} images"
    for title, queries in (("Lists that must not grow", NAMED), ("All others", OTHERS)):
        print(f"\n## {title}\n\nMilliseconds {at}; in brackets the pages of 8 kB that were looked at.\n")
        print(f"| list | {' | '.join(ASKERS)} |\n|---|{'---|' * len(ASKERS)}")
        for name, query in queries.items():
            shown = [
                f"{', '.join(f'{taken:.1f}' for taken in times[case])} ({', '.join(map(str, pages[case]))})"
                for case in (Case(asker, name, query) for asker in ASKERS)
            ]
            print(f"| {name} (`{query}`) | {' | '.join(shown)} |")
    print(f"\n## Plans at {sizes[-1]:,} images\n\nThe indexes that each list is read from.\n")
    print("| list | asker | indexes |\n|---|---|---|")
    for case, plan in plans.items():
        print(f"| {case.name} | {case.asker} | {plan} |")


if __name__ == "__main__":
    with server() as postgres:
        asyncio.run(measure(postgres, [int(text) for text in sys.argv[1:]] or [1_000, 10_000, 100_000]))
