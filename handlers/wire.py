"""The lowest edge: aiohttp's server with this API's limits, and its answer to what is no HTTP.

Bytes are taken as they come: `Content-Encoding` of a request is not undone, for an
image is what was sent, and its announced length is the length on the wire.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from handlers.app import App
from handlers.errors import body
from kernel.errors import Unavailable

log = structlog.get_logger(__name__)

_LIMITS: Final[dict[str, Any]] = {
    "keepalive_timeout": 75,
    "max_line_size": 16 << 10,
    "max_field_size": 64 << 10,
    "read_bufsize": 64 << 10,  # what waits before anybody wants it; whoever takes image data asks for more
}

_STALLED: Final = 300.0
"""Seconds in which a client that is sent something must make room for more; whoever takes nothing holds a place."""

_FAREWELL: Final = 3.0
"""Seconds in which a request that is broken off may record that, and answer."""

_LAST: Final = 0.1
"""Seconds that aiohttp then waits, twice, before it cancels what still runs."""


class _Connection(web.RequestHandler):
    """One connection; requests that cannot be parsed get an answer, clients that are gone get none."""

    __slots__ = ("_patience", "gone")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone = asyncio.Event()
        """Set when the client is gone; for whoever has nothing to write that would tell."""
        self._patience: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._patience = asyncio.get_running_loop().call_later(_STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_patience()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.gone.set()
        self._end_patience()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no request is waiting for its answer."""
        return self._current_request is None and not self._messages

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Wait for the request under way, whose data still comes in, then break it off."""
        handler = self._task_handler
        if self._request_in_progress and handler is not None:
            await asyncio.wait({handler}, timeout=timeout)
            if self._current_request is not None:
                self._force_close = True  # whatever else comes in is dropped from here on
                self._current_request._cancel(Unavailable("The service is being stopped; please try again"))
                await asyncio.wait({handler}, timeout=_FAREWELL)
        await super().shutdown(_LAST)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionResetError("The client is gone, or has the beginning of another answer") from exc
        match exc:
            case BadHttpMethod() if " HTTP/1." in str(exc):
                status, text = 501, "There is no such method"
            case LineTooLong():
                status, text = 431, "The request line or a header is too long"
            case _ if status < 500:
                text = "The request is not valid HTTP"
            case _:
                text = "The server failed to answer this request"
        if status == 500:
            log.error("request_crashed", exc_info=exc)
        else:
            log.info("request_malformed", status=status, reason=type(exc).__name__)
        content, content_type = body(status, text, None)
        response = web.Response(status=status, body=content, headers={"Content-Type": content_type})
        response.force_close()
        return response


class Server(web.Server):
    """Makes a connection of each socket; for `web.ServerRunner`."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        self._app = app

    def pre_shutdown(self) -> None:
        """Take no further requests.  Those under way get the rest of their data; `App` makes them the last."""
        self._app.closing.set()
        for connection in self.connections:
            if not isinstance(connection, _Connection) or connection.idle:
                connection.close()

    def __call__(self) -> web.RequestHandler:
        loop = asyncio.get_running_loop()
        return _Connection(self, loop=loop, access_log=None, auto_decompress=False, **_LIMITS)
