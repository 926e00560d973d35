"""Which handler answers which path: routes as plain values, matched segment by segment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from aiohttp.web import StreamResponse

    from handlers.call import Call
    from kernel.settings import Settings

Handler = Callable[["Call"], Awaitable["StreamResponse"]]
Body = Literal["none", "json", "data", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path below `/v2` (or below the root for resources of our own)."""

    method: str
    path: str
    """Segments in braces are parameters: `/images/{image_id}/file`."""
    handler: Handler
    body: Body = "none"
    """none: a request that carries a body is refused; json, data: what it carries; any: not looked at."""
    success: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = (400, 401, 403, 404)
    summary: str = ""
    gate: Callable[[Settings], bool] | None = None
    """Whether there is anything at this path at all; None is always."""
    closed: str = "There is nothing at this address"
    """What is said where there is not."""
    refuses: bool = False
    """A method that is not allowed, whose refusal has something of its own to say."""


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    wildcard: _Node | None = None
    parameter: str = ""
    routes: dict[str, Route] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """Routes of a path by method, and the values of its parameters."""

    routes: dict[str, Route]
    parameters: dict[str, str]

    def closed(self, settings: Settings) -> str | None:
        """Why the path does not exist at this site; None if it does."""
        shut = (route for route in self.routes.values() if route.gate is not None and not route.gate(settings))
        return next((route.closed for route in shut), None)

    @property
    def allow(self) -> str:
        """Value of the Allow header."""
        allowed = (method for method, route in self.routes.items() if not route.refuses)
        return ", ".join(sorted(allowed, key=_METHOD_ORDER.index))


_METHOD_ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Router:
    """A tree of path segments."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = _Node()
        for route in self.routes:
            self._add(route)

    def match(self, segments: list[str]) -> Match | None:
        """What is at a path, or None.  Parameters are never empty."""
        node, parameters = self._root, {}
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                child = node.wildcard
                if child is None or not segment:
                    return None
                parameters[child.parameter] = segment
            node = child
        return Match(node.routes, parameters) if node.routes else None

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.strip("/").split("/"):
            if segment.startswith("{"):
                if node.wildcard is None:
                    node.wildcard = _Node()
                node = node.wildcard
                node.parameter = segment[1:-1]
            else:
                node = node.children.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"{route.method} {route.path} is routed twice")
        node.routes[route.method] = route
