"""What consumers are told: the sequences of the contract's 16.3 and the payloads of 16.2."""

from __future__ import annotations

from typing import Any
from uuid import uuid5

import pytest
from msgspec.structs import replace

from kernel import events as e
from kernel.failures import KINDS
from kernel.notifications import Notification, envelope, notifications
from tests.support.builders import (
    ACTIVE,
    IMAGE,
    OWNER,
    STAGED,
    TASK,
    TRANSFER,
    at,
    blob,
    completed,
    copying,
    created,
    digests,
    downloading,
    failed,
    importing,
    inspected,
    location,
    not_stored,
    requested,
    step_failed,
    store_started,
    stored,
    uploaded,
    writing,
)
from tests.support.spec import STREAM, given, recorded, told

Events = tuple[e.Event, ...]


def short(message: Notification) -> str:
    """`type(status)`; store writes with their store and lists; errors in capitals."""
    name = message.event_type.replace("image.", "I.").replace("task.", "T.")
    payload = message.payload
    if message.priority == "ERROR":
        return f"ERROR {name}"
    assert isinstance(payload, dict)
    if name.startswith("T."):
        return name
    if "os_glance_importing_to_stores" in payload:
        lists = [",".join(payload[key]) for key in ("os_glance_importing_to_stores", "os_glance_failed_import")]
        store = payload.get("backend", "-")
        return f"{name}({payload['status']}, {store}, [{lists[0]}], [{lists[1]}])"
    return f"{name}({payload['status']})" if "status" in payload else name


def sequence(*events: e.Event, since: int = 0) -> list[str]:
    """What consumers are told of these events, the first `since` of them left out."""
    return [short(message) for message in told(*events) if message.position > since]


def of(event_type: str, *events: e.Event) -> list[Any]:
    """Payloads of one type."""
    return [message.payload for message in told(*events) if message.event_type == event_type]


# --- 16.3 ------------------------------------------------------------------------------

ACCEPTED = ["T.create", "I.update(importing)", "T.processing", "T.run"]
BEGUN = len(STAGED)


def test_create_and_stage() -> None:
    assert sequence(*STAGED) == ["I.create(queued)", "I.update(uploading)", "I.update(uploading)"]
    assert [payload["size"] for payload in of("image.update", *STAGED)] == [None, 3]


def test_staging_that_fails() -> None:
    past = (created(), e.StagingStarted(transfer=TRANSFER), e.StagingFailed(transfer=TRANSFER, reason="gone"))
    assert sequence(*past) == ["I.create(queued)", "I.update(uploading)", "I.update(queued)"]


def test_an_import_into_one_store() -> None:
    assert sequence(*writing("a"), *stored("a"), *completed(), since=BEGUN) == [
        *ACCEPTED,
        "I.prepare(importing, a, [a], [])",
        "I.upload(active, a, [], [])",
        "I.activate(active)",
        "I.update(active)",
        "I.update(active)",
        "T.success",
    ]


def test_an_import_on_a_site_with_one_store_names_none() -> None:
    assert sequence(*writing("a", multi=False), *stored("a"), *completed(), since=BEGUN + 2) == [
        "I.prepare(importing, -, [], [])",
        "I.upload(active, -, [], [])",
        "I.activate(active)",
        "I.update(active)",
        "I.update(active)",
        "T.success",
    ]


def test_with_plugins_there_is_one_update_for_each_change() -> None:
    changes = e.StepCompleted(
        step="s", properties_set={"p": "1", "q": "2"}, properties_removed=("r",), disk_format="raw", blob=blob("made")
    )
    past = (*importing("a", steps=("s", "t")), changes, e.StepCompleted(step="t", container_format="bare"))
    assert sequence(*past, since=BEGUN + 2) == ["I.update(importing)"] * 6
    assert sequence(*importing("a", steps=("s",)), e.StepCompleted(step="s"), since=BEGUN + 2) == []


def test_a_download() -> None:
    past = (
        created(),
        downloading("a"),
        e.ImportStarted(),
        e.FetchStarted(name="fetched", total=5),
        e.DataFetched(blob=blob(size=5)),
    )
    assert sequence(*past, inspected(), *stored("a"), *completed(), since=1) == [
        *ACCEPTED,
        "I.update(importing)",
        "I.prepare(importing, a, [a], [])",
        "I.upload(active, a, [], [])",
        "I.activate(active)",
        "I.update(active)",
        "I.update(active)",
        "T.success",
    ]
    assert of("image.update", *past)[-1]["size"] == 5


