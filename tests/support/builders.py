"""Terse events, blobs and commands: what a test does not say is unremarkable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kernel import commands as c
from kernel import events as e
from kernel.charges import Limit
from kernel.image import STAGING
from kernel.recorded import By, Meta

IMAGE = "6f1b4a3e-0c5d-4f6a-9d35-1f2c3b4a5d6e"
TASK = "0192f0c1-7d4e-7aaa-8bbb-1234567890ab"
TRANSFER = "transfer-1"
OWNER = "pA"
USER = By(user="uA", project=OWNER, roles=("member", "reader"))
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float = 0) -> datetime:
    """A moment of the tests' own time."""
    return START + timedelta(seconds=seconds)


def meta(seconds: float = 0, *, epoch: int | None = 1, **more: Any) -> Meta:
    """Circumstances at a moment, under the lease with this epoch."""
    return Meta(at=at(seconds), epoch=epoch, **{"by": USER, "request": "req-1", **more})


def digests(value: str = "d1") -> e.Digests:
    return e.Digests(md5=f"md5-{value}", algo="sha512", value=f"sha512-{value}")


def facts(*formats: e.Format) -> e.Facts:
    return e.Facts(formats=formats or (e.Format(name="raw"),))


def blob(name: str = "staged", size: int = 3, **more: Any) -> e.Blob:
    """Bytes in staging."""
    fields = {"store": STAGING, "url": f"file:///staging/{name}", "digests": digests(), "facts": facts(), **more}
    return e.Blob(name=name, size=size, **fields)


def location(store: str = "a", size: int | None = 3, **more: Any) -> e.Location:
    """A copy of ours in a store."""
    return e.Location(**{"store": store, "url": f"{store}://data", "name": name_in(store), "size": size, **more})


def name_in(store: str, epoch: int = 1) -> str:
    """The name that an import gives the bytes in a store."""
    return f"{IMAGE}/{TASK}/{store}.{epoch}"


# --- events ----------------------------------------------------------------------------


def created(**more: Any) -> e.ImageCreated:
    fields = {"owner": OWNER, "name": "n", "disk_format": "raw", "container_format": "bare", **more}
    return e.ImageCreated(image_id=IMAGE, **fields)


def staged(size: int = 3) -> tuple[e.Event, e.Event]:
    """The two events of a client's staging."""
    return e.StagingStarted(transfer=TRANSFER), e.DataStaged(transfer=TRANSFER, blob=blob(size=size))


def uploaded(store: str = "a", *, multi: bool = True, size: int = 3) -> tuple[e.Event, e.Event]:
    """The two events of a client's upload."""
    return (
        e.UploadStarted(transfer=TRANSFER, store=store, multi=multi),
        e.DataUploaded(transfer=TRANSFER, location=location(store, size), digests=digests(), virtual_size=size),
    )


def requested(*stores: str, **more: Any) -> e.ImportRequested:
    """An import of staged data into these stores of a site with several."""
    fields = {"task_id": TASK, "method": "glance-direct", "request": {"method": {"name": "glance-direct"}}, **more}
    return e.ImportRequested(**{"stores": stores or ("a",), "multi": True, **fields})


def copying(*stores: str, **more: Any) -> e.ImportRequested:
    """A copy of an active image to further stores."""
    fields = {"method": "copy-image", "copies": True, "inspects": False, **more}
    return requested(*(stores or ("b",)), **fields)


def downloading(*stores: str, **more: Any) -> e.ImportRequested:
    """An import that has to bring its bytes in first."""
    return requested(*stores, **{"method": "web-download", "fetches": True, **more})


def registering(**more: Any) -> e.ImportRequested:
    """An import of what lies somewhere already, hashed but not compared with anything."""
    options = {"url": "web://theirs", "store": "web", "hash": True, "verify": False, "leave": True, **more}
    return e.ImportRequested(
        task_id=TASK,
        type="location_import",
        method="location_import",
        request={"url": "web://theirs"},
        options=options,
        multi=True,
        inspects=False,
    )


def theirs(size: int = 3) -> e.LocationAdded:
    """Bytes of others that became an image's."""
    return e.LocationAdded(location=location("web", size, url="web://theirs", name=None), size=size)


def inspected(**more: Any) -> e.DataInspected:
    return e.DataInspected(**{"detected": ("raw",), "virtual_size": 3, **more})


def store_started(store: str = "a", epoch: int = 1) -> e.StoreStarted:
    return e.StoreStarted(store=store, name=name_in(store, epoch))


def stored(store: str = "a", size: int = 3) -> tuple[e.Event, e.Event]:
    """A store written: begun, and done."""
    return store_started(store), e.StoreSucceeded(store=store, location=location(store, size), digests=digests())


def not_stored(store: str = "a", reason: str = "no space", kind: str = "full") -> tuple[e.Event, e.Event]:
    """A store that failed: begun, and given up."""
    return store_started(store), e.StoreFailed(store=store, reason=reason, kind=kind)


def completed() -> tuple[e.Event, e.Event]:
    """The end of an import that succeeded."""
    return e.StagingCleared(), e.ImportCompleted(task_id=TASK)


def failed(reason: str = "it failed") -> e.ImportFailed:
    return e.ImportFailed(task_id=TASK, reason=reason)


def step_failed(step: str = "fetch", **more: Any) -> e.StepFailed:
    return e.StepFailed(step=step, **{"reason": "it failed", **more})


STAGED = (created(), *staged())
"""An image with staged data."""
ACTIVE = (created(), *uploaded("a"))
"""An image whose data is in the store `a`."""


def importing(*stores: str, **more: Any) -> tuple[e.Event, ...]:
    """A staged image whose import has begun."""
    return (*STAGED, requested(*stores, **more), e.ImportStarted())


def writing(*stores: str, **more: Any) -> tuple[e.Event, ...]:
    """An import whose data has passed inspection: only the stores are left."""
    return (*importing(*stores, **more), inspected())


# --- limits ----------------------------------------------------------------------------


def limited(resource: str, most: int, **how: Any) -> dict[tuple[str, str], Limit]:
    """A limit of the owner's."""
    return {(OWNER, resource): Limit(name=resource, most=most, **how)}


# --- commands --------------------------------------------------------------------------


def request_import(*stores: str, needs: str = "uploading", **more: Any) -> c.RequestImport:
    return c.RequestImport(needs=needs, request=requested(*stores, **more))


def record_success(store: str = "a", size: int = 3) -> c.RecordStoreSuccess:
    return c.RecordStoreSuccess(task_id=TASK, store=store, location=location(store, size), digests=digests())


def record_failure(store: str = "a", **more: Any) -> c.RecordStoreFailure:
    return c.RecordStoreFailure(task_id=TASK, store=store, **{"reason": "no space", "kind": "full", **more})


def fail_step(step: str = "fetch", **more: Any) -> c.FailStep:
    return c.FailStep(task_id=TASK, step=step, **{"reason": "it failed", **more})
