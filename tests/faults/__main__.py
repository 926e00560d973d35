"""The long drills, one after another; `ops/soak` says which there are."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog

from tests.faults import conversion, disasters, downloads, faultlist, matrix, record
from tests.faults.world import World
from tests.support.postgres import Server, server


async def run_matrix(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    world = World(directory, dsn)
    async with world.running():
        took = await matrix.run(world, [(verb, point) for verb in ("kill", "stop") for point in matrix.points()])
        found = await world.verify()
    ordered = sorted(took.values())
    return {
        "points": len(took),
        "p50 s": round(ordered[len(ordered) // 2], 1),
        "p95 s": round(ordered[int(len(ordered) * 0.95)], 1),
        **found,
    }


async def run_kills(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    seed = random.randrange(1_000_000)
    print(f"kills: seed {seed}", flush=True)
    return await disasters.random_kills(directory, dsn, kills=count or 200, seed=seed)


async def run_database(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    with disasters.mortal_database() as (mortal, kill):
        return await disasters.database_dies(directory, mortal, kill, images=count or 50)


async def run_order(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    return await disasters.order_stress(dsn, seconds=count or 20)


async def run_record(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    with server() as postgres:
        return await asyncio.to_thread(record.prove, postgres, dsn, count or 200_000)


async def run_downloads(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    return await downloads.drill(directory, dsn, mib=count or 1024)


async def run_conversion(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    return await conversion.run(directory, dsn, (count or 1024) << 20)


async def run_faultlist(dsn: str, directory: Path, count: int) -> dict[str, Any]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with server() as postgres:
        found = await faultlist.run(postgres, faultlist.CELLS)
    for (step, fault), end in found.items():
        print(f"{step} x {fault}: {end}", flush=True)
    assert not faultlist.wrong(found), "not every cell ended as it must"
    return {"cells": len(found), "struck": sum(not end.startswith("-") for end in found.values())}


DRILLS = {
    "matrix": run_matrix,
    "kills": run_kills,
    "database": run_database,
    "order": run_order,
    "record": run_record,
    "downloads": run_downloads,
    "conversion": run_conversion,
    "faultlist": run_faultlist,
}


async def drill(name: str, postgres: Server, count: int) -> None:
    dsn = await postgres.fresh()
    directory = Path(tempfile.mkdtemp(prefix=f"entrepot-{name}-"))  # kept when the drill fails
    began = time.monotonic()
    found = await DRILLS[name](dsn, directory, count)
    print(f"{name}: passed in {time.monotonic() - began:.0f} s: {found}", flush=True)
    shutil.rmtree(directory)
    await postgres.drop(dsn)


async def main(wanted: str, count: int) -> None:
    with server() as postgres:
        for name in DRILLS if wanted == "all" else (wanted,):
            await drill(name, postgres, count)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ops/soak", description="Drill the service until something breaks.")
    parser.add_argument("drill", nargs="?", default="all", choices=["all", *DRILLS])
    parser.add_argument("count", nargs="?", default=0, type=int, help="kills, images, seconds, events or MiB")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    asyncio.run(main(given.drill, given.count))