def test_two_stores_that_must_both_succeed() -> None:
    assert sequence(*writing("a", "b"), *stored("a"), *stored("b"), *completed(), since=BEGUN) == [
        *ACCEPTED,
        "I.prepare(importing, a, [a,b], [])",
        "I.upload(importing, a, [b], [])",
        "I.update(importing)",
        "I.prepare(importing, b, [b], [])",
        "I.upload(active, b, [], [])",
        "I.activate(active)",
        "I.update(active)",
        "I.update(active)",
        "T.success",
    ]


def test_two_stores_of_which_one_is_enough_and_the_second_fails() -> None:
    past = (*writing("a", "b", must_succeed=False), *stored("a"), *not_stored("b"), *completed())
    assert sequence(*past, since=BEGUN) == [
        *ACCEPTED,
        "I.prepare(importing, a, [a,b], [])",
        "I.upload(active, a, [b], [])",
        "I.activate(active)",
        "I.update(active)",
        "I.prepare(active, b, [b], [])",
        "ERROR I.upload",
        "I.update(active)",
        "I.update(active)",
        "T.success",
    ]
    assert of("image.update", *past)[-1]["properties"]["os_glance_failed_import"] == "b"


def test_two_stores_that_must_both_succeed_and_the_second_fails() -> None:
    past = (*writing("a", "b"), *stored("a"), *not_stored("b"), failed())
    assert sequence(*past, since=BEGUN) == [
        *ACCEPTED,
        "I.prepare(importing, a, [a,b], [])",
        "I.upload(importing, a, [b], [])",
        "I.update(importing)",
        "I.prepare(importing, b, [b], [])",
        "ERROR I.upload",
        "I.update(queued)",
        "T.failure",
    ]
    assert of("image.update", *past)[-1]["properties"]["os_glance_failed_import"] == "b"


def test_two_stores_of_which_one_would_be_enough_and_both_fail() -> None:
    past = (*writing("a", "b", must_succeed=False), *not_stored("a"), *not_stored("b"), failed())
    assert sequence(*past, since=BEGUN) == [
        *ACCEPTED,
        "I.prepare(importing, a, [a,b], [])",
        "ERROR I.upload",
        "I.update(importing)",
        "I.prepare(importing, b, [b], [a])",
        "ERROR I.upload",
        "I.update(queued)",
        "T.failure",
    ]


def test_two_stores_written_at_once_keep_the_order_within_each() -> None:
    past = (*writing("a", "b", parallel=2), store_started("a"), store_started("b"), stored("b")[1], stored("a")[1])
    assert sequence(*past, since=len(writing("a", "b"))) == [
        "I.prepare(importing, a, [a,b], [])",
        "I.prepare(importing, b, [a,b], [])",
        "I.upload(importing, b, [a], [])",
        "I.update(importing)",
        "I.upload(active, a, [], [])",
        "I.activate(active)",
        "I.update(active)",
    ]


def test_a_copy_to_two_stores_is_active_throughout_and_activates_nothing() -> None:
    past = (*ACTIVE, copying("b", "c"), e.ImportStarted(), *stored("b"), *stored("c"))
    assert sequence(*past, *completed(), since=len(ACTIVE)) == [
        "T.create",
        "I.update(active)",
        "T.processing",
        "T.run",
        "I.prepare(active, b, [b,c], [])",
        "I.upload(active, b, [c], [])",
        "I.update(active)",
        "I.prepare(active, c, [c], [])",
        "I.upload(active, c, [], [])",
        "I.update(active)",
        "I.update(active)",
        "T.success",
    ]


DOWNLOADING = (created(), downloading("a", steps=("s",), describes=True), e.ImportStarted())


@pytest.mark.parametrize(
    ("more", "updates"),
    [
        ((step_failed("quota"),), 0),
        ((step_failed("describe"),), 0),
        ((e.MetadataCopied(), step_failed("fetch")), 1),
        ((e.MetadataCopied(), e.DataFetched(blob=blob()), step_failed("s")), 2),
    ],
    ids=["Q", "M", "A", "P"],
)
def test_an_import_that_fails_before_any_store_prepares_nothing_and_raises_no_alarm(more: Events, updates: int) -> None:
    assert sequence(*DOWNLOADING, *more, failed(), since=1) == [
        *ACCEPTED,
        *["I.update(importing)"] * updates,
        "I.update(queued)",
        "T.failure",
    ]


@pytest.mark.parametrize("stores", [("a",), ("a", "b", "c")])
def test_refused_data_raises_one_alarm_whatever_the_number_of_stores(stores: tuple[str, ...]) -> None:
    past = (*importing(*stores), step_failed("inspect", inspection=True), failed())
    assert sequence(*past, since=BEGUN) == [*ACCEPTED, "ERROR I.upload", "I.update(queued)", "T.failure"]


