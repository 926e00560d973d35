"""The edge: every request passes through here, is authenticated, routed, answered and logged.

    version ─▶ caller ─▶ route ─▶ no-body rule ─▶ handler ─▶ answer, or error by table

aiohttp parses HTTP; routing is our own table, because what unknown paths, wrong
methods and trailing slashes get is part of the contract.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine, Iterator
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from uuid import uuid4

import orjson
import structlog
from aiohttp import web

from handlers import (
    actions,
    cors,
    events,
    health,
    history,
    image_data,
    image_imports,
    image_update,
    images,
    imports,
    locations,
    members,
    openapi,
    ops_imports,
    remote_policy,
    schema_resources,
    stores,
    tags,
    tasks,
    usage,
    versions,
)
from handlers.call import Call, base_url
from handlers.errors import HttpError, body, printable, status_of
from handlers.image_schema import ImageSchema
from handlers.policy import Policy
from handlers.protection import Protection
from handlers.rendering import Rendered
from handlers.routing import Match, Route, Router
from kernel.context import Context
from kernel.errors import EntrepotError, Forbidden, Invalid, Unauthenticated, Unavailable
from kernel.extend import Authenticator
from kernel.service import Service

log = structlog.get_logger(__name__)

API: Final[tuple[Route, ...]] = (
    *images.ROUTES,
    *image_update.ROUTES,
    *locations.ROUTES,
    *image_data.ROUTES,
    *actions.ROUTES,
    *tags.ROUTES,
    *members.ROUTES,
    *schema_resources.ROUTES,
    *imports.ROUTES,
    *stores.ROUTES,
    *tasks.ROUTES,
    *image_imports.ROUTES,
    *usage.ROUTES,
)
"""Routes below `/v2`."""

OPS: Final[tuple[Route, ...]] = (*events.ROUTES, *history.ROUTES, *ops_imports.ROUTES, *openapi.ROUTES)
"""Routes of our own, below `/ops/v1`."""

_OPEN: Final = {"healthcheck": health.healthcheck, "livez": health.alive, "readyz": health.ready}
"""First segments answered without authentication."""

_EMPTY: Final = {"Content-Type": "text/plain; charset=UTF-8"}
"""For answers without a body, which aiohttp would call image data."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]+")


