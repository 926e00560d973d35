"""One appender a process: requests gather while a batch is in flight, and go together.

    callers ──append()──▶ waiting ──┐                 ┌──▶ receipts, refusals
                                    ├─ one call ─▶ Postgres
    callers ──append()──▶ waiting ──┘  (autocommit)   └──▶ committed(events), in log order

There is no timer: alone, a caller waits for nobody; under load the batch grows with
the number of callers.  It takes half of them: while the database works for one half,
the other half is answered and comes back, and neither side stands idle.

A lost connection leaves the fate of a batch unknown, so it is sent again on the next
one: the log recognises what it has by event id.  A caller that is cancelled does not
cancel the batch it is part of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import asyncpg
import structlog
from msgspec.json import decode as decode_json

from kernel.batch import APPEND, Parts, arguments
from kernel.database import FULL, LOST, connect, let_go
from kernel.errors import EntrepotError, Fenced, LeaseHeld, OverQuota, Unavailable, Unrecordable, WrongExpectedVersion
from kernel.log import Committed, Receipt, Request
from kernel.recorded import Recorded

log = structlog.get_logger(__name__)

CHANNEL: Final = "entrepot"
"""Postgres notification channel: something was appended."""

_FEW: Final = 8
"""Requests that always go together; of more, half go at a time."""

_MOST_EVENTS: Final = 1000
_MOST_BYTES: Final = 1 << 20
_MOST_WAITING: Final = 4096

_IMPATIENCE: Final = 20.0
"""Seconds after which a caller that cannot wait is told that the outcome is unknown."""

_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two attempts."""

_PATIENCE_WHEN_STOPPING: Final = 10.0
"""Seconds that what waits gets to be recorded before a stop."""


class _Waiting:
    """A request with its encoded parts and the caller that waits for it."""

    __slots__ = ("future", "limited", "parts", "patient", "request")

    def __init__(self, request: Request, patient: bool, future: asyncio.Future[Receipt]) -> None:
        self.request = request
        self.patient = patient
        self.future = future
        try:
            self.parts = Parts(request)
        except ValueError as error:  # half of a surrogate pair
            raise Unrecordable from error
        charges = request.rows.charges if request.rows is not None else ()
        self.limited = frozenset((owner, name) for owner, name, _, limit in charges if limit is not None)


