"""How events and figures read: one line for every type of event there is."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from handlers.history import as_seen_by
from kernel import events as e
from kernel.recorded import By, Meta, Recorded
from ops.commands import event_json, units
from ops.commands.history import who, worker
from ops.commands.summaries import SUMMARIES, summary

DIGESTS = e.Digests(md5="9e107d9d", algo="sha512", value="07e5")
BLOB = e.Blob(
    store="os_glance_staging_store",
    name="x",
    url="file:///staging/x",
    size=3 << 20,
    digests=DIGESTS,
    facts=e.Facts(formats=(e.Format(name="qcow2"),)),
)
FAST = e.Location(store="fast", url="file:///fast/x", name="x", size=3 << 20)
LATER = datetime(2026, 1, 2, tzinfo=UTC)

SAID: list[tuple[e.Event, str]] = [
    (e.ImageCreated(image_id="i", name="debian", disk_format="qcow2"), "'debian', qcow2/no container, shared"),
    (
        e.ImageUpdated(name="new", tags=("a", "b"), properties_set={"k": "v"}, properties_removed=("old",)),
        "name = new, tags = a, b, k = v, without old",
    ),
    (e.ImageUpdated(), "nothing"),
    (e.TagAdded(tag="t"), "tag 't'"),
    (e.TagRemoved(tag="t"), "no tag 't' any more"),
    (e.MemberAdded(member="pB"), "shared with pB"),
    (e.MemberStatusChanged(member="pB", status="accepted"), "pB says: accepted"),
    (e.MemberRemoved(member="pB"), "no longer shared with pB"),
    (e.ImageDeactivated(), "only administrators can download it now"),
    (e.ImageReactivated(), "downloads are possible again"),
    (
        e.DeletionScheduled(scrub_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        "gone for clients; its bytes are kept until 2026-01-02 03:04:05",
    ),
    (e.ImageDeleted(), "gone for clients; its bytes are to be removed"),
    (e.StagingStarted(transfer="t", declared_size=1024), "a client sends 1.0 KiB for an import"),
    (e.DataStaged(transfer="t", blob=BLOB), "3.0 MiB, qcow2, md5 9e107d9d"),
    (e.StagingFailed(transfer="t", reason="it broke off"), "it broke off"),
    (e.UploadStarted(transfer="t", store="fast"), "a client sends data of unknown length to fast"),
    (e.DataUploaded(transfer="t", location=FAST, digests=DIGESTS), "3.0 MiB in fast, md5 9e107d9d"),
    (e.UploadFailed(transfer="t", store="fast", reason="no space"), "fast: no space"),
    (
        e.ImportRequested(task_id="t", method="web-download", request={}, stores=("a", "b"), steps=("convert",)),
        "web-download into a, b, all must succeed, with convert",
    ),
    (
        e.ImportRequested(task_id="t", method="copy-image", request={}, stores=("a", "b"), must_succeed=False),
        "copy-image into a, b, some may fail",
    ),
    (e.ImportStarted(), "a worker took it up"),
    (
        e.MetadataCopied(disk_format="raw", container_format="bare", properties={"k": "v"}),
        "raw/bare and 1 property taken over",
    ),
    (e.FetchStarted(name="x", total=2048), "the source answered with 2.0 KiB"),
    (e.DataFetched(blob=BLOB), "3.0 MiB, qcow2, md5 9e107d9d"),
    (e.StepCompleted(step="convert", disk_format="raw", blob=BLOB), "convert: new data, 3.0 MiB"),
    (e.StepCompleted(step="no_op"), "no_op: nothing changed"),
    (e.DataInspected(detected=("qcow2",), virtual_size=1 << 30), "qcow2, 1.0 GiB when unpacked"),
    (e.DataInspected(), "not looked into"),
    (e.StepFailed(step="inspect", reason="unsafe"), "inspect: unsafe"),
    (e.StoreStarted(store="fast", name="x"), "writing to fast"),
    (e.StoreSucceeded(store="fast", location=FAST, digests=DIGESTS), "3.0 MiB in fast"),
    (e.StoreFailed(store="fast", reason="no space"), "fast: no space"),
    (e.StagingCleared(), "the staged bytes are gone"),
    (e.StagingCleared(kept=("file:///x",)), "the staged bytes are gone, but for 1 file to be tried again"),
    (e.ImportCompleted(task_id="t"), "the import is done"),
    (e.ImportFailed(task_id="t", reason="no space"), "no space"),
    (e.ImportCancelled(task_id="t", reason="not wanted"), "not wanted"),
    (e.ImportPreempted(task_id="t"), "its lock had expired"),
    (e.ImageImportExpired(task_id="t"), "the record of the image import"),
    (e.ImageExpected(image=e.ImageCreated(image_id="i", name="n")), "to be made by its import: 'n', no format"),
    (e.ImageAppeared(), "the image is there"),
    (e.DataHashed(digests=DIGESTS), "sha512 07e5"),
    (e.LocationAdded(location=FAST), "file:///fast/x in fast"),
    (e.LocationsReplaced(locations=(FAST,)), "now file:///fast/x"),
    (e.LocationRemoved(url="file:///fast/x", store="fast"), "no longer file:///fast/x in fast"),
    (e.LeaseTakenOver(sweep_at=LATER), "another worker goes on: the former one was not heard of any more"),
    (e.LeaseTakenOver(), "another worker goes on: the former one handed over"),
    (
        e.BytesPurged(blobs=(("a", "x"), ("a", "y")), sweeps=(e.Sweep(store="a", below=3),)),
        "2 files removed; no leftovers in a any more",
    ),
    (e.BytesPurged(), "nothing to remove"),
    (e.ImageSent(image_id="i", owner=None, sent=10, asked=10, receiver_user="uB"), "10 B to uB"),
    (e.ImageSent(image_id="i", owner=None, sent=10, asked=2048), "10 B of 2.0 KiB: broken off to somebody"),
]


def test_every_type_of_event_has_a_summary() -> None:
    assert set(SUMMARIES) == set(e.EVENTS)
    assert {type(event) for event, _ in SAID} == set(e.EVENTS)


@pytest.mark.parametrize(("event", "said"), SAID, ids=lambda value: type(value).__name__)
def test_what_a_summary_says(event: e.Event, said: str) -> None:
    assert summary(event).startswith(said)
    assert summary(event).isprintable()


def test_what_only_a_newer_version_can_read() -> None:
    assert "newer version" in summary(e.Unrecognised("ImagePainted", 2))


def test_names_cannot_command_the_terminal_or_fill_it() -> None:
    said = summary(e.ImageCreated(image_id="i", name="\x1b]0;owned\x07\n" + "x" * 1000))
    assert said.isprintable()
    assert len(said) == 160


@pytest.mark.parametrize("event", [event for event, _ in SAID], ids=lambda value: type(value).__name__)
def test_an_event_as_json_is_the_same_here_and_on_the_wire(event: e.Event) -> None:
    item = Recorded(
        position=7,
        category="image",
        stream=UUID(int=1),
        version=3,
        event_id=UUID(int=2),
        event=event,
        meta=Meta(at=LATER, by=By(user="u", project="p"), worker=UUID(int=3), epoch=4),
    )
    ours, wire = event_json.document(item), as_seen_by(item, None)
    assert {name: ours[name] for name in wire} == wire


def test_who_did_it() -> None:
    assert who(Meta(at=LATER, by=By(user="u", project="p"))) == "u@p"
    assert who(Meta(at=LATER)) == "-"
    assert worker(Meta(at=LATER, worker=UUID(int=0xABCDEF), epoch=4)) == "abcdef/4"


def test_figures() -> None:
    assert [units.size(count) for count in (0, 1023, 1024, 5 << 30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]
    assert [units.span(seconds) for seconds in (0.0123, 75, 3700, 200_000, -1)] == [
        "0.012 s",
        "75.0 s",
        "61 min 40 s",
        "2 d 7 h",
        "-1.000 s",
    ]
    assert units.moment(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)) == "2026-01-02 03:04:05.678Z"
    assert units.count(1, "event") == "1 event"
    assert units.count(2000, "event") == "2,000 events"
