"""Proving that the log still is what was once written.

    hash = sha256(hash of the event before, bytes of this event)

Whoever changes, removes or moves an event breaks the chain at that place, and
`verify_chain` names it.  Who cuts the end off breaks nothing: that is found by an
anchor, the position and hash of a former head, kept where the log's owner cannot
reach it.  Events never change, so no snapshot is needed and writers are not held up.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import lru_cache
from hashlib import sha256
from struct import Struct as Layout
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

from kernel.database import connect, let_go, reachable
from kernel.errors import Invalid

_PAGE: Final = 2000
_COLUMNS: Final = "position, category, stream, version, event_id, type, data, meta, hash"
_READ: Final = f"SELECT {_COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2"

_int4 = Layout(">i").pack
_INT4: Final = _int4(4)
_UUID: Final = _int4(16)


@lru_cache(maxsize=1024)
def _text(word: str) -> bytes:
    raw = word.encode()
    return _int4(len(raw)) + raw


def event_hash(
    previous: bytes,
    category: str,
    stream: UUID,
    version: int,
    event_id: UUID,
    type_name: str,
    data: bytes,
    meta: bytes,
) -> bytes:
    """The hash of an event, as `hashed_bytes` and `chain_step` of the first migration have it."""
    parts = (
        previous,
        _text(category),
        _UUID,
        stream.bytes,
        _INT4,
        _int4(version),
        _UUID,
        event_id.bytes,
        _text(type_name),
        _int4(len(data)),
        data,
        _int4(len(meta)),
        meta,
    )
    return sha256(b"".join(parts)).digest()


# --- what is found -----------------------------------------------------------------------


class Anchor(Struct, frozen=True):
    """A head of the log as it once was."""

    position: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """From `position:hash`; `Invalid` when it is something else."""
        position, colon, digest = text.strip().partition(":")
        try:
            if not colon or not position.isascii() or not position.isdigit():
                raise ValueError
            anchor = cls(int(position), bytes.fromhex(digest))
        except ValueError:
            raise Invalid(f"'{text.strip()[:100]}' is no anchor: position:hash is wanted") from None
        if len(anchor.hash) != (32 if anchor.position else 0):
            raise Invalid(f"'{text.strip()[:100]}' is no anchor: the hash must have 64 hexadecimal digits")
        return anchor


class Break(Struct, frozen=True):
    """The first position at which the log is not what was written."""

    position: int
    kind: Literal["changed", "missing", "swapped"]
    detail: str


class Held(Struct, frozen=True):
    """Whether the log still contains an anchor, and if not, why."""

    anchor: Anchor
    fault: str | None = None


class Audit(Struct, frozen=True, kw_only=True):
    """What following the chain found."""

    events: int
    """Events whose hashes are right, from the first one on."""
    head: Anchor
    """The last of them."""
    seconds: float
    broken: Break | None = None
    anchors: tuple[Held, ...] = ()

    @property
    def intact(self) -> bool:
        return self.broken is None and not any(held.fault for held in self.anchors)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0


# --- looking -----------------------------------------------------------------------------


async def head(dsn: str) -> Anchor:
    """The newest event's position and hash, taken at their word."""
    connection = await connect(dsn, "audit")
    try:
        with reachable():
            return await newest(connection)
    finally:
        await let_go(connection)


async def verify_chain(
    dsn: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    anchors: Sequence[Anchor] = (),
) -> Audit:
    """Follow the chain through the whole log, as far as it holds, and look for anchors on the way."""
    connection = await connect(dsn, "audit", statement_timeout="0")
    try:
        with reachable():
            began = time.perf_counter()
            end = (await newest(connection)).position
            wanted: dict[int, list[Anchor]] = defaultdict(list)
            for anchor in anchors:
                wanted[anchor.position].append(anchor)
            chain = _Chain(wanted)
            broken = await _follow(connection, chain, end, progress)
            return Audit(
                events=chain.position,
                head=Anchor(chain.position, chain.hash),
                seconds=time.perf_counter() - began,
                broken=broken,
                anchors=tuple(Held(anchor, _fault(anchor, chain, end, broken)) for anchor in anchors),
            )
    finally:
        await let_go(connection)


