"""Handing a request on to the node whose own staging area holds the image's data.

Only where staging is not shared.  The answer comes back as it is; a request that was
handed on once is never handed on again.
"""

from __future__ import annotations

from typing import Final

import aiohttp
from aiohttp import web
from yarl import URL

from handlers.call import Call
from handlers.errors import HttpError
from kernel.image import Image

MARK: Final = "X-Entrepot-Forwarded"
"""Header of requests that another node has handed on."""

_TIMEOUT: Final = aiohttp.ClientTimeout(total=60)
_OURS: Final = frozenset(
    {"host", "connection", "keep-alive", "te", "trailer", "upgrade", "proxy-authorization", "transfer-encoding"}
    | {"content-length", "expect", "accept-encoding"}
)
"""Headers that belong to one connection, not to the request."""
_BACK: Final = ("Content-Type", "x-openstack-request-id", "Retry-After", "WWW-Authenticate")
"""Headers of the answer that are handed back."""


def host_of(call: Call, image: Image) -> str | None:
    """URL of the other node that this request is for; None if it can be served here."""
    service = call.service
    if service.settings.default.staging_is_shared or image.staged is None:
        return None
    node = image.staged.node
    if node is None or node == service.site.node or not node.startswith(("http://", "https://")):
        return None
    return node


def is_forwarded(call: Call) -> bool:
    return MARK in call.request.headers


async def forwarded(call: Call, node: str, body: bytes | None = None) -> web.Response:
    """What the other node answers; 504 when it does not, 502 when it cannot be understood, or would be asked twice."""
    if is_forwarded(call):
        raise HttpError(502, "The stage host is unavailable: the request was handed on before")
    request = call.request
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
    url = URL(f"{node.rstrip('/')}{request.rel_url.raw_path_qs}", encoded=True)
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False) as session,
            session.request(
                request.method, url, data=body, headers={**headers, MARK: "1"}, allow_redirects=False
            ) as answer,
        ):
            kept = {name: answer.headers[name] for name in _BACK if name in answer.headers}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)
    except (aiohttp.ClientConnectorError, TimeoutError):
        raise HttpError(504, "The stage host does not answer") from None
    except (aiohttp.ClientError, OSError):
        raise HttpError(502, "The stage host is unavailable") from None
