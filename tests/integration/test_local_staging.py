"""Staging that is local to a node: requests find the node that has the bytes (import.md 8.8)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from handlers import proxy
from tests.support.formats import RAW1K
from tests.support.nodes import free_port
from tests.support.origin import Answer, Origin, origin, silent, verbatim, whole
from tests.support.running import Site, several, site

D = {"method": {"name": "glance-direct"}}


@contextlib.asynccontextmanager
async def node(dsn: str, directory: Path, name: str, port: int, url: str | None = None) -> AsyncIterator[Site]:
    """One of several nodes with the same stores and a staging area of its own."""
    own = directory / name
    own.mkdir(exist_ok=True)
    reference = url or f"http://127.0.0.1:{port}"
    config = several(directory, DEFAULT=f"staging_is_shared = False\nworker_self_reference_url = {reference}")
    config = config.replace(f"{directory}/staging", f"{own}/staging")
    async with site(dsn, own, config, port=port) as running:
        yield running


@contextlib.asynccontextmanager
async def two(dsn: str, directory: Path) -> AsyncIterator[tuple[Site, Site]]:
    async with (
        node(dsn, directory, "one", free_port()) as one,
        node(dsn, directory, "two", free_port()) as other,
    ):
        yield one, other


async def staged(at: Site) -> str:
    image = await at.image()
    assert await at.stage(image, RAW1K) == 204
    assert len(at.files("staging")) == 1
    return image


async def test_imports_and_deletions_are_handed_on_to_where_the_bytes_are(dsn: str, directory: Path) -> None:
    async with two(dsn, directory) as (one, other):
        image = await staged(one)
        for who, status in (("C", 404), ("AR", 403)):  # checks 1 to 16 are made here
            assert (await other.call("POST", f"/images/{image}/import", who, json=D)).status == status
        assert (await other.call("POST", f"/images/{image}/import", json={**D, "stores": ["nope"]})).status == 409
        assert not {name for name in await other.show(image) if "stage_host" in name}
        sent = {"X-Image-Meta-Store": "cheap", "Accept": "application/json"}
        response = await other.call("POST", f"/images/{image}/import?x=1", json=D, headers=sent)
        assert (response.status, await response.read()) == (202, b"")
        shown = await other.ended(image)
        assert (shown["status"], shown["stores"]) == ("active", "cheap"), "the header went along"
        (task,) = await other.tasks(image)
        assert task["request_id"] == response.headers["x-openstack-request-id"], "it is the other node's id"
        assert not one.files("staging")
        assert await (await other.call("GET", f"/images/{image}/file")).read() == RAW1K
        image = await staged(one)
        assert (await other.call("DELETE", f"/images/{image}", "C")).status == 404
        assert (await other.call("DELETE", f"/images/{image}")).status == 204
        await one.until(lambda: not one.files("staging"))
        assert (await one.call("GET", f"/images/{image}")).status == 404


async def test_a_deletion_while_the_node_is_away(dsn: str, directory: Path) -> None:
    """Deleted all the same; its bytes go when that node is back."""
    port = free_port()
    async with node(dsn, directory, "two", free_port()) as other:
        async with node(dsn, directory, "one", port) as one:
            image = await staged(one)
        assert (await other.call("POST", f"/images/{image}/import", json=D)).status == 504
        assert (await other.call("DELETE", f"/images/{image}")).status == 204
        assert (await other.call("GET", f"/images/{image}")).status == 404
        assert len(one.files("staging")) == 1
        async with node(dsn, directory, "one", port) as again:
            await again.until(lambda: not again.files("staging"))


# --- a node that answers strangely -------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a minute here."""
    monkeypatch.setattr(proxy, "_TIMEOUT", proxy.aiohttp.ClientTimeout(total=1))


@contextlib.asynccontextmanager
async def strange(dsn: str, directory: Path) -> AsyncIterator[tuple[Site, str, Origin]]:
    """A node beside one that took a stage, and now answers whatever a test wants: the node, the image, the other."""
    async with origin() as elsewhere, node(dsn, directory, "two", free_port()) as other:
        async with node(dsn, directory, "one", free_port(), url=elsewhere.url("")) as one:
            image = await staged(one)
        yield other, image, elsewhere


ANSWERS: dict[str, tuple[Answer, int]] = {
    "silence": (silent, 504),
    "no HTTP": (verbatim(b"nonsense\r\n\r\n"), 502),
    "nothing": (verbatim(b""), 502),
    "a status of its own": (whole(b'{"message": "no"}', "Content-Type: application/json", status="418 Teapot"), 418),
    "a redirect": (whole(b"", "Location: http://127.0.0.1:9/", status="302 Found"), 302),
}


@pytest.mark.usefixtures("hasty")
async def test_what_another_node_may_answer(dsn: str, directory: Path) -> None:
    """Relayed if it is an answer, never followed anywhere; 504 or 502 if not."""
    async with strange(dsn, directory) as (other, image, elsewhere):
        for name, (answer, status) in ANSWERS.items():
            elsewhere.asked.clear()
            elsewhere.answers[f"/v2/images/{image}/import"] = answer
            response = await other.call("POST", f"/images/{image}/import?a=%26", TOKEN, json={**D, "stores": ["fast"]})
            assert response.status == status, name
            if status == 418:
                assert await response.json() == {"message": "no"}
            (asked,) = elsewhere.asked
            assert asked.target == f"/v2/images/{image}/import?a=%26"
            assert asked.headers["x-auth-token"] == "tok"
            assert asked.headers["accept"] == "application/json"
            assert proxy.MARK.lower() in asked.headers
            assert (await other.show(image))["status"] == "uploading"
        elsewhere.asked.clear()
        for method, path in (("POST", f"/images/{image}/import"), ("DELETE", f"/images/{image}")):
            body: Any = D if method == "POST" else None
            assert (await other.call(method, path, json=body, headers={proxy.MARK: "1"})).status == 502
        assert not elsewhere.asked, "what was handed on is not handed on again"
        elsewhere.answers[f"/v2/images/{image}"] = whole(b"", status="500 Oh")
        assert (await other.call("DELETE", f"/images/{image}")).status == 204
        assert (await other.call("GET", f"/images/{image}")).status == 404


TOKEN = {
    "X-Identity-Status": "Confirmed",
    "X-User-Id": "uA",
    "X-Project-Id": "pA",
    "X-Roles": "member,reader",
    "X-Auth-Token": "tok",
}
