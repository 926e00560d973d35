"""`entrepot import` and `watch` against a running service: what they do, say and leave behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.commands.import_ import guess
from tests.support.cli import DIFFERENCE, INTERRUPTED, OK, USAGE, ended, entrepot, here, line_with, started
from tests.support.installation import SIZE, a_directory, configured, sample, serving
from tests.support.nodes import Node
from tests.support.postgres import Server

UNUSED = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with a_directory() as made:
        yield made


@pytest.fixture(scope="module")
def database(postgres: Server) -> Iterator[str]:
    made = asyncio.run(postgres.fresh())
    yield made
    asyncio.run(postgres.drop(made))


@pytest.fixture(scope="module")
def node(place: Path, database: str) -> Iterator[Node]:
    """A service that offers glance-direct only."""
    config = configured(place)
    config.write_text(config.read_text().replace("[DEFAULT]", "[DEFAULT]\nenabled_import_methods = glance-direct"))
    with serving(Node(place, "node", config, database)) as running:
        yield running


@pytest.fixture(scope="module")
def file(place: Path) -> Path:
    return sample(place)


def get(url: str) -> Any:
    with urllib.request.urlopen(url) as response:
        return json.load(response)


def images(node: Node) -> list[dict[str, Any]]:
    return list(get(f"{node.url}/v2/images?limit=1000")["images"])


# --- importing -------------------------------------------------------------------------


def test_a_file_goes_into_every_store(node: Node, file: Path) -> None:
    ran = entrepot("import", file, "--all-stores", "--property", "os_distro=debian", "--url", node.url, "--json")
    result = ran.ended(OK).json
    assert result["checksum"] == hashlib.md5(file.read_bytes()).hexdigest()
    assert (result["status"], sorted(result["stores"]), result["size"]) == ("active", ["cheap", "fast"], SIZE)
    assert result["failed_stores"] == []
    assert result["task"]["status"] == "success"
    assert 0 < result["seconds"] < 60
    image = get(f"{node.url}/v2/images/{result['id']}")
    assert (image["name"], image["disk_format"], image["container_format"]) == ("sample.img", "raw", "bare")
    assert image["os_distro"] == "debian"


def test_people_are_told_what_became_of_it(node: Node, file: Path) -> None:
    ran = here("import", file, "--name", "wanted", "--stores", "cheap", "--url", node.url).ended(OK)
    told = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert told["status"] == "active"
    assert told["stores"] == "cheap"
    assert told["checksum"] == hashlib.md5(file.read_bytes()).hexdigest()
    assert get(f"{node.url}/v2/images/{told['image']}")["name"] == "wanted"


def test_a_failed_import_says_why_and_where(node: Node, file: Path) -> None:
    ran = entrepot("import", file, "--disk-format", "qcow2", "--url", node.url, "--json").ended(DIFFERENCE)
    assert ran.json["task"]["status"] == "failure"
    assert ran.json["status"] == "queued"
    last = ran.err.splitlines()[-1]
    assert last.startswith("entrepot: The import failed: disk_format qcow2 does not match")
    assert last.endswith("(failed stores: fast)")


def test_one_store_may_be_enough(node: Node, place: Path, file: Path) -> None:
    away = (place / "cheap").rename(place / "away")
    try:
        all_or_nothing = here("import", file, "--all-stores", "--url", node.url, "--json").ended(DIFFERENCE)
        assert all_or_nothing.json["failed_stores"] == ["cheap"]
        content = here("import", file, "--all-stores", "--allow-failure", "--url", node.url, "--json").ended(OK)
    finally:
        away.rename(place / "cheap")
    assert (content.json["status"], content.json["stores"]) == ("active", ["fast"])
    assert content.json["failed_stores"] == ["cheap"]
    assert "not in cheap" in content.err


def test_what_the_service_does_not_offer_is_refused_before_any_byte_is_sent(node: Node, file: Path) -> None:
    before = len(images(node))
    assert "has no store nowhere" in here("import", file, "--stores", "fast,nowhere", "--url", node.url).refused()
    assert "does not offer web-download" in here("import", f"{UNUSED}/x.img", "--url", node.url).refused()
    assert "disk_format" in here("import", file, "--disk-format", "odd", "--url", node.url).refused()
    assert len(images(node)) == before


def test_wrong_usage(file: Path) -> None:
    assert "there is no file" in here("import", "/nowhere.img").refused(USAGE)
    assert "there is no file //[x/nowhere.img" in here("import", "//[x/nowhere.img").refused(USAGE)
    assert "http://[x/y is no URL: Invalid IPv6 URL" in here("import", "http://[x/y").refused(USAGE)
    assert "exclude each other" in here("import", file, "--stores", "a", "--all-stores").refused(USAGE)
    assert "'x' is not K=V" in here("import", file, "--property", "x").refused(USAGE)


def test_nobody_answers(file: Path) -> None:
    said = entrepot("import", file, "--url", UNUSED).refused()
    assert said == f"The service at {UNUSED} does not answer: Connection refused"


def test_formats_are_guessed_by_the_first_bytes(tmp_path: Path) -> None:
    qcow2 = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + (1 << 20).to_bytes(8, "big") + bytes(1 << 16)
    for content, found in ((qcow2, "qcow2"), (b"plain", "raw"), (b"", "raw"), (bytes(1 << 16), "raw")):
        path = tmp_path / "image"
        path.write_bytes(content)
        assert guess(path) == found


# --- watching --------------------------------------------------------------------------


def test_an_import_that_was_let_go_can_be_watched(node: Node, file: Path) -> None:
    begun = entrepot("import", file, "--no-watch", ENTREPOT_URL=f"{node.url}/v2/").ended(OK)
    image_id = begun.out.split()[1]
    assert f"The import goes on: entrepot watch {image_id}" in begun.err
    result = entrepot("watch", image_id, "--url", node.url, "--json").ended(OK).json
    assert (result["id"], result["status"], result["stores"]) == (image_id, "active", ["fast"])


def test_an_image_without_an_import_cannot_be_watched(node: Node) -> None:
    body = json.dumps({"name": "bare"}).encode()
    request = urllib.request.Request(f"{node.url}/v2/images", body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request) as response:
        image_id = json.load(response)["id"]
    assert "has no import to follow" in here("watch", image_id, "--url", node.url).refused()


async def test_ctrl_c_leaves_the_import_running(place: Path, postgres: Server, file: Path) -> None:
    dsn = await postgres.fresh()
    config = configured(place)
    api, worker = Node(place, "api", config, dsn, role="api"), Node(place, "worker", config, dsn, role="worker")
    try:
        api.start()
        await api.ready()
        process = await started("import", file, "--all-stores", "--url", api.url)
        image_id = (await line_with(process.stderr, "image ")).split()[1]
        process.send_signal(signal.SIGINT)
        ran = (await ended(process)).ended(INTERRUPTED)
        assert f"The import of image {image_id} goes on without you: entrepot watch {image_id}" in ran.err
        watching = await started("watch", image_id, "--url", api.url, "--json")
        await line_with(watching.stderr, "waiting for a worker")
        worker.start()
        result = (await ended(watching)).ended(OK).json
        assert sorted(result["stores"]) == ["cheap", "fast"]
    finally:
        for running in (worker, api):
            if running.alive:
                await asyncio.to_thread(running.terminate)
        await postgres.drop(dsn)


# --- following the log -------------------------------------------------------------------


async def test_the_log_can_be_followed_as_it_grows(node: Node, database: str, file: Path) -> None:
    process = await started("events", "--follow", "--after", 0, "--json", "--database", database)
    assert json.loads(await line_with(process.stdout, "position"))["position"] == 1
    ran = await ended(await started("import", file, "--name", "followed", "--url", node.url, "--json"))
    image_id = ran.ended(OK).json["id"]
    while json.loads(await line_with(process.stdout, image_id))["type"] != "ImportCompleted":
        pass
    process.send_signal(signal.SIGINT)
    (await ended(process)).ended(INTERRUPTED)


async def test_following_begins_now_and_can_be_narrowed(node: Node, database: str, file: Path) -> None:
    ran = await ended(await started("import", file, "--no-watch", "--url", node.url, "--json"))
    image_id = ran.ended(OK).json["id"]
    narrowed = ("--follow", "--after", 0, "--image", image_id, "--type", "ImageCreated,ImportCompleted", "--json")
    process = await started("events", *narrowed, "--database", database)
    assert json.loads(await line_with(process.stdout, "position"))["type"] == "ImageCreated"
    assert json.loads(await line_with(process.stdout, "position"))["type"] == "ImportCompleted"
    process.send_signal(signal.SIGINT)
    (await ended(process)).ended(INTERRUPTED)
