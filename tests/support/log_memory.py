"""The event log without a database: the same answers as `kernel.log_postgres`, held to the same contract suite."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from kernel.clock import Clock, SystemClock
from kernel.codec import decode, decode_meta, encode, type_of, version_of
from kernel.errors import Fenced, LeaseHeld, OverQuota, WrongExpectedVersion
from kernel.evolve import NOTHING, fold
from kernel.image import FOLD, Image
from kernel.log import Committed, Loaded, Receipt, Request
from kernel.log_postgres import assert_contiguous, decode_image
from kernel.recorded import IMAGE, Category, Pending, Recorded
from kernel.rows import ImageRow, MemberRow, Rows, StateRow, Take, TaskRow


class Row(Struct, frozen=True):
    """One event in the table."""

    category: str
    stream: UUID
    version: int
    event_id: UUID
    type: str
    data: bytes
    meta: bytes


class LeaseRow(Struct, frozen=True, kw_only=True):
    """Who works on a stream; `until` is None once the lease was given back."""

    owner: UUID | None
    node: str
    epoch: int
    until: datetime | None
    yielding: bool = False


class MemoryLog:
    """`kernel.log.EventLog` in lists and dictionaries."""

    def __init__(self, clock: Clock | None = None, committed: Committed = lambda events: None) -> None:
        self.clock = clock or SystemClock()
        self.rows: list[Row] = []
        self.images: dict[UUID, ImageRow] = {}
        self.states: dict[UUID, StateRow] = {}
        self.tasks: dict[str, TaskRow] = {}
        self.members: dict[tuple[UUID, str], MemberRow] = {}
        self.usage: dict[tuple[str, str], int] = {}
        self.leases: dict[UUID, LeaseRow] = {}
        self.secrets: dict[tuple[UUID, str], bytes] = {}
        self.interrupted: list[UUID] = []
        """Streams whose holders were told to look up, in order."""
        self._committed = committed

    # --- writing -----------------------------------------------------------------------

    async def append(self, request: Request, *, patient: bool = False) -> Receipt:
        receipt = self._repeated(request) or self._accept(request)
        if receipt.first_position is not None:
            self._committed(self._read(receipt.first_position - 1, len(request.events)))
        return receipt

    def _repeated(self, request: Request) -> Receipt | None:
        """The former answer to a request whose first event is here already."""
        if not request.events:
            return None
        for position, row in enumerate(self.rows, 1):
            if row.event_id == request.events[0].event_id:
                version = row.version + len(request.events) - 1
                return Receipt(version=version, first_position=position, repeated=True)
        return None

    def _accept(self, request: Request) -> Receipt:
        """Check everything, then write everything."""
        rows = request.rows or Rows()
        current = sum(row.stream == request.stream and row.category == request.category for row in self.rows)
        self._check_fence(request)
        if request.expected is not None and request.expected != current:
            raise WrongExpectedVersion
        if rows.take is not None:
            self._check_free(request.stream, rows.take)
        self._check_quota(rows)
        first = len(self.rows) + 1 if request.events else None
        for version, item in enumerate(request.events, current + 1):
            self.rows.append(_row(request, version, item))
        self._write(request.stream, rows)
        return Receipt(version=current + len(request.events), first_position=first)

    def _check_fence(self, request: Request) -> None:
        lease = self.leases.get(request.stream)
        held = lease is not None and lease.owner == request.holder and lease.epoch == request.epoch
        if request.holder is not None and not held:
            raise Fenced

    def _check_free(self, stream: UUID, take: Take) -> None:
        lease = self.leases.get(stream)
        if lease is None or (lease.owner, lease.epoch, lease.yielding) == (take.owner, take.epoch, take.yielding):
            return
        alive = lease.until is not None and lease.until > self.clock.now()
        if lease.epoch >= take.epoch or (alive and not lease.yielding):
            raise LeaseHeld

    def _check_quota(self, rows: Rows) -> None:
        for owner, resource, amount, limit in rows.charges:
            used = self.usage.get((owner, resource), 0)
            if limit is not None and amount >= 0 and used + amount > limit:
                raise OverQuota(resource, limit, used, amount)

    def _write(self, stream: UUID, rows: Rows) -> None:
        if rows.state is not None:
            self.states[stream] = rows.state
        if rows.image is not None:
            former = self.images.get(rows.image.id, rows.image)
            self.images[rows.image.id] = replace(rows.image, image_id=former.image_id, created_at=former.created_at)
        for task in rows.tasks:
            self.tasks[task.id] = task
        for member in rows.members:
            self.members[member.image, member.member] = member
        for owner, resource, amount, _ in rows.charges:
            self.usage[owner, resource] = self.usage.get((owner, resource), 0) + amount
        self._write_lease(stream, rows)
        for secret in rows.secrets:
            self.secrets[stream, secret.name] = secret.data
        if rows.forget:
            self.secrets = {key: data for key, data in self.secrets.items() if key[0] != stream}
        if rows.interrupt:
            self.interrupted.append(stream)

    def _write_lease(self, stream: UUID, rows: Rows) -> None:
        now = self.clock.now()
        if rows.take is not None:
            take = rows.take
            until = now + timedelta(seconds=take.ttl)
            self.leases[stream] = LeaseRow(
                owner=take.owner, node=take.node, epoch=take.epoch, until=until, yielding=take.yielding
            )
        if stream in self.leases and (rows.release or rows.park is not None):
            later = now + timedelta(seconds=rows.park) if rows.park is not None else None
            self.leases[stream] = replace(self.leases[stream], owner=None, until=later)

    def renew(self, owner: UUID, ttl: float, held: Mapping[UUID, int]) -> Collection[UUID]:
        """Renew leases by stream and epoch; returns the streams that are still this owner's."""
        until = self.clock.now() + timedelta(seconds=ttl)
        still = [s for s, epoch in held.items() if (w := self.leases.get(s)) and (w.owner, w.epoch) == (owner, epoch)]
        for stream in still:
            self.leases[stream] = replace(self.leases[stream], until=until)
        return still

    # --- reading -----------------------------------------------------------------------

    async def load(self, stream: UUID) -> Loaded:
        row, lease = self.states.get(stream), self.leases.get(stream)
        image = NOTHING
        if row is not None:
            image = decode_image(row.state) if row.fold == FOLD else await self.fold(stream)
        if lease is None:
            return Loaded(image=image)
        ran_out = lease.until is not None and lease.until < self.clock.now()
        return Loaded(image=image, epoch=lease.epoch, abandoned=lease.owner is not None and ran_out)

    async def fold(self, stream: UUID) -> Image:
        """The state from the events alone."""
        return fold(await self.read_stream(IMAGE, stream, 0, len(self.rows)))

    async def read_stream(self, category: Category, stream: UUID, after: int = 0, limit: int = 500) -> list[Recorded]:
        found = [item for item in self._read(0, len(self.rows)) if (item.category, item.stream) == (category, stream)]
        return found[after : after + limit]

    async def read_of(self, stream: UUID, after: int, until: int, limit: int = 500) -> list[Recorded]:
        found = [item for item in self._read(after, len(self.rows)) if item.stream == stream]
        return [item for item in found if item.position <= until][:limit]

    async def read_all(self, after: int, limit: int = 1000) -> list[Recorded]:
        page = self._read(after, limit)
        assert_contiguous(page, after)
        return page

    async def head(self) -> int:
        return len(self.rows)

    def _read(self, after: int, limit: int) -> list[Recorded]:
        return [_recorded(position, row) for position, row in enumerate(self.rows[after : after + limit], after + 1)]


def _row(request: Request, version: int, item: Pending) -> Row:
    kind = type_of(item.event)
    meta = replace(item.meta, v=version_of(kind))
    return Row(request.category, request.stream, version, item.event_id, kind, encode(item.event), encode(meta))


def _recorded(position: int, row: Row) -> Recorded:
    meta = decode_meta(row.meta)
    return Recorded(
        position=position,
        category=row.category,
        stream=row.stream,
        version=row.version,
        event_id=row.event_id,
        event=decode(row.type, meta.v, row.data),
        meta=meta,
    )