@pytest.mark.parametrize("multi", [True, False])
def test_an_upload(multi: bool) -> None:
    store = "a" if multi else "-"
    assert sequence(created(), *uploaded("a", multi=multi), since=1) == [
        "I.update(saving)",
        f"I.prepare(saving, {store}, [], [])",
        f"I.upload(active, {store}, [], [])",
        "I.activate(active)",
        "I.update(active)",
    ]


def test_an_upload_that_fails() -> None:
    past = (*(created(), uploaded("a")[0]), e.UploadFailed(transfer=TRANSFER, store="a", reason="full", kind="full"))
    assert sequence(*past, since=2) == ["ERROR I.upload", "I.update(queued)"]
    assert of("image.upload", *past) == [f"Image storage media is full {IMAGE} (store a)"]


@pytest.mark.parametrize("past", [(created(),), STAGED, ACTIVE, (created(), uploaded("a")[0])])
def test_a_deletion_is_told_once(past: Events) -> None:
    assert sequence(*past, e.ImageDeleted(), since=len(past)) == ["I.delete(deleted)"]


def test_a_deletion_that_keeps_the_bytes_is_told_when_the_image_vanishes() -> None:
    """Never again when the bytes go."""
    past = (*ACTIVE, e.DeletionScheduled(scrub_at=at(60)))
    assert sequence(*past, e.ImageDeleted(), since=len(ACTIVE)) == ["I.delete(pending_delete)"]
    copy = (*ACTIVE, copying("b"), e.ImportStarted(), e.DeletionScheduled(scrub_at=at(60)))
    assert sequence(*copy, since=len(copy) - 1) == ["I.delete(pending_delete)", "T.failure"]


def test_a_deletion_ends_the_running_task_and_nothing_of_the_image_follows() -> None:
    purged = e.BytesPurged(blobs=(("a", "a://data"),))
    past = (*writing("a", "b"), *stored("a"), e.ImageDeleted())
    assert sequence(*past, e.LeaseTakenOver(), purged, since=len(past) - 1) == ["I.delete(deleted)", "T.failure"]


def test_a_cancelled_import_ends_as_a_failed_one() -> None:
    past = (*writing("a"), e.ImportCancelled(task_id=TASK, reason="enough"), failed("enough"))
    assert sequence(*past, since=len(writing("a"))) == ["I.update(queued)", "T.failure"]


def test_an_image_is_activated_once_in_its_life() -> None:
    life = (*writing("a", "b", must_succeed=False), *stored("a"), *stored("b"), *completed())
    life = (*life, e.ImageDeactivated(), e.ImageReactivated(), copying("c"), *stored("c"), *completed())
    assert len(of("image.activate", *life)) == 1


