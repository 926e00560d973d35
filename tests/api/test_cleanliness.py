"""What lies in staging and stores is what the log vouches for, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from msgspec.json import decode

from tests.support.formats import GPTBAD, QCOW, RAW1K
from tests.support.postgres import Server
from tests.support.raw import Wire, chunk, head
from tests.support.running import Site
from tests.support.standing import four_stores, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORES = ("fast", "cheap", "reliable")


async def vouched_for(site: Site) -> dict[str, str]:
    """Path -> checksum of every copy that some image has, and of what is staged, by the state in the database."""
    rows = await site.service.database.fetch("SELECT state FROM states")
    found = {}
    for row in rows:
        state: dict[str, Any] = decode(row["state"])
        for location in state.get("locations", ()):
            found[location["url"].removeprefix("file://")] = state["checksum"]
        if "staged" in state:
            found[state["staged"]["url"].removeprefix("file://")] = state["staged"]["digests"]["md5"]
    return found


def lying_there(site: Site) -> dict[str, str]:
    paths: list[Path] = [path for store in (*STORES, "staging") for path in site.files(store)]
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in paths}


async def staged(site: Site, data: bytes = RAW1K, **attributes: Any) -> str:
    image = await site.image(**attributes)
    assert await site.stage(image, data) == 204
    return image


async def succeed(site: Site) -> None:
    for body in (
        {"all_stores": True},
        {"stores": ["cheap"]},
        {"stores": ["fast", "web"], "all_stores_must_succeed": False},
    ):
        image = await staged(site)
        assert await site.do_import(image, **body) == 202
        assert (await site.ended(image))["status"] == "active"
    assert await site.upload(await site.image(disk_format="qcow2"), QCOW) == 204
    await staged(site, b"kept for later")


async def fail(site: Site) -> None:
    for data, body, attributes in (
        (RAW1K, {"stores": ["fast", "cheap", "web"]}, {}),
        (RAW1K, {"stores": ["web"], "all_stores_must_succeed": False}, {}),
        (RAW1K, {"all_stores": True}, {"disk_format": "vmdk"}),
        (GPTBAD, {}, {}),
    ):
        image = await staged(site, data, **attributes)
        assert await site.do_import(image, **body) == 202
        assert (await site.ended(image))["status"] == "queued"
    assert await site.upload(await site.image(disk_format="vhd"), RAW1K) == 415
    assert await site.upload(await site.image(), RAW1K, **{"X-OpenStack-Image-Size": "5"}) == 400
    assert await site.stage(await site.image(), RAW1K, **{"X-OpenStack-Image-Size": "5000"}) == 400


async def delete(site: Site) -> None:
    for imported in (True, False):
        image = await staged(site)
        if imported:
            assert await site.do_import(image, all_stores=True) == 202
            await site.ended(image)
        assert (await site.call("DELETE", f"/images/{image}")).status == 204


async def break_off(site: Site) -> None:
    for kind in ("file", "stage"):
        image = await site.image()
        async with await Wire.to(site) as wire:
            content = {"Content_Type": "application/octet-stream", "Transfer_Encoding": "chunked"}
            await wire.send(head("PUT", f"/v2/images/{image}/{kind}", **content) + chunk(bytes(3_000_000)))
            await site.until(lambda image=image: _is(site, image, ("saving", "uploading")))
        await site.until(lambda image=image: _is(site, image, ("queued",)))


async def _is(site: Site, image: str, statuses: tuple[str, ...]) -> bool:
    return (await site.show(image))["status"] in statuses


async def test_only_what_the_log_vouches_for_is_kept(postgres: Server) -> None:
    """After successes, failures of every kind, deletions and broken lines, all files and no others are there."""
    async with standing(postgres, four_stores()) as site:
        for act in (succeed, fail, delete, break_off, succeed):
            await act(site)
        await site.settled()
        there = lying_there(site)
        assert there == await vouched_for(site)
        assert len(site.files("staging")) == 2
        assert len(there) == 2 * (3 + 1 + 1 + 1 + 1)
