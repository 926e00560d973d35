"""A whole service in the test's own process, with an HTTP client in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientResponse
from aiohttp.test_utils import BaseTestServer, TestClient
from aiohttp.web import BaseRunner, ServerRunner
from jsonschema import Draft202012Validator

from handlers.app import App
from handlers.image_schema import ImageSchema
from handlers.policy import Policy
from handlers.protection import Protection
from handlers.wire import Server
from kernel.clock import Clock
from kernel.extend import Extension, NotificationSink
from kernel.registry import Registry, discover
from kernel.service import Role, Service, running
from ops.config import load
from ops.server import chosen_sinks, node_name, options_of, unified_limits
from tests.support import identities
from tests.support.collector import COLLECTOR, Collector

_IMAGES = re.compile(r"/images(/[^/?]*)?([?].*)?", re.DOTALL)

OCTETS = {"Content-Type": "application/octet-stream"}


class HttpServer(BaseTestServer):
    """The server that operators run, on a port of its own."""

    def __init__(self, app: App, port: int | None = None) -> None:
        super().__init__(port=port)
        self._app = app

    async def _make_runner(self, **kwargs: Any) -> BaseRunner:
        return ServerRunner(Server(self._app))


@dataclass
class Site:
    """A running service as a test sees it."""

    service: Service
    client: TestClient[Any, Any]
    directory: Path
    notes: Collector
    images: Draft202012Validator
    """Holds every image that a test is shown to the published schema."""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = f"{self.service.clock.now():%Y-%m-%dT%H:%M:%SZ}"

    async def call(
        self,
        method: str,
        path: str,
        who: str | Mapping[str, str] | None = "A",
        *,
        json: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> ClientResponse:
        """A request below /v2, or anywhere for a path with two leading slashes; JSON errors unless asked otherwise."""
        sent = {"Accept": "application/json", **identities.headers(who), **(headers or {})}
        if json is not None:
            data = orjson.dumps(json)
        url = path[1:] if path.startswith("//") else f"/v2{path}"
        response = await self.client.request(method, url, data=data, headers=sent, allow_redirects=False)
        self._hold_to_schema(path, response, await response.read())
        return response

    def _hold_to_schema(self, path: str, response: ClientResponse, body: bytes) -> None:
        if response.status in (200, 201) and _IMAGES.fullmatch(path) and response.content_type == "application/json":
            document = orjson.loads(body)
            for image in document.get("images", [document]):
                if image["created_at"] >= self.began:  # older ones obeyed the schema of another test's site
                    self.images.validate(image)

    async def image(self, who: str = "A", **attributes: Any) -> str:
        """A queued raw/bare image; returns its id."""
        document = {"name": "n", "disk_format": "raw", "container_format": "bare", **attributes}
        response = await self.call("POST", "/images", who, json=document)
        assert response.status == 201, await response.text()
        return str((await response.json())["id"])

    async def show(self, image_id: str, who: str = "ADM") -> dict[str, Any]:
        response = await self.call("GET", f"/images/{image_id}", who)
        assert response.status == 200, await response.text()
        document: dict[str, Any] = await response.json()
        return document

    async def patch(
        self, image_id: str, *operations: Any, who: str | Mapping[str, str] = "A", version: str = "v2.1"
    ) -> ClientResponse:
        """A patch in one of its two forms."""
        headers = {"Content-Type": f"application/openstack-images-{version}-json-patch"}
        return await self.call("PATCH", f"/images/{image_id}", who, json=list(operations), headers=headers)

    async def stage(self, image_id: str, data: bytes, who: str = "A", **headers: str) -> int:
        response = await self.call("PUT", f"/images/{image_id}/stage", who, data=data, headers={**OCTETS, **headers})
        return response.status

    async def upload(self, image_id: str, data: bytes, who: str = "A", **headers: str) -> int:
        response = await self.call("PUT", f"/images/{image_id}/file", who, data=data, headers={**OCTETS, **headers})
        return response.status

    async def do_import(
        self,
        image_id: str,
        who: str | Mapping[str, str] = "A",
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> int:
        document = {"method": {"name": "glance-direct"}, **body}
        response = await self.call("POST", f"/images/{image_id}/import", who, json=document, headers=headers)
        return response.status

    async def tasks(self, image_id: str, who: str = "ADM") -> list[dict[str, Any]]:
        response = await self.call("GET", f"/images/{image_id}/tasks", who)
        assert response.status == 200, await response.text()
        return list((await response.json())["tasks"])

    async def ended(self, image_id: str, seconds: float = 10) -> dict[str, Any]:
        """Wait until the newest task of the image is final; returns the image."""

        async def final() -> bool:
            tasks = await self.tasks(image_id)
            return bool(tasks) and tasks[-1]["status"] in ("success", "failure")

        await self.until(final, seconds)
        return await self.show(image_id)

    async def until(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        """Wait until a condition, perhaps asynchronous, holds; looks again with every event of the log."""
        hint = self.service.feed.hint()
        async with asyncio.timeout(seconds):
            while True:
                hint.clear()
                result = condition()
                if await result if asyncio.iscoroutine(result) else result:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hint.wait(), 0.05)

    async def settled(self, seconds: float = 10) -> None:
        """Wait until no image has work that is due and every notification was delivered."""

        async def quiet() -> bool:
            waiting = await self.service.database.fetchval(
                "SELECT count(*) FROM images WHERE work IS NOT NULL AND due_at <= clock_timestamp()"
            )
            head = await self.service.log.head()
            behind = any(consumer.position < head for consumer in self.service.consumers)
            return waiting == 0 and not behind

        await self.until(quiet, seconds)

    def files(self, store: str) -> list[Path]:
        """Objects in a file store, or in staging."""
        root = self.directory / store
        return sorted(path for path in root.rglob("*") if path.is_file()) if root.exists() else []


def several(directory: Path, **sections: str) -> str:
    """glance-api.conf of a site with stores fast (default), cheap, reliable and web."""
    lines = [
        "[DEFAULT]",
        "enabled_backends = fast:file, cheap:file, reliable:file, web:http",
        f"node_staging_uri = file://{directory}/staging",
        sections.pop("DEFAULT", ""),
        "[glance_store]",
        "default_backend = fast",
        "[entrepot]",
        "auth = headers",
    ]
    sections = {"web": "disallowed_networks = []", **sections}  # what these tests register lies on this machine
    for store in ("fast", "cheap", "reliable"):
        lines += [f"[{store}]", f"filesystem_store_datadir = {directory}/{store}", sections.pop(store, "")]
    for name, text in sections.items():
        lines += [f"[{name}]", text]
    return "\n".join(lines)


def single(directory: Path, **sections: str) -> str:
    """glance-api.conf of a site with one file store."""
    lines = [
        "[DEFAULT]",
        f"node_staging_uri = file://{directory}/staging",
        sections.pop("DEFAULT", ""),
        "[glance_store]",
        f"filesystem_store_datadir = {directory}/file",
        "[entrepot]",
        "auth = headers",
    ]
    for name, text in sections.items():
        lines += [f"[{name}]", text]
    return "\n".join(lines)


@contextlib.asynccontextmanager
async def site(
    dsn: str,
    directory: Path,
    config: str,
    *,
    also: tuple[Extension, ...] = (),
    clock: Clock | None = None,
    role: Role = "all",
    rules: Mapping[str, str] | None = None,
    port: int | None = None,
    sinks: Sequence[tuple[NotificationSink, object]] = (),
) -> AsyncIterator[Site]:
    """Start a service from an operator's file and put a client in front of it.

    Beside the sinks given and one that collects, those run that the file names.
    """
    path = directory / "glance-api.conf"
    path.write_text(config)
    registry: Registry = discover(also)
    settings = load([path], registry=registry, state=directory / "state", environment={})
    notes = Collector()
    limits = unified_limits(settings)
    async with running(
        settings,
        registry,
        dsn,
        role=role,
        node=node_name(settings),
        sinks=[(COLLECTOR, notes), *chosen_sinks(settings, registry), *sinks],
        clock=clock,
        grace=1.0,
        limits=limits,
    ) as service:
        backend = registry.auth[settings.entrepot.auth or "none"]
        config = options_of(backend.config, backend.section, settings)
        policy = Policy.of(settings, every=0) if rules is None else Policy(rules)
        app = App(
            service, await backend.connect(config), policy, Protection.of(settings, policy), ImageSchema.of(settings)
        )
        async with TestClient(HttpServer(app, port)) as client:
            try:
                yield Site(service, client, directory, notes, Draft202012Validator(app.image_schema.document))
            finally:
                await app.close()
                if limits is not None:
                    await limits.close()