class Appender:
    """Owns the process's writing connection."""

    def __init__(
        self,
        dsn: str,
        committed: Committed = lambda events: None,
        revive: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._dsn = dsn
        self._committed = committed
        self._revive = revive
        self._waiting: list[_Waiting] = []
        self._answered = 0
        """Callers whose batch went last: they will be back soon."""
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.connected = False

    async def start(self) -> None:
        await self._connect()
        self._task = asyncio.create_task(self._run(), name="appender")

    async def stop(self) -> None:
        """Finish what waits, then close."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_PATIENCE_WHEN_STOPPING)
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._connection is not None:
            await let_go(self._connection)
        _fail(self._waiting, Unavailable("The service is stopping"))
        self._waiting = []
        self._room.set()

    async def append(self, request: Request, patient: bool = False) -> Receipt:
        """Hand a request over and wait for its outcome."""
        self._check_open(patient)
        while len(self._waiting) >= _MOST_WAITING:
            self._room.clear()
            await self._room.wait()
            self._check_open(patient)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, patient, future))
        self._wake.set()
        if patient:
            return await asyncio.shield(future)
        try:
            async with asyncio.timeout(_IMPATIENCE):
                return await asyncio.shield(future)
        except TimeoutError:
            raise Unavailable("The database did not answer in time") from None

    def _check_open(self, patient: bool) -> None:
        """Refuse what would wait in vain, or longer than its caller can."""
        stopped = self._task is None or self._task.done()
        if self._stopping and (stopped or not patient):
            raise Unavailable("The service is stopping")
        if not self.connected and not patient:
            raise Unavailable("The database is not available")

    # --- the loop --------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._next_batch()
            if not batch:
                if self._stopping:
                    return
                self._wake.clear()
                continue
            try:
                await self._deliver(batch)
            except asyncio.CancelledError:
                _fail(batch, Unavailable("The service is stopping"))
                raise
            except Exception as error:
                log.exception("append_crashed", requests=len(batch))
                _fail(batch, error)
            self._room.set()

    def _next_batch(self) -> list[_Waiting]:
        """From the front, as much as fits: a stream, and an owner under a limit, once a batch."""
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        streams: set[Any] = set()
        limited: set[tuple[str, str]] = set()
        most = max(_FEW, -(-(len(self._waiting) + self._answered) // 2))
        events = size = 0
        for index, waiting in enumerate(self._waiting):
            if len(batch) == most:
                left += self._waiting[index:]
                break
            request = waiting.request
            fits = events + len(request.events) <= _MOST_EVENTS and size + waiting.parts.size <= _MOST_BYTES
            if request.stream in streams or not limited.isdisjoint(waiting.limited) or (batch and not fits):
                streams.add(request.stream)
                left.append(waiting)
                continue
            streams.add(request.stream)
            limited.update(waiting.limited)
            events += len(request.events)
            size += waiting.parts.size
            batch.append(waiting)
        self._waiting, self._answered = left, len(batch)
        return batch

    async def _deliver(self, batch: list[_Waiting]) -> None:
        """Send a batch until its fate is known."""
        pause = 0.0
        while batch:
            try:
                rows = await self._call(batch)
            except LOST as error:
                if isinstance(error, ValueError):  # asyncpg's word for an argument it cannot encode
                    await self._single_out(batch, error)
                    return
                log.warning("append_connection_lost", error=repr(error), requests=len(batch))
                if isinstance(error, FULL):  # nothing was written
                    batch = _patient(batch)
                await asyncio.sleep(pause)
                pause = min(max(pause * 2, _PAUSE), _LONGEST_PAUSE)
                await self._reconnect()  # where a server is read-only, another one may be the right one by now
                continue
            except (asyncpg.PostgresError, ValueError, OverflowError) as error:
                await self._single_out(batch, error)
                return
            self._settle(batch, rows)
            return

    async def _single_out(self, batch: list[_Waiting], error: Exception) -> None:
        """A batch failed as a whole: let only the guilty request fail."""
        if len(batch) > 1:
            for waiting in batch:
                await self._deliver([waiting])
        elif not batch[0].future.done():
            log.error("append_refused", error=repr(error))
            batch[0].future.set_exception(_unrecordable(error))

    async def _call(self, batch: Sequence[_Waiting]) -> Sequence[Any]:
        if self._connection is None or self._connection.is_closed():
            raise ConnectionError("not connected")
        rows: Sequence[Any] = await self._connection.fetch(APPEND, *arguments([w.parts for w in batch], CHANNEL))
        return rows

    def _settle(self, batch: Sequence[_Waiting], rows: Sequence[Any]) -> None:
        recorded: list[Recorded] = []
        for waiting, row in zip(batch, rows, strict=True):
            if row["outcome"] in ("accepted", "repeated") and row["first_position"] is not None:
                recorded += _recorded(waiting.request, row["stream_version"], row["first_position"])
        recorded.sort(key=lambda item: item.position)
        if recorded:
            self._hand_over(recorded)
        for waiting, row in zip(batch, rows, strict=True):
            if waiting.future.done():
                continue
            answer = _answer(row)
            if isinstance(answer, Receipt):
                waiting.future.set_result(answer)
            else:
                waiting.future.set_exception(answer)

    def _hand_over(self, recorded: Sequence[Recorded]) -> None:
        """A hint: whoever misses it finds the events by reading, so its failure is not the callers'."""
        try:
            self._committed(recorded)
        except Exception:
            log.exception("hand_over_failed", events=len(recorded))

    # --- the connection ----------------------------------------------------------------

    async def _connect(self) -> None:
        self._connection = await connect(self._dsn, "appender", statement_timeout="30s")
        self.connected = True

    async def _reconnect(self) -> None:
        """Come back, with growing patience; meanwhile whoever cannot wait is told so."""
        self.connected = False
        if self._connection is not None:
            await let_go(self._connection)
            self._connection = None
        pause = _PAUSE
        while True:
            self._refuse_impatient()
            try:
                if self._revive is not None:
                    await self._revive()
                await self._connect()
            except (EntrepotError, asyncpg.PostgresError) as error:
                log.warning("database_away", error=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                log.info("database_back")
                return

    def _refuse_impatient(self) -> None:
        """Requests not sent yet, whose callers cannot wait, fail now: nothing of theirs was written."""
        self._waiting = _patient(self._waiting)
        self._room.set()


def _patient(requests: Sequence[_Waiting]) -> list[_Waiting]:
    """Those whose callers can wait; the others, of whom nothing was written, are told so."""
    _fail([waiting for waiting in requests if not waiting.patient], Unavailable("The database is not available"))
    return [waiting for waiting in requests if waiting.patient]


def _fail(requests: Sequence[_Waiting], error: Exception) -> None:
    for waiting in requests:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _unrecordable(error: Exception) -> Exception:
    """The same, as an error of ours when it is what was to be recorded that is at fault."""
    if not isinstance(error, (asyncpg.DataError, ValueError, OverflowError)):
        return error
    refused = Unrecordable()
    refused.__cause__ = error
    return refused


def _recorded(request: Request, version: int, first_position: int) -> list[Recorded]:
    first_version = version - len(request.events) + 1
    return [
        Recorded(
            position=first_position + index,
            category=request.category,
            stream=request.stream,
            version=first_version + index,
            event_id=item.event_id,
            event=item.event,
            meta=item.meta,
        )
        for index, item in enumerate(request.events)
    ]


def _answer(row: Any) -> Receipt | EntrepotError:
    match row["outcome"]:
        case "accepted" | "repeated":
            return Receipt(
                version=row["stream_version"],
                first_position=row["first_position"],
                repeated=row["outcome"] == "repeated",
            )
        case "conflict":
            return WrongExpectedVersion()
        case "fenced":
            return Fenced()
        case "held":
            return LeaseHeld()
        case "over_quota":
            resource, limit, used, delta = decode_json(row["detail"])
            return OverQuota(resource, limit, used, delta)
        case other:
            return EntrepotError(f"unknown outcome {other}")
