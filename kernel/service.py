"""The whole service as one value: built in order, started in order, stopped the other way round.

    database ─▶ log ─▶ leases, feed ─▶ site ─▶ commands ─▶ reactor ─▶ consumers
                                                      └─▶ the edge (HTTP), owned by the caller

A role decides what runs: `api` answers requests, `worker` does the work and drives
the consumers, `all` is both in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import structlog

from kernel.appender import Appender
from kernel.audit import newest
from kernel.clock import Clock, SystemClock
from kernel.consumers import Consumer
from kernel.database import Database
from kernel.deletions import Deletions
from kernel.dispatcher import Dispatcher, Muted
from kernel.extend import NotificationSink, Sink
from kernel.feed import Feed
from kernel.handle import Commands, Handled
from kernel.leases import Leases
from kernel.log_postgres import PostgresLog
from kernel.projector import PROJECTIONS, Projector
from kernel.queries import Queries
from kernel.quotas import Quotas, Source
from kernel.reactor import Reactor
from kernel.registry import Registry
from kernel.settings import Settings
from kernel.site import Site, build_site
from kernel.strays import Strays
from kernel.transfers import Transfers
from kernel.vault import Vault, load_key
from kernel.work import interrupts

log = structlog.get_logger(__name__)

Role = Literal["all", "api", "worker"]

GRACE = 20.0
"""Seconds that running imports get to finish on a graceful stop before they are handed over."""


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything that one process runs."""

    settings: Settings
    role: Role
    registry: Registry
    database: Database
    appender: Appender
    log: PostgresLog
    feed: Feed
    leases: Leases
    clock: Clock
    site: Site
    commands: Commands
    queries: Queries
    transfers: Transfers
    deletions: Deletions
    vault: Vault
    reactor: Reactor | None = None
    consumers: list[Consumer] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    sweeping: asyncio.Task[None] | None = None
    grace: float = GRACE
    stopping: asyncio.Task[None] | None = None

    def begin_to_stop(self) -> None:
        """Take nothing new up from now on, while whoever owns the edge still answers the last requests."""
        if self.stopping is None:
            self.stopping = asyncio.create_task(self._stop_working(), name="stopping")

    async def stopped(self) -> None:
        """Wait until what was running is finished or handed over."""
        self.begin_to_stop()
        assert self.stopping is not None
        await self.stopping

    async def _stop_working(self) -> None:
        if self.sweeping is not None:
            self.sweeping.cancel()
            await asyncio.wait({self.sweeping})
        if self.reactor is not None:
            await self.reactor.stop(self.grace)
        await asyncio.gather(*(consumer.stop() for consumer in self.consumers))


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    registry: Registry,
    dsn: str,
    *,
    role: Role = "all",
    node: str = "localhost",
    sinks: Sequence[tuple[NotificationSink, object]] = (),
    clock: Clock | None = None,
    grace: float = GRACE,
    revive: Callable[[], Awaitable[None]] | None = None,
    limits: Source | None = None,
) -> AsyncIterator[Service]:
    """A running service; on the way out it stops gracefully.  The schema must be up to date.

    limits: what projects may use, where somebody else knows it.
    revive: asked to bring the database back whenever it is found gone.
    """
    async with contextlib.AsyncExitStack() as stack:
        service = await _start(settings, registry, dsn, role, node, clock or SystemClock(), revive, stack)
        service.grace = grace
        service.site.quotas = Quotas(settings.default.user_storage_quota, limits)
        await _welcome(service, [driver.name for driver, _ in sinks])
        try:
            await _start_work(service, sinks)
            for warning in service.site.warnings:
                log.warning("probably_not_meant", option=warning)
            log.info("service_started", role=role, node=node, stores=sorted(service.site.backends))
            yield service
        finally:
            await service.stopped()
            for sink in service.sinks:
                await sink.close()
            log.info("service_stopped", role=role)


async def _start(
    settings: Settings,
    registry: Registry,
    dsn: str,
    role: Role,
    node: str,
    clock: Clock,
    revive: Callable[[], Awaitable[None]] | None,
    stack: contextlib.AsyncExitStack,
) -> Service:
    database = Database(dsn)
    await database.open()
    stack.push_async_callback(database.close)
    deployment: UUID = await database.fetchval("SELECT id FROM deployment")
    site = await build_site(settings, registry, deployment, node)
    stack.push_async_callback(site.close)
    path = settings.entrepot.secret_key_file or settings.state_dir / "secret.key"
    vault = Vault(await asyncio.to_thread(load_key, path), database)
    site.secrets = vault.open
    appender = Appender(dsn, lambda events: feed.committed(events), revive)
    event_log = PostgresLog(database, appender)
    leases = Leases(database, settings.import_worker.lease_seconds, node)
    feed = Feed(event_log, dsn, leases.interrupt)
    commands = Commands(event_log, leases, clock)
    commands.on_change.append(_interrupting(leases))
    await appender.start()
    stack.push_async_callback(appender.stop)
    await feed.start()
    stack.push_async_callback(feed.stop)
    await leases.start()
    stack.push_async_callback(leases.stop)
    return Service(
        settings=settings,
        role=role,
        registry=registry,
        database=database,
        appender=appender,
        log=event_log,
        feed=feed,
        leases=leases,
        clock=clock,
        site=site,
        commands=commands,
        queries=Queries(database, event_log, clock),
        transfers=Transfers(site, commands),
        deletions=Deletions(site, commands),
        vault=vault,
    )


def _interrupting(leases: Leases) -> Callable[[UUID, Handled], None]:
    def notice(stream: UUID, handled: Handled) -> None:
        if interrupts(handled.before, handled.after):
            leases.interrupt(stream)

    return notice


async def _welcome(service: Service, sinks: Sequence[str]) -> None:
    """Let sinks that are new begin where the log is now: what happened while nothing was to be sent is not sent.

    Every role does it, so that nothing is missed while no worker is there yet.
    """
    for name in sinks:
        await service.database.fetch(
            "INSERT INTO consumers (name, position) SELECT $1, coalesce(max(position), 0) FROM events"
            " ON CONFLICT DO NOTHING",
            _sink(name),
        )


def _sink(name: str) -> str:
    """What a sink is called among the consumers."""
    return f"sink {name}"


async def _start_work(service: Service, sinks: Sequence[tuple[NotificationSink, object]]) -> None:
    if service.role == "api":
        return
    service.reactor = Reactor(
        service.site, service.commands, service.leases, service.database, service.feed, service.clock
    )
    await service.reactor.start()
    strays = Strays(service.site.staging, service.log)
    service.sweeping = asyncio.create_task(strays.keep_swept(), name="staging sweep")
    muted = Muted(service.settings.default.disabled_notifications)
    for driver, config in sinks:
        sink = await driver.connect(config)
        service.sinks.append(sink)
        dispatcher = Dispatcher(sink, service.log, muted)
        anchor = functools.partial(dispatcher.anchor, functools.partial(newest, service.database))
        _consume(service, _sink(driver.name), dispatcher, anchor)
    for projection in PROJECTIONS:
        projector = Projector(projection, service.log, service.database)
        _consume(service, f"projection {projection.NAME}", projector, service.vault.keep_swept)
    for consumer in service.consumers:
        await consumer.start()


def _consume(
    service: Service,
    name: str,
    effect: Dispatcher | Projector,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> None:
    ttl = service.settings.import_worker.lease_seconds
    service.consumers.append(Consumer(name, effect, service.log, service.feed, service.database, ttl, meanwhile))
