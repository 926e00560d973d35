"""Lists and show with very many images and tokens from a real Keystone, beside a peer that holds as many.

    OS_PASSWORD=… ops/bench/large --keystone http://127.0.0.1:5000/v3 --client alice@proj-a --service glance@service \\
        --peer glance=http://127.0.0.1:9292 --peer-dsn postgresql://glance@127.0.0.1/glance

The peer's database is filled by SQL, once; `--empty-peer` removes what was written there and ends.  OS_PASSWORD is the
client's password, OS_SERVICE_PASSWORD the service's where it is another.  `--write FILE` puts the table into the file's
section of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.bench.__main__ import OURS, serving
from tests.bench.clients import Server, hammer
from tests.bench.peer_rows import empty_peer, fill_peer
from tests.bench.table import lines
from tests.listing.filling import fill_rows
from tests.support.postgres import server as postgres_server

HEADING: Final = "## With Keystone, at "
_CLIENTS: Final = 16
_LONG: Final = 10
"""How many times a lone request's time a load lasts at least."""
_WARM: Final = 1.0
"""Seconds in which every process learns the token."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ops/bench/large", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--images", type=int, default=100_000, help="of the client's project; a twentieth more of others"
    )
    parser.add_argument("--keystone", help="v3 URL")
    parser.add_argument("--client", default="alice@proj-a", help="USER@PROJECT that asks")
    parser.add_argument("--service", default="glance@service", help="USER@PROJECT that validates tokens")
    parser.add_argument("--domain", default="Default", help="of users and projects")
    parser.add_argument("--peer", help="NAME=URL of the server to compare with")
    parser.add_argument("--peer-dsn", help="its database, to fill it with as many images")
    parser.add_argument("--peer-store", default="store1", help="one of its stores")
    parser.add_argument("--empty-peer", action="store_true", help="only remove what was filled in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="length of each load")
    parser.add_argument("--processes", type=int, default=2, help="serving processes of ours")
    parser.add_argument("--write", type=Path, help="file with a section for the table")
    given = parser.parse_args()
    if given.empty_peer and not given.peer_dsn:
        parser.error("--empty-peer needs --peer-dsn")
    if not given.empty_peer and not given.keystone:
        parser.error("--keystone is needed")
    return given


def token(keystone: str, who: str, domain: str, password: str) -> tuple[str, str]:
    """A token, and the id of the project that it is for."""
    user, _, project = who.partition("@")
    place = urlsplit(keystone)
    named = {"name": domain}
    document = {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": user, "domain": named, "password": password}},
            },
            "scope": {"project": {"name": project, "domain": named}},
        }
    }
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    connection.request("POST", f"{place.path}/auth/tokens", json.dumps(document), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 201:
        raise RuntimeError(f"Keystone answered {answer.status}: {body[:200]!r}")
    return answer.headers["X-Subject-Token"], str(json.loads(body)["token"]["project"]["id"])


def guarded(keystone: str, who: str, domain: str, password: str) -> list[str]:
    """What the configuration says of Keystone."""
    user, _, project = who.partition("@")
    said = {
        "auth_url": keystone.removesuffix("/v3"),
        "auth_type": "password",
        "username": user,
        "password": password,
        "user_domain_name": domain,
        "project_name": project,
        "project_domain_name": domain,
    }
    rows = [f"{name} = {value}" for name, value in said.items()]
    return ["[paste_deploy]", "flavor = keystone", "[keystone_authtoken]", *rows]


def asked(server: Server, images: int) -> Mapping[str, str]:
    """What is measured -> path; an active image in the midst of all is shown, and begins the next page."""
    for number in range(images // 3, images):
        found: Any = server.call("GET", f"/v2/images?name=image-{number}&status=active")
        if found["images"]:
            image = found["images"][0]
            return {
                "list 25": "/v2/images?limit=25",
                "next page": f"/v2/images?limit=25&marker={image['id']}",
                "show": f"/v2/images/{image['id']}",
                "list by name": f"/v2/images?name={image['name']}",
                "list by status": "/v2/images?limit=25&status=active",
                "list by property": "/v2/images?limit=25&os_distro=ubuntu",
            }
    raise RuntimeError(f"{server.name} has no active image of the caller's")


def measure(servers: list[Server], images: int, rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Every request on every server in turn, round after round."""
    paths = {server.name: asked(server, images) for server in servers}
    measured: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for name in paths[servers[0].name]:
            for server in servers:
                path = paths[server.name][name]
                try:
                    if not number:
                        hammer(server, path, _CLIENTS, _WARM)
                    rate = hammer(server, path, _CLIENTS, max(seconds, _LONG * _alone(server, path)))
                    if not rate.per_second:
                        raise RuntimeError(f"no answer to {path}")
                except RuntimeError as fault:  # a row less, and the rest of the table
                    print(f"{name} on {server.name}: {fault}", file=sys.stderr)
                    continue
                measured.setdefault(f"{name}: /s", {}).setdefault(server.name, []).append(rate.per_second)
                measured.setdefault(f"{name}: p99 ms", {}).setdefault(server.name, []).append(rate.p99)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return measured


