"""What `entrepot doctor` looks at in the database: server, schema, clock, work, leases, consumers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from kernel.database import connect, let_go, reachable
from kernel.errors import EntrepotError
from kernel.image import FOLD
from migrations.runner import pending
from ops.commands import units
from ops.commands.checks import Finding

_OLDEST: Final = 140000
"""The oldest server version that has all we use."""
_SKEW_WARN: Final = 0.5
_SKEW_FAIL: Final = 5.0
"""Seconds between our clock and the database's."""
_OVERDUE: Final = 60.0
"""Seconds after which work that nobody took up is noteworthy."""
_BEHIND: Final = 1000
"""Events a consumer may lag behind."""

_SINCE: Final = "greatest(i.due_at, (s.state->>'at')::timestamptz)"
"""Since when work waits: work that is due at once is dated back, so the newest event tells."""

_WORK: Final = f"""
SELECT count(*) AS count, min({_SINCE}) AS since, string_agg(DISTINCT work, ', ' ORDER BY work) AS kinds
FROM images i LEFT JOIN states s ON s.id = i.id WHERE work IS NOT NULL AND due_at <= clock_timestamp()
  AND NOT EXISTS (SELECT FROM leases l WHERE l.stream = i.id AND l.until > clock_timestamp())
"""
_LATER: Final = "SELECT count(*) FROM images WHERE work IS NOT NULL AND due_at > clock_timestamp()"
_OWED: Final = """
SELECT count(*) AS count, min((s.state->>'at')::timestamptz) AS since, min(l.until) AS next
FROM images i JOIN leases l ON l.stream = i.id LEFT JOIN states s ON s.id = i.id
WHERE i.work = 'purge' AND l.owner IS NULL AND l.until > clock_timestamp()
"""
_LEASES: Final = """
SELECT count(*) FILTER (WHERE until > clock_timestamp()) AS alive,
       count(*) FILTER (WHERE until <= clock_timestamp() AND until > '-infinity') AS expired,
       min(until) FILTER (WHERE until <= clock_timestamp() AND until > '-infinity') AS since
FROM leases WHERE owner IS NOT NULL
"""
_CONSUMERS: Final = """
SELECT name, position, until > clock_timestamp() AS driven, parked,
       (SELECT coalesce(max(position), 0) FROM events) AS head
FROM consumers ORDER BY name
"""


async def database(dsn: str) -> AsyncIterator[Finding]:
    """Everything the database tells."""
    try:
        connection = await connect(dsn, "doctor")
    except (EntrepotError, asyncpg.PostgresError) as error:
        yield Finding("postgres", "fail", units.plain(error), "start it, or correct --database")
        return
    try:
        with reachable():
            yield await _server(connection)
            yield await _clock(connection)
            schema = await _schema(dsn)
            yield schema
            if schema.status == "ok":
                yield await _folds(connection)
                yield await _work(connection)
                yield await _clean_up(connection)
                yield await _leases(connection)
                async for finding in _consumers(connection):
                    yield finding
    finally:
        await let_go(connection)


async def _server(connection: Any) -> Finding:
    version = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
    release = await connection.fetchval("SELECT current_setting('server_version')")
    found = f"PostgreSQL {release}"
    if version < _OLDEST:
        return Finding("postgres", "fail", found, f"use PostgreSQL {_OLDEST // 10000} or newer")
    if await connection.fetchval("SELECT current_setting('fsync')") != "on":
        return Finding("postgres", "fail", f"{found} with fsync off", "turn fsync on: a crash loses the log")
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        return Finding("postgres", "fail", f"{found}, a standby that cannot be written", "connect to the primary")
    return Finding("postgres", "ok", found)


async def _clock(connection: Any) -> Finding:
    sent = time.time()
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    skew = theirs.timestamp() - (sent + time.time()) / 2
    found = f"{skew:+.3f} s against the database's"
    if abs(skew) < _SKEW_WARN:
        return Finding("clock", "ok", found)
    return Finding("clock", "fail" if abs(skew) >= _SKEW_FAIL else "warn", found, "run NTP on both machines")


async def _schema(dsn: str) -> Finding:
    try:
        missing = await pending(dsn)
    except EntrepotError as error:
        return Finding("schema", "fail", units.plain(error), "run the version of entrepot that migrated it")
    if missing:
        return Finding("schema", "fail", f"lacks {', '.join(missing)}", "run `entrepot migrate`")
    return Finding("schema", "ok", "up to date")


async def _folds(connection: Any) -> Finding:
    """What lists are filtered by, and which work waits, is as the version said that wrote the rows."""
    other = await connection.fetchval("SELECT count(*) FROM states WHERE fold <> $1", FOLD)
    if not other:
        return Finding("read models", "ok", "made by this version")
    found = (
        f"{units.count(other, 'image')} folded by another version: read more slowly, and listed as that one saw them"
    )
    return Finding("read models", "warn", found, "once all nodes run this version, run `entrepot rebuild inline`")


async def _work(connection: Any) -> Finding:
    row = await connection.fetchrow(_WORK)
    later = await connection.fetchval(_LATER)
    rest = f"; {units.count(later, 'image')} with work due later" if later else ""
    if not row["count"]:
        return Finding("work", "ok", f"nothing waits{rest}")
    waited = _ago(row["since"])
    found = f"{units.count(row['count'], 'image')} waiting ({row['kinds']}), the oldest for {units.span(waited)}{rest}"
    if waited > _OVERDUE:
        return Finding("work", "warn", found, "is a service with role all or worker running, and has it room?")
    return Finding("work", "ok", found)


async def _clean_up(connection: Any) -> Finding:
    """Bytes that a store would not, or could not, let go: they are tried again less and less often."""
    row = await connection.fetchrow(_OWED)
    if not row["count"]:
        return Finding("clean-up", "ok", "nothing is owed")
    found = (
        f"{units.count(row['count'], 'image')} with bytes that could not be removed, the oldest for"
        f" {units.span(_ago(row['since']))}, tried again in {units.span(_until(row['next']))}"
    )
    advice = "see `not_deleted` and `store_gone` in the service's log: is the store reachable, and configured still?"
    return Finding("clean-up", "warn", found, advice)


async def _leases(connection: Any) -> Finding:
    row = await connection.fetchrow(_LEASES)
    found = f"{row['alive']} alive, {row['expired']} expired"
    if row["expired"]:
        found += f", the oldest {units.span(_ago(row['since']))} ago"
        return Finding("leases", "warn", found, "a worker died; the next one that runs takes its work over")
    return Finding("leases", "ok", found)


async def _consumers(connection: Any) -> AsyncIterator[Finding]:
    for row in await connection.fetch(_CONSUMERS):
        check, lag = f"consumer {row['name']}", row["head"] - row["position"]
        found = f"{units.count(lag, 'event')} behind"
        if lag < 0:
            advice = "the end of the log is missing: compare with an anchor (`entrepot audit --against`)"
            yield Finding(check, "fail", f"at position {row['position']}, the log ends at {row['head']}", advice)
        elif row["parked"]:
            yield Finding(check, "warn", f"{found}, some streams parked", "see `stream_parked` in the service's log")
        elif lag and not row["driven"]:
            advice = "start a service with role all or worker that has this consumer"
            yield Finding(check, "warn", f"{found}, and nobody drives it", advice)
        elif lag > _BEHIND:
            yield Finding(check, "warn", found, "is its receiver slow, or away?")
        else:
            yield Finding(check, "ok", found)


def _ago(at: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - at).total_seconds())


def _until(at: datetime) -> float:
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