@pytest.mark.parametrize(
    "event",
    [
        e.ImageUpdated(name="x"),
        e.TagAdded(tag="t"),
        e.TagRemoved(tag="t"),
        e.ImageDeactivated(),
        e.ImageReactivated(),
        e.LocationAdded(location=location("b")),
        e.LocationsReplaced(locations=()),
        e.LocationRemoved(store="a", url="a://data"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_every_saved_change_is_an_update(event: e.Event) -> None:
    (message,) = (message for message in told(*ACTIVE, event) if message.position > len(ACTIVE))
    assert (message.event_type, message.priority) == ("image.update", "INFO")


def test_a_first_location_activates_the_image() -> None:
    assert sequence(created(), e.LocationAdded(location=location("b")), since=1) == [
        "I.activate(active)",
        "I.update(active)",
    ]


# --- 16.2: the image -------------------------------------------------------------------

IMAGE_KEYS = {
    *("id", "status", "visibility", "name", "checksum", "owner", "disk_format", "container_format"),
    *("created_at", "updated_at", "min_disk", "min_ram", "size", "virtual_size"),
    *("protected", "is_public", "deleted", "properties", "tags", "deleted_at"),
}
STORE_KEYS = {"os_glance_importing_to_stores", "os_glance_failed_import"}


def test_the_payload_of_an_image() -> None:
    image = created(tags=("t",), properties={"p": "v", "null": None}, min_disk=1, min_ram=2, visibility="public")
    (payload,) = of("image.create", image)
    assert payload == {
        "id": IMAGE,
        "name": "n",
        "status": "queued",
        "visibility": "public",
        "is_public": True,
        "checksum": None,
        "owner": OWNER,
        "disk_format": "raw",
        "container_format": "bare",
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        "min_disk": 1,
        "min_ram": 2,
        "size": None,
        "virtual_size": None,
        "protected": False,
        "deleted": False,
        "deleted_at": None,
        "properties": {"p": "v", "null": ""},
        "tags": ["t"],
    }
    assert set(payload) == IMAGE_KEYS


def test_the_payload_carries_what_the_data_is() -> None:
    (payload,) = of("image.activate", *writing("a"), *stored("a"))
    figures = (payload["size"], payload["virtual_size"], payload["checksum"], payload["is_public"])
    assert figures == (3, 3, "md5-d1", False)


def test_the_services_own_properties_are_text_in_properties_and_lists_beside_them() -> None:
    (payload,) = of("image.prepare", *writing("b", "a"), store_started("b"))
    assert payload["properties"] == {
        "os_glance_import_task": TASK,
        "os_glance_importing_to_stores": "a,b",
        "os_glance_failed_import": "",
    }
    assert payload["os_glance_importing_to_stores"] == ["a", "b"]
    assert payload["os_glance_failed_import"] == []
    assert payload["backend"] == "b"


@pytest.mark.parametrize(("multi", "more"), [(True, {"backend"}), (False, set())])
@pytest.mark.parametrize("event_type", ["image.prepare", "image.upload"])
def test_store_writes_carry_the_store_keys(event_type: str, multi: bool, more: set[str]) -> None:
    for past in ((*writing("a", multi=multi), *stored("a")), (created(), *uploaded("a", multi=multi))):
        (payload,) = of(event_type, *past)
        assert set(payload) == IMAGE_KEYS | STORE_KEYS | more


def test_after_the_import_its_task_is_gone_from_the_properties_and_the_lists_stay() -> None:
    payload = of("image.update", *writing("a"), *stored("a"), *completed())[-1]
    assert payload["properties"] == {"os_glance_importing_to_stores": "", "os_glance_failed_import": ""}


def test_no_image_payload_says_where_the_data_is() -> None:
    life = (*writing("a"), *stored("a"), *completed(), copying("b"), *stored("b"), e.ImageDeleted())
    for message in told(*life):
        assert isinstance(message.payload, dict)
        assert not {"locations", "stores", "os_hash_algo", "os_hash_value"} & set(message.payload)
        if message.event_type.startswith("image."):
            assert set(message.payload) >= IMAGE_KEYS


def test_a_deleted_image_says_when() -> None:
    (payload,) = of("image.delete", *ACTIVE, e.ImageDeleted())
    assert (payload["deleted"], payload["deleted_at"], payload["status"]) == (True, "2026-01-02T03:04:08Z", "deleted")
    assert set(payload) == IMAGE_KEYS


# --- 16.2: the others ------------------------------------------------------------------

TASK_KEYS = {
    *("id", "type", "status", "owner", "result", "message", "expires_at"),
    *("created_at", "updated_at", "deleted", "deleted_at"),
}


def test_the_payload_of_a_task() -> None:
    (payload,) = of("task.create", *STAGED, requested("a"))
    assert payload == {
        "id": TASK,
        "type": "api_image_import",
        "status": "pending",
        "owner": OWNER,
        "result": None,
        "message": None,
        "expires_at": None,
        "created_at": "2026-01-02T03:04:08Z",
        "updated_at": "2026-01-02T03:04:08Z",
        "deleted": False,
        "deleted_at": None,
    }


def test_a_task_never_tells_why_it_failed_nor_what_it_was_asked() -> None:
    past = (*importing("a"), step_failed(), failed("secret reason"))
    messages = [message for message in told(*past) if message.event_type.startswith("task.")]
    assert [message.payload["status"] for message in messages if isinstance(message.payload, dict)] == [
        "pending",
        "processing",
        "processing",
        "failure",
    ]
    for message in messages:
        assert isinstance(message.payload, dict)
        assert set(message.payload) == TASK_KEYS
        assert message.payload["message"] is None
        assert message.payload["result"] is None


def test_a_finished_task_says_when_it_expires() -> None:
    (payload,) = of("task.success", *writing("a", task_ttl=3600), *stored("a"), *completed())
    assert (payload["status"], payload["expires_at"]) == ("success", "2026-01-02T04:04:14Z")


def test_the_payloads_of_a_member() -> None:
    answer = e.MemberStatusChanged(member="pB", status="accepted")
    messages = told(created(), e.MemberAdded(member="pB"), answer, e.MemberRemoved(member="pB"))[1:]
    assert [m.event_type for m in messages] == ["image.member.create", "image.member.update", "image.member.delete"]
    common = {"image_id": IMAGE, "member_id": "pB", "created_at": "2026-01-02T03:04:06Z"}
    live = {"deleted": False, "deleted_at": None}
    gone = {"deleted": True, "deleted_at": "2026-01-02T03:04:08Z"}
    assert [message.payload for message in messages] == [
        {**common, **live, "status": "pending", "updated_at": "2026-01-02T03:04:06Z"},
        {**common, **live, "status": "accepted", "updated_at": "2026-01-02T03:04:07Z"},
        {**common, **gone, "status": "accepted", "updated_at": "2026-01-02T03:04:08Z"},
    ]


@pytest.mark.parametrize(("sent", "priority"), [(3, "INFO"), (2, "ERROR"), (4, "ERROR")])
def test_a_download_tells_how_much_went_out_and_to_whom(sent: int, priority: str) -> None:
    event = e.ImageSent(image_id=IMAGE, owner=OWNER, sent=sent, asked=3, receiver_project="pB", receiver_user="uB")
    (message,) = told(event)
    assert (message.event_type, message.priority, message.image_id) == ("image.send", priority, IMAGE)
    assert message.payload == {
        "bytes_sent": sent,
        "image_id": IMAGE,
        "owner_id": OWNER,
        "receiver_tenant_id": "pB",
        "receiver_user_id": "uB",
    }


# --- 16.2: failed writes ---------------------------------------------------------------

GISTS = {
    "full": "image storage media is full",
    "denied": "insufficient permissions on image storage media",
    "bad_value": "cannot save data for image",
    "duplicate": "unable to upload duplicate image data",
    "forbidden": "not allowed to upload image data",
    "vanished": "image could not be found after upload",
    "http": "failed to upload image data due to http error",
    "internal": "failed to upload image data due to internal error",
}


def test_there_is_a_text_for_every_kind_of_failure() -> None:
    assert set(GISTS) == set(KINDS)


@pytest.mark.parametrize(("kind", "gist"), GISTS.items())
@pytest.mark.parametrize("multi", [True, False])
def test_a_failed_write_is_told_in_words_that_name_image_and_store(kind: str, gist: str, multi: bool) -> None:
    (text,) = of("image.upload", *writing("a", multi=multi), *not_stored("a", kind=kind))
    assert gist in text.lower()
    assert IMAGE in text
    assert ("(store a)" in text) is multi


def test_refused_data_is_told_as_an_internal_error_without_a_store() -> None:
    past = (*importing("a"), step_failed("inspect", reason="secret reason", inspection=True))
    assert of("image.upload", *past) == [f"Failed to upload image data due to internal error, image {IMAGE}"]


def test_a_kind_that_only_a_newer_version_knows_is_told_as_an_internal_error() -> None:
    (text,) = of("image.upload", *writing("a"), *not_stored("a", kind="melted"))
    assert text.startswith("Failed to upload image data due to internal error")


# --- messages --------------------------------------------------------------------------


def test_a_message_knows_where_it_came_from() -> None:
    past = (*writing("a"), *stored("a"))
    *_, last = recorded(*past)
    messages = [message for message in told(*past) if message.position == last.position]
    assert [message.id for message in messages] == [uuid5(last.event_id, str(index)) for index in range(3)]
    for message in messages:
        assert (message.stream, message.image_id, message.request_id) == (STREAM, IMAGE, "req-1")
        assert message.at == last.meta.at


def test_telling_twice_gives_the_same_messages() -> None:
    past = (*writing("a"), *stored("a"), *completed())
    assert told(*past) == told(*past)
    ids = [message.id for message in told(*past)]
    assert len(set(ids)) == len(ids)


def test_an_event_that_only_a_newer_version_knows_is_told_to_nobody() -> None:
    *_, item = recorded(created())
    unknown = replace(item, event=e.Unrecognised("Frobnicated", 1))
    state = given(created()).state
    assert notifications(unknown, state, state) == []


@pytest.mark.requirement("REQ-074")
def test_the_envelope_is_that_of_oslo_messaging() -> None:
    (message,) = told(created())
    document = envelope(message, "image.localhost")
    assert set(document) == {"message_id", "publisher_id", "event_type", "priority", "payload", "timestamp"}
    assert document["timestamp"] == "2026-01-02 03:04:05.000000"
    assert document["message_id"] == str(message.id)
    assert (document["publisher_id"], document["event_type"]) == ("image.localhost", "image.create")
    assert (document["priority"], document["payload"]) == ("INFO", message.payload)


def test_digests_never_leave_the_service() -> None:
    for message in told(*writing("a"), *stored("a")):
        assert digests().value not in str(message.payload)