class App:
    """Answers requests; a handler for aiohttp's low-level server."""

    def __init__(
        self,
        service: Service,
        authenticator: Authenticator,
        policy: Policy,
        protection: Protection,
        image_schema: ImageSchema,
    ) -> None:
        self.service = service
        self.policy = policy
        self.protection = protection
        self.rendered = Rendered()
        self.image_schema = image_schema
        self.origins = cors.origins(service.settings)
        self.openapi = openapi.document(_offered(service), image_schema.document)
        """What there is, for clients that are generated and fuzzers."""
        service.commands.on_change.append(remote_policy.recorded)
        self._authenticator = authenticator
        self._api = Router(API)
        self._ops = Router(OPS)
        self._versions = versions.allowed(service.settings)
        self._background: set[asyncio.Task[Any]] = set()
        self.closing = asyncio.Event()
        """Set when the server stops: whoever follows is to let go."""
        self._followers = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        began = time.perf_counter()
        request_id: list[str] = []
        try:
            response = await self._answer(request, request_id)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            if request.writer.output_size > 0:
                log.warning("answer_broke_off", request_id=request_id[0] if request_id else None, exc_info=error)
                raise ConnectionResetError("The answer broke off") from error
            response = self._refusal(request, error)
        if not response.prepared:
            self._decorate(request, response, request_id)
        if self.closing.is_set():
            response.force_close()  # what else comes over this connection is not served any more
        log.info(
            "request",
            method=request.method,
            path=printable(request.rel_url.raw_path),
            status=response.status,
            ms=round((time.perf_counter() - began) * 1000, 1),
            request_id=request_id[0] if request_id else None,
        )
        return response

    # --- on the way in -----------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest, request_id: list[str]) -> web.StreamResponse:
        if request.method == "OPTIONS" and self.origins:
            return web.Response(status=200, headers={**_EMPTY, **cors.preflight(self.origins, request.headers)})
        raw = request.rel_url.raw_path.lstrip("/").split("/")
        first = raw[0]
        if first in _OPEN:
            return await _OPEN[first](request, self.service)
        if first == "versions":
            return self._versions_document(request, 200)
        if first == "ops":
            return await self._serve(request, self._ops, raw[2:] if raw[1:2] == ["v1"] else [""], request_id)
        if first not in self._versions:
            return self._versions_document(request, 300)
        if len(raw) == 1:
            location = f"{base_url(request, self.service)}/{first}/"
            return web.Response(status=302, headers={**_EMPTY, "Location": location})
        return await self._serve(request, self._api, raw[1:], request_id)

    async def _serve(
        self, request: web.BaseRequest, router: Router, raw: list[str], request_id: list[str]
    ) -> web.StreamResponse:
        self.policy.refresh()
        actor = await self._authenticator.identify(request.headers, request.method, request.path)
        request_id.append(f"req-{uuid4()}")
        request_id[0] = self._request_id(request) or request_id[0]
        match = router.match(_decoded(raw))
        closed = "There is nothing at this address" if match is None else match.closed(self.service.settings)
        if match is None or closed is not None:
            raise HttpError(404 if request.method in _METHODS else 501, closed or "")
        route = _route(request, match)
        if actor.anonymous and request.method != "GET":
            raise Forbidden("Without an identity one may only read")
        call = Call(self, request, actor, Context.of(actor, request_id[0]), match.parameters)
        if route.body == "none" and await call.has_body():
            raise Invalid("This request takes no body")
        if not self.policy.remote:
            return await route.handler(call)
        return await self.policy.asking(lambda: self._attempt(route, call))

    async def _attempt(self, route: Route, call: Call) -> web.StreamResponse:
        """Answer a request whose rules may ask other servers: first what is needed after something was done."""
        _ = call.admin
        self.protection.rehearse(call.actor)
        return await route.handler(call)

    def _request_id(self, request: web.BaseRequest) -> str | None:
        """The client's own id, if it sent one; refused when it cannot be sent back."""
        sent = request.headers.get("X-OpenStack-Request-ID")
        if not sent:
            return None
        if len(sent) > self.service.settings.default.max_request_id_length:
            raise HttpError(431, "The request id is too long")
        if not _REQUEST_ID.fullmatch(sent):
            raise Invalid("The request id holds characters that cannot be sent back")
        return sent if sent.startswith("req-") else f"req-{sent}"

    # --- on the way out ----------------------------------------------------------------

    def _versions_document(self, request: web.BaseRequest, status: int) -> web.Response:
        document = versions.document(self.service.settings, base_url(request, self.service))
        return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")

    def _refusal(self, request: web.BaseRequest, error: Exception) -> web.Response:
        """The answer that tells what went wrong."""
        match error:
            case HttpError():
                return self._error(request, error.status, str(error), error.headers)
            case Unauthenticated():
                challenge = self._authenticator.challenge
                return self._error(request, 401, str(error), {"WWW-Authenticate": challenge} if challenge else {})
            case Unavailable():
                return self._error(request, 503, str(error), {"Retry-After": str(error.retry_after)})
            case EntrepotError():
                return self._error(request, status_of(error), str(error), {})
        log.error("request_crashed", method=request.method, path=printable(request.path), exc_info=error)
        return self._error(request, 500, "The server failed to answer this request", {})

    def _error(self, request: web.BaseRequest, status: int, message: str, headers: dict[str, str]) -> web.Response:
        content, content_type = body(status, message, request.headers.get("Accept"))
        if request.method == "HEAD":
            content = b""
        return web.Response(status=status, body=content, headers={**headers, "Content-Type": content_type})

    def _decorate(self, request: web.BaseRequest, response: web.StreamResponse, request_id: list[str]) -> None:
        if request_id:
            response.headers.setdefault("x-openstack-request-id", request_id[0])
        if request.method != "OPTIONS":  # a preflight has its own, or none
            for name, value in cors.actual(self.origins, request.headers).items():
                response.headers.setdefault(name, value)
        if "Expect" in request.headers and not request.content.is_eof():
            response.force_close()  # nobody can tell whether the body that was announced will still come

    # --- for handlers ------------------------------------------------------------------

    @contextlib.contextmanager
    def follower(self) -> Iterator[None]:
        """Count a subscriber of the event stream."""
        if self._followers >= self.service.settings.entrepot.most_followers:
            raise Unavailable("Too many subscribers follow the event stream; try again later")
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that the client need not wait for."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Finish what was put off."""
        if self._background:
            await asyncio.wait(self._background, timeout=5)
        await self.policy.close()
        await self._authenticator.close()


def _offered(service: Service) -> dict[str, list[Route]]:
    """The routes of this site, by the path that they lie below."""
    settings = service.settings
    below = {"/v2": API, "/ops/v1": OPS}
    return {
        prefix: [route for route in routes if route.gate is None or route.gate(settings)]
        for prefix, routes in below.items()
    }


def _decoded(raw: list[str]) -> list[str]:
    try:
        return [unquote_to_bytes(segment).decode() if "%" in segment else segment for segment in raw]
    except UnicodeDecodeError:
        raise HttpError(404, "The address is not valid UTF-8") from None


def _route(request: web.BaseRequest, match: Match) -> Route:
    route = match.routes.get(request.method)
    if route is None:
        raise HttpError(405, f"{request.method} is not allowed here", {"Allow": match.allow})
    return route
