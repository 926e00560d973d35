"""What is asked of the image list: by whom, with which parameters, and how the database goes about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from handlers.filters import parse
from kernel.database import Database
from kernel.groups import page
from kernel.listing import Listing, Marker, Query
from kernel.log_postgres import decode_image
from kernel.queries import sort_values
from tests.listing.filling import BIG, FRIEND, SMALL

ASKERS: Final = {
    "owner of all": (BIG, False),
    "owner of 10": (SMALL, False),
    "friend": (FRIEND, False),
    "admin": ("admins", True),
}
"""Name -> project, whether an administrator."""

NAMED: Final = {
    "default": "",
    "next page": "marker={middle}",
    "name": "name=image-{n}",
    "name of many": "name=ubuntu-22.04",
    "id": "id={middle}",
    "owner": f"owner={BIG}",
    "status": "status=active",
    "rare status": "status=deactivated",
    "status of nobody": "status=saving",
    "visibility": "visibility=public",
    "visibility of others": "visibility=community",
    "all visibilities": "visibility=all",
    "tag": "tag=linux",
    "rare tag": "tag=golden",
    "tag of nobody": "tag=none",
    "property": "os_distro=ubuntu",
    "rare property": "serial={n}",
    "property of nobody": "serial=none",
}
"""The lists that cost the same whether there are a thousand images or a hundred thousand."""

OTHERS: Final = {
    "next page of a tag": "tag=linux&marker={middle}",
    "hidden": "os_hidden=true",
    "protected": "protected=true",
    "several names": "name=in:image-1,image-{n},ubuntu-22.04",
    "by name": "sort=name:asc",
    "by name, next page": "sort=name:asc&marker={middle}",
    "by size": "sort=size:desc",
    "by size, next page": "sort=size:desc&marker={middle}",
    "oldest first": "sort=created_at:asc",
    "by last change": "sort=updated_at:desc",
    "by format and name": "sort=disk_format:asc,name:desc",
    "by format and name, next page": "sort=disk_format:asc,name:desc&marker={middle}",
    "by status and size": "sort=status:desc,size:desc",
    "by both formats and name": "sort=container_format:asc,disk_format:desc,name:asc",
    "by name and size": "sort=name:asc,size:desc",
    "large ones": "size_min=17000000000",
    "none so large": "size_min=99000000000",
    "before the first": "created_at=lt:2001-01-01",
    "changed since": "updated_at=gt:2026-01-02T03:30:00Z",
    "not at a time": "created_at=neq:2026-01-02T03:30:00Z",
    "checksum": "checksum=none",
    "algorithm": "os_hash_algo=none",
    "format of nobody": "container_format=ova",
    "memory of nobody": "min_ram_min=100000",
    "disk of nobody": "min_disk_min=100000",
    "virtual size of nobody": "virtual_size_min=99000000000",
    "one with a property of nobody": "limit=1&serial=none",
    "one with a property, by name": "limit=1&serial={n}&sort=name:asc",
    "property, by name": "os_distro=ubuntu&sort=name:asc",
    "property, by size": "serial={n}&sort=size:asc",
    "two tags": "tag=linux&tag=nightly",
    "tag and property": "tag=golden&os_distro=ubuntu",
    "two properties, by name": "os_distro=ubuntu&os_version=7&sort=name:asc",
    "status and property": "status=deactivated&os_distro=ubuntu",
    "a thousand": "limit=1000",
    "a thousand by name": "limit=1000&sort=name:asc",
    "shared with me": "visibility=shared&member_status=all",
    "pending": "member_status=pending",
    "memory": "min_ram_min=1&min_ram_max=600&sort=size:asc",
}
"""Every other kind of list, which may take longer, but not long."""


_EXPLAIN: Final = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"


@dataclass(frozen=True)
class Case:
    """One list as one caller asks for it."""

    asker: str
    name: str
    query: str

    def asked(self, places: dict[str, Any]) -> tuple[Listing, Marker | None]:
        """What is wanted, after which image."""
        project, admin = ASKERS[self.asker]
        text = self.query.format(n=places["n"], middle=places["middle"].id)
        pairs = parse_qsl(text, keep_blank_values=True)
        wanted = parse(pairs, project=project, admin=admin, default_limit=25, most=1000)
        return wanted.listing, Marker(values=sort_values(places["middle"])) if wanted.marker else None

    def built(self, places: dict[str, Any]) -> Query:
        """One statement for it."""
        return Query(*self.asked(places))


def cases(queries: dict[str, str]) -> Iterator[Case]:
    for name, query in queries.items():
        for asker in ASKERS:
            yield Case(asker, name, query)


async def places(database: Database) -> dict[str, Any]:
    """Something in the midst of what there is, to ask for."""
    row = await database.fetchrow(
        "SELECT states.state FROM images JOIN states USING (id) WHERE owner = $1 AND status = 'active' AND NOT hidden"
        " ORDER BY created_at LIMIT 1 OFFSET (SELECT count(*) / 3 FROM images WHERE owner = $1)",
        BIG,
    )
    middle = decode_image(row["state"])
    return {"middle": middle, "n": (middle.name or "").removeprefix("image-")}


async def explained(database: Database, case: Case, places: dict[str, Any]) -> list[dict[str, Any]]:
    """The plans of all its statements with what executing them took; of a plain one, for callers in general too."""
    found: list[Sequence[Any]] = []

    async def fetch(sql: str, *parameters: Any) -> Sequence[Any]:
        found.append(await database.fetch_planned(f"{_EXPLAIN} {sql}", *parameters))
        return await database.fetch_planned(sql, *parameters)

    await page(fetch, *case.asked(places))
    query = case.built(places)
    if query.plain:
        async with database.connection() as connection:
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            found.append(await connection.fetch(f"{_EXPLAIN} {query.sql}", *query.parameters))
            await connection.execute("RESET plan_cache_mode")
    return [orjson.loads(rows[0][0])[0]["Plan"] for rows in found]


def touched(plan: dict[str, Any]) -> int:
    """Pages that executing the plan looked at."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
