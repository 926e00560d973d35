"""The serving process: database, schema, service, HTTP; and several of them on one port.

    entrepot serve ─▶ supervisor (only with --processes N) ─▶ N × [ service + HTTP ]

Each process is whole: it answers requests, works on imports and follows the log.  The
supervisor restarts the ones that die and passes signals on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web
from pydantic import ValidationError

from handlers.app import App
from handlers.image_schema import ImageSchema
from handlers.policy import Policy
from handlers.protection import Protection
from handlers.wire import Server
from kernel._jail import die_with_parent
from kernel.errors import ConfigError
from kernel.extend import AuthBackend, Authenticator, NotificationSink
from kernel.options import meant
from kernel.registry import Registry
from kernel.service import Role, Service, running
from kernel.settings import Settings
from kernel.site import describe, located
from migrations.runner import migrate
from ops import drill
from ops.config import unused
from ops.database import Postgres
from ops.memory import keep_lean
from plugins.limits.keystone import LimitsConfig, UnifiedLimits

log = structlog.get_logger(__name__)

_SINKS_OF_DRIVERS: Final = {"log": "log", "messaging": "amqp", "messagingv2": "amqp"}
_SILENT_DRIVERS: Final = ("noop", "test", "routing")
"""Drivers of oslo.messaging's that are accepted and send nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says, beside the settings."""

    settings: Settings
    registry: Registry
    dsn: str | None
    host: str
    port: int
    role: Role = "all"
    processes: int = 1


# --- extensions that only the server uses --------------------------------------------------


def auth_name(settings: Settings) -> str:
    """Which auth backend: as set, else by the paste flavor, else nobody is asked."""
    if settings.entrepot.auth:
        return settings.entrepot.auth
    return "keystone" if "keystone" in settings.paste_deploy.flavor else "none"


def auth_backend(settings: Settings, registry: Registry) -> tuple[AuthBackend, object]:
    """The auth backend that the settings choose, with its options; `ConfigError` when that cannot be."""
    name = auth_name(settings)
    option = "[entrepot] auth" if settings.entrepot.auth else "[paste_deploy] flavor"
    backend = registry.auth.get(name)
    if backend is None:
        known = ", ".join(sorted(registry.auth))
        raise _wrong([f"{option}: unknown backend '{name}' (known: {known})"], settings)
    if backend.unavailable:
        raise _wrong([f"{option}: '{name}' cannot be used: {backend.unavailable}"], settings)
    return backend, options_of(backend.config, backend.section, settings)


async def authenticator(options: Options) -> Authenticator:
    """The auth backend, connected; refuses to trust everybody beyond this machine."""
    settings = options.settings
    backend, config = auth_backend(settings, options.registry)
    if backend.loopback_only and not _loopback(options.host) and not settings.entrepot.trust_everyone:
        raise ConfigError(
            f"The auth backend '{backend.name}' trusts every caller and may listen on loopback only, "
            f"not on {options.host}; choose another ([entrepot] auth) or set [entrepot] trust_everyone"
        )
    return await backend.connect(config)


def unified_limits(settings: Settings) -> UnifiedLimits | None:
    """Where projects' limits come from, if they are kept in Keystone; `ConfigError` when that is set up wrongly."""
    if not settings.default.use_keystone_limits:
        return None
    config = options_of(LimitsConfig, "oslo_limit", settings)
    assert isinstance(config, LimitsConfig)
    try:
        return UnifiedLimits(config)
    except ConfigError as error:
        raise _wrong([str(error)], settings) from None


def chosen_sinks(settings: Settings, registry: Registry) -> list[tuple[NotificationSink, object]]:
    """Notification sinks that the settings name; without any configuration the log file."""
    driver, sinks = "[oslo_messaging_notifications] driver", "[entrepot] sinks"
    named = {_SINKS_OF_DRIVERS[name]: driver for name in _drivers(settings) if name in _SINKS_OF_DRIVERS}
    named |= {name: sinks for name in settings.entrepot.sinks if name not in named}
    if not settings.config_dirs and not named:
        named = {"log": sinks}
    chosen, faults = [], list[str]()
    for name, option in named.items():
        sink = registry.sinks.get(name)
        if sink is None:
            faults.append(f"{option}: unknown sink '{name}' (known: {', '.join(sorted(registry.sinks))})")
        elif sink.unavailable:
            faults.append(f"{option}: '{name}' cannot be used: {sink.unavailable}")
        else:
            config, wrong = _options_or_faults(sink.config, sink.section, settings)
            chosen.append((sink, config))
            faults += wrong
    if faults:
        raise _wrong(faults, settings)
    return chosen


def doubtful_drivers(settings: Settings) -> list[str]:
    """Notification drivers that nobody knows: more likely a typing error than the wish to tell nobody."""
    known = {*_SINKS_OF_DRIVERS, *_SILENT_DRIVERS}
    return [
        f"[oslo_messaging_notifications] driver: '{name}' is none of {', '.join(sorted(known))}, and sends nothing"
        for name in dict.fromkeys(_drivers(settings))
        if name not in known
    ]


def _drivers(settings: Settings) -> tuple[str, ...]:
    return settings.oslo_messaging_notifications.driver


def options_of(model: Any, section: str | None, settings: Settings) -> object:
    """An extension's options, validated, from its section and from what the service knows anyway."""
    options, faults = _options_or_faults(model, section, settings)
    if faults:
        raise _wrong(faults, settings)
    return options


