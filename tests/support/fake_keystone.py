"""A Keystone in the test's own process: tokens, access rules, unified limits; it counts and it fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from aiohttp import web
from aiohttp.test_utils import TestServer

OWN = "service-password-token"


@dataclass
class FakeKeystone:
    """What it knows, what it was asked, and whether it is well."""

    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: dict[tuple[str, str], int] = field(default_factory=dict)
    """(project, resource) -> limit."""
    registered: dict[str, int] = field(default_factory=dict)
    services: list[dict[str, str]] = field(
        default_factory=lambda: [
            {"id": "image", "type": "image", "name": "glance"},
            {"id": "identity", "type": "identity", "name": "keystone"},
        ]
    )
    endpoints: list[dict[str, str]] = field(
        default_factory=lambda: [
            {"id": "image-endpoint", "service_id": "image", "region_id": "R", "interface": "public", "url": "x"},
            {"id": "image-admin", "service_id": "image", "region_id": "R", "interface": "admin", "url": "x"},
            {"id": "identity-public", "service_id": "identity", "region_id": "R", "interface": "public", "url": "x"},
        ]
    )
    model: str = "flat"
    down: int | None = None
    """Status that everything is answered with."""
    validations: list[web.Request] = field(default_factory=list)
    asked_for_limits: int = 0
    logins: int = 0
    own_token_valid: bool = True
    hanging: asyncio.Event | None = None
    """While it is there, every answer waits for it."""
    url: str = ""

    def token(
        self,
        project: str | None = "pA",
        roles: str = "member,reader",
        *,
        lives: float = 3600,
        rules: list[dict[str, str]] | None = None,
        system: bool = False,
        user: str | None = None,
    ) -> str:
        """A new token."""
        name = uuid4().hex
        body: dict[str, Any] = {
            "user": {"id": user or f"u-{project}", "name": "n", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": uuid4().hex, "name": role} for role in roles.split(",")],
            "expires_at": (datetime.now(UTC) + timedelta(seconds=lives)).strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "methods": ["password"],
            "audit_ids": ["x"],
        }
        if system:
            body["system"] = {"all": True}
        elif project is not None:
            body["project"] = {"id": project, "name": project, "domain": {"id": "default", "name": "Default"}}
        if rules is not None:
            body["application_credential"] = {"id": "ac", "restricted": True, "access_rules": rules}
        self.tokens[name] = body
        return name

    @property
    def options(self) -> str:
        """Lines for [keystone_authtoken] and the like."""
        return "\n".join(
            (
                f"auth_url = {self.url}",
                "auth_type = password",
                "username = glance",
                "password = s3cr3t",
                "user_domain_name = Default",
                "project_name = service",
                "project_domain_name = Default",
                "http_request_max_retries = 0",
            )
        )

    # --- HTTP --------------------------------------------------------------------------

    @web.middleware
    async def unwell(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.hanging is not None:
            await self.hanging.wait()
        if self.down is not None:
            return web.json_response({"error": {"code": self.down, "message": "not well"}}, status=self.down)
        if request.path.rstrip("/") not in ("", "/v3") and request.method == "GET" and not self._trusts(request):
            return web.json_response({"error": {"code": 401, "message": "who?"}}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    def _trusts(self, request: web.Request) -> bool:
        return self.own_token_valid and request.headers.get("X-Auth-Token") == OWN

    async def discover(self, request: web.Request) -> web.Response:
        version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": f"{self.url}/v3/"}]}
        if request.path.startswith("/v3"):
            return web.json_response({"version": version})
        return web.json_response({"versions": {"values": [version]}}, status=300)

    async def log_in(self, request: web.Request) -> web.Response:
        self.logins += 1
        self.own_token_valid = True
        body = {
            "user": {"id": "glance", "name": "glance", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "service", "name": "service", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "1", "name": "service"}],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "methods": ["password"],
            "catalog": self.catalog,
        }
        return web.json_response({"token": body}, status=201, headers={"X-Subject-Token": OWN})

    @property
    def catalog(self) -> list[dict[str, Any]]:
        def service(kind: str, url: str) -> dict[str, Any]:
            endpoints = [
                {"id": f"{kind}-{name}", "interface": name, "region": "R", "region_id": "R", "url": url}
                for name in ("public", "internal", "admin")
            ]
            return {"id": kind, "type": kind, "name": kind, "endpoints": endpoints}

        return [service("identity", f"{self.url}/v3"), service("image", "http://image.example")]

    async def validate(self, request: web.Request) -> web.Response:
        self.validations.append(request)
        body = self.tokens.get(request.headers.get("X-Subject-Token", ""))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        if body is None or (body["expires_at"] < now and request.query.get("allow_expired") != "1"):
            return web.json_response({"error": {"code": 404, "message": "no such token"}}, status=404)
        catalog = {} if "nocatalog" in request.query_string else {"catalog": self.catalog}
        return web.json_response({"token": {**body, **catalog}})

    async def limit_model(self, request: web.Request) -> web.Response:
        self.asked_for_limits += 1
        return web.json_response({"model": {"name": self.model, "description": "x"}})

    async def endpoint(self, request: web.Request) -> web.Response:
        for endpoint in self.endpoints:
            if endpoint["id"] == request.match_info["id"]:
                return web.json_response({"endpoint": endpoint})
        return web.json_response({"error": {"code": 404, "message": "no such endpoint"}}, status=404)

    async def listed(self, request: web.Request) -> web.Response:
        """Services or endpoints that the query describes."""
        kind = request.path.rpartition("/")[2]
        entries: list[dict[str, str]] = getattr(self, kind)
        return web.json_response({kind: [entry for entry in entries if request.query.items() <= entry.items()]})

    def _ours(self, request: web.Request) -> bool:
        """Whether it is asked for the limits of the image service, which are those that there are."""
        return (request.query["service_id"], request.query.get("region_id")) == ("image", "R")

    async def project_limits(self, request: web.Request) -> web.Response:
        project = request.query["project_id"]
        limits = [
            {"id": uuid4().hex, "project_id": project, "resource_name": name, "resource_limit": limit}
            for (owner, name), limit in self.limits.items()
            if owner == project and self._ours(request)
        ]
        return web.json_response({"limits": limits})

    async def registered_limits(self, request: web.Request) -> web.Response:
        limits = [
            {"id": uuid4().hex, "resource_name": name, "default_limit": limit}
            for name, limit in self.registered.items()
            if self._ours(request)
        ]
        return web.json_response({"registered_limits": limits})


@contextlib.asynccontextmanager
async def keystone() -> AsyncIterator[FakeKeystone]:
    """One that listens on a port of its own."""
    fake = FakeKeystone()
    app = web.Application(middlewares=[fake.unwell])
    app.router.add_get("/", fake.discover)
    app.router.add_get("/v3", fake.discover)
    app.router.add_get("/v3/", fake.discover)
    app.router.add_post("/v3/auth/tokens", fake.log_in)
    app.router.add_get("/v3/auth/tokens", fake.validate)
    app.router.add_get("/v3/limits/model", fake.limit_model)
    app.router.add_get("/v3/endpoints/{id}", fake.endpoint)
    app.router.add_get("/v3/endpoints", fake.listed)
    app.router.add_get("/v3/services", fake.listed)
    app.router.add_get("/v3/limits", fake.project_limits)
    app.router.add_get("/v3/registered_limits", fake.registered_limits)
    async with TestServer(app) as server:
        fake.url = f"http://127.0.0.1:{server.port}"
        yield fake