class _Chain:
    """How far the chain has been followed."""

    def __init__(self, wanted: dict[int, list[Anchor]]) -> None:
        self.position = 0
        self.hash = b""
        self.rewritten: set[Anchor] = {anchor for anchor in wanted.pop(0, ()) if anchor.hash != b""}
        self._wanted = wanted

    def take(self, rows: Sequence[Any]) -> Any:
        """Follow a run of rows; returns the first one that does not belong where it stands."""
        position, before = self.position, self.hash
        for row in rows:
            at, category, stream, version, event_id, kind, data, meta, stored = row
            digest = event_hash(before, category, stream, version, event_id, kind, data, meta)
            if digest != stored or at != position + 1:
                self.position, self.hash = position, before
                return row
            position, before = at, digest
            if at in self._wanted:
                self.rewritten.update(anchor for anchor in self._wanted[at] if anchor.hash != digest)
        self.position, self.hash = position, before
        return None


async def _follow(connection: Any, chain: _Chain, end: int, progress: Callable[[int, int], None]) -> Break | None:
    culprit = None
    async with aclosing(_pages(connection, 0, end)) as pages:
        async for rows in pages:
            culprit = chain.take(rows)
            progress(chain.position, end)
            if culprit is not None:
                break
    return await _diagnose(connection, chain, culprit, end) if culprit is not None else None


async def _pages(connection: Any, after: int, end: int) -> AsyncGenerator[Sequence[Any], None]:
    """Rows in log order up to position `end`; the server reads the next page while one is looked at."""
    reading = asyncio.ensure_future(connection.fetch(_READ, after, _PAGE))
    try:
        while after < end and (rows := await reading):
            after = rows[-1]["position"]
            if after < end:
                reading = asyncio.ensure_future(connection.fetch(_READ, after, _PAGE))
                await asyncio.sleep(0)  # lets the request go out
            yield rows if after <= end else [row for row in rows if row["position"] <= end]
    finally:
        await asyncio.wait({reading})  # the connection takes one request at a time


async def newest(connection: Any) -> Anchor:
    """The head as a connection, or a `Database`, sees it."""
    row = await connection.fetchrow("SELECT position, hash FROM events ORDER BY position DESC LIMIT 1")
    return Anchor(row["position"], row["hash"]) if row else Anchor(0, b"")


# --- saying what happened ----------------------------------------------------------------


async def _diagnose(connection: Any, chain: _Chain, culprit: Any, end: int) -> Break:
    """What was done at the first position that is wrong."""
    position = chain.position + 1
    if culprit["position"] != position:
        last = culprit["position"] - 1
        gap = f"position {position} is" if last == position else f"positions {position} to {last} are"
        return Break(position, "missing", f"{gap} missing")
    async with aclosing(_pages(connection, position, end)) as pages:
        async for rows in pages:
            for row in rows:
                if _digest(chain.hash, row) in (row["hash"], culprit["hash"]):
                    there = row["position"]
                    return Break(position, "swapped", f"the event that belongs here stands at position {there}")
    following = await connection.fetchrow(_READ, position, 1)
    if following is not None and _digest(_digest(chain.hash, culprit), following) == following["hash"]:
        return Break(position, "changed", "the recorded hash was changed; the event itself is as it was written")
    what = f"the {culprit['type']} recorded here is not what was written, or what stood before it was removed"
    return Break(position, "changed", what)


def _digest(before: bytes, row: Any) -> bytes:
    return event_hash(before, *row[1:8])


def _fault(anchor: Anchor, chain: _Chain, end: int, broken: Break | None) -> str | None:
    """Why the log does not contain an anchor; None when it does."""
    if anchor in chain.rewritten:
        return f"the log was rewritten at or before position {anchor.position}"
    if anchor.position <= chain.position:
        return None
    if anchor.position > end:
        return f"the log ends at position {end}: its tail was cut off"
    assert broken is not None
    return f"the chain is broken before it, at position {broken.position}"
