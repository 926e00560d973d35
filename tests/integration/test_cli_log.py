"""What the command line reads from the log, and whether it notices that somebody has been at it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.audit import Break, head, verify_chain
from tests.support.cli import DIFFERENCE, OK, USAGE, entrepot, here
from tests.support.installation import Past, a_copy, a_past, run, tamper
from tests.support.postgres import Server

NOBODY = "6f1b4a3e-0c5d-4f6a-9d35-1f2c3b4a5d6e"


@pytest.fixture(scope="module")
def past(postgres: Server) -> Iterator[Past]:
    with a_past(postgres) as found:
        yield found


@pytest.fixture
def copy(postgres: Server, past: Past) -> Iterator[str]:
    """The same database once more, to be spoilt."""
    with a_copy(postgres, past.dsn) as made:
        yield made


# --- history and events ----------------------------------------------------------------


def test_history_tells_the_whole_story_of_an_image(past: Past) -> None:
    told = entrepot("history", past.active, "--database", past.dsn).ended(OK)
    names = [line.split()[1 if number == 0 else 3] for number, line in enumerate(_rows(told.out))]
    assert names[:4] == ["ImageCreated", "StagingStarted", "DataStaged", "ImportRequested"]
    assert names[-2:] == ["ImportCompleted", "ImageSent"]
    assert "glance-direct into fast, cheap, all must succeed" in told.out
    assert "now active, 293.0 KiB, in fast, cheap" in told.out


def _rows(out: str) -> list[str]:
    """Lines of the table, below the day and the headings."""
    return [line for line in out.splitlines() if line[:1].isdigit()][1:]


def test_history_as_json_is_the_events_themselves(past: Past) -> None:
    events = entrepot("history", past.active, "--database", past.dsn, "--json").ended(OK).json
    assert [event["type"] for event in events][-1] == "ImageSent"
    assert events[0]["data"]["properties"] == {"os_distro": "debian"}
    positions = [event["position"] for event in events]
    assert positions == sorted(positions)
    assert all(event["stream"] == past.active for event in events)


def test_history_says_why_an_import_failed(past: Past) -> None:
    told = here("history", past.failed, "--database", past.dsn).ended(OK)
    assert "disk_format qcow2 does not match stream data raw" in told.out


def test_a_deleted_image_still_has_a_history(past: Past) -> None:
    told = here("history", past.deleted, "--database", past.dsn).ended(OK)
    assert "ImageDeleted" in told.out
    assert "BytesPurged" in told.out
    assert "now deleted" in told.out


def test_history_of_nothing(past: Past) -> None:
    assert NOBODY in here("history", NOBODY, "--database", past.dsn).refused()
    assert "is no image id" in here("history", "my-image", "--database", past.dsn).refused(USAGE)


def test_events_prints_the_log_from_any_position(past: Past) -> None:
    everything = entrepot("events", "--database", past.dsn, "--json").ended(OK).json_lines
    assert [event["position"] for event in everything] == list(range(1, len(everything) + 1))
    rest = entrepot("events", "--database", past.dsn, "--after", len(everything) - 2).ended(OK)
    assert [int(line.split()[0]) for line in rest.out.splitlines()] == [len(everything) - 1, len(everything)]


def test_events_of_an_image_and_of_some_types(past: Past) -> None:
    asked = ("--image", past.active, "--type", "StoreSucceeded,ImageSent", "--json")
    events = here("events", "--database", past.dsn, *asked).ended(OK).json_lines
    assert [event["type"] for event in events] == ["StoreSucceeded", "StoreSucceeded", "ImageSent"]
    assert {event["stream"] for event in events} == {past.active}


def test_events_of_a_type_that_there_is_not(past: Past) -> None:
    said = here("events", "--database", past.dsn, "--type", "StoreSuceeded").refused(USAGE)
    assert "no such type: StoreSuceeded" in said


def test_a_reader_that_has_seen_enough_is_no_trouble(past: Past) -> None:
    for more in ([], ["--json"]):
        with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
            reader.wait()
            assert reader.stdin is not None
            ended = entrepot("events", "--database", past.dsn, *more, stdout=reader.stdin.fileno()).ended(OK)
            assert ended.err == ""


# --- replay and rebuild ------------------------------------------------------------------


def test_replaying_real_traffic_gives_what_the_read_models_hold(past: Past) -> None:
    told = entrepot("replay", "--check", "--database", past.dsn).ended(OK)
    assert "3 images" in told.out
    assert "the read models say the same as the log" in told.out


def test_replay_shows_how_the_state_of_an_image_came_about(past: Past) -> None:
    told = entrepot("replay", past.active, "--database", past.dsn).ended(OK)
    assert "status: queued → uploading" in told.out
    assert "status: importing → active" in told.out
    assert "the database holds the same state" in told.out
    document = entrepot("replay", past.active, "--database", past.dsn, "--json").ended(OK).json
    assert document["same"] is True
    assert document["state"]["status"] == "active"
    assert {"field": "status", "before": "queued", "after": "uploading"} in document["events"][1]["changes"]


def test_replay_wants_an_image_or_a_check() -> None:
    assert "--check" in here("replay").refused(USAGE)
    assert "not both" in here("replay", NOBODY, "--check").refused(USAGE)


def test_a_row_changed_by_hand_is_found_and_repaired(copy: str, past: Past) -> None:
    run(copy, f"UPDATE images SET name = 'mine' WHERE id = '{past.active}'")
    changed = "UPDATE states SET state = (replace(state::text, 'sample.img', 'mine'))::json"
    run(copy, f"{changed} WHERE id = '{past.active}'")
    report = here("replay", "--check", "--database", copy, "--json").ended(DIFFERENCE).json
    assert report["same"] is False
    assert report["differences"] == [
        {"table": "images", "key": f"{past.active} name", "stored": '"mine"', "folded": '"sample.img"'}
    ]
    told = here("replay", past.active, "--database", copy).ended(DIFFERENCE)
    assert "name: the database says mine, the log says sample.img" in told.out
    rebuilt = here("rebuild", "inline", "--database", copy, "--json").ended(OK).json
    assert rebuilt["inline"]["rows"]["images"] == 3
    here("replay", "--check", "--database", copy).ended(OK)


def test_rebuilding_everything(copy: str) -> None:
    told = entrepot("rebuild", "--all", "--database", copy).ended(OK)
    assert "inline:" in told.out
    assert "outcomes: emptied" in told.out
    assert run(copy, "SELECT position FROM consumers WHERE name = 'projection outcomes'") == 0


def test_rebuilding_what_there_is_not(past: Past) -> None:
    assert "none of inline, outcomes" in here("rebuild", "images", "--database", past.dsn).refused(USAGE)


# --- audit -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoilt(postgres: Server, past: Past) -> Iterator[str]:
    """A copy whose log can be put right again."""
    with a_copy(postgres, past.dsn) as made:
        run(made, "CREATE TABLE kept AS TABLE events")
        yield made


@pytest.fixture
def log(spoilt: str) -> Iterator[str]:
    """A log to tamper with."""
    yield spoilt
    tamper(spoilt, "TRUNCATE events", "INSERT INTO events SELECT * FROM kept")


def found_in(dsn: str) -> Break:
    """Where and how the chain is broken."""
    broken = asyncio.run(verify_chain(dsn)).broken
    assert broken is not None
    return broken


def test_an_untouched_log_passes(past: Past) -> None:
    told = entrepot("audit", "--database", past.dsn).ended(OK)
    assert "the chain is whole" in told.out
    head = run(past.dsn, "SELECT position || ':' || encode(hash, 'hex') FROM events ORDER BY position DESC LIMIT 1")
    assert f"head {head}" in told.out
    assert entrepot("audit", "--anchor", "--database", past.dsn).ended(OK).out.strip() == head


@pytest.mark.parametrize(
    "change",
    [
        "data = (replace(data::text, 'fast', 'fasT'))::json",
        "meta = (replace(meta::text, 'admin', 'admim'))::json",
        "type = 'StoreFailed'",
        "stream = gen_random_uuid()",
        "event_id = gen_random_uuid()",
        "version = version + 1000",
        "category = 'task'",
        "hash = sha256(hash)",
    ],
)
def test_a_changed_event_is_found(log: str, change: str) -> None:
    position = run(log, "SELECT position FROM events WHERE type = 'StoreSucceeded' ORDER BY position LIMIT 1")
    tamper(log, f"UPDATE events SET {change} WHERE position = {position}")
    broken = found_in(log)
    assert (broken.position, broken.kind) == (position, "changed")
    assert ("the event itself is as it was written" in broken.detail) == change.startswith("hash")


def test_a_changed_event_is_named_on_the_command_line(log: str) -> None:
    tamper(log, "UPDATE events SET data = (replace(data::text, 'debian', 'Debian'))::json WHERE position = 1")
    told = here("audit", "--database", log).ended(DIFFERENCE)
    assert "broken at position 1 (changed)" in told.out
    document = here("audit", "--database", log, "--json").ended(DIFFERENCE).json
    assert (document["intact"], document["events"], document["broken"]["kind"]) == (False, 0, "changed")


def test_a_missing_event_is_found(log: str) -> None:
    tamper(log, "DELETE FROM events WHERE position = 4")
    assert found_in(log) == Break(4, "missing", "position 4 is missing")
    tamper(log, "DELETE FROM events WHERE position IN (1, 2)")
    assert found_in(log) == Break(1, "missing", "positions 1 to 2 are missing")


def test_swapped_events_are_found(log: str) -> None:
    tamper(
        log,
        "UPDATE events SET position = 1000000 WHERE position = 5",
        "UPDATE events SET position = 5 WHERE position = 6",
        "UPDATE events SET position = 6 WHERE position = 1000000",
    )
    broken = found_in(log)
    assert (broken.position, broken.kind) == (5, "swapped")
    assert broken.detail.endswith("position 6")


def test_events_that_change_places_but_for_their_hashes_are_found(log: str) -> None:
    fields = "category, stream, version, event_id, type, data, meta"
    tamper(
        log,
        f"CREATE TEMPORARY TABLE apart AS SELECT position, hash, {fields} FROM events WHERE position IN (3, 9)",
        "DELETE FROM events WHERE position IN (3, 9)",
        f"INSERT INTO events (position, hash, {fields}) SELECT a.position, a.hash,"
        " b.category, b.stream, b.version, b.event_id, b.type, b.data, b.meta"
        " FROM apart a JOIN apart b ON a.position <> b.position",
    )
    broken = found_in(log)
    assert (broken.position, broken.kind) == (3, "swapped")
    assert broken.detail.endswith("position 9")


def test_a_tail_that_was_cut_off_is_found_by_an_anchor(log: str, tmp_path: Path) -> None:
    anchors = tmp_path / "anchors"
    early = run(log, "SELECT position || ':' || encode(hash, 'hex') FROM events WHERE position = 7")
    late = here("audit", "--anchor", "--database", log, "--json").ended(OK)
    anchors.write_text(f"# kept elsewhere\n{early}\n\n{late.out}")
    assert here("audit", "--against", anchors, "--database", log).ended(OK).out.count("contained") == 2
    tamper(log, "DELETE FROM events WHERE position > (SELECT max(position) - 2 FROM events)")
    assert asyncio.run(verify_chain(log)).intact  # the chain alone cannot know
    found = here("audit", "--against", anchors, "--database", log, "--json").ended(DIFFERENCE).json
    assert found["broken"] is None
    assert [entry["fault"] is None for entry in found["anchors"]] == [True, False]
    assert "its tail was cut off" in found["anchors"][1]["fault"]


def test_a_log_that_was_written_anew_is_found_by_an_anchor(log: str) -> None:
    anchor = asyncio.run(head(log))
    tamper(
        log,
        "UPDATE events SET meta = (replace(meta::text, 'admin', 'nobody'))::json WHERE position = 2",
        "UPDATE events e SET hash = n.hash FROM (SELECT position, chain('\\x'::bytea, hashed_bytes(category, stream,"
        " version, event_id, type, data::text, meta::text)) OVER (ORDER BY position) AS hash FROM events) n"
        " WHERE n.position = e.position",
    )
    assert asyncio.run(verify_chain(log)).intact
    told = entrepot("audit", "--against", anchor, "--database", log).ended(DIFFERENCE)
    assert f"the log was rewritten at or before position {anchor.position}" in told.out


def test_what_is_no_anchor(past: Past, tmp_path: Path) -> None:
    assert "no such file" in here("audit", "--against", "12:zz", "--database", past.dsn).refused()
    empty = tmp_path / "anchors"
    empty.write_text("# nothing yet\n")
    assert "holds no anchor" in here("audit", "--against", empty, "--database", past.dsn).refused()
    both = here("audit", "--anchor", "--against", "1:00", "--database", past.dsn).refused(USAGE)
    assert "exclude each other" in both


def test_an_empty_log_passes(dsn: str) -> None:
    assert here("audit", "--anchor", "--database", dsn).ended(OK).out.strip() == "0:"
    assert "the log is empty" in here("audit", "--against", "0:", "--database", dsn).ended(OK).out
