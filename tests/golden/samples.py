"""What the golden files must decode to, for as long as the log lives: one value for each type and version.

A new event or a new version of one gets a line here, and its file from `tests/golden/make.py`.
Lines and files that exist are never changed: logs out there hold events like them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from kernel import events as e
from kernel.recorded import By, Meta

_IMAGE = "6f1b4a3e-0c5d-4f6a-9d35-1f2c3b4a5d6e"
_TASK = "0192f0c1-7d4e-7aaa-8bbb-1234567890ab"
_TRANSFER = "0192f0c1-7d4e-7aaa-8bbb-00000000a0a0"

META = Meta(
    at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    by=By(user="uA", project="pA", roles=("member", "reader")),
    request="req-6b2c",
    correlation=UUID("0192f0c1-7d4e-7aaa-8bbb-000000000001"),
    causation=UUID("0192f0c1-7d4e-7aaa-8bbb-000000000002"),
    worker=UUID("0192f0c1-7d4e-7aaa-8bbb-000000000003"),
    epoch=7,
)
"""The circumstances in every file."""

_DIGESTS = e.Digests(md5="9e107d9d372bb6826bd81d3542a419d6", algo="sha512", value="07e547d9586f6a73")
_FACTS = e.Facts(
    formats=(
        e.Format(name="raw"),
        e.Format(name="vmdk", virtual_size=4096, unsafe={"descriptor": "names /etc/passwd"}, variant="vmfs"),
    )
)
_BLOB = e.Blob(
    store="os_glance_staging_store",
    name=f"{_IMAGE}/{_TASK}/fetch.7",
    url="file:///staging/entrepot/x",
    size=43,
    digests=_DIGESTS,
    facts=_FACTS,
    identity=e.Identity(device=1, inode=2, size=43, mtime_ns=1767323045678901234),
    node="node-1",
)
_LOCATION = e.Location(
    store="fast",
    url="file:///fast/x",
    name=f"{_IMAGE}/{_TASK}/fast.7",
    size=43,
    metadata={"key": "value", "nested": {"list": [1, None, True]}},
)
_FOREIGN = e.Location(store="web", url="http://mirror/x")

EXPECTED: dict[str, e.Event] = {
    "ImageCreated.v1": e.ImageCreated(
        image_id=_IMAGE,
        owner="pA",
        name="Zürich – ☃",
        visibility="private",
        protected=True,
        hidden=True,
        disk_format="qcow2",
        container_format="bare",
        min_disk=1,
        min_ram=2,
        tags=("a", "b"),
        properties={"os_distro": "debian", "empty": "", "kernel_id": None},
    ),
    "ImageExpected.v1": e.ImageExpected(image=e.ImageCreated(image_id=_IMAGE, owner="pA", tags=("a",))),
    "ImageAppeared.v1": e.ImageAppeared(),
    "ImageUpdated.v1": e.ImageUpdated(
        name=None,
        owner="pB",
        visibility="public",
        protected=False,
        hidden=False,
        disk_format=None,
        container_format="ovf",
        min_disk=3,
        min_ram=4,
        tags=(),
        properties_set={"p": "v", "null": None},
        properties_removed=("q",),
    ),
    "TagAdded.v1": e.TagAdded(tag="t"),
    "TagRemoved.v1": e.TagRemoved(tag="t"),
    "MemberAdded.v1": e.MemberAdded(member="pB"),
    "MemberStatusChanged.v1": e.MemberStatusChanged(member="pB", status="accepted"),
    "MemberRemoved.v1": e.MemberRemoved(member="pB"),
    "ImageDeactivated.v1": e.ImageDeactivated(),
    "ImageReactivated.v1": e.ImageReactivated(),
    "DeletionScheduled.v1": e.DeletionScheduled(scrub_at=datetime(2026, 1, 3, 4, 5, 6, tzinfo=UTC)),
    "ImageDeleted.v1": e.ImageDeleted(),
    "StagingStarted.v1": e.StagingStarted(transfer=_TRANSFER, declared_size=43),
    "DataStaged.v1": e.DataStaged(transfer=_TRANSFER, blob=_BLOB),
    "StagingFailed.v1": e.StagingFailed(transfer=_TRANSFER, reason="the client went away"),
    "UploadStarted.v1": e.UploadStarted(transfer=_TRANSFER, store="fast", multi=True, declared_size=43),
    "DataUploaded.v1": e.DataUploaded(transfer=_TRANSFER, location=_LOCATION, digests=_DIGESTS, virtual_size=4096),
    "UploadFailed.v1": e.UploadFailed(transfer=_TRANSFER, store="fast", reason="no space", kind="full"),
    "ImportRequested.v1": e.ImportRequested(
        task_id=_TASK,
        method="web-download",
        request={"method": {"name": "web-download", "uri": "http://u:***@h/x"}, "all_stores": True},
        options={"uri": "http://h/x"},
        stores=("fast", "cheap"),
        multi=True,
        must_succeed=False,
        parallel=2,
        steps=("image_decompression", "image_conversion"),
        fetches=True,
        secret=True,
        copies=True,
        inspects=False,
        describes=True,
        task_ttl=3600,
    ),
    "ImportStarted.v1": e.ImportStarted(),
    "MetadataCopied.v1": e.MetadataCopied(
        disk_format="qcow2", container_format="bare", properties={"hw_rng_model": "virtio"}, size=43
    ),
    "FetchStarted.v1": e.FetchStarted(
        name=f"{_IMAGE}/{_TASK}/fetch.7", total=43, validator='"etag"', boot="0d5bfe4e-7f4c-4e57-a9a9-3f4a5b6c7d8e"
    ),
    "DataFetched.v1": e.DataFetched(blob=_BLOB),
    "StepCompleted.v1": e.StepCompleted(
        step="image_conversion",
        blob=_BLOB,
        disk_format="raw",
        container_format="bare",
        virtual_size=4096,
        properties_set={"p": "v"},
        properties_removed=("q",),
    ),
    "DataInspected.v1": e.DataInspected(detected=("gpt", "iso"), virtual_size=4096),
    "StepFailed.v1": e.StepFailed(step="inspect", reason="disk_format is wrong", kind="bad_value", inspection=True),
    "StoreStarted.v1": e.StoreStarted(store="fast", name=f"{_IMAGE}/{_TASK}/fast.7"),
    "StoreSucceeded.v1": e.StoreSucceeded(store="fast", location=_LOCATION, digests=_DIGESTS),
    "StoreFailed.v1": e.StoreFailed(store="cheap", reason="no space", kind="full"),
    "StagingCleared.v1": e.StagingCleared(kept=("file:///staging/entrepot/x",)),
    "ImportCompleted.v1": e.ImportCompleted(task_id=_TASK),
    "ImportFailed.v1": e.ImportFailed(task_id=_TASK, reason="no space"),
    "ImportCancelled.v1": e.ImportCancelled(task_id=_TASK, reason="an operator asked for it"),
    "ImportPreempted.v1": e.ImportPreempted(task_id=_TASK),
    "ImageImportExpired.v1": e.ImageImportExpired(task_id=_TASK),
    "DataHashed.v1": e.DataHashed(digests=_DIGESTS),
    "LocationAdded.v1": e.LocationAdded(location=_FOREIGN, size=43, digests=_DIGESTS, index=0),
    "LocationsReplaced.v1": e.LocationsReplaced(locations=(_LOCATION, _FOREIGN)),
    "LocationRemoved.v1": e.LocationRemoved(url="http://mirror/x", store="web", metadata={"key": "value"}),
    "LeaseTakenOver.v1": e.LeaseTakenOver(sweep_at=datetime(2026, 1, 2, 3, 4, 17, tzinfo=UTC)),
    "BytesPurged.v1": e.BytesPurged(
        blobs=(("fast", "file:///fast/x"), ("cheap", "file:///cheap/x")),
        sweeps=(
            e.Sweep(store="fast", below=8),
            e.Sweep(store="cheap", below=7, due=datetime(2026, 1, 2, 3, 4, 17, tzinfo=UTC)),
        ),
    ),
    "ImageSent.v1": e.ImageSent(
        image_id=_IMAGE, owner="pA", sent=42, asked=43, receiver_project="pB", receiver_user="uB"
    ),
}
