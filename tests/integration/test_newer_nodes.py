"""Beside a newer version that has written what this one does not know."""

from __future__ import annotations

from pathlib import Path

from kernel.batch import APPEND, Parts, arguments
from kernel.database import connect, let_go
from kernel.events import TagAdded
from kernel.ids import stream_of
from tests.support.logs import request
from tests.support.running import single, site


async def test_one_image_that_only_a_newer_version_understands_spoils_no_list(dsn: str, directory: Path) -> None:
    """It is shown as that version has written it down; what would change it is refused."""
    async with site(dsn, directory, single(directory)) as running:
        plain, odd = await running.image(), await running.image()
        await running.settled()
        stream = stream_of(odd)
        assert stream is not None
        newer = await connect(dsn, "newer")
        parts = Parts(request(stream, TagAdded(tag="a")))
        parts.types, parts.datas = ["Frobnicated"], [b'{"x":1}']
        await newer.fetch(APPEND, *arguments([parts], "x"))
        state = 'replace(replace(state::text, \'"version":1\', \'"version":2\'), \'"name":"n"\', \'"name":"new"\')'
        await newer.execute(f"UPDATE states SET fold = 99, version = 2, state = ({state})::json WHERE id = $1", stream)
        await newer.execute("UPDATE images SET version = 2 WHERE id = $1", stream)
        await let_go(newer)
        listed = await running.call("GET", "/images")
        assert listed.status == 200
        names = {image["id"]: image["name"] for image in (await listed.json())["images"]}
        assert names == {plain: "n", odd: "new"}
        assert (await running.show(odd))["name"] == "new"
        changed = await running.patch(odd, {"op": "replace", "path": "/name", "value": "m"})
        assert changed.status == 503
        assert (await running.call("GET", f"/images/{odd}", "B")).status == 404
