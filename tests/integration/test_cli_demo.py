"""The command line on an embedded database: the demo, and looking at it while it runs and rests."""

from __future__ import annotations

import signal
from pathlib import Path

from ops.embedded_postgres import EmbeddedPostgres
from tests.support.cli import OK, ended, entrepot, here, line_with, started
from tests.support.installation import a_directory, configured, serving
from tests.support.nodes import Node
from tests.support.private_postgres import processes


def test_the_demo_brings_an_image_all_the_way_and_leaves_nothing_behind() -> None:
    with a_directory() as place:
        ran = entrepot("demo", "--size", 8, TMPDIR=str(place)).ended(OK)
        assert not list(place.iterdir())
        assert not processes(place)
    assert "status   active" in ran.out
    assert "ImportCompleted" in ran.out
    assert "active in cheap, fast, reliable; the download has the same digests" in ran.out
    assert "$ entrepot serve" in ran.err


def test_what_the_demo_kept_is_read_at_rest_and_beside_a_running_service() -> None:
    with a_directory() as place:
        document = entrepot("demo", "--size", 8, "--state", place, "--json").ended(OK).json
        assert document["matches"] is True
        assert document["downloaded"]["md5"] == document["image"]["checksum"]
        history = ("history", document["image"]["id"], "--state", place, "--json")
        assert not processes(place)
        resting = entrepot(*history).ended(OK).json
        assert resting[: len(document["timeline"])] == document["timeline"]
        assert not processes(place)
        with serving(Node(place, "node", place / "glance-api.conf", None, state=place)) as node:
            assert entrepot(*history).ended(OK).json == resting
            assert here("audit", "--state", place, "--json").ended(OK).json["intact"]
            share = EmbeddedPostgres(place / "postgres").acquire()
            assert not share.leave()  # at once, for the service goes on
            assert node.alive
        assert not processes(place)


async def test_an_interrupted_demo_cleans_up() -> None:
    with a_directory() as place:
        process = await started("demo", "--size", 8, TMPDIR=str(place))
        await line_with(process.stderr, "$ entrepot import")
        process.send_signal(signal.SIGINT)
        assert (await ended(process)).code == 130
        assert not list(place.iterdir())
        assert not processes(place)


def test_the_demo_leaves_other_peoples_configuration_alone(tmp_path: Path) -> None:
    config = configured(tmp_path)
    before = config.read_text()
    assert "not from a demo" in entrepot("demo", "--state", tmp_path).refused()
    assert config.read_text() == before
