"""Requests as the arguments of one call of `append`.

The function takes arrays: of requests, of events, and of each kind of row that follows,
the latter three with the numbers of the requests they belong to.  What can be encoded
without knowing the batch is encoded once, when a request arrives; a batch only strings
the pieces together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from msgspec.structs import replace

from kernel.codec import encode, type_of, version_of
from kernel.log import Request
from kernel.recorded import Pending
from kernel.rows import Rows

_BARE: Final = Rows()
_AT_ONCE: Final = float("-inf")
"""How long a lease that is simply given back keeps others out."""

APPEND: Final = f"SELECT * FROM append({', '.join(f'${number}' for number in range(1, 34))})"


class Parts:
    """The encoded pieces of a request."""

    __slots__ = (
        "datas",
        "image",
        "members",
        "metas",
        "park",
        "request",
        "rows",
        "size",
        "state",
        "take",
        "tasks",
        "types",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.rows = rows = request.rows or _BARE
        self.types = [type_of(item.event) for item in request.events]
        self.datas = [encode(item.event) for item in request.events]
        self.metas = [_meta(item, name) for item, name in zip(request.events, self.types, strict=True)]
        self.image = encode(rows.image) if rows.image is not None else None
        self.state = bytes(rows.state.state) if rows.state is not None else b""
        self.tasks = [encode(row) for row in rows.tasks]
        self.members = [encode(row) for row in rows.members]
        self.take = encode(rows.take) if rows.take is not None else None
        self.park = rows.park if rows.park is not None else _AT_ONCE if rows.release else None
        self.size = sum(map(len, (*self.datas, *self.metas, *self.tasks, *self.members, self.state, self.image or b"")))


def _meta(item: Pending, name: str) -> bytes:
    version = version_of(name)
    return encode(item.meta if version == 1 else replace(item.meta, v=version))


def arguments(batch: Sequence[Parts], channel: str) -> list[Any]:
    """The arguments of `APPEND`, in the order of the function's parameters."""
    event_of: list[int] = []
    nth: list[int] = []
    ids: list[UUID] = []
    types: list[str] = []
    datas: list[bytes] = []
    metas: list[bytes] = []
    images: list[tuple[int, bytes, int, int, bytes]] = []
    tasks: list[tuple[int, bytes]] = []
    members: list[tuple[int, bytes]] = []
    charges: list[tuple[Any, ...]] = []
    secrets: list[tuple[int, str, bytes]] = []
    for number, parts in enumerate(batch, 1):
        rows, events = parts.rows, parts.request.events
        event_of += [number] * len(events)
        nth += range(1, len(events) + 1)
        ids += [item.event_id for item in events]
        types += parts.types
        datas += parts.datas
        metas += parts.metas
        if parts.image is not None and rows.state is not None:
            images.append((number, parts.image, rows.state.version, rows.state.fold, parts.state))
        tasks += [(number, row) for row in parts.tasks]
        members += [(number, row) for row in parts.members]
        charges += [(number, *charge) for charge in rows.charges]
        secrets += [(number, secret.name, secret.data) for secret in rows.secrets]
    requests = [parts.request for parts in batch]
    return [
        [request.category for request in requests],
        [request.stream for request in requests],
        [request.expected for request in requests],
        [request.holder for request in requests],
        [request.epoch for request in requests],
        [parts.take for parts in batch],
        [parts.park for parts in batch],
        event_of,
        nth,
        ids,
        types,
        datas,
        metas,
        *_columns(images, 5),
        *_columns(tasks, 2),
        *_columns(members, 2),
        *_columns(charges, 5),
        *_columns(secrets, 3),
        [number for number, parts in enumerate(batch, 1) if parts.rows.forget],
        [number for number, parts in enumerate(batch, 1) if parts.rows.interrupt],
        channel,
    ]


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width