def _alone(server: Server, path: str) -> float:
    """Seconds that one request takes once whatever was asked before is answered, also what nobody waited for."""
    server.call("GET", path)
    began = time.perf_counter()
    server.call("GET", path)
    return time.perf_counter() - began


def main() -> None:
    given = arguments()
    if given.empty_peer:
        print(asyncio.run(empty_peer(given.peer_dsn)))
        return
    password = os.environ["OS_PASSWORD"]
    known, project = token(given.keystone, given.client, given.domain, password)
    headers = {"X-Auth-Token": known}
    total, peer, held = given.images + 10 + given.images // 20, None, None
    if given.peer:
        name, _, url = given.peer.partition("=")
        peer = Server(name, url, (), headers)
        if given.peer_dsn:
            held = asyncio.run(fill_peer(given.peer_dsn, total, project, given.peer_store))
    more = guarded(given.keystone, given.service, given.domain, os.environ.get("OS_SERVICE_PASSWORD", password))
    with tempfile.TemporaryDirectory(prefix="entrepot-bench-") as place, postgres_server() as postgres:
        directory = Path(place)
        directory.chmod(0o711)
        dsn = asyncio.run(postgres.fresh())
        try:
            asyncio.run(fill_rows(dsn, given.images, project))
            with serving(directory, dsn, ("store1",), given.processes, more) as bare:
                ours = replace(bare, headers=headers)
                servers = [server for server in (peer, ours) if server]
                measured = measure(servers, given.images, given.rounds, given.seconds)
        finally:
            asyncio.run(postgres.drop(dsn))
    table = lines(measured, OURS, peer.name if peer else None)
    print("\n".join(table))
    if given.write:
        text = given.write.read_text() if given.write.exists() else ""
        given.write.write_text(with_section(text, _section(given, total, held, table)))


def _section(given: argparse.Namespace, total: int, held: int | None, table: list[str]) -> str:
    cpus, version = len(os.sched_getaffinity(0)), platform.python_version()
    beside = "" if not given.peer else f" --peer {given.peer.partition('=')[0]}=URL --peer-dsn DSN"
    command = f"ops/bench/large --images {given.images} --keystone URL{beside} --rounds {given.rounds}"
    peers = "" if held is None else f", {held:,} in the peer, filled by SQL with the same kinds"
    return "\n".join(
        [
            f"{HEADING}{given.images:,} images",
            "",
            f"`{command} --seconds {given.seconds:g}`, {time.strftime('%Y-%m-%d')}, {cpus} cores, Python {version}.",
            f"Tokens from a real Keystone, in the cache of both; {total:,} images here{peers};",
            f"{given.images:,} of them are the caller's; {_CLIENTS} clients.",
            "",
            *table,
            "",
            "Database times of every kind of list at 1 000, 10 000 and 100 000 images: [LISTING.md](LISTING.md).",
            "",
        ]
    )


def with_section(text: str, section: str) -> str:
    """The text with this section in the place of the one before; at the end where there was none."""
    old = re.search(rf"^{re.escape(HEADING)}.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if old is None:
        return f"{text.rstrip()}\n\n{section}".lstrip()
    rest = text[old.end() :]
    return f"{text[: old.start()]}{section}{chr(10) if rest else ''}{rest}"


if __name__ == "__main__":
    main()