def _options_or_faults(model: Any, section: str | None, settings: Settings) -> tuple[object, list[str]]:
    messaging = settings.oslo_messaging_notifications
    given = {
        "state_dir": settings.state_dir,
        "publisher_id": settings.default.default_publisher_id,
        "topics": messaging.topics,
        "drivers": messaging.driver,
        "transport_url": messaging.transport_url or settings.default.transport_url,
        "control_exchange": settings.default.control_exchange,
        "settings": settings,
    }
    written = meant(model, settings.section(section)) if section else {}
    try:
        return model.model_validate({**given, **written}), []
    except ValidationError as error:
        read_in = {"transport_url": "oslo_messaging_notifications" if messaging.transport_url else "DEFAULT"}
        faults = []
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else ""
            elsewhere = None if name in written else read_in.get(name)
            faults.append(describe(elsewhere or section or "", item))
        return None, faults


def _wrong(faults: list[str], settings: Settings) -> ConfigError:
    return ConfigError("The configuration is wrong:\n  " + "\n  ".join(located(fault, settings) for fault in faults))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- one process -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(
    options: Options,
    dsn: str,
    revive: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[tuple[Service, int]]:
    """A whole process, running: yields the service and the port it listens on (0 without an API)."""
    sinks = chosen_sinks(options.settings, options.registry)
    policy = await asyncio.to_thread(Policy.of, options.settings)
    protection = await asyncio.to_thread(Protection.of, options.settings, policy)
    image_schema = await asyncio.to_thread(ImageSchema.of, options.settings)
    async with contextlib.AsyncExitStack() as stack:
        identity = None
        if options.role != "worker":
            identity = await authenticator(options)
            stack.push_async_callback(identity.close)
        limits = await asyncio.to_thread(unified_limits, options.settings)
        if limits is not None:
            stack.push_async_callback(limits.close)
        service = await stack.enter_async_context(
            running(
                options.settings,
                options.registry,
                dsn,
                role=options.role,
                node=node_name(options.settings),
                sinks=sinks,
                revive=revive,
                limits=limits,
            )
        )
        for doubt in doubtful_drivers(options.settings):
            log.warning("probably_not_meant", option=doubt)
        port = 0
        if identity is not None:
            for doubt in policy.doubts():
                log.warning("probably_not_meant", option=doubt)
            app = App(service, identity, policy, protection, image_schema)
            stack.push_async_callback(app.close)
            port = await _listen(app, options, stack)
            stack.callback(service.begin_to_stop)  # the last requests and the last work take their time together
        yield service, port


def node_name(settings: Settings) -> str:
    """How other nodes tell this one apart."""
    return settings.default.worker_self_reference_url or socket.gethostname()


async def _listen(app: App, options: Options, stack: contextlib.AsyncExitStack) -> int:
    runner = web.ServerRunner(Server(app), handle_signals=False, shutdown_timeout=20.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, options.host, options.port, reuse_port=options.processes > 1, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(f"Cannot listen on {options.host}:{options.port}: {error.strerror}") from None
    address = runner.addresses[0]
    return int(address[1])


async def _serve_until_told(options: Options, dsn: str, postgres: Postgres) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(options, dsn, postgres.revive) as (_, port):
        if port:
            log.info("listening", url=f"http://{options.host}:{port}", pid=os.getpid())
        gc.collect()
        gc.freeze()
        await keep_lean(stop)
        log.info("stopping")


def _process(options: Options, dsn: str, postgres: Postgres) -> None:
    drill.install()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve_until_told(options, dsn, postgres))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed; `ENTREPOT_LOOP=asyncio` keeps the standard one."""
    if os.environ.get("ENTREPOT_LOOP") == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


# --- all of it ---------------------------------------------------------------------------


def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT.  Blocking."""
    left_over = unused(options.settings, options.registry)
    if left_over:
        log.info("options_without_effect", options=left_over)
    postgres = Postgres(options.dsn, options.settings.state_dir)
    dsn = postgres.acquire()
    try:
        applied = asyncio.run(migrate(dsn))
        if applied:
            log.info("migrated", applied=applied)
        if options.processes > 1:
            _supervise(options, dsn, postgres)
        else:
            _process(options, dsn, postgres)
    finally:
        postgres.release()


def _supervise(options: Options, dsn: str, postgres: Postgres) -> None:
    """Keep N processes alive; stop when told, or when they cannot even start."""
    gc.freeze()
    children: dict[int, float] = {}
    stopping = failed = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True
        for pid in list(children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for _ in range(options.processes):
        _fork(options, dsn, postgres, children)
    while children:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        born = children.pop(pid, None)
        if born is None or stopping:
            continue
        code = os.waitstatus_to_exitcode(status)
        log.warning("process_died", pid=pid, status=code)
        if code > 0 and time.monotonic() - born < 5:  # it could not start, and would not the next time
            failed = True
            stop(0, None)
            continue
        _fork(options, dsn, postgres, children)
    if failed:
        raise SystemExit(1)


def _fork(options: Options, dsn: str, postgres: Postgres, children: dict[int, float]) -> None:
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        children[pid] = time.monotonic()
        return
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with_parent(supervisor, signal.SIGTERM)  # nobody would ever stop it, nor start it again
        _process(options, dsn, postgres)
        code = 0
    except ConfigError as error:
        log.error("cannot_start", reason=str(error))
    except BaseException:
        log.exception("process_failed")
    finally:
        sys.stderr.flush()
        os._exit(code)
