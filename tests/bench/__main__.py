"""Measure this service, alone or beside a peer on the same work in turns.

    ops/bench/run                                          ours alone
    ops/bench/run --peer glance=http://127.0.0.1:19292     beside a peer that needs no token
    ops/bench/run --quick                                  seconds: shows that it works, measures little

A peer needs file stores of the names given by `--stores`.  The table goes to the standard
output; `--write FILE` keeps it with the command that made it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench import own
from tests.bench.clients import Server
from tests.bench.memory import Peak
from tests.bench.table import lines
from tests.bench.work import WORK, Size, prepare
from tests.support.nodes import Node, free_port
from tests.support.postgres import server as postgres_server

OURS = "entrepot"
MEMORY = "peak memory of our processes: MiB"
OF_OWN = ("append", "replay", "resume")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ops/bench/run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer", help="NAME=URL of the server to compare with")
    parser.add_argument("--peer-pids", default="", help="its processes, for its memory")
    parser.add_argument("--header", action="append", default=[], help="'Name: value', sent to both")
    parser.add_argument("--stores", default="store1,store2,store3", help="names of three file stores")
    parser.add_argument(
        "--source-port", type=int, default=0, help="port to serve web-download from, if a peer is choosy"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=512, help="size of a large image")
    parser.add_argument("--processes", type=int, default=2, help="serving processes of ours")
    parser.add_argument("--only", default="", help=f"some of {', '.join((*WORK, *OF_OWN))}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path, help="file to keep the table in")
    return parser.parse_args()


@contextlib.contextmanager
def serving(
    directory: Path, dsn: str, stores: tuple[str, ...], processes: int, more: Sequence[str] = ()
) -> Iterator[Server]:
    """The service as an operator starts it, on file stores; with more lines of configuration."""
    rows = ["[DEFAULT]", "enabled_backends = " + ", ".join(f"{name}:file" for name in stores)]
    rows += [f"node_staging_uri = file://{directory}/staging", "[glance_store]", f"default_backend = {stores[0]}"]
    rows += ["[import_filtering_opts]", "allowed_ports = []", "disallowed_networks = []"]
    for name in stores:
        rows += [f"[{name}]", f"filesystem_store_datadir = {directory}/{name}"]
    config = directory / "glance-api.conf"
    config.write_text("\n".join([*rows, *more]) + "\n")
    node = Node(directory, "bench", config, dsn, processes=processes)
    node.start()
    try:
        asyncio.run(node.ready())
        yield Server(OURS, node.url, (node.pid,))
    finally:
        node.terminate()


@contextlib.contextmanager
def source(directory: Path, port: int) -> Iterator[str]:
    """A web server with the large file, in a process of its own."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.bench.source", str(port), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    given = arguments()
    rounds, mib = (1, 8) if given.quick else (given.rounds, given.mib)
    wanted = set(given.only.split(",")) if given.only else {*WORK, *OF_OWN}
    headers = {name: value.strip() for name, _, value in (item.partition(":") for item in given.header)}
    peer = None
    if given.peer:
        name, _, url = given.peer.partition("=")
        peer = Server(name, url, tuple(int(pid) for pid in given.peer_pids.split(",") if pid), headers)
    measured: dict[str, dict[str, list[float]]] = {}
    # Beside the data of the database: where directories of one's own account only would shut Postgres out.
    with tempfile.TemporaryDirectory(prefix="entrepot-bench-") as place, postgres_server() as postgres:
        directory = Path(place)
        directory.chmod(0o711)
        large, little = prepare(directory, mib)
        stores = tuple(given.stores.split(","))
        if wanted & set(WORK):
            dsn = asyncio.run(postgres.fresh())
            with serving(directory, dsn, stores, given.processes) as ours, source(directory, given.source_port) as web:
                size = Size(mib, 1 if given.quick else 5, 8 if given.quick else 120, stores, large, little, web)
                ours = Server(OURS, ours.url, ours.pids, headers)
                _rounds(rounds, wanted, [server for server in (peer, ours) if server], size, measured)
            asyncio.run(postgres.drop(dsn))
        for name in OF_OWN:
            if name in wanted:
                dsn = asyncio.run(postgres.fresh())
                for figure, value in asyncio.run(_own(name, dsn, directory, quick=given.quick)).items():
                    measured.setdefault(figure, {})[OURS] = [value]
                asyncio.run(postgres.drop(dsn))
    table = lines(measured, OURS, peer.name if peer else None)
    print("\n".join(table))
    if given.write:
        command = shlex.join(["ops/bench/run", *sys.argv[1:]])
        cpus = len(os.sched_getaffinity(0))
        about = f"`{command}`, {time.strftime('%Y-%m-%d')}, {cpus} cores, Python {platform.python_version()}"
        given.write.write_text("\n".join([about, "", *table, ""]))


def _rounds(
    rounds: int, wanted: set[str], servers: list[Server], size: Size, measured: dict[str, dict[str, list[float]]]
) -> None:
    """Every piece of work on every server in turn, round after round."""
    for number in range(rounds):
        for name in (name for name in WORK if name in wanted):
            for server in servers:
                figures: dict[str, float] = {}
                with Peak(server.pids) as peak:
                    try:
                        figures = WORK[name](server, size)
                    except (RuntimeError, OSError) as fault:  # a row less, and the rest of the table
                        print(f"{name} on {server.name}: {fault}", file=sys.stderr)
                for figure, value in figures.items():
                    measured.setdefault(figure, {}).setdefault(server.name, []).append(value)
                if server.pids:
                    most = measured.setdefault(MEMORY, {}).setdefault(server.name, [0.0])
                    most[0] = max(most[0], peak.mib)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)


async def _own(name: str, dsn: str, directory: Path, *, quick: bool) -> dict[str, float]:
    match name:
        case "append":
            return await own.append(dsn, 0.3 if quick else 3)
        case "replay":
            return await own.replay(dsn, 2_000 if quick else 200_000)
        case _:
            return await own.resume(dsn, directory, 1 if quick else 10)


if __name__ == "__main__":
    main()
