"""Tables full of images as a cloud has them: one big project, one small one, many others.

The rows are those that appends write, without the log behind them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from kernel import events as e
from kernel.codec import encode
from kernel.database import connect
from kernel.ids import new_id
from kernel.log import Request
from kernel.recorded import By, Meta, Pending
from tests.support.builders import START, location
from tests.support.logs import Changed

BIG: Final = "big"
"""The project that owns nearly everything."""
SMALL: Final = "small"
"""The project that owns ten images, and with which twenty of others are shared, however many there are."""

FRIEND: Final = "friend"
"""The project with which one in a hundred images is shared."""

_OTHERS: Final = 40
_SYSTEMS: Final = ("ubuntu", "debian", "fedora", "centos", "windows")


async def fill_rows(dsn: str, images: int, big: str = BIG) -> None:
    """Give the big project so many images, the small one ten, and others a twentieth more."""
    connection = await connect(dsn, "filling")
    try:
        stories = [story(number, owner).rows for number, owner in enumerate(_owners(images, big))]
        rows = [rows for rows in stories if rows is not None]
        await _insert(connection, "images", [encode(row.image) for row in rows])
        await _insert(connection, "states", [encode(row.state) for row in rows])
        await _insert(connection, "members", [encode(member) for row in rows for member in row.members])
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


async def _insert(connection: Any, table: str, rows: list[bytes]) -> None:
    await connection.execute(
        f"INSERT INTO {table} SELECT p.* FROM unnest($1::json[]) AS d,"
        f" LATERAL json_populate_record(NULL::{table}, d) AS p",
        rows,
    )


def _owners(images: int, big: str = BIG) -> list[str]:
    owners = [big] * images + [SMALL] * 10 + [f"p{number % _OTHERS}" for number in range(images // 20)]
    random.Random(7).shuffle(owners)
    return owners


def story(number: int, owner: str) -> Request:
    """The whole life of the image with this number so far, as one append."""
    stream = new_id()
    dice = random.Random(number)
    events = list(_events(stream, owner, number, dice))
    moment = START + timedelta(seconds=number)
    return Changed(stream).by(*events, recorded=_recorded(events, owner, moment))


def _members(number: int, dice: random.Random) -> Iterator[str]:
    if number < 100:
        yield SMALL
    if dice.random() < 0.05:
        yield FRIEND


def _recorded(events: list[e.Event], owner: str, moment: datetime) -> tuple[Pending, ...]:
    by = By(user=f"u-{owner}", project=owner, roles=("member", "reader"))
    return tuple(Pending(new_id(), event, Meta(at=moment, by=by, request="req-1", epoch=1)) for event in events)


def _events(stream: UUID, owner: str, number: int, dice: random.Random) -> Iterator[e.Event]:
    visibility = dice.choices(("private", "shared", "community", "public"), (70, 22, 4, 4))[0]
    fate = dice.choices(("active", "queued", "deactivated", "deleted"), (85, 10, 2, 3))[0]
    tags = [tag for tag, share in (("linux", 0.5), ("golden", 0.001), ("nightly", 0.1)) if dice.random() < share]
    system = dice.choice(_SYSTEMS)
    yield e.ImageCreated(
        image_id=str(stream),
        owner=owner,
        name="ubuntu-22.04" if dice.random() < 0.01 else f"image-{number}",
        visibility=visibility,
        hidden=dice.random() < 0.01,
        disk_format=dice.choice(("raw", "qcow2")),
        container_format="bare",
        min_ram=dice.choice((0, 512, 2048)),
        tags=tuple(tags),
        properties={
            "architecture": "x86_64",
            "hw_disk_bus": "virtio",
            "hw_scsi_model": "virtio-scsi",
            "os_distro": system,
            "os_version": str(dice.randrange(30)),
            "owner_specified.openstack.md5": "",
            "owner_specified.openstack.object": f"images/image-{number}",
            "owner_specified.openstack.sha256": "",
            "serial": str(number),
        },
    )
    if visibility == "shared":
        for member in _members(number, dice):
            yield e.MemberAdded(member=member)
            if dice.random() < 0.7:
                yield e.MemberStatusChanged(member=member, status="accepted")
    if fate == "queued":
        return
    size = dice.randrange(1 << 20, 1 << 34)
    yield e.UploadStarted(transfer="t", store="file")
    sums = e.Digests(md5=f"{number:032x}", algo="sha512", value=f"{number:0128x}")
    yield e.DataUploaded(transfer="t", location=location("file", size), digests=sums, virtual_size=size)
    if fate == "deactivated":
        yield e.ImageDeactivated()
    if fate == "deleted":
        yield e.ImageDeleted()
